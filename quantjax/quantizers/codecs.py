"""Codecs: what survives training. Embeddings to bytes, and distances between the two.

A codec is a frozen pytree: it goes through `jit`, is saved beside the codes, and answers
`distances` the same way wherever it runs. Codes are packed as FAISS packs them: codeword m takes
bits m * log2 K and up, lowest bit first, the last byte filled with zeros.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from quantjax.quantizers import product


class Codec(Protocol):
    """From embeddings [N, D] to codes [N, num_bytes] uint8 and back."""

    @property
    def metric(self) -> str:
        """What `distances` measures: "l2", "ip" or "cosine"."""
        ...

    @property
    def bits(self) -> int:
        """Length of a code in bits."""
        ...

    @property
    def num_bytes(self) -> int:
        """Bytes really stored per item, ceil(bits / 8)."""
        ...

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes embeddings [N, D] to codes [N, num_bytes] uint8."""

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to embeddings [N, D] float32."""

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Measures queries [Q, D] against codes [N, num_bytes]: [Q, N], smaller is nearer."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProductCodec:
    """Product quantization: M codeword numbers of log2 K bits each.

    Attributes:
      codebooks: Codewords [M, K, d], K a power of two.
      rotation: Orthogonal matrix [D, D] applied as x @ rotation before coding, or None.
      metric: "l2", "ip" or "cosine", see `quantizers.product.distances`.
    """

    codebooks: jax.Array
    rotation: jax.Array | None = None
    metric: str = dataclasses.field(default="l2", metadata={"static": True})

    @property
    def bits(self) -> int:
        """Length of a code, M log2 K bits."""
        return self.codebooks.shape[0] * bits_per_codeword(self.codebooks.shape[1])

    @property
    def num_bytes(self) -> int:
        """Bytes stored per item."""
        return -(-self.bits // 8)

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes embeddings [N, D] to codes [N, num_bytes] uint8."""
        assignments = product.encode(self.codebooks, self._rotate("x", x))
        return pack(assignments, bits_per_codeword(self.codebooks.shape[1]))

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to embeddings [N, D] float32."""
        x = product.decode(self.codebooks.astype(jnp.float32), self.assignments(codes))
        if self.rotation is None:
            return x
        return jnp.matmul(x, self.rotation.T, precision=jax.lax.Precision.HIGHEST)

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Measures real queries [Q, D] against codes [N, num_bytes]: [Q, N] (AQD)."""
        rotated, assignments = self._rotate("queries", queries), self.assignments(codes)
        return product.distances(self.codebooks, rotated, assignments, metric=self.metric)

    def assignments(self, codes: jax.Array) -> jax.Array:
        """Unpacks codes [N, num_bytes] to codeword numbers [N, M] uint8."""
        return unpack(codes, bits_per_codeword(self.codebooks.shape[1]), self.codebooks.shape[0])

    def _rotate(self, name, x):
        if self.rotation is None:
            return x
        _check_width(name, x, self.rotation.shape[0])
        return jnp.matmul(x, self.rotation, precision=jax.lax.Precision.HIGHEST)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FloatCodec:
    """No quantization: the float32 embedding itself as a code of 32 D bits.

    Attributes:
      dim: D, the embedding's width.
      metric: "l2", "ip" or "cosine", see `quantizers.product.distances`.
    """

    dim: int = dataclasses.field(metadata={"static": True})
    metric: str = dataclasses.field(default="l2", metadata={"static": True})

    @property
    def bits(self) -> int:
        """Length of a code, 32 D bits."""
        return 32 * self.dim

    @property
    def num_bytes(self) -> int:
        """Bytes stored per item."""
        return 4 * self.dim

    def encode(self, x: jax.Array) -> jax.Array:
        """Views embeddings [N, D] as little-endian float32 bytes [N, 4 D]."""
        _check_width("x", x, self.dim)
        raw = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint8)
        return raw.reshape(x.shape[0], self.num_bytes)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Views bytes [N, 4 D] as embeddings [N, D] float32."""
        _check_codes(codes, self.num_bytes)
        return jax.lax.bitcast_convert_type(codes.reshape(-1, self.dim, 4), jnp.float32)

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Measures queries [Q, D] against codes [N, 4 D]: [Q, N]."""
        product.check_metric(self.metric)
        _check_width("queries", queries, self.dim)
        queries, x = queries.astype(jnp.float32), self.decode(codes)
        inner = jnp.matmul(queries, x.T, precision=jax.lax.Precision.HIGHEST)
        squares = jnp.sum(jnp.square(queries), axis=-1)[:, None], jnp.sum(jnp.square(x), axis=-1)
        if self.metric == "ip":
            return -inner
        if self.metric == "l2":
            return jnp.maximum(squares[0] + squares[1] - 2 * inner, 0)
        lengths = jnp.sqrt(squares[0]) * jnp.sqrt(squares[1])  # their product leaves float32
        return 1 - inner / jnp.where(lengths > 0, lengths, 1)


def bits_per_codeword(num_codewords: int) -> int:
    """Returns log2 K.

    Args:
      num_codewords: K, a power of two from 2 to 256.

    Returns:
      The whole number of bits that counts to K.

    Raises:
      ValueError: if K is no such number.
    """
    product.check_num_codewords(num_codewords)
    bits = num_codewords.bit_length() - 1
    if 1 << bits != num_codewords:
        raise ValueError(f"num_codewords must be a power of two, got {num_codewords}")
    return bits


def num_codebooks(bits: int, num_codewords: int) -> int:
    """Returns M, the codebooks that codes of a given length need.

    Args:
      bits: Code length.
      num_codewords: K, a power of two from 2 to 256.

    Returns:
      bits / log2 K.

    Raises:
      ValueError: if log2 K does not divide bits, or K is no such number.
    """
    width = bits_per_codeword(num_codewords)
    if bits < 1 or bits % width:
        raise ValueError(
            f"bits must be a multiple of log2 num_codewords, got {bits} bits for codewords of "
            f"{width} bits (num_codewords = {num_codewords}); change one of the two"
        )
    return bits // width


def pack(assignments: jax.Array, width: int) -> jax.Array:
    """Packs codeword numbers into bytes, lowest bit first.

    Args:
      assignments: Codeword numbers [N, M] below 2^width.
      width: Bits of each, 1 to 8.

    Returns:
      Codes [N, ceil(M * width / 8)] uint8, zeros behind the last bit.
    """
    assignments = assignments.astype(jnp.uint8)
    if width == 8:
        return assignments
    bits = (assignments[:, :, None] >> jnp.arange(width, dtype=jnp.uint8)) & 1
    bits = bits.reshape(assignments.shape[0], -1)
    bits = jnp.pad(bits, ((0, 0), (0, -bits.shape[1] % 8)))
    return jnp.packbits(bits, axis=1, bitorder="little")


def unpack(codes: jax.Array, width: int, count: int) -> jax.Array:
    """Unpacks what `pack` made.

    Args:
      codes: Codes [N, ceil(count * width / 8)] uint8.
      width: Bits of each number, 1 to 8.
      count: Numbers per code, M.

    Returns:
      Codeword numbers [N, M] uint8.

    Raises:
      ValueError: if the codes have another number of bytes or another type.
    """
    _check_codes(codes, -(-count * width // 8))
    if width == 8:
        return codes
    bits = jnp.unpackbits(codes, axis=1, count=count * width, bitorder="little")
    bits = bits.reshape(codes.shape[0], count, width)
    return jnp.sum(bits << jnp.arange(width, dtype=jnp.uint8), axis=-1, dtype=jnp.uint8)


def _check_width(name, x, width):
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"{name} must have shape [N, {width}], got {x.shape}")


def _check_codes(codes, num_bytes):
    if codes.ndim != 2 or codes.shape[1] != num_bytes or codes.dtype != jnp.uint8:
        raise ValueError(
            f"codes must be uint8 of shape [N, {num_bytes}], got {codes.dtype} {codes.shape}"
        )
