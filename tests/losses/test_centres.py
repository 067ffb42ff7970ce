import functools

import jax
import numpy as np
import pytest

from quantjax import losses


def distances(codes):
    codes = np.asarray(codes)
    pairs = (codes.shape[1] - codes @ codes.T) / 2
    return pairs[~np.eye(len(codes), dtype=bool)]


def test_hadamard_centres_made_by_hand():
    # Sylvester's matrix of 4, and its negative.
    rows = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1], [-1, -1, -1, -1]]
    np.testing.assert_array_equal(losses.hadamard_centres(5, 4), rows)


def test_hadamard_centres_are_orthogonal_or_opposite():
    codes = np.asarray(losses.hadamard_centres(64, 32))
    np.testing.assert_array_equal(codes[:32] @ codes[:32].T, 32 * np.eye(32))
    np.testing.assert_array_equal(codes[32:], -codes[:32])


@pytest.mark.parametrize("sizes", [(3, 48), (9, 4), (0, 4), (4, 0)])
def test_hadamard_centres_refuse_what_has_no_matrix(sizes):
    with pytest.raises(ValueError, match=r"^num_\w+ must be .*, got \d+") as caught:
        losses.hadamard_centres(*sizes)
    assert ("bernoulli_centres" in str(caught.value)) == (0 not in sizes)


def test_bernoulli_centres_meet_the_papers_two_conditions():
    # Smallest distance above D/4 and mean distance at least D/2, where independent draws fail.
    apart = distances(losses.bernoulli_centres(jax.random.key(0), 100, 32))
    assert apart.min() > 8
    assert apart.mean() >= 16
    independent = losses.bernoulli_centres(jax.random.key(0), 100, 32, num_candidates=1)
    assert distances(independent).min() <= 8


@pytest.mark.parametrize(("num_bits", "plus"), [(12, 6), (7, 4)])
def test_bernoulli_centres_are_balanced_signs_of_the_key(num_bits, plus):
    draw = functools.partial(losses.bernoulli_centres, num_classes=5, num_bits=num_bits)
    codes = np.asarray(draw(jax.random.key(1)))
    assert codes.shape == (5, num_bits)
    np.testing.assert_array_equal(np.abs(codes), 1)
    np.testing.assert_array_equal((codes > 0).sum(axis=1), plus)
    np.testing.assert_array_equal(draw(jax.random.key(1)), codes)
    np.testing.assert_array_equal(jax.jit(draw)(jax.random.key(1)), codes)
    assert (np.asarray(draw(jax.random.key(2))) != codes).any()


def test_bernoulli_centres_take_more_classes_than_there_are_codes():
    codes = np.asarray(losses.bernoulli_centres(jax.random.key(0), 5, 2))
    assert set(map(tuple, codes)) == {(1.0, -1.0), (-1.0, 1.0)}


@pytest.mark.parametrize(
    ("name", "sizes", "options"),
    [
        ("num_classes", (0, 4), {}),
        ("num_bits", (3, 0), {}),
        ("num_candidates", (3, 4), {"num_candidates": 0}),
    ],
)
def test_bernoulli_centres_refuse_sizes_below_one(name, sizes, options):
    with pytest.raises(ValueError, match=f"^{name} must be 1 or more, got 0$"):
        losses.bernoulli_centres(jax.random.key(0), *sizes, **options)


CENTRES = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [-1, -1, 1, 1]], np.float32)
LABELS = np.array([[1, 0, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]])


def test_class_centres_are_the_majority_of_each_bit():
    got = losses.class_centres(jax.random.key(0), LABELS, CENTRES)
    assert got.dtype == CENTRES.dtype
    np.testing.assert_array_equal(got[:2], [[1, 1, 1, 1], [1, -1, 1, 1]])
    np.testing.assert_array_equal(got[2, [0, 2]], [1, 1])  # The other two are ties.


def test_class_centres_break_ties_by_the_key_alone():
    drawn = []
    for seed in range(8):
        got = np.asarray(losses.class_centres(jax.random.key(seed), LABELS, CENTRES))
        np.testing.assert_array_equal(np.abs(got), 1)
        np.testing.assert_array_equal(got[2, [1, 3]], got[3, [1, 3]])
        # The same row of another batch, as of another device, has the same centre.
        alone = losses.class_centres(jax.random.key(seed), LABELS[3:], CENTRES)
        np.testing.assert_array_equal(alone, got[3:])
        drawn.append(got[3])
    assert (np.min(drawn, axis=0) == -1).all()
    assert (np.max(drawn, axis=0) == 1).all()


def test_class_centres_refuse_shapes_that_do_not_agree():
    with pytest.raises(ValueError, match=r"centres must have shape \[2, D\], got \(3, 4\)"):
        losses.class_centres(jax.random.key(0), LABELS[:, :2], CENTRES)
    with pytest.raises(ValueError, match=r"labels must have shape \[B, L\], got \(4,\)"):
        losses.class_centres(jax.random.key(0), LABELS[:, 0], CENTRES)
