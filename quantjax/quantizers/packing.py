"""Packs codeword numbers into the stored bytes, in FAISS's bit order, and unpacks them.

Codeword number m takes bits m * log2 K and up, lowest bit first; the last byte is filled with
zeros.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.arrays import can_be_seen
from quantjax.errors import InputError


def check_num_codewords(num_codewords: int) -> None:
    """Raises ValueError if the number of codewords is not from 2 to 256: it must fit in a byte."""
    if not 2 <= num_codewords <= 256:
        raise InputError(f"num_codewords must be between 2 and 256, got {num_codewords}")


def bits_per_codeword(num_codewords: int) -> int:
    """Returns the number of bits per codeword number, log2 K.

    Args:
      num_codewords: K, a power of two from 2 to 256.

    Returns:
      log2 K.

    Raises:
      ValueError: if K is not a power of two from 2 to 256.
    """
    check_num_codewords(num_codewords)
    bits = num_codewords.bit_length() - 1
    if 1 << bits != num_codewords:
        raise InputError(f"num_codewords must be a power of two, got {num_codewords}")
    return bits


def num_codebooks(bits: int, num_codewords: int) -> int:
    """Returns M, the number of codebooks for codes of a given length.

    Args:
      bits: Code length.
      num_codewords: K, a power of two from 2 to 256.

    Returns:
      bits / log2 K.

    Raises:
      ValueError: if log2 K does not divide bits, or K is not a power of two from 2 to 256.
    """
    width = bits_per_codeword(num_codewords)
    if bits < 1 or bits % width:
        raise InputError(
            f"bits must be a multiple of log2 num_codewords, got {bits} bits for codewords of "
            f"{width} bits (num_codewords = {num_codewords}); change one of the two"
        )
    return bits // width


def num_codewords(bits: int, num_rows: int) -> int:
    """Returns the largest number of codewords, a power of two up to 256, whose log2 divides `bits`.

    Args:
      bits: Code length, 1 or more.
      num_rows: Number of training rows, the upper limit of codewords; 2 or more.

    Raises:
      ValueError: if either is too small.
    """
    if bits < 1 or num_rows < 2:
        raise InputError(f"codes need a bit and 2 rows at least, got {bits} and {num_rows}")
    most = min(256, num_rows).bit_length() - 1
    return 2 ** max(each for each in range(1, most + 1) if bits % each == 0)


def pack(assignments: jax.Array, width: int) -> jax.Array:
    """Packs the codeword numbers of each item into bytes, lowest bit first.

    Args:
      assignments: Codeword numbers [N, M], 0 to 2^width - 1.
      width: Bits of each, 1 to 8.

    Returns:
      Codes [N, ceil(M * width / 8)] uint8, zeros behind the last bit.

    Raises:
      ValueError: if assignments are not [N, M] of whole numbers, or a byte has not that many bits;
        or, outside jit, if a number does not fit in `width` bits.
    """
    if assignments.ndim != 2 or not jnp.issubdtype(assignments.dtype, jnp.integer):
        raise InputError(
            "assignments must be whole numbers of shape [N, M], "
            f"got {assignments.dtype} {assignments.shape}"
        )
    _check_bits(width)
    _check_numbers(assignments, width)
    # 256 codewords are the usual case, and their numbers are the bytes.
    return assignments.astype(jnp.uint8) if width == 8 else _pack(assignments, width)


@functools.partial(jax.jit, static_argnums=1)
def _pack(assignments, width):
    assignments = assignments.astype(jnp.uint8)
    bits = (assignments[:, :, None] >> jnp.arange(width, dtype=jnp.uint8)) & 1
    return pack_bits(bits.reshape(len(assignments), assignments.shape[1] * width))


def unpack(codes: jax.Array, width: int, count: int) -> jax.Array:
    """Unpacks the bytes of `pack` to codeword numbers.

    Args:
      codes: Codes [N, ceil(count * width / 8)] uint8.
      width: Bits of each number, 1 to 8.
      count: Numbers per code, M.

    Returns:
      Codeword numbers [N, M] uint8.

    Raises:
      ValueError: if the codes have another number of bytes or another type, or a byte has not
        that many bits.
    """
    _check_bits(width)
    check_codes(codes, -(-count * width // 8))
    return codes if width == 8 else _unpack(codes, width, count)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _unpack(codes, width, count):
    bits = unpack_bits(codes, count * width)
    bits = bits.reshape(codes.shape[0], count, width)
    return jnp.sum(bits << jnp.arange(width, dtype=jnp.uint8), axis=-1, dtype=jnp.uint8)


@jax.jit
def pack_bits(bits: jax.Array) -> jax.Array:
    """Packs bits into bytes, lowest bit first; the last byte is filled with zeros.

    Args:
      bits: Bits [N, count], bool or uint8 of zeros and ones.

    Returns:
      Codes [N, ceil(count / 8)] uint8.
    """
    bits = jnp.pad(bits, ((0, 0), (0, -bits.shape[1] % 8)))
    return jnp.packbits(bits, axis=1, bitorder="little")


@functools.partial(jax.jit, static_argnums=1)
def unpack_bits(codes: jax.Array, count: int) -> jax.Array:
    """Returns the first bits of each code, lowest first.

    Unlike `jax.numpy.unpackbits` it takes an array without codes, N = 0.

    Args:
      codes: Codes [N, num_bytes] uint8.
      count: Bits per code.

    Returns:
      Bits [N, count] uint8.
    """
    # Places in uint8: a shift by int32 would widen every bit to four bytes.
    places = jnp.arange(8, dtype=jnp.uint8)
    bits = (codes[:, :, None] >> places) & 1
    return bits.reshape(len(codes), 8 * codes.shape[1])[:, :count]


def check_codes(codes: jax.Array, num_bytes: int, name: str = "codes") -> None:
    """Raises ValueError if codes are not [N, num_bytes] uint8."""
    if codes.ndim != 2 or codes.shape[1] != num_bytes or codes.dtype != jnp.uint8:
        raise InputError(
            f"{name} must be uint8 of shape [N, {num_bytes}], got {codes.dtype} {codes.shape}"
        )


def _check_numbers(assignments, width):
    # A byte always fits in 8 bits: the usual codes of 256 codewords are not read back to the host.
    fits = width == 8 and assignments.dtype == jnp.uint8
    if fits or not can_be_seen(assignments) or not assignments.size:
        return
    numbers = np.asarray(assignments)
    least, most = int(numbers.min()), int(numbers.max())
    if not 0 <= least <= most < 2**width:
        raise InputError(
            f"assignments must be from 0 to {2**width - 1} to fit in {width} bits, got {least} to "
            f"{most}"
        )


def _check_bits(width):
    if not 1 <= width <= 8:
        raise InputError(f"width must be between 1 and 8 bits, got {width}")
