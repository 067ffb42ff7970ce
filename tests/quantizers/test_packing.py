import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import packing
from tests.quantizers.oracles import packed_as_text

ROWS = 20


@pytest.mark.parametrize("width", range(1, 9))
def test_pack_equals_a_little_endian_bit_string_and_unpack_undoes_it(width):
    rng = np.random.default_rng(width)
    numbers = np.uint8(rng.integers(0, 2**width, size=(ROWS, 5)))
    numbers[0], numbers[1] = 0, 2**width - 1
    codes = packing.pack(jnp.asarray(numbers), width)
    assert codes.dtype == jnp.uint8
    np.testing.assert_array_equal(codes, [packed_as_text(row, width) for row in numbers])
    unpacked = packing.unpack(codes, width, 5)
    assert unpacked.dtype == jnp.uint8
    np.testing.assert_array_equal(unpacked, numbers)


def test_pack_made_by_hand():
    # 0b101, 0b011, 0b110, 0b001 lowest bit first: 101 110 01|1 100 and four zeros.
    np.testing.assert_array_equal(
        packing.pack(jnp.array([[0b101, 0b011, 0b110, 0b001]]), 3), [[0b10011101, 0b00000011]]
    )
    np.testing.assert_array_equal(packing.pack(jnp.array([[0x3, 0xA]]), 4), [[0xA3]])


def test_unpack_made_by_hand():
    codes = jnp.array([[0b10011101, 0b00000011]], jnp.uint8)
    np.testing.assert_array_equal(packing.unpack(codes, 3, 4), [[0b101, 0b011, 0b110, 0b001]])
    codes = jnp.array([[0xA3]], jnp.uint8)
    np.testing.assert_array_equal(packing.unpack(codes, 4, 2), [[0x3, 0xA]])


@pytest.mark.parametrize(
    "codes", [np.zeros((4, 3), np.uint8), np.zeros((4, 2), np.int32), np.zeros(2, np.uint8)]
)
@pytest.mark.parametrize("width", [3, 8])
def test_unpack_refuses_other_codes(codes, width):
    count = 4 if width == 3 else 2
    with pytest.raises(ValueError, match=r"codes must be uint8 of shape \[N, 2\], got u?int\d+ \("):
        packing.unpack(codes, width, count)


@pytest.mark.parametrize(
    ("numbers", "width", "message"),
    [
        (jnp.zeros(4, jnp.uint8), 3, r"assignments must .* \[N, M\], got uint8 \(4,\)"),
        (jnp.zeros((4, 2)), 3, r"assignments must be whole numbers .* got float32 \(4, 2\)"),
        (np.array([[16, 17]]), 4, "assignments must be from 0 to 15 .* 4 bits, got 16 to 17"),
        (jnp.array([[3, 16]], jnp.uint8), 4, "from 0 to 15 to fit in 4 bits, got 3 to 16"),
        (np.array([[-1, 2]]), 4, "from 0 to 15 to fit in 4 bits, got -1 to 2"),
        (np.array([[0, 256]]), 8, "from 0 to 255 to fit in 8 bits, got 0 to 256"),
        (jnp.zeros((4, 2), jnp.uint8), 0, "width must be between 1 and 8 bits, got 0"),
        (jnp.zeros((4, 2), jnp.uint8), 9, "width must be between 1 and 8 bits, got 9"),
    ],
)
def test_pack_refuses_what_does_not_fit(numbers, width, message):
    with pytest.raises(ValueError, match=message):
        packing.pack(numbers, width)


def test_num_codebooks_divides_the_bits():
    assert [
        packing.num_codebooks(bits, k) for bits, k in ((32, 256), (12, 16), (12, 8), (7, 2))
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
        packing.num_codebooks(bits, num_codewords)


@pytest.mark.parametrize(
    ("bits", "num_rows", "due"),
    [
        (1, 999, 2), (4, 999, 16), (8, 999, 256), (12, 999, 64), (13, 999, 2), (32, 999, 256),
        (48, 999, 256), (60, 999, 64), (32, 256, 256), (32, 255, 16), (32, 15, 4), (32, 2, 2),
    ],
)  # fmt: skip
def test_there_are_the_most_codewords_that_length_and_rows_allow(bits, num_rows, due):
    assert packing.num_codewords(bits, num_rows) == due
