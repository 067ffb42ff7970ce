"""Neural residual quantization: the codewords of a step depend on the sum of the steps before.

Item n is the sum of M terms. The first is a codeword; term m is a network's output for a codeword
and for the sum so far, x_m = x_(m-1) + f_m(c_m(a_nm), x_(m-1)), where

    z_0 = c + W_m [c; x] + b_m,   z_l = z_(l-1) + V_ml relu(U_ml z_(l-1)),   f_m(c, x) = z_L.

With W, b and V at zero it is residual quantization. The decoder is that of FAISS's `IndexQINCo`.
The search for codes is ours: a step finds the pairs of a sum in the beam and a codeword whose mean
residual is nearest, runs the network on these candidates alone, and keeps a beam of the best sums.
`quantizers.neural_training` fits the networks.

References:
  Huijben et al., Residual Quantization with Implicit Neural Codebooks, ICML 2024, arXiv 2401.14732.
  Vallaeys et al., Qinco2: Vector Compression and Search with Improved Implicit Neural Codebooks,
  ICLR 2025, arXiv 2501.03078 (candidates and beam; there the look-up tables are trained).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite, check_shape, on_explicit_mesh
from quantjax.errors import InputError
from quantjax.quantizers import additive, codecs, kmeans, packing, precision, product


class Networks(NamedTuple):
    """Holds the codebooks and the network of each step but the first, which has none.

    Attributes:
      codebooks: Codewords [M, K, D].
      mixing: Weights [M - 1, 2 D, D] of a codeword and the sum before it, W transposed.
      offsets: Biases [M - 1, D], b.
      expansions: Weights [M - 1, L, D, H] of each block's hidden layer, U transposed.
      contractions: Weights [M - 1, L, H, D] of each block's output, V transposed.
      lookup: Mean residual [M, K, D] of the rows of each codeword; decoding does not read it.
    """

    codebooks: jax.Array
    mixing: jax.Array
    offsets: jax.Array
    expansions: jax.Array
    contractions: jax.Array
    lookup: jax.Array


@on_explicit_mesh(rows="x")
def encode(
    networks: Networks, x: jax.Array, *, beam_width: int = 1, num_candidates: int | None = None
) -> jax.Array:
    """Encodes embeddings step by step, each network run on the candidates of the look-up table.

    Args:
      networks: Codebooks and networks.
      x: Embeddings [N, D].
      beam_width: Sums kept from step to step, at most K; 1 is greedy.
      num_candidates: Pairs of a sum and a codeword that a step's network is run on, those of the
        nearest mean residuals, from `beam_width` to beam_width * K; all when None. The time grows
        with them.

    Returns:
      Assignments [N, M] uint8.

    Raises:
      ValueError: if the shapes do not agree, or one of the two numbers is out of its range.
    """
    check(networks)
    _, num_codewords, width = networks.codebooks.shape
    if num_candidates is None:
        num_candidates = beam_width * num_codewords
    check_search(num_codewords, beam_width, num_candidates)
    check_shape("x", x, "N", width, beside=f" for codebooks {networks.codebooks.shape}")
    check_finite("x", x)
    return _encode(networks, x, beam_width, num_candidates)


@on_explicit_mesh(rows="assignments")
def decode(networks: Networks, assignments: jax.Array) -> jax.Array:
    """Decodes assignments to embeddings: the sum of each item's codeword and M - 1 outputs.

    Args:
      networks: Codebooks and networks.
      assignments: Codeword numbers [N, M].

    Returns:
      Reconstructed embeddings [N, D] float32.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check(networks)
    check_shape("assignments", assignments, "N", len(networks.codebooks))
    return _decode(networks, assignments)


def check(networks: Networks) -> None:
    """Raises ValueError if codebooks, weights and look-up tables do not fit each other."""
    additive.check_codebooks(networks.codebooks)
    count, size, width = networks.codebooks.shape
    check_shape("expansions", networks.expansions, count - 1, "L", width, "H")
    _, blocks, _, hidden = networks.expansions.shape
    if not blocks:
        raise InputError("networks must have a block at least, got none")
    due = {
        "mixing": (count - 1, 2 * width, width),
        "offsets": (count - 1, width),
        "contractions": (count - 1, blocks, hidden, width),
        "lookup": (count, size, width),
    }
    for name, shape in due.items():
        check_shape(name, getattr(networks, name), *shape)
    for name in Networks._fields[1:]:
        check_finite(name, getattr(networks, name))


def check_search(num_codewords: int, beam_width: int, num_candidates: int) -> None:
    """Raises ValueError if a beam is no part of the codewords, or the candidates of the pairs."""
    packing.check_num_codewords(num_codewords)
    ends = {
        "beam_width": (beam_width, 1, num_codewords),
        "num_candidates": (num_candidates, beam_width, beam_width * num_codewords),
    }
    for name, (number, least, most) in ends.items():
        if not least <= number <= most:
            raise InputError(f"{name} must be from {least} to {most}, got {number}")


@functools.partial(jax.jit, static_argnums=(2, 3))
def _encode(networks, x, beam_width, num_candidates):
    networks = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), networks)
    rows = jnp.asarray(x, jnp.float32)
    return kmeans.over_tiles(lambda x: search(networks, x, beam_width, num_candidates), rows)


def search(networks: Networks, x: jax.Array, beam_width: int, num_candidates: int) -> jax.Array:
    """Returns assignments [N, M] of the best of each row's beam, without checks; see `encode`.

    Args:
      networks: Codebooks and networks, float32.
      x: Embeddings [N, D] float32.
      beam_width: Sums kept from step to step.
      num_candidates: Pairs that a step's network is run on.
    """
    num_codebooks = len(networks.codebooks)
    book = networks.codebooks[0]
    _, first = jax.lax.top_k(-_gaps(x, book), beam_width)
    numbers = jnp.zeros((*first.shape, num_codebooks), jnp.uint8)
    beams = book[first], numbers.at[..., 0].set(first.astype(jnp.uint8))

    def extend(beams, step):
        return _extend(x, beams, *step, num_candidates), None

    steps = _steps(networks), jnp.arange(1, num_codebooks)
    (_, numbers), _ = jax.lax.scan(extend, beams, steps)
    return numbers[:, 0]


def _extend(x, beams, step, number, num_candidates):
    """Extends sums [N, B, D] and their assignments [N, B, M] by one step, and keeps the best B."""
    sums, numbers = beams
    beam_width = sums.shape[1]
    residuals = x[:, None] - sums
    beam, chosen = _candidates(residuals, step.lookup, num_candidates)
    terms = _outputs_of_pairs(step, chosen, sums, beam)
    sums, numbers, residuals = (_of_beam(each, beam) for each in (sums, numbers, residuals))
    errors = jnp.sum(jnp.square(residuals - terms), axis=-1)
    _, best = jax.lax.top_k(-errors, beam_width)
    numbers = numbers.at[..., number].set(chosen.astype(jnp.uint8))
    return _of_beam(sums + terms, best), _of_beam(numbers, best)


def _candidates(residuals, lookup, count):
    """Returns the pairs [N, count] of a sum's number in the beam and a codeword, nearest first."""
    num_rows, beam_width, _ = residuals.shape
    size = len(lookup)
    if count == beam_width * size:  # all pairs, in order: the lowest number wins a tie
        best = jnp.broadcast_to(jnp.arange(count), (num_rows, count))
    else:
        gaps = _gaps(residuals, lookup)
        squares = jnp.sum(jnp.square(residuals), axis=-1, keepdims=True)
        _, best = jax.lax.top_k(-(gaps + squares).reshape(num_rows, -1), count)
    return best // size, best % size


def _gaps(x, codewords):
    """Returns squared distances of rows [..., D] to codewords, less the row's square, [..., K]."""
    return jnp.sum(jnp.square(codewords), axis=-1) - 2 * precision.matmul(x, codewords.T)


def _of_beam(x, numbers):
    """Returns the entries [N, C, ...] of beams [N, B, ...] by their numbers [N, C]."""
    return jnp.take_along_axis(x, numbers[..., None], axis=1)


def _steps(networks):
    """Returns all steps but the first: a scan takes their parts without the axis M."""
    return Networks(networks.codebooks[1:], *networks[1:5], networks.lookup[1:])


def _output(step, numbers, sums):
    """Returns the network's output [..., D] for codewords of numbers [...] after sums [..., D]."""
    width = sums.shape[-1]
    # W [c; x] is W_c c + W_x x: the first is computed once for each codeword, not for each row.
    starts = step.codebooks + precision.matmul(step.codebooks, step.mixing[:width]) + step.offsets
    z = starts[numbers] + precision.matmul(sums, step.mixing[width:])
    return _blocks(z, step.expansions, step.contractions)


def _blocks(z, expansions, contractions):
    for expand, contract in zip(expansions, contractions, strict=True):
        z = z + precision.matmul(jax.nn.relu(precision.matmul(z, expand)), contract)
    return z


def _outputs_of_pairs(step, numbers, sums, beam):
    """Returns the outputs [N, C, D] for codewords [N, C] after sums [N, B, D] of numbers [N, C].

    z_0 and U z_0 are sums of a part of the codeword and a part of the sum before it: both are
    computed once, and looked up for each pair.
    """
    width = sums.shape[-1]
    of_codeword = (
        step.codebooks + precision.matmul(step.codebooks, step.mixing[:width]) + step.offsets
    )
    of_sum = precision.matmul(sums, step.mixing[width:])
    z = of_codeword[numbers] + _of_beam(of_sum, beam)
    expand, contract = step.expansions[0], step.contractions[0]
    hidden = precision.matmul(of_codeword, expand)[numbers] + _of_beam(
        precision.matmul(of_sum, expand), beam
    )
    z = z + precision.matmul(jax.nn.relu(hidden), contract)
    return _blocks(z, step.expansions[1:], step.contractions[1:])


@jax.jit
def _decode(networks, assignments):
    networks = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), networks)
    return sums(networks, assignments)[-1]


def sums(networks: Networks, assignments: jax.Array) -> jax.Array:
    """Returns the sums after each step, [M, N, D]; the last are the decoded embeddings.

    Args:
      networks: Codebooks and networks, float32.
      assignments: Codeword numbers [N, M].
    """

    def add(total, step):
        step, numbers = step
        total = total + _output(step, numbers, total)
        return total, total

    first = networks.codebooks[0][assignments[:, 0]]
    _, later = jax.lax.scan(add, first, (_steps(networks), assignments[:, 1:].T))
    return jnp.concatenate([first[None], later])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class NeuralResidualCodec:
    """Codec of residual codes that networks decode: a code is M codeword numbers of log2 K bits.

    Encoding takes far longer than with `ResidualCodec`, and distances decode every item: no lookup
    table holds them. Fields but the last three are those of `Networks`.

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
        """Returns the arrays as `encode` and `decode` take them."""
        return Networks(*(getattr(self, name) for name in Networks._fields))

    def check(self) -> None:
        """Raises ValueError if the fields do not fit each other."""
        product.check_metric(self.metric)
        packing.bits_per_codeword(self.codebooks.shape[1])
        check(self.networks)
        size = self.codebooks.shape[1]
        check_search(size, self.beam_width, self.num_candidates)

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes embeddings [N, D] to codes [N, num_bytes] uint8."""
        search = {"beam_width": self.beam_width, "num_candidates": self.num_candidates}
        return codecs._pack_assignments(self, encode(self.networks, x, **search))

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to embeddings [N, D] float32."""
        return decode(self.networks, self.assignments(codes))

    def distances(self, queries: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns distances [Q, N] from real queries [Q, D] to codes [N, num_bytes]."""
        floats = codecs.FloatCodec(self.codebooks.shape[2], self.metric)
        return floats.distances(queries, floats.encode(self.decode(codes)))
