import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import FloatCodec, ProductCodec, codecs, product
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


def packed_as_text(row, width):
    """FAISS's little-endian bit string: number m takes bits m * width and up of one long number."""
    text = "".join(format(number, f"0{width}b")[::-1] for number in row)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)]


@pytest.mark.parametrize("width", range(1, 9))
def test_pack_equals_a_little_endian_bit_string_and_unpack_undoes_it(width):
    rng = np.random.default_rng(width)
    numbers = np.uint8(rng.integers(0, 2**width, size=(ROWS, 5)))
    numbers[0], numbers[1] = 0, 2**width - 1
    codes = codecs.pack(jnp.asarray(numbers), width)
    assert codes.dtype == jnp.uint8
    np.testing.assert_array_equal(codes, [packed_as_text(row, width) for row in numbers])
    unpacked = codecs.unpack(codes, width, 5)
    assert unpacked.dtype == jnp.uint8
    np.testing.assert_array_equal(unpacked, numbers)


def test_pack_made_by_hand():
    # 0b101, 0b011, 0b110, 0b001 lowest bit first: 101 110 01|1 100 and four zeros.
    np.testing.assert_array_equal(
        codecs.pack(jnp.array([[0b101, 0b011, 0b110, 0b001]]), 3), [[0b10011101, 0b00000011]]
    )
    np.testing.assert_array_equal(codecs.pack(jnp.array([[0x3, 0xA]]), 4), [[0xA3]])


@pytest.mark.parametrize(
    "codes", [np.zeros((4, 3), np.uint8), np.zeros((4, 2), np.int32), np.zeros(2, np.uint8)]
)
@pytest.mark.parametrize("width", [3, 8])
def test_unpack_refuses_other_codes(codes, width):
    count = 4 if width == 3 else 2
    with pytest.raises(ValueError, match=r"codes must be uint8 of shape \[N, 2\], got u?int\d+ \("):
        codecs.unpack(codes, width, count)


@pytest.mark.parametrize(
    ("num_codebooks", "num_codewords", "bits", "num_bytes"),
    [(3, 16, 12, 2), (6, 256, 48, 6), (1, 2, 1, 1), (3, 8, 9, 2), (2, 32, 10, 2), (2, 16, 8, 1)],
)
def test_bits_are_counted_and_bytes_are_really_stored(
    num_codebooks, num_codewords, bits, num_bytes
):
    codec = product_codec(num_codebooks=num_codebooks, num_codewords=num_codewords)
    assert (codec.bits, codec.num_bytes) == (bits, num_bytes)
    codes = codec.encode(X)
    assert (codes.shape, codes.dtype) == ((ROWS, num_bytes), jnp.uint8)


def test_num_codebooks_divides_the_bits():
    assert [
        codecs.num_codebooks(bits, k) for bits, k in ((32, 256), (12, 16), (12, 8), (7, 2))
    ] == [
        4,
        3,
        4,
        7,
    ]


@pytest.mark.parametrize(
    ("bits", "num_codewords", "message"),
    [
        (12, 256, r"got 12 bits for codewords of 8 bits \(num_codewords = 256\)"),
        (0, 256, "got 0 bits"),
        (-8, 256, "got -8 bits"),
        (32, 100, "num_codewords must be a power of two, got 100"),
        (32, 512, "num_codewords must be between 2 and 256, got 512"),
        (32, 1, "num_codewords must be between 2 and 256, got 1"),
    ],
)
def test_num_codebooks_refuses_what_does_not_fit(bits, num_codewords, message):
    with pytest.raises(ValueError, match=message):
        codecs.num_codebooks(bits, num_codewords)


def test_product_codec_refuses_codewords_that_are_no_power_of_two():
    codec = product_codec(num_codewords=12)
    for call in (lambda: codec.bits, lambda: codec.encode(X)):
        with pytest.raises(ValueError, match="num_codewords must be a power of two, got 12"):
            call()


@pytest.mark.parametrize("rotated", [False, True])
def test_product_codec_codes_the_rotated_embedding(rotated):
    codec = product_codec(rotated=rotated)
    rotation = np.float64(codec.rotation) if rotated else np.eye(WIDTH)
    numbers = oracles.encode(codec.codebooks, np.float64(X) @ rotation)
    codes = codec.encode(X)
    np.testing.assert_array_equal(codec.assignments(codes), numbers)
    np.testing.assert_array_equal(codes, [packed_as_text(row, 4) for row in numbers])
    due = oracles.decode(codec.codebooks, numbers) @ rotation.T
    np.testing.assert_allclose(codec.decode(codes), due, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", product.METRICS)
@pytest.mark.parametrize("make", ["product", "rotated product", "float"])
def test_distances_are_those_to_the_decoded_embedding(make, metric):
    codec = {
        "product": lambda: product_codec(metric, rotated=False),
        "rotated product": lambda: product_codec(metric),
        "float": lambda: FloatCodec(WIDTH, metric),
    }[make]()
    queries = jnp.asarray(np.random.default_rng(3).normal(size=(QUERIES, WIDTH)), jnp.float32)
    queries, x = queries.at[0].set(0), X.at[1].set(0)
    codes = codec.encode(x)
    due = oracles.distances(queries, codec.decode(codes), metric)
    np.testing.assert_allclose(codec.distances(queries, codes), due, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("codec", [product_codec(), FloatCodec(WIDTH)])
def test_a_codec_measures_squared_euclid_unless_told_otherwise(codec):
    assert codec.metric == "l2"
    codes = codec.encode(X)
    due = oracles.distances(X[:2], codec.decode(codes), "l2")
    np.testing.assert_allclose(codec.distances(X[:2], codes), due, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("codec", [product_codec("dot"), FloatCodec(WIDTH, "dot")])
def test_another_metric_is_refused(codec):
    with pytest.raises(ValueError, match="metric must be one of l2, ip, cosine, got 'dot'"):
        codec.distances(X, codec.encode(X))


@pytest.mark.parametrize("codec", [product_codec("ip"), FloatCodec(WIDTH, "cosine")])
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


@pytest.mark.parametrize("codec", [product_codec(), FloatCodec(WIDTH)])
def test_bfloat16_embeddings_are_coded_in_float32(codec):
    low = X.astype(jnp.bfloat16)
    full = low.astype(jnp.float32)
    codes = codec.encode(low)
    np.testing.assert_array_equal(codes, codec.encode(full))
    assert codec.decode(codes).dtype == codec.distances(low, codes).dtype == jnp.float32
    np.testing.assert_array_equal(codec.distances(low, codes), codec.distances(full, codes))


def test_float_codec_stores_little_endian_float32_bit_for_bit():
    awkward = np.float32([[0.0, -0.0, np.inf, 1e-45, 3.4e38, 1 / 3]])
    x = np.concatenate([awkward, X])
    codec = FloatCodec(WIDTH)
    assert (codec.bits, codec.num_bytes) == (192, 24)
    codes = np.asarray(codec.encode(jnp.asarray(x)))
    assert codes.tobytes() == x.astype("<f4").tobytes()
    assert np.asarray(codec.decode(codes)).tobytes() == x.tobytes()


@pytest.mark.parametrize("length", [1e-12, 1e-6, 1e6, 1e12])
def test_float_codec_cosine_does_not_depend_on_length(length):
    codec = FloatCodec(WIDTH, "cosine")
    due = oracles.distances(X[:QUERIES], X, "cosine")
    got = codec.distances(X[:QUERIES] * length, codec.encode(X * length))
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-6)


def test_float_codec_refuses_other_widths():
    codec = FloatCodec(WIDTH)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 6\], got \(20, 5\)"):
        codec.encode(X[:, :5])
    with pytest.raises(ValueError, match=r"codes must be uint8 of shape \[N, 24\], got uint8 \(20"):
        codec.decode(codec.encode(X)[:, :23])
    with pytest.raises(ValueError, match=r"queries must have shape \[N, 6\], got \(20, 5\)"):
        codec.distances(X[:, :5], codec.encode(X))


def test_product_codec_refuses_other_widths():
    codec = product_codec()
    with pytest.raises(ValueError, match=r"x must have shape \[N, 6\], got \(20, 5\)"):
        codec.encode(X[:, :5])
    with pytest.raises(ValueError, match=r"queries must have shape \[N, 6\], got \(20, 5\)"):
        codec.distances(X[:, :5], codec.encode(X))
    with pytest.raises(ValueError, match=r"codes must be uint8 of shape \[N, 2\], got uint8 \(20"):
        codec.decode(codec.encode(X)[:, :1])
    codes = codec.encode(X)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 6\] for codebooks"):
        product_codec(rotated=False).encode(X[:, :5])
    with pytest.raises(ValueError, match=r"queries must have shape \[N, 6\] for codebooks"):
        product_codec(rotated=False).distances(X[:, :5], codes)
