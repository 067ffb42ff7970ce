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
    product,
    rotation,
)
from tests.quantizers import oracles

ROWS, QUERIES, WIDTH = 20, 5, 6
X = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, WIDTH)), jnp.float32)


def product_codec(metric="l2", *, num_codebooks=3, num_codewords=16, rotated=True):
    rng = np.random.default_rng(2)
    books = rng.normal(size=(num_codebooks, num_codewords, WIDTH // num_codebooks))
    rotation = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    return ProductCodec(
        jnp.asarray(books, jnp.float32),
        jnp.asarray(rotation, jnp.float32) if rotated else None,
        metric,
    )


def residual_codec(metric="l2", *, num_codebooks=3, num_codewords=16, beam_width=1):
    rng = np.random.default_rng(4)
    books = jnp.asarray(rng.normal(size=(num_codebooks, num_codewords, WIDTH)), jnp.float32)
    return ResidualCodec(books, metric, beam_width)


def binary_codec(num_bits=WIDTH - 2):
    """As ITQ makes it, but that the offset is no mean."""
    fit = rotation.itq(jax.random.key(0), X, num_bits=num_bits, num_iterations=2)
    return BinaryCodec(num_bits, offset=fit.mean + 0.3, projection=fit.projection)


# A program a call: op by op, each shape would compile dozens. `test_contract.py` has eager calls.
encode = jax.jit(lambda codec, x: codec.encode(x))
decode = jax.jit(lambda codec, codes: codec.decode(codes))
assignments = jax.jit(lambda codec, codes: codec.assignments(codes))
distances = jax.jit(lambda codec, queries, codes: codec.distances(queries, codes))


def test_product_codec_made_by_hand():
    books = jnp.array([[[0.0, 0.0], [3.0, 4.0]], [[1.0, -1.0], [0.0, 2.0]]])
    x, query = jnp.array([[1.0, 1, 0, 1], [2, 2, 1, 0]]), jnp.array([[1.0, 2, 2, 0]])
    halves = jnp.array([2, 3, 0, 1])  # changes the places of the two
    for codec, order in (
        (ProductCodec(books), jnp.arange(4)),
        (ProductCodec(books, jnp.eye(4)[halves]), halves),
    ):
        codes = encode(codec, x[:, order])
        np.testing.assert_array_equal(codes, [[0b10], [0b01]])
        np.testing.assert_array_equal(assignments(codec, codes), [[0, 1], [1, 0]])
        due = np.array([[0, 0, 0, 2], [3, 4, 1, -1]])[:, order]
        np.testing.assert_array_equal(decode(codec, codes), due)
        np.testing.assert_array_equal(distances(codec, query[:, order], codes), [[13, 10]])


def test_residual_codec_made_by_hand():
    books = jnp.array([[[0.0], [10.0]], [[-2.0], [1.0]]])
    x, query = jnp.array([[0.9], [7.5], [4.8]]), jnp.array([[3.0]])
    for codec, last in ((ResidualCodec(books), 0b10), (ResidualCodec(books, "ip", 2), 0b01)):
        codes = encode(codec, x)
        np.testing.assert_array_equal(codes, [[0b10], [0b01], [last]])
        np.testing.assert_array_equal(assignments(codec, codes)[:2], [[0, 1], [1, 0]])
        np.testing.assert_array_equal(decode(codec, codes)[:2], [[1], [8]])
        due = {"l2": [[4, 25]], "ip": [[-3, -24]]}[codec.metric]
        np.testing.assert_array_equal(distances(codec, query, codes[:2]), due)


def test_binary_codec_made_by_hand():
    codec = BinaryCodec(2, jnp.array([1.0, 0.0]), jnp.array([[0.0, 1.0], [1.0, 0.0]]))
    codes = encode(codec, jnp.array([[3.0, -1.0], [0.0, 5.0], [1.0, 0.0]]))
    # Behind offset and exchange: (-1, 2), (5, -1), (0, 0).
    np.testing.assert_array_equal(codes, [[0b10], [0b01], [0b11]])
    np.testing.assert_array_equal(decode(codec, codes), [[2, -1], [0, 1], [2, 1]])
    np.testing.assert_array_equal(distances(codec, jnp.array([[9.0, -9.0]]), codes), [[0, 2, 1]])


@pytest.mark.parametrize(
    ("metric", "due"), [("l2", [[40, 25]]), ("ip", [[5, 0]]), ("cosine", [[1 + 5**-0.5, 1]])]
)
def test_float_codec_made_by_hand(metric, due):
    codec, x = FloatCodec(2, metric), jnp.array([[1.0, -2.0], [0.0, 0.0]])
    codes = encode(codec, x)
    np.testing.assert_array_equal(codes, [[0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0], [0] * 8])
    np.testing.assert_array_equal(decode(codec, codes), x)
    np.testing.assert_allclose(distances(codec, jnp.array([[3.0, 4.0]]), codes), due, rtol=1e-6)


@pytest.mark.parametrize(
    ("num_codebooks", "num_codewords", "bits", "num_bytes"),
    [(3, 16, 12, 2), (6, 256, 48, 6), (1, 2, 1, 1), (3, 8, 9, 2), (2, 32, 10, 2), (2, 16, 8, 1)],
)
def test_bits_are_counted_and_bytes_are_really_stored(
    num_codebooks, num_codewords, bits, num_bytes
):
    codec = product_codec(num_codebooks=num_codebooks, num_codewords=num_codewords)
    assert (codec.bits, codec.num_bytes) == (bits, num_bytes)
    codes = encode(codec, X)
    assert (codes.shape, codes.dtype) == ((ROWS, num_bytes), jnp.uint8)


def test_product_codec_refuses_codewords_that_are_no_power_of_two():
    codec = product_codec(num_codewords=12)
    for call in (lambda: codec.bits, lambda: encode(codec, X)):
        with pytest.raises(ValueError, match="num_codewords must be a power of two, got 12"):
            call()


@pytest.mark.parametrize("rotated", [False, True])
def test_product_codec_codes_the_rotated_embedding(rotated):
    codec = product_codec(rotated=rotated)
    rotation = np.float64(codec.rotation) if rotated else np.eye(WIDTH)
    numbers = oracles.encode(codec.codebooks, np.float64(X) @ rotation)
    codes = encode(codec, X)
    np.testing.assert_array_equal(assignments(codec, codes), numbers)
    np.testing.assert_array_equal(codes, [oracles.packed_as_text(row, 4) for row in numbers])
    due = oracles.decode(codec.codebooks, numbers) @ rotation.T
    np.testing.assert_allclose(decode(codec, codes), due, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", product.METRICS)
@pytest.mark.parametrize("make", ["product", "rotated product", "residual", "float"])
def test_distances_are_those_to_the_decoded_embedding(make, metric):
    codec = {
        "product": lambda: product_codec(metric, rotated=False),
        "rotated product": lambda: product_codec(metric),
        "residual": lambda: residual_codec(metric),
        "float": lambda: FloatCodec(WIDTH, metric),
    }[make]()
    queries = jnp.asarray(np.random.default_rng(3).normal(size=(QUERIES, WIDTH)), jnp.float32)
    queries, x = queries.at[0].set(0), X.at[1].set(0)
    codes = encode(codec, x)
    due = oracles.distances(queries, decode(codec, codes), metric)
    np.testing.assert_allclose(distances(codec, queries, codes), due, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("codec", [product_codec(), residual_codec(), FloatCodec(WIDTH)])
def test_a_codec_measures_squared_euclid_unless_told_otherwise(codec):
    assert codec.metric == "l2"
    codes = encode(codec, X)
    due = oracles.distances(X[:2], decode(codec, codes), "l2")
    np.testing.assert_allclose(distances(codec, X[:2], codes), due, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "codec", [product_codec("dot"), residual_codec("dot"), FloatCodec(WIDTH, "dot")]
)
def test_another_metric_is_refused(codec):
    with pytest.raises(ValueError, match="metric must be one of l2, ip, cosine, got 'dot'"):
        distances(codec, X, encode(codec, X))


@pytest.mark.parametrize(
    "codec",
    [product_codec("ip"), residual_codec("ip"), binary_codec(), FloatCodec(WIDTH, "cosine")],
)
def test_a_codec_goes_through_jit_as_a_pytree(codec):
    @jax.jit
    def encode_and_measure(codec, x):
        codes = codec.encode(x)
        return codec, codes, codec.distances(x, codes)

    back, codes, distances = encode_and_measure(codec, X)
    assert type(back) is type(codec)
    assert (back.metric, back.bits, back.num_bytes) == (codec.metric, codec.bits, codec.num_bytes)
    np.testing.assert_array_equal(codes, codec.encode(X))
    np.testing.assert_allclose(distances, codec.distances(X, codes), rtol=1e-5, atol=1e-6)
    for leaf, due in zip(jax.tree.leaves(back), jax.tree.leaves(codec), strict=True):
        np.testing.assert_array_equal(leaf, due)
    with pytest.raises(AttributeError):  # frozen
        codec.metric = "l2"


@pytest.mark.by_default("codec0", "codec2")
@pytest.mark.parametrize(
    "codec", [product_codec(), residual_codec(), binary_codec(), FloatCodec(WIDTH)]
)
def test_bfloat16_embeddings_are_coded_in_float32(codec):
    low = X.astype(jnp.bfloat16)
    full = low.astype(jnp.float32)
    codes = encode(codec, low)
    np.testing.assert_array_equal(codes, encode(codec, full))
    assert decode(codec, codes).dtype == jnp.float32
    due = jnp.int32 if codec.metric == "hamming" else jnp.float32
    assert distances(codec, low, codes).dtype == due
    # In bfloat16 they would differ by a hundredth; compiled code of another input may round anew.
    np.testing.assert_allclose(
        distances(codec, low, codes), distances(codec, full, codes), rtol=1e-5
    )


def test_float_codec_stores_little_endian_float32_bit_for_bit():
    awkward = np.float32([[0.0, -0.0, -3.4e38, 1e-45, 3.4e38, 1 / 3]])
    x = np.concatenate([awkward, X])
    codec = FloatCodec(WIDTH)
    assert (codec.bits, codec.num_bytes) == (192, 24)
    codes = np.asarray(encode(codec, jnp.asarray(x)))
    assert codes.tobytes() == x.astype("<f4").tobytes()
    assert np.asarray(decode(codec, codes)).tobytes() == x.tobytes()


@pytest.mark.parametrize("length", [1e-12, 1e-6, 1e6, 1e12])
def test_float_codec_cosine_does_not_depend_on_length(length):
    codec = FloatCodec(WIDTH, "cosine")
    due = oracles.distances(X[:QUERIES], X, "cosine")
    got = distances(codec, X[:QUERIES] * length, encode(codec, X * length))
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-6)


def test_float_codec_refuses_other_widths():
    codec = FloatCodec(WIDTH)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 6\], got \(20, 5\)"):
        encode(codec, X[:, :5])
    with pytest.raises(ValueError, match=r"codes must be uint8 of shape \[N, 24\], got uint8 \(20"):
        decode(codec, encode(codec, X)[:, :23])
    with pytest.raises(ValueError, match=r"queries must have shape \[N, 6\], got \(20, 5\)"):
        distances(codec, X[:, :5], encode(codec, X))


def test_product_codec_refuses_other_widths():
    codec = product_codec()
    with pytest.raises(ValueError, match=r"x must have shape \[N, 6\], got \(20, 5\)"):
        encode(codec, X[:, :5])
    with pytest.raises(ValueError, match=r"queries must have shape \[N, 6\], got \(20, 5\)"):
        distances(codec, X[:, :5], encode(codec, X))
    with pytest.raises(ValueError, match=r"codes must be uint8 of shape \[N, 2\], got uint8 \(20"):
        decode(codec, encode(codec, X)[:, :1])
    codes = encode(codec, X)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 6\] for codebooks"):
        product_codec(rotated=False).encode(X[:, :5])
    with pytest.raises(ValueError, match=r"queries must have shape \[N, 6\] for codebooks"):
        product_codec(rotated=False).distances(X[:, :5], codes)
    narrow = ProductCodec(codec.codebooks, codec.rotation[:, :5])
    for call in (lambda: narrow.encode(X), lambda: narrow.decode(codes)):
        with pytest.raises(ValueError, match=r"rotation must have shape \(6, 6\).* got \(6, 5\)"):
            call()


@pytest.mark.parametrize("beam_width", [1, 4])
def test_residual_codec_packs_what_residual_encoding_finds(beam_width):
    codec = residual_codec(beam_width=beam_width)
    assert (codec.bits, codec.num_bytes) == (12, 2)
    numbers = additive.encode(codec.codebooks, X, beam_width=beam_width)
    codes = codec.encode(X)
    np.testing.assert_array_equal(codec.assignments(codes), numbers)
    np.testing.assert_array_equal(codes, [oracles.packed_as_text(row, 4) for row in numbers])
    np.testing.assert_array_equal(codec.decode(codes), additive.decode(codec.codebooks, numbers))


def test_a_wider_beam_codes_otherwise_and_1_is_the_default():
    narrow, wide = (encode(residual_codec(beam_width=b), X) for b in (1, 4))
    assert not np.array_equal(narrow, wide)
    np.testing.assert_array_equal(encode(ResidualCodec(residual_codec().codebooks), X), narrow)


def test_residual_codec_refuses_what_does_not_fit():
    codec = residual_codec()
    with pytest.raises(ValueError, match=r"x must have shape \[N, 6\] .* got \(20, 5\)"):
        encode(codec, X[:, :5])
    with pytest.raises(ValueError, match=r"queries must have shape \[N, 6\] .* got \(20, 5\)"):
        distances(codec, X[:, :5], encode(codec, X))
    with pytest.raises(ValueError, match=r"codes must be uint8 of shape \[N, 2\], got uint8 \(20"):
        decode(codec, encode(codec, X)[:, :1])
    with pytest.raises(ValueError, match="num_codewords must be a power of two, got 12"):
        encode(residual_codec(num_codewords=12), X)


def due_bits(codec, x):
    x = np.float64(x)
    if codec.offset is not None:
        x = x - np.float64(codec.offset)
    return (x if codec.projection is None else x @ np.float64(codec.projection)) >= 0


THRESHOLDS = binary.median_thresholds(X)
BINARY = [BinaryCodec(WIDTH), BinaryCodec(WIDTH, THRESHOLDS), binary_codec(), binary_codec(WIDTH)]


@pytest.mark.parametrize("codec", BINARY)
def test_binary_codec_packs_signs_and_counts_differing_bits(codec):
    assert (codec.metric, codec.bits, codec.num_bytes) == ("hamming", codec.num_bits, 1)
    codes, bits = encode(codec, X), due_bits(codec, X)
    np.testing.assert_array_equal(codes, [oracles.packed_as_text(row, 1) for row in np.uint8(bits)])
    queries = -X[:QUERIES] + 0.2
    due = np.sum(due_bits(codec, queries)[:, None] != bits, axis=-1)
    got = distances(codec, queries, codes)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, due)
    assert len(np.unique(due)) > 2


@pytest.mark.parametrize("codec", BINARY)
def test_binary_reconstructions_have_the_code_they_come_from(codec):
    codes = encode(codec, X)
    decoded = decode(codec, codes)
    assert decoded.shape == X.shape
    np.testing.assert_array_equal(encode(codec, decoded), codes)
    signs = np.where(due_bits(codec, X), 1.0, -1.0)
    due = signs if codec.projection is None else signs @ np.float64(codec.projection).T
    due = due if codec.offset is None else due + np.float64(codec.offset)
    np.testing.assert_allclose(decoded, due, rtol=1e-5, atol=1e-6)


def test_binary_codec_with_medians_splits_every_bit_in_halves():
    bits = np.unpackbits(np.asarray(encode(BINARY[1], X)), axis=1, bitorder="little")[:, :WIDTH]
    np.testing.assert_array_equal(bits.sum(axis=0), np.full(WIDTH, ROWS // 2))
    due = np.asarray(binary.median_sign(X)) > 0
    np.testing.assert_array_equal(bits, due)


def test_binary_codec_gives_zeros_the_bit_1():
    np.testing.assert_array_equal(encode(BinaryCodec(3), jnp.array([[0.0, -0.0, -1e-30]])), [[3]])


def test_binary_codec_refuses_other_widths():
    codec = binary_codec()
    with pytest.raises(ValueError, match=r"x must have shape \[N, 6\], got \(20, 5\)"):
        encode(codec, X[:, :5])
    with pytest.raises(ValueError, match=r"queries must have shape \[N, 6\], got \(20, 5\)"):
        distances(codec, X[:, :5], encode(codec, X))
    with pytest.raises(ValueError, match=r"x must have shape \[N, 9\], got \(20, 6\)"):
        BinaryCodec(9).encode(X)
    with pytest.raises(ValueError, match=r"offset must have shape \(6,\), got \(1,\)"):
        BinaryCodec(6, offset=jnp.zeros(1)).encode(X)
    with pytest.raises(ValueError, match=r"projection must have shape \[D, 3\], got \(6, 4\)"):
        BinaryCodec(3, projection=codec.projection).encode(X)
    with pytest.raises(
        ValueError, match=r"codes must be uint8 of shape \[N, 1\], got uint8 \(20, 2"
    ):
        distances(codec, X, jnp.zeros((ROWS, 2), jnp.uint8))


def test_a_codec_is_shown_by_its_shapes(rng):
    codec = ProductCodec(jnp.asarray(rng.normal(size=(4, 256, 3)), jnp.float32), metric="ip")
    assert repr(codec) == "<ProductCodec of 32 bits: codebooks [4, 256, 3], metric 'ip'>"
    assert repr(FloatCodec(3)) == "<FloatCodec of 96 bits: dim 3, metric 'l2'>"
