"""Wrappers that make a loss see codes, or several lengths of the embedding.

A wrapper takes a loss function whose keywords are bound, by `functools.partial` say, and returns a
function of the same arrays. To have both, code the longest embedding: `coded(nested(loss, lengths),
codec)`.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Protocol

import jax

from quantjax.arrays import check_shape
from quantjax.errors import InputError
from quantjax.quantizers.straight_through import straight_through


class Coder(Protocol):
    """The part of a `quantizers.Codec` that a loss needs."""

    def encode(self, x: jax.Array) -> jax.Array:
        """Encodes embeddings [N, D] to codes [N, num_bytes] uint8."""
        ...

    def decode(self, codes: jax.Array) -> jax.Array:
        """Decodes codes [N, num_bytes] to embeddings [N, D] float32."""
        ...


def coded(loss: Callable[..., jax.Array], codec: Coder) -> Callable[..., jax.Array]:
    """Returns a loss that compares real queries with a database of decoded codes.

    loss(q, decode(encode(d)), ...): the two sides of a search. The gradient passes straight
    through the codes to the database's embeddings. The codec is held constant: fit it anew as the
    embeddings move, or train codebooks by `product.quantize` in its place.

    Args:
      loss: `(queries [Q, D], database [N, D], ...) -> losses`.
      codec: A codec of embeddings [N, D].

    Returns:
      `(queries, database, ...) -> losses`.
    """

    def on_codes(queries, database, *rest):
        check_shape("queries", queries, "Q", "D")
        check_shape("database", database, "N", queries.shape[1])
        constant = jax.lax.stop_gradient(database)
        return loss(
            queries, straight_through(codec.decode(codec.encode(constant)), database), *rest
        )

    return on_codes


def nested(
    loss: Callable[..., jax.Array],
    lengths: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    embeddings: Sequence[int] = (0, 1),
) -> Callable[..., jax.Array]:
    """Returns a loss that sums a loss over prefixes of the embeddings.

    sum_m c_m loss(x[:, :m], ...): every prefix becomes an embedding of its own, so that one network
    gives codes of several lengths. A prefix of a product code is a number of whole slices.

    Args:
      loss: `(arrays) -> losses`.
      lengths: Numbers of leading entries m, between 1 and D; give D for the whole embedding, too.
      weights: c_m of each length; the paper's 1 when None.
      embeddings: Positions of the arguments that are embeddings [.., D]: the two sides of a pair,
        or (0, 1, 2) for triplets, (0, 2) for rows, labels and proxies.

    Returns:
      `(arrays) -> losses`, of the shape of a single length's losses.

    Raises:
      ValueError: if there are no lengths, one is below 1, or weights are not one for each length;
        when called, if a length exceeds D or the embeddings' widths differ.

    Reference:
      Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022, eq. 1.
    """
    lengths = tuple(lengths)
    if not lengths or min(lengths) < 1:
        raise InputError(f"lengths must be one or more numbers from 1 on, got {lengths}")
    weights = (1.0,) * len(lengths) if weights is None else tuple(weights)
    if len(weights) != len(lengths):
        raise InputError(f"weights must be one for each of {lengths}, got {weights}")
    names = tuple(inspect.signature(loss).parameters)

    def on_prefixes(*arrays):
        width = arrays[embeddings[0]].shape[-1]
        for position in embeddings:
            # A loss of prefixes alone would not see that the whole embeddings differ in width.
            check_shape(names[position], arrays[position], "N", width)
        if max(lengths) > width:
            raise InputError(f"lengths must be at most the width {width}, got {lengths}")

        def of_length(length):
            parts = enumerate(arrays)
            return loss(*(x[:, :length] if i in embeddings else x for i, x in parts))

        return sum(c * of_length(m) for c, m in zip(weights, lengths, strict=True))

    return on_prefixes
