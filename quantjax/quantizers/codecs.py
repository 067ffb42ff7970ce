"""Codecs: the trained quantizers that encode embeddings to bytes and measure distances to them.

A codec is a frozen pytree: it goes through `jit`, is saved beside the codes, and answers
`distances` the same way wherever it runs. Codes are packed as FAISS packs them, see
`quantizers.packing`.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.arrays import can_be_seen, check_finite, check_shape
from quantjax.errors import InputError
from quantjax.quantizers import additive, binary, kmeans, packing, precision, product
from quantjax.quantizers.product import root

_NOT_ORTHOGONAL = 1e-2  # float32 and bfloat16 rotations stay well below
_CERTAIN = 128.0  # float32 holds no exp(-128): a softmax of this score beside zeros is 1, and 0s


def _short_repr(codec: Any) -> str:
    """Returns a one-line description of a codec: its name, bits and fields, with arrays as shapes.

    Args:
      codec: A dataclass with `bits`.
    """
    fields = [
        f"{field.name} {getattr(value, 'shape', value)!r}".replace("(", "[").replace(")", "]")
        for field in dataclasses.fields(codec)
        if (value := getattr(codec, field.name)) is not None
    ]
    return f"<{type(codec).__name__} of {codec.bits} bits: {', '.join(fields)}>"


# Shared by name and not by a base class: each codec stays one dataclass that says all it does.


def _num_bytes(codec: Any) -> int:
    """Returns the number of bytes stored per item, ceil(bits / 8)."""
    return -(-codec.bits // 8)


def _codebook_bits(codec: Any) -> int:
    """Returns the length of a code in bits, M log2 K."""
    return codec.codebooks.shape[0] * packing.bits_per_codeword(codec.codebooks.shape[1])


def _pack_assignments(codec: Any, assignments: jax.Array) -> jax.Array:
    """Packs codeword numbers [N, M] to codes [N, num_bytes] uint8."""
    return packing.pack(assignments, packing.bits_per_codeword(codec.codebooks.shape[1]))


def _unpack_assignments(codec: Any, codes: jax.Array) -> jax.Array:
    """Unpacks codes [N, num_bytes] to codeword numbers [N, M] uint8."""
    width = packing.bits_per_codeword(codec.codebooks.shape[1])
    return packing.unpack(codes, width, codec.codebooks.shape[0])


class Codec(Protocol):
    """Interface of a codec: encodes embeddings [N, D] to codes [N, num_bytes] uint8, and back."""

    @property
    def metric(self) -> str:
        """Returns the metric of `distances`: "l2", "ip", "cosine", "hamming" or "class"."""

    @property
    def bits(self) -> int:
        """Returns the length of a code in bits."""

    @property
    def num_bytes(self) -> int:
        """Returns the number of bytes really stored per item, ceil(bits / 8)."""

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes embeddings [N, D] to codes [N, num_bytes] uint8."""

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to embeddings [N, D] float32."""

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns distances [Q, N] of queries [Q, D] to codes [N, num_bytes]; small is near."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class ProductCodec:
    """Codec of product quantization: a code is M codeword numbers of log2 K bits each.

    Attributes:
      codebooks: Codewords [M, K, d], K a power of two.
      rotation: Orthogonal matrix [D, D] applied as x @ rotation before coding, or None.
      metric: "l2", "ip" or "cosine", see `quantizers.product.distances`.
    """

    codebooks: jax.Array
    rotation: jax.Array | None = None
    metric: str = dataclasses.field(default="l2", metadata={"static": True})

    __repr__ = _short_repr

    bits = property(_codebook_bits)

    num_bytes = property(_num_bytes)

    def check(self) -> None:
        """Raises ValueError if the fields do not fit each other."""
        product.check_metric(self.metric)
        packing.bits_per_codeword(self.codebooks.shape[1])
        if self.rotation is not None:
            _check_rotation(self.codebooks, self.rotation)

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes embeddings [N, D] to codes [N, num_bytes] uint8."""
        return _pack_assignments(self, product.encode(*self._rotate_near_origin("x", x)))

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to embeddings [N, D] float32."""
        books, assignments = jnp.asarray(self.codebooks, jnp.float32), self.assignments(codes)
        if self.rotation is None:
            return product.decode(books, assignments)
        _check_rotation(books, self.rotation)
        middles = kmeans.far_middle(books)
        high, low = precision.two_part_product(middles.reshape(-1), self.rotation.T)
        near = product.decode(books - middles, assignments)
        return precision.matmul(near, self.rotation.T) + low + high

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns distances [Q, N] from real queries [Q, D] to codes [N, num_bytes] (AQD)."""
        books, queries = self.rotate("queries", queries)
        return product.distances(books, queries, self.assignments(codes), metric=self.metric)

    assignments = _unpack_assignments

    def rotate(self, name: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns codebooks and rotated rows with the distances of the given rows to codewords.

        Args:
          name: Name of the rows, for errors.
          x: Embeddings [N, D].

        Returns:
          Codebooks [M, K, d], and rows [N, M * d]; for "l2" both may be moved to the origin.

        Raises:
          ValueError: if the rotation does not fit the codebooks or the rows.
        """
        if self.metric == "l2":
            return self._rotate_near_origin(name, x)
        if self.rotation is None:
            return self.codebooks, x
        # About another point the angles and products would be others.
        _check_rotation(self.codebooks, self.rotation, name, x)
        return self.codebooks, precision.matmul(x, self.rotation)

    def _rotate_near_origin(self, name, x):
        """Returns codebooks and rotated rows, both moved to the origin where they lie far from it.

        A product with vectors that lie far from the origin has a large rounding error.
        """
        if self.rotation is None:
            return self.codebooks, x
        _check_rotation(self.codebooks, self.rotation, name, x)
        books, rotation = (jnp.asarray(a, jnp.float32) for a in (self.codebooks, self.rotation))
        middles = kmeans.far_middle(books)
        centre, _ = precision.two_part_product(middles.reshape(-1), rotation.T)
        # The rotated centre is not quite the middles: both are rounded.
        rotated, error = precision.two_part_product(centre, rotation)
        gap = (rotated - middles.reshape(-1)) + error
        return books - middles, precision.matmul(
            jnp.asarray(x, jnp.float32) - centre, rotation
        ) + gap


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class BinaryCodec:
    """Codec of binary codes: one bit for each sign of (x - offset) @ projection.

    Queries are encoded to signs too.

    Attributes:
      num_bits: Length of a code.
      offset: Subtracted first, [D], or None: ITQ's mean, or BiHalf's thresholds of the bits.
      projection: Orthonormal columns [D, num_bits], or None where the embedding has num_bits.
    """

    num_bits: int = dataclasses.field(metadata={"static": True})
    offset: jax.Array | None = None
    projection: jax.Array | None = None

    metric = "hamming"  # distances are numbers of differing bits

    __repr__ = _short_repr

    @property
    def bits(self) -> int:
        """Returns the length of a code in bits."""
        return self.num_bits

    num_bytes = property(_num_bytes)

    def check(self) -> int:
        """Returns D, the embeddings' width; raises ValueError if the fields disagree on it."""
        projection, offset = self.projection, self.offset
        width = self.num_bits
        if projection is not None:
            check_shape("projection", projection, "D", self.num_bits)
            check_finite("projection", projection)
            width = len(projection)
        if offset is not None:
            check_shape("offset", offset, width)
            check_finite("offset", offset)
        return width

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes embeddings [N, D] to codes [N, num_bytes] uint8; a sign of 0 is +1.

        Without an offset and a projection x may be bits, as in `binary.pack`.
        """
        return self._encode("x", x)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to offset + signs @ projection.T, [N, D] float32.

        The result encodes to the same code. The bits do not hold how far x was from the offset.
        """
        self.check()
        x = binary.unpack(codes, self.num_bits)
        if self.projection is not None:
            x = precision.matmul(x, self.projection.T)
        return x if self.offset is None else x + self.offset

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns Hamming distances [Q, N] int32 from queries [Q, D] to codes [N, num_bytes].

        Distances are integers, so that equal distances are exact ties and a histogram counts them.
        """
        packing.check_codes(codes, self.num_bytes)
        return binary.hamming_distances(self._encode("queries", queries), codes)

    def _encode(self, name, x):
        _check_width(name, x, self.check())
        if self.offset is None and self.projection is None:
            return binary.pack(x)  # in its own type, which tells bits from signs
        x = x.astype(jnp.float32)
        if self.offset is not None:
            x = x - self.offset
        return binary.pack(x if self.projection is None else precision.matmul(x, self.projection))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class ResidualCodec:
    """Codec of residual quantization: a code is M codeword numbers of log2 K bits each.

    An item is the sum of its M codewords. Only the numbers are stored, as in FAISS's
    `ST_decompress`; lengths are computed.

    Attributes:
      codebooks: Codewords [M, K, D], K a power of two.
      metric: "l2", "ip" or "cosine", see `quantizers.additive.distances`.
      beam_width: Partial sums kept in encoding, see `quantizers.additive.encode`.
    """

    codebooks: jax.Array
    metric: str = dataclasses.field(default="l2", metadata={"static": True})
    beam_width: int = dataclasses.field(default=1, metadata={"static": True})

    __repr__ = _short_repr

    bits = property(_codebook_bits)

    num_bytes = property(_num_bytes)

    def check(self) -> None:
        """Raises ValueError if the fields do not fit each other."""
        product.check_metric(self.metric)
        packing.bits_per_codeword(self.codebooks.shape[1])
        if self.beam_width < 1:
            raise InputError(f"beam_width must be at least 1, got {self.beam_width}")

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes embeddings [N, D] to codes [N, num_bytes] uint8."""
        assignments = additive.encode(self.codebooks, x, beam_width=self.beam_width)
        return _pack_assignments(self, assignments)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to embeddings [N, D] float32."""
        return additive.decode(self.codebooks, self.assignments(codes))

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns distances [Q, N] from real queries [Q, D] to codes [N, num_bytes]."""
        assignments = self.assignments(codes)
        return additive.distances(self.codebooks, queries, assignments, metric=self.metric)

    assignments = _unpack_assignments


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class FloatCodec:
    """Codec without quantization: a code is the float32 embedding itself, 32 D bits.

    Attributes:
      dim: D, the embedding's width.
      metric: "l2", "ip" or "cosine", see `quantizers.product.distances`.
    """

    dim: int = dataclasses.field(metadata={"static": True})
    metric: str = dataclasses.field(default="l2", metadata={"static": True})

    __repr__ = _short_repr

    @property
    def bits(self) -> int:
        """Returns the length of a code in bits, 32 D."""
        return 32 * self.dim

    num_bytes = property(_num_bytes)

    def check(self) -> None:
        """Raises ValueError if the fields do not fit each other."""
        product.check_metric(self.metric)

    def encode(self, x: jax.Array) -> jax.Array:
        """Views embeddings [N, D] as little-endian float32 bytes [N, 4 D]."""
        _check_width("x", x, self.dim)
        # Viewed and not cast, so that `decode` returns the very numbers.
        raw = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint8)
        return raw.reshape(x.shape[0], self.num_bytes)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Views bytes [N, 4 D] as embeddings [N, D] float32."""
        packing.check_codes(codes, self.num_bytes)
        return jax.lax.bitcast_convert_type(codes.reshape(-1, self.dim, 4), jnp.float32)

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns distances [Q, N] from queries [Q, D] to codes [N, 4 D]."""
        product.check_metric(self.metric)
        _check_width("queries", queries, self.dim)
        queries, x = queries.astype(jnp.float32), self.decode(codes)
        if self.metric == "ip":
            return -precision.matmul(precision.in_range(queries, x, "ip"), x.T)
        if self.metric == "l2":
            # ||q||^2 + ||x||^2 - 2 <q, x> cancels where both sides lie far from the origin.
            shift = _far_middle(queries, x)
            queries, x = queries - shift, x - shift
            queries = precision.in_range(queries, x, "l2")
        else:
            queries, x = (side * kmeans.power_of_two(side, axis=-1) for side in (queries, x))
        inner = precision.matmul(queries, x.T)
        squares = jnp.sum(jnp.square(queries), axis=-1)[:, None], jnp.sum(jnp.square(x), axis=-1)
        if self.metric == "l2":
            return precision.not_negative(squares[0] + squares[1] - 2 * inner)
        # Roots first: the product of the squares leaves float32.
        lengths = root(squares[0]) * root(squares[1])
        return 1 - inner / jnp.where(lengths > 0, lengths, 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassCodec:
    """Codec that stores the most likely class as a number of ceil(log2 C) bits.

    It is a control that every hash must beat, not a quantizer. If training covered every class of
    the database, the predicted class is all that retrieval by class can use.

    The codec encodes a classifier's scores, [N, C], and not the embedding below them. A decoded
    code knows only its class, so it must be equally far from all other classes. With fewer than
    C - 1 dimensions no embedding is.

    Attributes:
      num_classes: C, any number from 2; it need be no power of two.

    Reference:
      Sablayrolles, Douze, Usunier, Jegou, How Should We Evaluate Supervised Hashing?, ICASSP 2017,
      arXiv 1609.06753.
    """

    num_classes: int = dataclasses.field(metadata={"static": True})

    metric = "class"  # distances are -log p of the code's class

    @property
    def bits(self) -> int:
        """Returns the length of a code in bits, ceil(log2 C)."""
        if self.num_classes < 2:
            raise InputError(f"num_classes must be 2 or more, got {self.num_classes}")
        return (self.num_classes - 1).bit_length()

    def check(self) -> None:
        """Raises ValueError if `num_classes` is below 2."""
        _ = self.bits

    num_bytes = property(_num_bytes)

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes class scores [N, C] to the number of the best class, [N, num_bytes] uint8.

        Scores are logits, or log-probabilities. The first of equal scores wins. Bits are stored
        lowest first.
        """
        _check_width("x", x, self.num_classes)
        # Bits as codewords of one bit: ceil(log2 C) may be more than 8.
        number = jnp.argmax(x, axis=1)
        return packing.pack((number[:, None] >> jnp.arange(self.bits)) & 1, 1)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to scores [N, C] float32: 128 for the class, else 0.

        The distance of these scores is exactly 0 to codes of the class and 128 to all others: "sqd"
        ranks by equality of classes. A number that is not a class decodes to zeros.
        """
        return _CERTAIN * jax.nn.one_hot(self.class_ids(codes), self.num_classes, dtype=jnp.float32)

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns -log p(class of the code | query), [Q, N], by a softmax of query scores [Q, C].

        Codes of the same class have the same distance. A number that is not a class is at infinity.
        """
        _check_width("queries", queries, self.num_classes)
        surprise = -jax.nn.log_softmax(jnp.asarray(queries, jnp.float32), axis=1)
        ids = self.class_ids(codes)
        return jnp.take(surprise, ids, axis=1, mode="fill", fill_value=jnp.inf)

    def class_ids(self, codes: jax.Array) -> jax.Array:
        """Unpacks codes [N, num_bytes] to class numbers [N] int32."""
        bits = packing.unpack(codes, 1, self.bits).astype(jnp.int32)
        return jnp.sum(bits << jnp.arange(self.bits, dtype=jnp.int32), axis=1, dtype=jnp.int32)


@jax.jit
def _far_middle(queries, x):
    """Returns the queries' mean [D] where both sides lie far from the origin, else zeros.

    Far means far relative to the spread of the rows. A single row has no spread; then the other
    side decides, so that ordinary data keep their bits in any batch and any tile. Rows of zeros
    are padding.
    """
    middle, far, several = _middle(queries)
    _, far_items, several_items = _middle(x)
    known = (far | ~several) & (far_items | ~several_items) & (several | several_items)
    return jnp.where(known, middle, 0)


def _middle(x):
    """Returns the nonzero rows' mean [D], whether it is far from 0, and whether rows are many."""
    real = jnp.any(x != 0, axis=-1, keepdims=True)
    count = jnp.maximum(jnp.sum(real), 1)
    scale = kmeans.power_of_two(x)
    x = x * scale
    mean = jnp.sum(x, axis=0) / count
    spread = jnp.sum(jnp.where(real, jnp.square(x - mean), 0)) / count
    return (mean / scale)[0], jnp.sum(jnp.square(mean)) > kmeans.FAR * spread, count > 1


def _check_rotation(codebooks, rotation, name=None, x=None):
    """Raises ValueError if the rotation does not fit the codebooks, or rows x the rotation."""
    width = codebooks.size // codebooks.shape[1]
    check_shape("rotation", rotation, width, width, beside=f" for codebooks {codebooks.shape}")
    check_finite("rotation", rotation)
    if can_be_seen(rotation):
        # R^T R v = v for a few fixed v: the whole product would take D^3.
        probes = np.random.default_rng(0).normal(size=(len(rotation), 4))
        there = np.asarray(rotation, np.float64)
        gap = np.max(np.abs(there.T @ (there @ probes) - probes))
        if gap > _NOT_ORTHOGONAL:
            raise InputError(
                f"rotation must be orthogonal, but forth and back moves vectors by {gap:.2g}; take "
                "one of quantizers.rotation, or the Q of a QR decomposition"
            )
    if x is not None:
        _check_width(name, x, width)


def _check_width(name, x, width):
    check_shape(name, x, "N", width)
    check_finite(name, x)
