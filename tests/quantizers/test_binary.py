import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import BinaryCodec, binary
from tests.quantizers import devices, oracles

ROWS, BITS = 16, 13
X = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, BITS)), jnp.float32)
AWKWARD = np.array([-2.0, -1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0, 1e4], np.float32)


@pytest.mark.parametrize("function", [binary.sign, binary.clipped_sign])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_signs_are_plus_or_minus_one_and_zeros_is_plus(function, dtype):
    x = jnp.asarray(AWKWARD, dtype)
    for got in (function(x), jax.jit(function)(x)):
        assert got.dtype == x.dtype
        np.testing.assert_array_equal(np.float32(got), [-1, -1, -1, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_gradients_are_those_of_identity_everywhere_or_up_to_length_1(transform):
    pull = jnp.arange(1.0, 9.0)
    for function, due in (
        (binary.sign, np.ones(8)),
        (binary.clipped_sign, [0, 1, 1, 1, 1, 1, 1, 0]),
    ):
        got = transform(jax.grad(lambda x, f=function: jnp.sum(pull * f(x))))(AWKWARD)
        np.testing.assert_array_equal(got, pull * np.array(due))


def test_median_sign_made_by_hand():
    x = jnp.array([[5.0, 1.0], [7.0, 1.0], [6.0, 1.0], [9.0, -3.0], [8.0, 1.0]])
    due = [[-1, 1], [-1, 1], [-1, -1], [1, -1], [1, -1]]  # 2 of 5, ties to the earlier rows
    np.testing.assert_array_equal(binary.median_sign(x), due)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_median_sign_splits_every_bit_in_halves(dtype, scale):
    x = (X * scale + 3).astype(dtype)  # full of ties at 1e-20
    got = jax.jit(binary.median_sign)(x)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(jnp.sum(got, axis=0, dtype=jnp.float32), np.zeros(BITS))
    np.testing.assert_array_equal(np.float32(got), oracles.halves(np.float32(x)))


def test_median_sign_has_the_gradient_of_the_identity():
    gradient = jax.grad(lambda x: jnp.sum(X[::-1] * binary.median_sign(x)))(X)
    np.testing.assert_array_equal(gradient, X[::-1])


def test_median_sign_over_eight_devices_equals_one():
    due = binary.median_sign(X)
    sharded = jax.jit(binary.median_sign)(*devices.by_rows(X))
    gathered = devices.pmap_gathered(lambda _, x: binary.median_sign(x), 0.0, [X])
    np.testing.assert_array_equal(sharded, due)
    np.testing.assert_array_equal(gathered, due)


def test_median_thresholds_made_by_hand():
    x = jnp.array([[5.0, 1.0], [7.0, -3.0], [6.0, 0.0], [9.0, 2.0]])
    np.testing.assert_array_equal(binary.median_thresholds(x), [6.5, 0.5])
    np.testing.assert_array_equal(binary.median_thresholds(x, jnp.arange(4) < 3), [6, 0])


def test_thresholds_encode_the_batch_as_median_sign_does():
    thresholds = jax.jit(binary.median_thresholds)(X + 7)
    np.testing.assert_allclose(thresholds, np.median(np.float64(X) + 7, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(binary.sign(X + 7 - thresholds), binary.median_sign(X))
    assert binary.median_thresholds(X.astype(jnp.bfloat16)).dtype == jnp.float32


def test_thresholds_skip_masked_rows():
    mask = np.arange(ROWS) % 4 != 0
    padded = jnp.where(mask[:, None], X, 99.0)
    got = binary.median_thresholds(padded, jnp.asarray(mask))
    np.testing.assert_allclose(got, np.median(X[mask], axis=0), rtol=1e-6)


def test_pack_made_by_hand():
    signs = jnp.array(
        [[1.0, -1, 1, 1, -1, -1, -1, -1, 1, 1], [-0.5, 0, -0.0, -2, 3, -1, -1, -1, -1, 9]]
    )
    np.testing.assert_array_equal(binary.pack(signs), [[0b1101, 0b11], [0b10110, 0b10]])


BITS_BY_HAND = np.array([[1, 0, 1, 1, 0, 0, 0, 0, 1, 0], [0] * 9 + [1], [0] * 10, [1] * 10])
BYTES_BY_HAND = [[0b1101, 0b1], [0, 0b10], [0, 0], [255, 0b11]]


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint32"])
def test_bits_are_packed_as_bits(dtype, transform):
    bits = BITS_BY_HAND.astype(dtype)
    for given in (bits, jnp.asarray(bits)):
        np.testing.assert_array_equal(transform(binary.pack)(given), BYTES_BY_HAND)
        # A binary codec encodes them to themselves, as rows to look for too.
        codec = BinaryCodec(10)
        np.testing.assert_array_equal(transform(codec.encode)(given), BYTES_BY_HAND)
        nearest = transform(codec.distances)(given, jnp.array(BYTES_BY_HAND, jnp.uint8))
        np.testing.assert_array_equal(np.diagonal(nearest), [0] * 4)


@pytest.mark.parametrize("dtype", ["int8", "int64", "float16", "float32", "bfloat16"])
def test_signs_of_any_signed_type_are_packed_as_signs(dtype):
    for given in (2 * BITS_BY_HAND - 1, 3 * BITS_BY_HAND - 1):
        np.testing.assert_array_equal(binary.pack(given.astype(dtype)), BYTES_BY_HAND)
    np.testing.assert_array_equal(binary.pack(jnp.array([[0.0, 1, -0.0]])), [[0b111]])


def test_unpack_made_by_hand():
    packed = jnp.array([[0b1101, 0b11], [0b10110, 0b10]], jnp.uint8)
    due = [[1, -1, 1, 1, -1, -1, -1, -1, 1, 1], [-1, 1, 1, -1, 1, -1, -1, -1, -1, 1]]
    np.testing.assert_array_equal(binary.unpack(packed, 10), due)


def test_hamming_distances_made_by_hand():
    queries = jnp.array([[0b101, 0b11], [0xFF, 0]], jnp.uint8)
    database = jnp.array([[0b110, 0], [0xFF, 0xFF], [0b101, 0b11]], jnp.uint8)
    due = [[2 + 2, 6 + 6, 0], [6 + 0, 0 + 8, 6 + 2]]
    np.testing.assert_array_equal(binary.hamming_distances(queries, database), due)


@pytest.mark.parametrize("num_bits", [1, 7, 8, 12, 13])
def test_unpack_undoes_pack_and_the_last_byte_is_filled_with_zeros(num_bits):
    signs = binary.sign(X[:, :num_bits])
    packed = jax.jit(binary.pack)(signs)
    assert (packed.dtype, packed.shape) == (jnp.uint8, (ROWS, -(-num_bits // 8)))
    texts = [
        "".join("1" if s > 0 else "0" for s in row).ljust(8 * packed.shape[1], "0") for row in signs
    ]
    due = [[int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8)] for text in texts]
    np.testing.assert_array_equal(packed, due)
    unpacked = binary.unpack(packed, num_bits)
    assert unpacked.dtype == jnp.float32
    np.testing.assert_array_equal(unpacked, signs)


@pytest.mark.parametrize("num_bits", [1, 13, 64, 300])
def test_hamming_distances_count_differing_bits(num_bits):
    rng = np.random.default_rng(num_bits)
    a, b = (np.where(rng.normal(size=(n, num_bits)) >= 0, 1, -1) for n in (5, ROWS))
    a[0], b[0], b[1] = 1, -1, 1  # all bits apart, and none
    due = [[sum(x != y for x, y in zip(p, q, strict=True)) for q in b] for p in a]
    packed = [binary.pack(jnp.asarray(x)) for x in (a, b)]
    for got in (
        binary.hamming_distances(*packed),
        jax.jit(binary.hamming_distances)(*packed),
        jax.jit(binary.hamming_distances)(packed[0], *devices.by_rows(packed[1])),
    ):
        assert got.dtype == jnp.int32
        np.testing.assert_array_equal(got, due)
    assert due[0][:2] == [num_bits, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: binary.pack(X[0]), r"signs must have shape \[N, bits\], got \(13,\)"),
        (lambda: binary.median_sign(X[0]), r"x must have shape \[N, bits\], got \(13,\)"),
        (lambda: binary.median_thresholds(X[0]), r"x must have shape \[N, bits\], got \(13,\)"),
        (
            lambda: binary.median_thresholds(X, jnp.ones(3, bool)),
            r"mask must have shape \(16,\), got \(3,\)",
        ),
        (
            lambda: binary.pack(BITS_BY_HAND),
            "signs must be .1 and -1, got int64 of 0 and 1 only; pass bits as bool or uint8",
        ),
        (lambda: binary.pack(jnp.zeros((2, 3), int)), "got int32 of 0 and 1 only"),
        (
            lambda: binary.pack(np.array([[0, 255, 1]], np.uint8)),
            "bits must be 0 or 1, got uint8 up to 255",
        ),
        (lambda: binary.sign(np.array([True])), "x must be of a type that holds -1, got bool"),
        (lambda: binary.clipped_sign(jnp.ones(3, jnp.uint8)), "that holds -1, got uint8"),
        (lambda: binary.median_sign(jnp.ones((3, 2), jnp.uint8)), "that holds -1, got uint8"),
        (
            lambda: binary.unpack(jnp.zeros((4, 3), jnp.uint8), 13),
            r"packed must be uint8 of shape \[N, 2\], got uint8 \(4, 3\)",
        ),
        (
            lambda: binary.unpack(jnp.zeros((4, 2), jnp.int32), 13),
            r"packed must be uint8 of shape \[N, 2\], got int32 \(4, 2\)",
        ),
        (
            lambda: binary.hamming_distances(jnp.zeros((4, 2), jnp.uint8), jnp.zeros((4, 3), "u1")),
            r"database must be uint8 of shape \[N, 2\], got uint8 \(4, 3\)",
        ),
        (
            lambda: binary.hamming_distances(jnp.zeros((4, 2)), jnp.zeros((4, 2), jnp.uint8)),
            r"queries must be uint8 of shape \[N, 2\], got float32 \(4, 2\)",
        ),
    ],
)
def test_bad_input_is_refused_with_one_clear_line(call, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        call()
