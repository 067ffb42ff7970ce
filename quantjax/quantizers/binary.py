"""Binary codes: signs with straight-through gradients, packing to bytes, Hamming distances.

Bit j of an item is 1 where its sign is +1, and stands in byte j // 8 at place j % 8, lowest first,
as FAISS packs; the last byte is filled with zeros. The sign of zero is +1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.arrays import can_be_seen, check_finite, check_shape, masked_rows, on_explicit_mesh
from quantjax.errors import InputError
from quantjax.quantizers import packing
from quantjax.quantizers.straight_through import straight_through


def sign(x: jax.Array) -> jax.Array:
    """Returns the sign of each value, +1 or -1; the gradient passes unchanged.

    Args:
      x: Real values of any shape.

    Returns:
      Signs in x's shape and dtype; sign(0) = +1, so that a code has no third value.

    Reference:
      Su et al., Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN, NeurIPS
      2018 (the gradient is copied).
    """
    check_finite("x", x)
    return straight_through(_signs_of(x >= 0, x.dtype), x)


def clipped_sign(x: jax.Array) -> jax.Array:
    """Returns the sign of each value, +1 or -1; the gradient passes only where |x| <= 1.

    Values beyond 1 keep a clear sign without a further push. At |x| = 1 the gradient passes, as in
    the paper; the gradient of a clip would be a half there.

    Args:
      x: Real values of any shape.

    Returns:
      Signs in x's shape and dtype; sign(0) = +1.

    Reference:
      Hubara et al., Binarized Neural Networks, NeurIPS 2016.
    """
    check_finite("x", x)
    return straight_through(_signs_of(x >= 0, x.dtype), jnp.where(jnp.abs(x) <= 1, x, 0))


@on_explicit_mesh(rows="x")
def median_sign(x: jax.Array) -> jax.Array:
    """Returns +1 for the larger half of the batch in each bit; the gradient passes unchanged.

    The larger floor(B / 2) values of a column are +1, the others -1, so that every bit is
    balanced; of equal values the earlier rows are +1. Under pmap gather x first. It is BiHalf's
    half layer. The public code also adds gamma (x - b) / (B bits) to the gradient, gamma = 6: for
    it add gamma / 2 times the mean of (x - stop_gradient(b))^2 over rows and bits to the loss.

    Args:
      x: Real values [B, bits] of one batch.

    Returns:
      Signs [B, bits] in x's dtype.

    Raises:
      ValueError: if x is not [B, bits].

    Reference:
      Li and van Gemert, Deep Unsupervised Image Hashing by Maximizing Bit Entropy, AAAI 2021.
    """
    check_shape("x", x, "N", "bits")
    check_finite("x", x)
    order = jnp.argsort(-x, axis=0, stable=True)
    ranks = jnp.argsort(order, axis=0)
    return straight_through(_signs_of(ranks < len(x) // 2, x.dtype), x)


@on_explicit_mesh()
def median_thresholds(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns each bit's median over the rows: the threshold at which to encode new items.

    Args:
      x: Real values [N, bits], of the training set say.
      mask: Whether each row counts, [N] bool; all when None.

    Returns:
      Medians [bits] float32, the mean of the middle two of an even number of rows; subtract them
      before `pack`, or hand them to `BinaryCodec` as its offset.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check_shape("x", x, "N", "bits")
    x, counts = masked_rows(x, mask)
    if mask is None:
        return jnp.median(x, axis=0)
    medians = jnp.nanmedian(jnp.where(counts[:, None], x, jnp.nan), axis=0)
    # `nanmedian` skips every NaN, also a NaN in a row that counts, which must reach the result.
    return jnp.where(jnp.any(jnp.isnan(x), axis=0), jnp.nan, medians)


def pack(signs: jax.Array) -> jax.Array:
    """Packs signs or bits into bytes; the dtype decides whether values are signs or bits.

    Floats and signed integers are signs: a value of 0 or more is +1, a one in the code. Booleans
    and unsigned integers are bits: 1 is a one in the code and 0 a zero. So float zeros and ones
    are all +1; give bits as bool or uint8.

    Args:
      signs: Signs or real values [N, bits], or bits of 0 and 1.

    Returns:
      Codes [N, ceil(bits / 8)] uint8.

    Raises:
      ValueError: if signs are not [N, bits]; or, outside jit, if unsigned integers are not 0 or 1,
        or signed integers are 0 and 1 only, which look like bits.
    """
    check_shape("signs", signs, "N", "bits")
    is_bits = _is_unsigned(signs.dtype)
    _check_integers(signs, is_bits)
    ones = signs > 0 if is_bits else signs >= 0
    return packing.pack_bits(ones)


def unpack(packed: jax.Array, num_bits: int) -> jax.Array:
    """Unpacks the bytes of `pack` to signs.

    Args:
      packed: Codes [N, ceil(num_bits / 8)] uint8.
      num_bits: Bits per item.

    Returns:
      Signs [N, num_bits] float32.

    Raises:
      ValueError: if the codes have another number of bytes or another type.
    """
    packing.check_codes(packed, -(-num_bits // 8), "packed")
    bits = packing.unpack_bits(packed, num_bits)
    return jnp.where(bits, jnp.float32(1), jnp.float32(-1))


def hamming_distances(queries: jax.Array, database: jax.Array) -> jax.Array:
    """Returns Hamming distances between packed codes: the number of differing bits.

    Args:
      queries: Codes [Q, bytes] uint8.
      database: Codes [N, bytes] uint8.

    Returns:
      Distances [Q, N] int32.

    Raises:
      ValueError: if types or numbers of bytes differ.
    """
    num_bytes = queries.shape[-1]
    packing.check_codes(queries, num_bytes, "queries")
    packing.check_codes(database, num_bytes, "database")
    return _hamming(queries, database)


@jax.jit
def _hamming(queries, database):
    total = jnp.zeros((queries.shape[0], database.shape[0]), jnp.int32)
    # One byte of all pairs at a time: [Q, N, bytes] at once would fill the memory.
    for byte in range(queries.shape[-1]):
        differ = queries[:, byte, None] ^ database[:, byte]
        total += jax.lax.population_count(differ).astype(jnp.int32)
    return total


def _signs_of(is_positive, dtype):
    if _is_unsigned(dtype):
        raise InputError(f"x must be of a type that holds -1, got {dtype}; `pack` takes bits")
    return jnp.where(is_positive, 1, -1).astype(dtype)


def _is_unsigned(dtype):
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.bool_, jnp.unsignedinteger))


def _check_integers(signs, is_bits):
    # Floats are not read back to the host: any value is a sign.
    if not jnp.issubdtype(signs.dtype, jnp.integer) or not can_be_seen(signs) or not signs.size:
        return
    numbers = np.asarray(signs)
    least, most = int(numbers.min()), int(numbers.max())
    if is_bits and most > 1:
        raise InputError(f"bits must be 0 or 1, got {signs.dtype} up to {most}")
    if not is_bits and least == 0 and most <= 1:
        raise InputError(
            f"signs must be +1 and -1, got {signs.dtype} of 0 and 1 only; pass bits as bool or "
            "uint8"
        )
