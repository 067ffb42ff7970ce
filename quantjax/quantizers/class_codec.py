"""The code that no hash may lose to: the number of the class that a classifier names.

It is a control and no quantizer. Where every class of the database was trained on, a classifier's
answer is all that retrieval by class can use, and it takes log2 of the number of classes in bits.

Reference:
  Sablayrolles, Douze, Usunier, Jegou, How Should We Evaluate Supervised Hashing?, ICASSP 2017,
  arXiv 1609.06753.
"""

import dataclasses

import jax
import jax.numpy as jnp

from quantjax.errors import InputError
from quantjax.finite import check_finite
from quantjax.quantizers import packing

_CERTAIN = 128.0  # float32 holds no exp(-128): a softmax of this score beside zeros is 1, and 0s


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassCodec:
    """The most likely class as a whole number of ceil(log2 C) bits.

    What it encodes are a classifier's scores, [N, C], and not the embedding below them: with fewer
    than C - 1 dimensions no embedding is as far from all other classes alike, and a decoded code,
    which knows a class and nothing else, has to be.

    Attributes:
      num_classes: C, any number from 2; it need be no power of two.
    """

    num_classes: int = dataclasses.field(metadata={"static": True})

    @property
    def metric(self) -> str:
        """The surprise at a class, -log p."""
        return "class"

    @property
    def bits(self) -> int:
        """Length of a code, ceil(log2 C) bits."""
        if self.num_classes < 2:
            raise InputError(f"num_classes must be 2 or more, got {self.num_classes}")
        return (self.num_classes - 1).bit_length()

    def check(self) -> None:
        """Raises ValueError where there are fewer than two classes."""
        _ = self.bits

    @property
    def num_bytes(self) -> int:
        """Bytes stored per item."""
        return -(-self.bits // 8)

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes the largest of class scores [N, C], the first of equals, to [N, num_bytes] uint8.

        Scores are logits, or log-probabilities. Bits are stored lowest first.
        """
        self._check_width("x", x)
        number = jnp.argmax(x, axis=1)
        return packing.pack((number[:, None] >> jnp.arange(self.bits)) & 1, 1)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to scores [N, C] float32 that leave no doubt: 128, else 0.

        Their distance is 0 to codes of the class and 128 to all others, to the bit: "sqd" ranks by
        equality of classes. A number that is no class decodes to zeros.
        """
        return _CERTAIN * jax.nn.one_hot(self.class_ids(codes), self.num_classes, dtype=jnp.float32)

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Measures -log p(class of the code | query), [Q, N], of the softmax of scores [Q, C].

        Codes of one class are at one distance. A number that is no class is at infinity.
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
