"""Codec of neural residual quantization, see `quantizers.neural_residual`."""

import dataclasses

import jax

from quantjax.quantizers import codecs, neural_residual, packing, product
from quantjax.quantizers.neural_residual import Networks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class NeuralResidualCodec:
    """Codec of residual codes that networks decode: a code is M codeword numbers of log2 K bits.

    Encoding takes far longer than with `ResidualCodec`, and distances decode every item: no lookup
    table holds them. Fields but the last three are those of `neural_residual.Networks`.

    Attributes:
      codebooks: Codewords [M, K, D], K a power of two.
      mixing: Weights [M - 1, 2 D, D].
      offsets: Biases [M - 1, D].
      expansions: Weights [M - 1, L, D, H].
      contractions: Weights [M - 1, L, H, D].
      lookup: Mean residuals [M, K, D], which choose candidates in encoding.
      metric: "l2", "ip" or "cosine", see `quantizers.product.distances`.
      beam_width: Sums kept in encoding.
      num_candidates: Pairs of a sum and a codeword that networks are run on in encoding.
    """

    codebooks: jax.Array
    mixing: jax.Array
    offsets: jax.Array
    expansions: jax.Array
    contractions: jax.Array
    lookup: jax.Array
    metric: str = dataclasses.field(default="l2", metadata={"static": True})
    beam_width: int = dataclasses.field(default=1, metadata={"static": True})
    num_candidates: int = dataclasses.field(default=1, metadata={"static": True})

    __repr__ = codecs._short_repr
    bits = property(codecs._codebook_bits)
    num_bytes = property(codecs._num_bytes)
    assignments = codecs._unpack_assignments

    @property
    def networks(self) -> Networks:
        """Returns the arrays as `neural_residual` takes them."""
        return Networks(*(getattr(self, name) for name in Networks._fields))

    def check(self) -> None:
        """Raises ValueError if the fields do not fit each other."""
        product.check_metric(self.metric)
        packing.bits_per_codeword(self.codebooks.shape[1])
        neural_residual.check(self.networks)
        size = self.codebooks.shape[1]
        neural_residual.check_search(size, self.beam_width, self.num_candidates)

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes embeddings [N, D] to codes [N, num_bytes] uint8."""
        width = packing.bits_per_codeword(self.codebooks.shape[1])
        search = {"beam_width": self.beam_width, "num_candidates": self.num_candidates}
        return packing.pack(neural_residual.encode(self.networks, x, **search), width)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to embeddings [N, D] float32."""
        return neural_residual.decode(self.networks, self.assignments(codes))

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns distances [Q, N] from real queries [Q, D] to codes [N, num_bytes]."""
        floats = codecs.FloatCodec(self.codebooks.shape[2], self.metric)
        return floats.distances(queries, floats.encode(self.decode(codes)))
