"""A baseline code: the number of the class that a classifier predicts.

The code is a control that every hash must beat, not a quantizer. If training covered every class
of the database, the predicted class is all that retrieval by class can use, and its number takes
log2 of the number of classes in bits.

Reference:
  Sablayrolles, Douze, Usunier, Jegou, How Should We Evaluate Supervised Hashing?, ICASSP 2017,
  arXiv 1609.06753.
"""

import dataclasses

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite
from quantjax.errors import InputError
from quantjax.quantizers import packing

_CERTAIN = 128.0  # float32 holds no exp(-128): a softmax of this score beside zeros is 1, and 0s


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassCodec:
    """Codec that stores the most likely class as a number of ceil(log2 C) bits.

    The codec encodes a classifier's scores, [N, C], and not the embedding below them. A decoded
    code knows only its class, so it must be equally far from all other classes. With fewer than
    C - 1 dimensions no embedding is.

    Attributes:
      num_classes: C, any number from 2; it need be no power of two.
    """

    num_classes: int = dataclasses.field(metadata={"static": True})

    @property
    def metric(self) -> str:
        """Returns "class": distances are -log p of the code's class."""
        return "class"

    @property
    def bits(self) -> int:
        """Returns the length of a code in bits, ceil(log2 C)."""
        if self.num_classes < 2:
            raise InputError(f"num_classes must be 2 or more, got {self.num_classes}")
        return (self.num_classes - 1).bit_length()

    def check(self) -> None:
        """Raises ValueError if `num_classes` is below 2."""
        _ = self.bits

    @property
    def num_bytes(self) -> int:
        """Returns the number of bytes stored per item."""
        return -(-self.bits // 8)

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes class scores [N, C] to the number of the best class, [N, num_bytes] uint8.

        Scores are logits, or log-probabilities. The first of equal scores wins. Bits are stored
        lowest first.
        """
        self._check_width("x", x)
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
        self._check_width("queries", queries)
        surprise = -jax.nn.log_softmax(jnp.asarray(queries, jnp.float32), axis=1)
        ids = self.class_ids(codes)
        return jnp.take(surprise, ids, axis=1, mode="fill", fill_value=jnp.inf)

    def class_ids(self, codes: jax.Array) -> jax.Array:
        """Unpacks codes [N, num_bytes] to class numbers [N] int32."""
        bits = packing.unpack(codes, 1, self.bits).astype(jnp.int32)
        return jnp.sum(bits << jnp.arange(self.bits, dtype=jnp.int32), axis=1, dtype=jnp.int32)

    def _check_width(self, name, x):
        if x.ndim != 2 or x.shape[1] != self.num_classes:
            raise InputError(f"{name} must have shape [N, {self.num_classes}], got {x.shape}")
        check_finite(name, x)
