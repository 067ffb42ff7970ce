"""Distances and codes keep their digits far from the origin, and for tiny and huge numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import FloatCodec, ProductCodec, ResidualCodec, additive, kmeans, product

OFFSETS = [0.0, 1e3, 1e4, 1e6]
NORMS = [1e-30, 1e-15, 1.0, 1e15, 1e30]
KEY = jax.random.key(0)


def rows(num_rows, width, seed, offset=0.0):
    """Float32 rows of spread 1 about a middle that is `offset` away in every column."""
    x = np.random.default_rng(seed).normal(size=(num_rows, width))
    return np.float32(x + offset * np.linspace(-1, 1, width))


def squared(queries, database):
    """Float64, by differences."""
    return np.square(np.float64(queries)[:, None] - np.float64(database)).sum(-1)


def assert_nearest(x, codewords, numbers, scale=1.0):
    """Every number is that of the nearest codeword, or of one as near to 1e-4 of the spread."""
    distances = squared(x, codewords) / scale**2
    chosen = np.take_along_axis(distances, np.int64(numbers)[:, None], axis=1)[:, 0]
    assert np.max(chosen - distances.min(axis=1)) <= 1e-4 * distances.mean()


@pytest.mark.parametrize("offset", OFFSETS)
def test_real_distances_equal_float64(offset):
    queries, x = rows(40, 16, 0, offset), rows(300, 16, 1, offset)
    codec = FloatCodec(16)
    found = np.asarray(codec.distances(queries, codec.encode(jnp.asarray(x))))
    due = squared(queries, x)
    np.testing.assert_allclose(found, due, atol=1e-4 * due.mean())
    padded = np.concatenate([queries, np.zeros((9, 16), np.float32)])  # as evaluate pads
    again = np.asarray(codec.distances(padded, codec.encode(jnp.asarray(x))))[:40]
    np.testing.assert_allclose(again, due, atol=1e-4 * due.mean())
    alone = np.asarray(codec.distances(queries[:1], codec.encode(jnp.asarray(x))))
    np.testing.assert_allclose(alone, due[:1], atol=1e-4 * due.mean())


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("num_rows", [300, 4096], ids=["whole", "tiles"])
def test_product_codes_are_the_nearest_codewords(offset, num_rows):
    x = rows(num_rows, 8, 0, offset)
    books = rows(32, 8, 1, offset).reshape(32, 2, 4).transpose(1, 0, 2)
    numbers = np.asarray(product.encode(books, x))
    for m in range(2):
        assert_nearest(x[:, 4 * m : 4 * m + 4], books[m], numbers[:, m])
    due = sum(
        squared(x[:20, 4 * m : 4 * m + 4], books[m][numbers[:, m]]) for m in range(2)
    )  # fmt: skip
    got = np.asarray(product.distances(books, x[:20], numbers))
    np.testing.assert_allclose(got, due, atol=1e-4 * due.mean())


@pytest.mark.parametrize("offset", OFFSETS)
def test_soft_assignments_and_gradients_are_those_of_the_origin(offset):
    x, books = rows(50, 4, 0), rows(8, 4, 1).reshape(8, 1, 4).transpose(1, 0, 2)
    move = np.float32(offset * np.linspace(-1, 1, 4))
    far_x, far_books = x + move, books + move
    # What is left of the data once float32 has rounded the sums.
    near = np.float64(far_x) - np.float64(move), np.float64(far_books) - np.float64(move)
    near_x, near_books = (np.float32(each) for each in near)
    weights = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)

    def loss(books, x):
        return jnp.sum(weights * product.quantize(books, x, temperature=1.0))

    for function in (
        lambda books, x: product.soft_assign(books, x, temperature=1.0),
        jax.grad(loss, argnums=(0, 1)),
    ):
        jax.tree.map(
            lambda far, near: np.testing.assert_allclose(far, near, rtol=2e-3, atol=2e-3),
            function(far_books, far_x),
            function(near_books, near_x),
        )


@pytest.mark.parametrize("offset", OFFSETS)
def test_residual_codes_are_the_nearest_codewords(offset):
    x = rows(300, 6, 0, offset)
    books = np.stack([rows(16, 6, 1, offset), 0.3 * rows(16, 6, 2)])
    numbers = np.asarray(additive.encode(books, x))
    assert_nearest(x, books[0], numbers[:, 0])
    left = x - books[0][numbers[:, 0]]
    assert_nearest(left, books[1], numbers[:, 1])
    wide = np.asarray(ResidualCodec(jnp.asarray(books), beam_width=4).encode(jnp.asarray(x)))
    assert wide.shape == (300, 1)


@pytest.mark.parametrize("offset", OFFSETS)
def test_kmeans_finds_the_means_of_its_clusters(offset):
    x = rows(600, 4, 0, offset)
    mask = np.arange(600) % 7 > 0
    start = kmeans.plus_plus(KEY, x, num_centroids=8, mask=mask)
    found = np.asarray(kmeans.lloyd(start, x, mask=mask, num_iterations=40))
    numbers = np.asarray(kmeans.assign(x, found))
    assert_nearest(x, found, numbers)
    means = np.stack([np.float64(x[mask & (numbers == k)]).mean(axis=0) for k in range(8)])
    # Centroids are float32, so no nearer to the means than float32 is at this offset.
    np.testing.assert_allclose(found, means, atol=1e-4 + 2 * np.spacing(np.float32(offset)))


@pytest.mark.parametrize("norm", NORMS)
def test_tiny_and_huge_numbers_have_the_codes_of_ordinary_ones(norm):
    x, books = rows(200, 8, 0), rows(32, 8, 1).reshape(32, 2, 4).transpose(1, 0, 2)
    scaled = np.float32(norm) * x, np.float32(norm) * books
    numbers = np.asarray(product.encode(scaled[1], scaled[0]))
    for m in range(2):
        part, book = scaled[0][:, 4 * m : 4 * m + 4], scaled[1][m]
        assert_nearest(part, book, numbers[:, m], scale=np.float64(norm))
    codes = additive.encode(scaled[1].reshape(2, 32, 4), scaled[0][:, :4])
    np.testing.assert_array_equal(codes, additive.encode(books.reshape(2, 32, 4), x[:, :4]))
    mask = np.ones(200, bool)
    fitted = product.fit_codebooks(KEY, scaled[0], num_codebooks=2, num_codewords=4, mask=mask)
    due = product.fit_codebooks(KEY, x, num_codebooks=2, num_codewords=4, mask=mask)
    np.testing.assert_allclose(np.asarray(fitted) / np.float32(norm), due, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_cosines_do_not_depend_on_norms(norm):
    queries, x = rows(20, 8, 0), rows(100, 8, 1)
    real = FloatCodec(8, metric="cosine")
    codec = ProductCodec(jnp.asarray(x[:32].reshape(32, 2, 4).transpose(1, 0, 2)), metric="cosine")
    far = ProductCodec(codec.codebooks * np.float32(norm), metric="cosine")
    codes = codec.encode(jnp.asarray(x))
    due = real.distances(queries, real.encode(jnp.asarray(x)))
    scaled = np.float32(norm) * queries
    np.testing.assert_allclose(
        real.distances(scaled, real.encode(jnp.float32(norm) * x)), due, atol=1e-5
    )
    np.testing.assert_allclose(
        far.distances(scaled, codes), codec.distances(queries, codes), atol=1e-5
    )


@pytest.mark.parametrize("make", [np.random.default_rng(3).normal, np.random.default_rng(4).random])
def test_ordinary_data_have_the_bits_of_the_plain_formula(make):
    x, books = np.float32(make(size=(3000, 8))), np.float32(make(size=(2, 64, 4)))
    if make.__name__ == "random":
        books[0, :, 0] *= 8  # a mean that is away from the origin, but not far for the spread
    scale, shift = kmeans.frame(jnp.asarray(books))
    assert np.all(np.asarray(scale) == 1)
    assert not np.any(shift)
    plain = [
        np.asarray(
            jax.jit(lambda a, b: kmeans.nearest(kmeans.relative_distances_by_centroid(a, b)))(*pair)
        )
        for pair in zip(x.reshape(3000, 2, 4).transpose(1, 0, 2), books, strict=True)
    ]
    np.testing.assert_array_equal(product.encode(books, x), np.stack(plain, axis=1))
