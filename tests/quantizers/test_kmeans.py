import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import kmeans

ALL = np.ones(48, bool)


def lloyd(centroids, x, mask, num_iterations):
    return kmeans.lloyd(centroids, x, mask=mask, num_iterations=num_iterations)


repair_empty = jax.jit(kmeans.repair_empty)


def distortion(x, centroids):
    gaps = np.float64(x)[:, None] - np.float64(centroids)
    return np.mean(np.min(np.sum(gaps**2, axis=-1), axis=-1))


def counts(x, centroids):
    gaps = np.float64(x)[:, None] - np.float64(centroids)
    return np.bincount(np.argmin(np.sum(gaps**2, axis=-1), axis=-1), minlength=len(centroids))


def test_squared_distances_made_by_hand():
    # ||c||^2 is 9 and 2; <x, c> is 3, 1 and 0, -1 and 0, 0.
    x = jnp.array([[1.0, 2.0], [0.0, -1.0], [0.0, 0.0]])
    centroids, due = jnp.array([[3.0, 0.0], [-1.0, 1.0]]), [[3, 0], [9, 4], [9, 2]]
    np.testing.assert_array_equal(kmeans.relative_distances(x, centroids), due)
    np.testing.assert_array_equal(
        kmeans.relative_distances_by_centroid(x, centroids), np.transpose(due)
    )


def test_nearest_made_by_hand():
    distances = jnp.array([[1.0, 5.0, 2.0, jnp.nan], [3.0, 5.0, -1.0, 0.0], [1.0, 4.0, 7.0, 0.0]])
    np.testing.assert_array_equal(kmeans.nearest(distances), [0, 2, 1, 2])


def test_squared_distances_lack_only_the_rows_own_constant(rng):
    x, centroids = rng.normal(size=(48, 3)), rng.normal(size=(5, 3))
    due = np.sum((x[:, None] - centroids) ** 2, axis=-1) - np.sum(x**2, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        kmeans.relative_distances(np.float32(x), np.float32(centroids)), due, rtol=1e-4, atol=1e-5
    )


def test_assign_finds_the_nearest(rng):
    x = np.float32(rng.normal(size=(48, 3)))
    centroids = x[:5] + np.float32(0.1)
    due = np.argmin(np.sum((x[:, None] - centroids) ** 2, axis=-1), axis=-1)
    got = kmeans.assign(x, centroids)
    np.testing.assert_array_equal(got, due)
    assert got.dtype == jnp.int32
    assert len(np.unique(due)) == 5


def test_assign_gives_a_tie_to_the_lowest_number():
    centroids = jnp.array([[5.0], [1.0], [-1.0], [1.0], [-1.0]])
    np.testing.assert_array_equal(
        kmeans.assign(jnp.array([[0.0], [3.0], [1.0], [-2.0]]), centroids), [1, 0, 1, 2]
    )


def test_plus_plus_draws_rows_by_squared_distance():
    # From row 0 the others are at squared distances 1 and 9, from 1 at 1 and 4, from 3 at 9 and 4.
    x, draws = jnp.array([[0.0], [1.0], [3.0], [50.0]]), 4000
    mask = jnp.array([True, True, True, False])
    start = jax.jit(jax.vmap(lambda key: kmeans.plus_plus(key, x, num_centroids=2, mask=mask)))
    pairs = np.asarray(start(jax.random.split(jax.random.key(0), draws)))[..., 0]
    due = {(0, 1): 1 / 10, (0, 3): 9 / 10, (1, 0): 1 / 5, (1, 3): 4 / 5, (3, 0): 9 / 13}
    for (first, second), share in due.items():
        behind = pairs[pairs[:, 0] == first, 1]
        assert len(behind) / draws == pytest.approx(1 / 3, abs=0.03)
        assert np.mean(behind == second) == pytest.approx(share, abs=0.05)


def test_plus_plus_starts_in_every_far_cluster_and_in_no_masked_row(rng):
    centers = 1000 * np.eye(4)[np.arange(48) % 4]
    x = np.float32(centers + rng.normal(size=(48, 4)))
    mask = np.arange(48) % 3 != 0
    x[~mask] = -5000
    start = jax.jit(jax.vmap(lambda key: kmeans.plus_plus(key, x, num_centroids=4, mask=mask)))
    for chosen in np.asarray(start(jax.random.split(jax.random.key(1), 50))):
        assert sorted(np.argmax(chosen, axis=1)) == [0, 1, 2, 3]
        assert all(any(np.array_equal(row, real) for real in x[mask]) for row in chosen)


def test_plus_plus_of_equal_rows_gives_that_row():
    x = jnp.full((48, 2), 7.0)
    got = kmeans.plus_plus(jax.random.key(0), x, num_centroids=3, mask=ALL)
    np.testing.assert_array_equal(got, np.full((3, 2), 7.0))


def test_plus_plus_of_a_long_table_draws_from_all_over_it(rng):
    # 32 K = 128 of 6,000 rows are drawn from; the far clusters lie at both ends.
    x = np.float32(rng.normal(size=(6000, 2)))
    x[:600], x[-600:], mask = x[:600] + 500, x[-600:] - 500, np.arange(6000) % 7 != 2
    x[~mask] = 1e6
    start = jax.jit(jax.vmap(lambda key: kmeans.plus_plus(key, x, num_centroids=4, mask=mask)))
    chosen = np.asarray(start(jax.random.split(jax.random.key(0), 30)))
    assert np.all(np.abs(chosen) < 1000)
    assert np.all(np.any(chosen[..., 0] > 400, axis=1) & np.any(chosen[..., 0] < -400, axis=1))
    assert len(np.unique(chosen[:, :, 0])) > 100


@pytest.mark.parametrize(("num_rows", "due"), [(4, [1, 3, 4, 5]), (8, [1, 1, 3, 3, 4, 4, 5, 5])])
def test_spread_rows_made_by_hand(num_rows, due):
    # With as many parts as rows that count, or twice as many, nothing is left to chance.
    mask = jnp.array([False, True, False, True, True, True])
    got = kmeans.spread_rows(jax.random.key(0), mask, num_rows=num_rows)
    np.testing.assert_array_equal(got, due)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_spread_rows_takes_one_of_each_part(rng, share):
    mask = rng.random(6000) < share
    rows = np.asarray(kmeans.spread_rows(jax.random.key(3), jnp.asarray(mask), num_rows=128))
    assert np.all(mask[rows])
    assert np.all(np.diff(rows) >= 0)
    ranks = np.searchsorted(np.flatnonzero(mask), rows) / mask.sum()
    np.testing.assert_allclose(ranks, (np.arange(128) + 0.5) / 128, atol=0.6 / 128 + 1 / mask.sum())


def test_draw_row_made_by_hand():
    # Of 4 in all, row 0 has what is below 1, row 2 what is below 3.
    fractions, due = jnp.array([0.0, 0.2, 0.25, 0.7, 0.75, 0.99]), [0, 0, 2, 2, 3, 3]
    draw = jax.vmap(kmeans.draw_row, in_axes=(None, 0))
    np.testing.assert_array_equal(draw(jnp.array([1.0, 0.0, 2.0, 1.0]), fractions), due)
    np.testing.assert_array_equal(draw(jnp.zeros(4), fractions), [3] * 6)


def test_draw_never_lands_on_a_row_without_weight(rng):
    # A parallel sum in float32 is not monotone: rows of no weight hold slivers of probability.
    weight = np.float32(rng.uniform(size=8192) * (rng.uniform(size=8192) < 0.5))
    weight[-100:] = 0
    cumulative = np.asarray(jnp.cumsum(weight))
    slivers = np.flatnonzero((weight[1:] == 0) & (np.diff(cumulative) > 0)) + 1
    assert len(slivers) > 0
    inside = cumulative[slivers - 1] / cumulative[-1]
    fractions = np.float32([*inside, *np.nextafter(inside, np.float32(1)), 0, 1 - 2e-7])
    rows = jax.jit(jax.vmap(kmeans.draw_row, in_axes=(None, 0)))(weight, fractions)
    assert np.all(weight[rows] > 0)


@pytest.mark.parametrize(
    ("start", "num_iterations", "due"),
    [
        ([0, 2], 0, [0, 2]),
        ([0, 2], 1, [0, 8]),  # {0}, {2, 10, 12}
        ([0, 2], 2, [1, 11]),  # {0, 2}, {10, 12}
        ([0, 99], 1, [6, 99]),
        # 6 and 6, pushed by 1e-3 cos(1) of it, down and up.
        ([0, 99], 2, [1, 11]),
    ],
)
def test_lloyd_made_by_hand(start, num_iterations, due):
    x, mask = np.float32([[0], [2], [10], [12], [1000]]), np.arange(5) < 4
    got = lloyd(np.float32(start)[:, None], x, mask, num_iterations)
    np.testing.assert_allclose(got[:, 0], due, rtol=1e-6)


def lloyd_by_hand(centroids, x, num_iterations):
    for _ in range(num_iterations):
        gaps = np.sum((x[:, None] - centroids) ** 2, axis=-1)
        nearest = np.argmin(gaps, axis=-1)
        centroids = np.stack([x[nearest == k].mean(axis=0) for k in range(len(centroids))])
    return centroids


@pytest.mark.parametrize("num_iterations", [0, 1, 4])
def test_lloyd_equals_a_numpy_loop_over_the_rows_that_count(rng, num_iterations):
    x, mask = rng.normal(size=(48, 3)), np.arange(48) % 5 != 1
    x[~mask] += 100
    centroids = x[mask][:5]
    due = lloyd_by_hand(centroids, x[mask], num_iterations)
    got = lloyd(np.float32(centroids), np.float32(x), mask, num_iterations)
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-6)


def test_lloyd_lowers_the_distortion_at_every_iteration(rng):
    x = np.float32(rng.normal(size=(48, 3)))
    fits = [lloyd(x[:5], x, ALL, n) for n in range(6)]
    assert all(np.all(counts(x, fit) > 0) for fit in fits)  # so that nothing was repaired
    distortions = [distortion(x, fit) for fit in fits]
    assert all(a >= b for a, b in itertools.pairwise(distortions))
    assert distortions[-1] < 0.9 * distortions[0]


@pytest.mark.parametrize("num_rows", [4000, 10_000])  # below and above 128 * K
def test_ten_iterations_of_a_fit_do_what_twenty_of_lloyd_do(rng, num_rows):
    x, mask = np.float32(rng.normal(size=(num_rows, 8))), np.ones(num_rows, bool)
    plain = kmeans.lloyd(x[:64], x, mask=mask, num_iterations=20)
    half = kmeans.lloyd(x[:64], x, mask=mask, num_iterations=10)
    fit = kmeans.fit(x[:64], x, mask=mask, num_iterations=10)
    assert distortion(x, fit) < 1.001 * distortion(x, plain)
    assert distortion(x, fit) < 0.998 * distortion(x, half)


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_lloyd_fills_empty_clusters(rng, offset):
    x = np.float32(rng.normal(size=(48, 3)) + offset)
    far = np.full((5, 3), 1e3, np.float32)
    far[0] = 0
    assert np.sum(counts(x, far) > 0) == 1
    got = lloyd(far, x, ALL, 15)
    assert np.all(counts(x, got) > 0)
    assert distortion(x, got) < 0.6 * distortion(x, x.mean(axis=0, keepdims=True))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2], [-1, -2], [3, 1], [-3, -1]],  # their mean is zero
        [[1, 1], [-1, -1], [3, 3], [-3, -3]],  # and their columns are equal
        [[2, 2], [4, 4], [6, 6], [8, 8]],  # only that
    ],
)
def test_lloyd_splits_an_awkward_cluster(rows, scale):
    x = np.float32(rows) * np.float32(scale)
    far = np.float32([[0, 0], [50, 50]]) * np.float32(scale)
    got = lloyd(far, x, np.ones(4, bool), 10)
    np.testing.assert_array_equal(counts(x, got), [2, 2])


def test_lloyd_of_fewer_distinct_rows_than_centroids_keeps_them():
    distinct = np.float32([[1, 2], [-3, 0.5], [0, 0]])
    x = np.repeat(distinct, 16, axis=0)
    start = np.repeat(distinct, 3, axis=0)
    for num_iterations in (1, 20):
        got = np.asarray(lloyd(start, x, ALL, num_iterations))
        assert np.all(np.isfinite(got))
        # Clusters of equal rows are pushed apart by 1e-3 in vain, and no further.
        assert distortion(x, got) < 2e-6 * np.mean(np.sum(x**2, axis=1))


def test_repair_moves_each_empty_cluster_beside_one_of_the_largest():
    centroids = jnp.array([[1.0, -2.0], [9.0, 9.0], [3.0, 4.0], [8.0, 8.0], [-5.0, 6.0]])
    got = repair_empty(centroids, jnp.array([3.0, 0.0, 7.0, 0.0, 1.0]))
    up, down = 1e-3 * np.cos(1), 1e-3 * np.cos(2)
    due = [
        [1.0 * (1 - up), -2.0 * (1 - down)],  # second largest, pushed away from cluster 3
        [3.0 * (1 + up), 4.0 * (1 + down)],  # first empty one: beside the largest
        [3.0 * (1 - up), 4.0 * (1 - down)],
        [1.0 * (1 + up), -2.0 * (1 + down)],
        [-5.0, 6.0],
    ]
    np.testing.assert_allclose(got, due, rtol=1e-7)


def test_repair_splits_no_cluster_of_one_row_and_leaves_full_ones():
    centroids = jnp.array([[1.0, -2.0], [9.0, 9.0], [3.0, 4.0]])
    for sizes in ([1.0, 0.0, 1.0], [2.0, 1.0, 5.0]):
        np.testing.assert_array_equal(repair_empty(centroids, jnp.array(sizes)), centroids)


def test_bfloat16_rows_are_worked_on_in_float32(rng):
    low = jnp.asarray(rng.normal(size=(48, 3)), jnp.bfloat16)
    full = low.astype(jnp.float32)
    for function in (
        lambda x: kmeans.relative_distances(x, x[:5]),
        lambda x: kmeans.plus_plus(jax.random.key(0), x, num_centroids=5, mask=ALL),
        lambda x: kmeans.lloyd(x[:5], x, mask=ALL, num_iterations=3),
    ):
        got = function(low)
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, function(full))
    np.testing.assert_array_equal(kmeans.assign(low, low[:5]), kmeans.assign(full, full[:5]))
