"""A ranking as levels of equal distance, nearest first: all that a tie-exact metric looks at."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.metrics.harmonic import Array

_RANKED_AT_ONCE = 2**22  # distances whose ranks are worked out together, to bound the memory


class Levels(NamedTuple):
    """Levels of equal distance, each with what lies strictly nearer.

    Attributes:
      items: Items on the level, n, integers [Q, levels] or any other common shape.
      relevant: Relevant ones among them, p.
      items_before: Items on nearer levels, N0.
      relevant_before: Relevant items on nearer levels, P0.
    """

    items: Array
    relevant: Array
    items_before: Array
    relevant_before: Array


def levels_from_counts(counts: Array) -> Levels:
    """Adds to every level what lies strictly nearer.

    Args:
      counts: All items [..., 0] and relevant ones [..., 1] of every level, nearest level first,
        integers [Q, levels, 2].

    Returns:
      The levels, [Q, levels] each, in the integer type of `counts`.
    """
    xp = counts.__array_namespace__()
    through = xp.cumsum(counts, axis=1, dtype=counts.dtype)
    before = through - counts
    return Levels(counts[..., 0], counts[..., 1], before[..., 0], before[..., 1])


def ranks_inside(items: Array, items_before: Array, top_k: Array | int | None) -> Array:
    """Counts the ranks of each level that lie inside the cut.

    Args:
      items: Items on the level, [Q, levels].
      items_before: Items on nearer levels, [Q, levels].
      top_k: The cut: one for all queries, or one each as [Q, 1], or None.

    Returns:
      r, 0 to `items`, [Q, levels].
    """
    if top_k is None:
        return items
    xp = items.__array_namespace__()
    return xp.clip(top_k - items_before, 0, items)


def without_rounding(distances: Array) -> jax.Array:
    """Returns distances for JAX to rank, in the order and with the ties that they have.

    JAX holds NumPy's float64 as float32 unless x64 is enabled, which makes near distances equal.
    Where that would change a value, the ranks of the distances stand for them.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers without NaN.

    Returns:
      The distances, or their `dense_ranks`.
    """
    floats_of_jax = jax.dtypes.canonicalize_dtype(float)
    is_float = jnp.issubdtype(distances.dtype, np.floating)
    if isinstance(distances, jax.Array) or not is_float:
        return jnp.asarray(distances)
    if distances.dtype.itemsize <= floats_of_jax.itemsize:
        return jnp.asarray(distances)
    with np.errstate(over="ignore"):
        rounded = distances.astype(floats_of_jax)
    # Hamming distances and half distances pass as they are: ranking on the host costs a sort.
    return jnp.asarray(rounded if np.array_equal(rounded, distances) else dense_ranks(distances))


def dense_ranks(distances: np.ndarray) -> np.ndarray:
    """Numbers the different distances of each row from the nearest, 0, 1, 2, ..., on the host.

    Args:
      distances: [Q, N] real numbers without NaN; -0.0 equals 0.0.

    Returns:
      Ranks [Q, N] int32; equal distances have equal ranks.
    """
    ranks = np.zeros(distances.shape, np.int32)
    rows = max(1, _RANKED_AT_ONCE // distances.shape[1])
    for start in range(0, len(distances), rows):
        tile = distances[start : start + rows]
        order = np.argsort(tile, axis=1)
        nearest_first = np.take_along_axis(tile, order, axis=1)
        steps = np.cumsum(nearest_first[:, 1:] != nearest_first[:, :-1], axis=1, dtype=np.int32)
        np.put_along_axis(ranks[start : start + rows], order[:, 1:], steps, axis=1)
    return ranks


def counts_from_distances(distances: jax.Array, relevant: jax.Array) -> jax.Array:
    """Counts items and relevant items among equal distances, by one sort per row.

    A level's counts stand at the last rank of its items and the other ranks hold empty levels,
    so that the shape is known before the values are: no scatter, and nothing to pad.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; -0.0 equals 0.0.
      relevant: Whether the item is relevant to the query, [Q, N] bool.

    Returns:
      Counts [Q, N, 2] int32, nearest level first.
    """
    distances, relevant = jax.lax.sort((distances, relevant), num_keys=1, is_stable=False)
    begins, ends = _edges(distances)
    ones = jnp.ones_like(relevant, dtype=jnp.int32)
    return jnp.stack(
        [_count_at_ends(ones, begins, ends), _count_at_ends(relevant, begins, ends)], axis=-1
    )


def graded_counts_from_distances(
    distances: jax.Array, grades: jax.Array, *, num_grades: int
) -> jax.Array:
    """Counts the items of each grade among equal distances, by one sort per row.

    Graded counts hold at [q, level, g] how many items of that level have grade g for query q;
    levels stand nearest first, and grade 0 means not relevant. The grade of an item is the number
    of labels it shares with the query. With two grades, `counts[..., 1]` are the relevant items,
    but `counts[..., 0]` the others: binary counts hold all items there.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; -0.0 equals 0.0.
      grades: Grade of the item for the query, [Q, N] integers from 0 to `num_grades` - 1; others
        are not counted.
      num_grades: G.

    Returns:
      Counts [Q, N, G] int32, nearest level first, placed as by `counts_from_distances`.
    """
    distances, grades = jax.lax.sort((distances, grades), num_keys=1, is_stable=False)
    begins, ends = _edges(distances)
    flags = grades[..., None] == jnp.arange(num_grades, dtype=jnp.int32)
    return _count_at_ends(flags, begins[..., None], ends[..., None])


def _edges(distances):
    changes = distances[:, 1:] != distances[:, :-1]
    edge = jnp.ones_like(distances[:, :1], dtype=bool)
    return jnp.concatenate([edge, changes], axis=1), jnp.concatenate([changes, edge], axis=1)


def _count_at_ends(flags, begins, ends):
    flags = flags.astype(jnp.int32)
    through = jnp.cumsum(flags, axis=1, dtype=jnp.int32)
    before = jax.lax.cummax(jnp.where(begins, through - flags, 0), axis=1)
    return jnp.where(ends, through - before, 0)
