"""Distances and codes keep their digits far from the origin, and for tiny and huge numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import (
    BinaryCodec,
    FloatCodec,
    ProductCodec,
    ResidualCodec,
    additive,
    binary,
    ema,
    kmeans,
    packing,
    precision,
    product,
    rotation,
)
from tests.quantizers import oracles

OFFSETS = [0.0, 1e3, 1e4, 1e6]
SCALES = [1e-30, 1.0, 1e15]
NORMS = [1e-30, 1e-15, 1.0, 1e15, 1e30]
KEY = jax.random.key(0)


encode = jax.jit(lambda codec, x: codec.encode(x))
measure = jax.jit(lambda codec, queries, codes: codec.distances(queries, codes))


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


@jax.jit
def soft_assignments_and_gradients(books, x, weights):
    def loss(books, x):
        return jnp.sum(weights * product.quantize(books, x, temperature=1.0))

    assignments = product.soft_assign(books, x, temperature=1.0)
    return assignments, jax.grad(loss, argnums=(0, 1))(books, x)


@pytest.mark.parametrize("offset", OFFSETS)
def test_soft_assignments_and_gradients_are_those_of_the_origin(offset):
    x, books = rows(50, 4, 0), rows(8, 4, 1).reshape(8, 1, 4).transpose(1, 0, 2)
    move = np.float32(offset * np.linspace(-1, 1, 4))
    far_x, far_books = x + move, books + move
    # What is left of the data once float32 has rounded the sums.
    near = np.float64(far_x) - np.float64(move), np.float64(far_books) - np.float64(move)
    near_x, near_books = (np.float32(each) for each in near)
    weights = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)

    jax.tree.map(
        lambda far, near: np.testing.assert_allclose(far, near, rtol=2e-3, atol=2e-3),
        soft_assignments_and_gradients(far_books, far_x, weights),
        soft_assignments_and_gradients(near_books, near_x, weights),
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
    codes, due = encode(codec, x), measure(real, queries, encode(real, x))
    scaled, items = np.float32(norm) * queries, encode(real, np.float32(norm) * x)
    np.testing.assert_allclose(measure(real, scaled, items), due, atol=1e-5)
    due = measure(codec, queries, codes)
    np.testing.assert_allclose(measure(far, scaled, codes), due, atol=1e-5)


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


# Every codec and every fit, over offsets and scales, beside float64 on the same float32 numbers.

TURN = np.float32(np.linalg.qr(np.random.default_rng(9).normal(size=(8, 8)))[0])
every_place = pytest.mark.parametrize(
    ("offset", "scale"), [(offset, scale) for offset in OFFSETS for scale in SCALES]
)
# Ordinary numbers, and those farthest away.
few_by_default = pytest.mark.by_default("*-0.0-1.0", "0.0-1.0-*", "*1000000.0-*")


def product_books(offset, scale, turn=None):
    words = np.float64(scale) * np.float64(rows(16, 8, 1, offset))
    words = words if turn is None else words @ np.float64(turn)
    return np.float32(words.reshape(16, 2, 4).transpose(1, 0, 2))


def additive_books(offset, scale, share=2):
    """Codebooks whose sums lie at the offset: the first is far, the second, too, if share > 0."""
    offsets = (1 + share) * offset, -share * offset, 0
    parts = [rows(16, 8, seed, each) for seed, each in enumerate(offsets, start=1)]
    return np.float32(scale) * np.stack(parts)


def codecs(offset, scale):
    """Codecs by name, with their codebooks and the number of partial sums kept (None: product)."""
    plain, turned = product_books(offset, scale), product_books(offset, scale, TURN)
    added = additive_books(offset, scale, share=0)
    return {
        "product": (ProductCodec(jnp.asarray(plain)), plain, None),
        "rotated": (ProductCodec(jnp.asarray(turned), jnp.asarray(TURN)), turned, None),
        "residual": (ResidualCodec(jnp.asarray(added)), added, 1),
        "beam": (ResidualCodec(jnp.asarray(added), beam_width=4), added, 4),
    }


def decoded(name, books, numbers):
    if name not in ("product", "rotated"):
        return oracles.additive_decode(books, numbers)
    x = oracles.decode(np.float64(books), numbers)
    return x @ np.float64(TURN).T if name == "rotated" else x


def coded(name, books, x, beam_width):
    """Codeword numbers in float64, and the rows in the space that they are nearest in."""
    x = np.float64(x)
    if beam_width is not None:
        return oracles.beam_encode(books, x, beam_width), x
    turned = x @ np.float64(TURN) if name == "rotated" else x
    return oracles.encode(np.float64(books), turned), turned


@few_by_default
@every_place
@pytest.mark.parametrize("name", ["product", "rotated", "residual", "beam"])
def test_codecs_of_codebooks_agree_with_float64(name, offset, scale):
    codec, books, beam_width = codecs(offset, scale)[name]
    x = np.float32(scale) * rows(30, 8, 0, offset)
    codes = encode(codec, x)
    numbers = np.asarray(codec.assignments(codes))
    due, turned = coded(name, books, x, beam_width)
    unturned = "product" if name == "rotated" else name
    errors = [
        np.square((turned - decoded(unturned, books, each)) / scale).sum(axis=1)
        for each in (numbers, due)
    ]
    np.testing.assert_allclose(*errors, atol=1e-4 * errors[1].mean(), rtol=0)
    found, due = np.asarray(codec.decode(codes)), decoded(name, books, numbers)
    apart = 1e-5 * scale + np.spacing(np.abs(np.float32(due)))
    assert np.all(np.abs(found - due) <= apart)


@few_by_default
@every_place
@pytest.mark.parametrize("name", ["product", "rotated", "residual", "float"])
def test_distances_of_codecs_agree_with_float64_or_are_refused(name, offset, scale):
    x = np.float32(scale) * rows(30, 8, 0, offset)
    queries = np.float32(scale) * rows(10, 8, 4, offset)
    if name == "float":
        codec, codes, due = FloatCodec(8), FloatCodec(8).encode(jnp.asarray(x)), x
    else:
        codec, books, _ = codecs(offset, scale)[name]
        codes = encode(codec, x)
        numbers = np.asarray(codec.assignments(codes))
        due = decoded(name, books, numbers)
    far = np.float64(queries)
    if name == "rotated":  # in its own space: the rotation is orthogonal to float32 only
        far, due = far @ np.float64(TURN), oracles.decode(np.float64(books), numbers)
    due = squared(far, due)
    if due.mean() < 1e-38:
        with pytest.raises(ValueError, match=r"cannot hold the 'l2' distances of query 0"):
            codec.distances(queries, codes)
        assert np.all(np.isnan(measure(codec, queries, codes)))
        return
    for found in (codec.distances(queries, codes), measure(codec, queries, codes)):
        np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-4 * due.mean())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["product", "rotated", "residual"])
def test_cosines_of_codebooks_agree_with_float64(name, scale):
    codec, books, _ = codecs(0, scale)[name]
    queries, x = (np.float32(scale) * rows(n, 8, n) for n in (10, 30))
    codes = encode(codec, x)
    codec = type(codec)(codec.codebooks, *([TURN] if name == "rotated" else []), metric="cosine")
    items = decoded(name, books, np.asarray(codec.assignments(codes)))
    due = oracles.distances(np.float64(queries) / scale, items / scale, "cosine")
    np.testing.assert_allclose(measure(codec, queries, codes), due, atol=1e-5)


@every_place
def test_quantize_gives_the_nearest_codewords(offset, scale):
    books, x = product_books(offset, scale), np.float32(scale) * rows(60, 8, 0, offset)
    found = product.quantize(books, x, temperature=float(np.float32(scale)) ** 2 or 1e-38)
    np.testing.assert_array_equal(found, product.decode(books, product.encode(books, x)))


@every_place
def test_sums_and_icm_and_ridge_agree_with_float64(offset, scale):
    books, x = additive_books(offset, scale), np.float32(scale) * rows(60, 8, 0, offset)
    numbers = np.asarray(additive.icm_encode(KEY, books, x, np.zeros((60, 3)), num_sweeps=6))
    left = np.float64(x) - oracles.additive_decode(books, numbers)
    codes = packing.pack(numbers, 4)
    found = ResidualCodec(jnp.asarray(books)).decode(codes)
    apart = 1e-5 * scale + np.spacing(np.abs(found))
    assert np.all(np.abs(found - oracles.additive_decode(books, numbers)) <= apart)
    for m in range(3):  # no other codeword of a single codebook is nearer
        own = left + np.float64(books[m])[numbers[:, m]]
        assert_nearest(own, books[m], numbers[:, m], scale=scale)
    fitted = additive.ridge_update(books, x, numbers, ridge=0.0)
    due = oracles.ridge(books * 0, np.float64(x) - x.mean(axis=0, dtype=np.float64), numbers, 1e-9)
    due = oracles.additive_decode(due, numbers) + x.mean(axis=0, dtype=np.float64)
    found = oracles.additive_decode(np.asarray(fitted), numbers)
    rounding = 6 * np.spacing(np.float32(3 * offset))
    np.testing.assert_allclose(found / scale, due / scale, atol=1e-3 + rounding)


def distortion(x, rebuilt, scale):
    return np.square((np.float64(x) - rebuilt) / scale).sum(axis=1).mean()


def fit_product(x, mask):
    books = product.fit_codebooks(KEY, x, num_codebooks=2, num_codewords=8, mask=mask)
    return oracles.decode(np.float64(books), np.asarray(product.encode(books, x)))


def fit_additive(x, mask):
    books = additive.fit_codebooks(KEY, x, num_codebooks=2, num_codewords=8, mask=mask)
    return oracles.additive_decode(books, np.asarray(additive.encode(books, x)))


def fit_opq(x, mask):
    fitted = rotation.opq(KEY, x, num_codebooks=2, num_codewords=8, num_iterations=10, mask=mask)
    codec = ProductCodec(fitted.codebooks, fitted.rotation)
    numbers = np.asarray(codec.assignments(codec.encode(jnp.asarray(x))))
    rotated = oracles.decode(np.float64(fitted.codebooks), numbers)
    turn = np.float64(fitted.rotation)
    return np.float64(x) - (np.float64(x) @ turn - rotated) @ turn.T


def fit_opq_parametric(x, mask):
    turn = rotation.opq_parametric(x, num_codebooks=2, mask=mask)
    centred = np.float64(x) - np.mean(x, axis=0, dtype=np.float64)
    # What a product of Gaussians has to code: the variances of one subspace.
    return np.float64(x) - np.pad((centred @ np.float64(turn))[:, :4], ((0, 0), (0, 4)))


def fit_itq(x, mask):
    mean, axes = rotation.itq(KEY, x, num_bits=4, num_iterations=20, mask=mask)
    projected = (np.float64(x) - np.float64(mean)) @ np.float64(axes)
    signs = np.asarray(binary.unpack(BinaryCodec(4, mean, axes).encode(x), 4))
    np.testing.assert_array_equal(signs, np.where(projected >= 0, 1, -1))
    gaps = projected - signs * np.abs(projected).mean()
    return np.float64(x) - np.pad(gaps, ((0, 0), (0, 4)))


def fit_ema(x, mask):
    start = np.stack(np.split(x[:8], 2, axis=1))
    numbers = product.encode(start, x)
    state = ema.ema_init(start, numbers, mask)
    for _ in range(5):
        numbers = product.encode(state.codebooks, x)
        state = ema.ema_update(state, x, numbers, decay=0.5, mask=mask)
    state = ema.revive(KEY, state, x, threshold=0.1, mask=mask)
    return oracles.decode(np.float64(state.codebooks), np.asarray(numbers))


FITS = [fit_product, fit_additive, fit_opq, fit_opq_parametric, fit_itq, fit_ema]


@few_by_default
@pytest.mark.parametrize("fit", FITS, ids=[fit.__name__[4:] for fit in FITS])
@every_place
def test_every_fit_is_as_good_as_at_the_origin(fit, offset, scale):
    x, mask = rows(240, 8, 5, offset), np.arange(240) % 5 > 0
    x = np.round(x * 8) / 8 if offset < 1e6 else x  # numbers that the offset leaves as they are
    x[:, :3] += np.float32(3 * (np.arange(240) % 4 - 1.5)[:, None])  # clusters
    near = np.float32(np.float64(x) - np.float32(offset * np.linspace(-1, 1, 8)))
    due = distortion(near, fit(near, mask), 1.0)
    x = np.float32(scale) * x
    assert distortion(x, fit(x, mask), scale) <= 1.1 * due + 1e-3


def test_two_parts_hold_the_digits_that_float32_loses():
    terms = np.float32(1e8 * np.random.default_rng(0).normal(size=(5, 7)))
    terms = np.concatenate([terms, -terms, rows(3, 7, 1)])
    for total in (precision.two_part_sum, jax.jit(precision.two_part_sum)):
        high, low = (np.float64(part) for part in total(jnp.asarray(terms)))
        np.testing.assert_allclose(high + low, np.float64(terms).sum(axis=0), atol=1e-6)
    row = np.float32(1e6) * rows(1, 8, 2)[0]
    high, low = (np.float64(p) for p in jax.jit(precision.two_part_product)(row, TURN))
    np.testing.assert_allclose(high + low, np.float64(row) @ np.float64(TURN), atol=1e-6)
    high, low = (np.float64(p) for p in precision.two_part_product(row, TURN))
    np.testing.assert_allclose(high + low, np.float64(row) @ np.float64(TURN), atol=1e-6)
    slope = jax.grad(lambda turn: precision.two_part_product(row, turn)[0][0])(TURN)
    np.testing.assert_array_equal(slope[:, 0], row)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("norm", [1e-30, 1e30])
def test_distances_that_float32_cannot_hold_are_refused(norm, metric):
    queries, books = (np.float32(norm) * each for each in (rows(5, 8, 0), product_books(0, 1.0)))
    codes = np.zeros((3, 1), np.uint8)
    codecs = ProductCodec(books, metric=metric), ResidualCodec(books[:, :, :4], metric=metric)
    for codec, width in zip(codecs, (8, 4), strict=True):
        with pytest.raises(ValueError, match=f"'{metric}' distances of query 0 .* by one factor"):
            codec.distances(queries[:, :width], codes)
    with pytest.raises(ValueError, match=f"'{metric}' distances of query 0 .* by one factor"):
        product.lookup_tables(books, queries, metric=metric)


def test_tiny_codewords_may_be_compared_with_ordinary_queries():
    queries, books = rows(5, 8, 0), np.float32(1e-30) * product_books(0, 1.0)
    found = ProductCodec(books).distances(queries, np.zeros((3, 1), np.uint8))
    np.testing.assert_allclose(found[:, 0], np.sum(np.square(queries), axis=1), rtol=1e-6)
