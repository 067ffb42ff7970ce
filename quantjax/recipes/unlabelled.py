"""The recipe for vectors without labels: the better of OPQ and ITQ on rows that were held out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError
from quantjax.quantizers import Codec
from quantjax.recipes.codes import itq, opq, vector_embedding

_HELD_OUT = 500  # rows that search, of which at most a tenth of all
_NEIGHBOURS = 10


class Choice(NamedTuple):
    """Holds the chosen codec and the recall that decided.

    Attributes:
      codec: Fitted to all rows.
      name: "opq" or "itq".
      recalls: Name -> share of the 10 true nearest neighbours among the 10 nearest by code.
    """

    codec: Codec
    name: str
    recalls: dict[str, float]


def better_of_opq_and_itq(x: np.ndarray, *, bits: int, seed: int = 0) -> Choice:
    """Fits OPQ and ITQ, and chooses by the recall of true neighbours of rows that were held out.

    Args:
      x: Vectors [N, D], compared by squared Euclid.
      bits: Code length. ITQ is left out where D is smaller.
      seed: Seed of the draw and of both fits.

    Raises:
      ValueError: if there are fewer than 30 rows, or NaN.
    """
    if len(x) < 3 * _NEIGHBOURS:
        raise InputError(f"codes without labels need {3 * _NEIGHBOURS} rows or more, got {len(x)}")
    order = np.random.default_rng(seed).permutation(len(x))
    held_out, rest = np.split(x[order], [max(1, min(_HELD_OUT, len(x) // 10))])
    fits = {"opq": opq, "itq": itq} if bits <= x.shape[1] else {"opq": opq}
    recalls = {
        name: _recall(fit(rest, bits=bits, seed=seed), held_out, rest) for name, fit in fits.items()
    }
    # Of equal recall OPQ, which stands first.
    name = max(recalls, key=lambda name: recalls[name])
    return Choice(fits[name](x, bits=bits, seed=seed), name, recalls)


def _recall(codec, queries, database):
    embed = jax.jit(vector_embedding(codec, "l2"))
    queries, database = (jnp.asarray(each, jnp.float32) for each in (queries, database))
    codes = jax.jit(codec.encode)(embed(None, database))
    hits = 0
    # A block of queries at a time: the distances of all would fill the memory.
    for start in range(0, len(queries), 64):
        some = queries[start : start + 64]
        true = _nearest(-2 * some @ database.T + jnp.sum(database**2, axis=1))
        found = _nearest(codec.distances(embed(None, some), codes))
        hits += int(jnp.sum(true[:, :, None] == found[:, None, :]))
    return hits / (len(queries) * _NEIGHBOURS)


def _nearest(distances):
    # Of equal distances the first, and the rows are in random order.
    return jax.lax.top_k(-distances, _NEIGHBOURS)[1]
