import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses
from quantjax.losses import selection

SIZE = 10


def drawn(num_classes, seed=0):
    """Rows, their classes, distances, and who is whose positive and negative."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SIZE, 3)).astype(np.float32)
    classes = rng.integers(num_classes, size=SIZE)
    similar = classes[:, None] == classes
    distances = np.sum((x[:, None] - x) ** 2, axis=-1)
    return x, classes, distances, similar & ~np.eye(SIZE, dtype=bool), ~similar


def as_set(triplets):
    rows = [np.asarray(part)[np.asarray(triplets.mask)].tolist() for part in triplets[:3]]
    chosen = list(zip(*rows, strict=True))
    assert len(set(chosen)) == len(chosen)
    return set(chosen)


# Many classes, one class (no negative), every item its own (no positive), as draws of one shape.
SCENES = {"some": 3, "single class": 1, "no pair": 10**9}
every_scene = pytest.mark.parametrize("num_classes", SCENES.values(), ids=SCENES)


@every_scene
def test_all_triplets_equal_a_loop(num_classes):
    _, classes, _, positive, negative = drawn(num_classes)
    due = {
        (a, p, n)
        for a, p, n in itertools.product(range(SIZE), repeat=3)
        if a != p and classes[a] == classes[p] and classes[a] != classes[n]
    }
    got = jax.jit(selection.all_triplets)(positive, negative)
    assert got.dtype == bool
    assert {tuple(row) for row in np.argwhere(got).tolist()} == due
    assert bool(due) == (num_classes == 3)


def test_all_triplets_made_by_hand():
    positive = np.array([[False, True, True, False], [True, False, False, False]])
    negative = np.array([[False, False, False, True], [False, False, True, True]])
    got = np.argwhere(selection.all_triplets(positive, negative))
    np.testing.assert_array_equal(got, [[0, 1, 3], [0, 2, 3], [1, 0, 2], [1, 0, 3]])


def test_each_triplet_made_by_hand():
    # ||a - c||^2 is 1 and 4: a margin of 4 and their difference.
    loss = functools.partial(losses.triplet_margin, margin=4.0)
    got = selection.each_triplet(loss, np.array([[0.0]]), np.array([[1.0], [-2.0]]))
    np.testing.assert_array_equal(got, [[[4.0, 1.0], [7.0, 4.0]]])


def test_each_triplet_is_the_loss_of_its_three_rows():
    x, *_ = drawn(3)
    loss = functools.partial(losses.triplet_likelihood, margin=1.0)
    got = jax.jit(functools.partial(selection.each_triplet, loss))(x[:4], x)
    assert got.shape == (4, SIZE, SIZE)
    a, p, n = (part.reshape(-1) for part in np.indices(got.shape))
    np.testing.assert_allclose(got.reshape(-1), loss(x[a], x[p], x[n]), rtol=1e-5)


def test_each_triplet_equals_the_loss_on_index_arrays_value_and_gradient():
    x, _, _, positive, negative = drawn(3)
    loss = functools.partial(losses.triplet_margin, margin=2.0)
    mask = selection.all_triplets(positive, negative)
    a, p, n = np.nonzero(mask)
    weights = np.random.default_rng(1).normal(size=mask.shape)

    def by_mask(x):
        return jnp.sum(jnp.where(mask, selection.each_triplet(loss, x, x) * weights, 0))

    def by_index(x):
        return jnp.sum(loss(x[a], x[p], x[n]) * weights[a, p, n])

    got, due = (jax.jit(jax.value_and_grad(f))(jnp.asarray(x)) for f in (by_mask, by_index))
    np.testing.assert_allclose(got[0], due[0], rtol=1e-4)
    np.testing.assert_allclose(got[1], due[1], rtol=1e-4, atol=1e-4)


@every_scene
@pytest.mark.parametrize("margin", [0.5, 3.0])
def test_semi_hard_equals_a_loop(num_classes, margin):
    _, _, distances, positive, negative = drawn(num_classes)
    due = set()
    for a, p in np.argwhere(positive).tolist():
        inside = [
            (distances[a, n], a, p, n)
            for n in range(SIZE)
            if negative[a, n] and distances[a, p] < distances[a, n] < distances[a, p] + margin
        ]
        due |= {min(inside)[1:]} if inside else set()
    function = jax.jit(functools.partial(selection.semi_hard, margin=margin))
    got = function(distances, positive, negative)
    assert as_set(got) == due
    assert bool(due) == (num_classes == 3)
    check_fixed_shape(got, SIZE * SIZE)


def check_fixed_shape(triplets, length):
    for part in triplets[:3]:
        assert part.shape == (length,)
        assert part.dtype == jnp.int32
        assert np.all((part >= 0) & (part < SIZE))
    assert triplets.mask.shape == (length,)
    assert triplets.mask.dtype == bool


def test_semi_hard_wants_the_negative_beyond_the_positive():
    # From 0: the positive at 2; negatives at 1 (too hard), 2 (a tie), 2.5 (right), 2.75, 9.
    distances = np.array([[2.0, 1.0, 2.0, 2.75, 2.5, 9.0]])
    positive = np.array([[True, False, False, False, False, False]])
    got = selection.semi_hard(distances, positive, ~positive, margin=1.0)
    assert as_set(got) == {(0, 0, 4)}
    assert not as_set(selection.semi_hard(distances, positive, ~positive, margin=0.5))


@pytest.mark.parametrize(
    ("margin", "due"), [(-1.0, set()), (-0.5, {(0, 0, 1)}), (0.0, {(0, 0, 1)})]
)
def test_random_violating_of_one_negative_has_no_choice(margin, due):
    # From 0: the positive at 2; negatives at 1, nearer by 1, and 2, a tie.
    distances, positive = np.array([[2.0, 1.0, 2.0, 2.75]]), np.array([[True, False, False, False]])
    got = selection.random_violating(
        jax.random.key(0), distances, positive, ~positive, margin=margin
    )
    assert as_set(got) == due


@jax.jit
def draws(keys, distances, positive, negative, margin):
    """Draws once for each key; the margin is traced, so that all scenes share one program."""
    draw = functools.partial(selection.random_violating, margin=margin)
    return jax.vmap(draw, in_axes=(0, None, None, None))(keys, distances, positive, negative)


@every_scene
@pytest.mark.parametrize("margin", [-1.0, 2.0])
def test_random_violating_draws_each_violating_negative_alike(num_classes, margin):
    _, _, distances, positive, negative = drawn(num_classes)
    violating = {
        (a, p): {
            n for n in range(SIZE) if negative[a, n] and distances[a, n] - distances[a, p] < margin
        }
        for a, p in np.argwhere(positive).tolist()
    }
    num_draws = 300
    keys = jax.random.split(jax.random.key(0), num_draws)
    got = draws(keys, distances, positive, negative, margin)
    got, seen = jax.tree.map(np.asarray, got), {}
    for parts in zip(*got, strict=True):
        one = selection.Triplets(*parts)
        for a, p, n in as_set(one):
            seen.setdefault((a, p), []).append(n)
    check_fixed_shape(one, SIZE * SIZE)
    assert seen.keys() == {pair for pair, choices in violating.items() if choices}
    assert bool(seen) == (num_classes == 3)
    for pair, chosen in seen.items():
        assert len(chosen) == num_draws
        assert set(chosen) == violating[pair]
        # Each count is binomial: five deviations on either side.
        share = 1 / len(violating[pair])
        spread = 5 * np.sqrt(num_draws * share * (1 - share))
        counts = np.array([chosen.count(n) for n in violating[pair]])
        assert np.all(np.abs(counts - num_draws * share) <= spread)


# Three groups of ten rows leave two places of the last one empty.
@pytest.mark.parametrize(("num_groups", "margin"), [(1, 2.0), (3, 2.0), (3, 100.0)])
@every_scene
def test_group_hard_draws_inside_its_groups(num_classes, num_groups, margin):
    x, classes, distances, positive, negative = drawn(num_classes)
    _, ids = np.unique(classes, return_inverse=True)
    label, size = np.eye(SIZE)[ids], -(-SIZE // num_groups)
    select = jax.jit(functools.partial(selection.group_hard, num_groups=num_groups, margin=margin))
    violates = negative[:, None] & (distances[:, None] - distances[:, :, None] < margin)
    seen, orders = set(), set()
    for seed in range(8):
        got = select(jax.random.key(seed), x, label)
        check_fixed_shape(got, num_groups * size**2)
        chosen = as_set(got)
        seen.add(frozenset(chosen))
        # Anchors stand in the order of the groups; what fills up the last group comes after them.
        shuffled = np.asarray(got.anchors).reshape(-1, size)[:SIZE, 0].tolist()
        orders.add(tuple(shuffled))
        assert sorted(shuffled) == list(range(SIZE))
        groups = [shuffled[start : start + size] for start in range(0, SIZE, size)]
        due = {
            (a, p)
            for group in groups
            for a, p in itertools.permutations(group, 2)
            if positive[a, p] and violates[a, p, group].any()
        }
        assert {(a, p) for a, p, _ in chosen} == due
        for a, p, n in chosen:
            assert violates[a, p, n]
            assert {p, n} <= next(set(group) for group in groups if a in group)
    assert len(orders) == 8
    assert (len(seen) > 1) == (num_classes == 3)


def test_group_hard_takes_items_of_several_labels():
    x = np.zeros((3, 2), np.float32)
    label = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    got = selection.group_hard(jax.random.key(0), x, label, num_groups=1, margin=1.0)
    assert as_set(got) == {(0, 1, 2), (1, 0, 2)}


@pytest.mark.parametrize(
    ("margin", "due"),
    [(-2.0, set()), (-1.0, {(3, 2, 1)}), (0.0, {(1, 0, 3), (3, 2, 1)})],
)
def test_group_hard_made_by_hand(margin, due):
    # d_an - d_ap: of 0 and 1 to 2 and 3 it is 8, 1.25; of 1 and 0, 3, -0.75; of 2 and 3 to 0 and 1,
    # 6.75, 1.75; of 3 and 2, 0, -2.
    x = np.array([[0.0], [1.0], [3.0], [1.5]], np.float32)
    label = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    got = selection.group_hard(jax.random.key(0), x, label, num_groups=1, margin=margin)
    assert as_set(got) == due


def test_distances_that_no_triplet_reads_may_be_nan():
    distances = np.array([[0.0, 2.0, 3.0, np.nan]])
    positive, negative = np.array([[0, 1, 0, 0]], bool), np.array([[0, 0, 1, 0]], bool)
    due = {(0, 1, 2)}
    assert as_set(selection.semi_hard(distances, positive, negative, margin=2.0)) == due
    draw = functools.partial(selection.random_violating, jax.random.key(0), margin=2.0)
    assert as_set(draw(distances, positive, negative)) == due


@pytest.mark.parametrize(("value", "text"), [(np.nan, "NaN"), (np.inf, "inf")])
def test_what_is_no_number_is_refused_by_name_and_row(value, text):
    x, _, distances, positive, negative = drawn(3)
    x[4, 1] = distances[4] = value
    key, label = jax.random.key(0), np.ones((SIZE, 1))
    calls = {
        "distances": [
            lambda: selection.semi_hard(distances, positive, negative, margin=1.0),
            lambda: selection.random_violating(key, distances, positive, negative, margin=1.0),
        ],
        "x": [lambda: selection.group_hard(key, x, label, num_groups=1, margin=1.0)],
        "anchors": [lambda: selection.each_triplet(losses.triplet_sigmoid, x, np.ones((2, 3)))],
        "candidates": [lambda: selection.each_triplet(losses.triplet_sigmoid, np.ones((2, 3)), x)],
    }
    for name, some in calls.items():
        for call in some:
            with pytest.raises(ValueError, match=f"^{name} must be numbers, got {text} in row 4 "):
                call()


SQUARE = np.ones((3, 4), bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: selection.all_triplets(SQUARE[0], SQUARE), r"positive .* got \(4,\)"),
        (lambda: selection.all_triplets(SQUARE, SQUARE.T), r"negative .*\(3, 4\), got \(4, 3\)"),
        (
            lambda: selection.each_triplet(losses.triplet_sigmoid, SQUARE, SQUARE.T),
            r"candidates .*\[N, 4\], got \(4, 3\)",
        ),
        (
            lambda: selection.each_triplet(losses.triplet_sigmoid, SQUARE[0], SQUARE),
            r"anchors .*got \(4,\)",
        ),
        (
            lambda: selection.semi_hard(SQUARE, SQUARE.T, SQUARE, margin=1.0),
            r"positive .*\(3, 4\), got \(4, 3\)",
        ),
        (
            lambda: selection.semi_hard(SQUARE, SQUARE, SQUARE.T, margin=1.0),
            r"negative .*\(3, 4\), got \(4, 3\)",
        ),
        (
            lambda: selection.semi_hard(SQUARE[0], SQUARE, SQUARE, margin=1.0),
            r"distances .* got \(4,\)",
        ),
        (
            lambda: selection.group_hard(
                jax.random.key(0), SQUARE, SQUARE.T, num_groups=1, margin=1.0
            ),
            r"label .*\[3, L\], got \(4, 3\)",
        ),
        (
            lambda: selection.group_hard(
                jax.random.key(0), SQUARE[0], SQUARE, num_groups=1, margin=1.0
            ),
            r"x .* got \(4,\)",
        ),
        (
            lambda: selection.group_hard(
                jax.random.key(0), SQUARE, SQUARE, num_groups=4, margin=1.0
            ),
            r"num_groups must be between 1 and 3, got 4",
        ),
    ],
)
def test_other_shapes_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
