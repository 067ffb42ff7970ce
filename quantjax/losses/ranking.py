"""Ranking losses: differentiable versions of retrieval metrics, [Q, D] x [N, D] -> [Q]."""

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.arrays import check_positive, check_shape, on_explicit_mesh
from quantjax.errors import InputError
from quantjax.losses.rows import check_pairs, cosines, widen


@on_explicit_mesh(rows="queries")
def soft_average_precision(
    queries: jax.Array,
    database: jax.Array,
    similar: jax.Array,
    selves: jax.Array,
    *,
    steepness: float = 1.0,
    num_bins: int | None = None,
) -> jax.Array:
    """Returns one minus a differentiable, tie-aware average precision of each Hamming ranking.

    l_q = 1 - 1/N+ sum_d c+_d (C+_{d-1} + C+_d + 1) / (C_{d-1} + C_d + 1), with c_d the items at
    distance d, c+_d the relevant ones, C and C+ their sums up to d (the paper's AP_r in its
    simplified form). Distances are (D - <u, v>) / 2 of codes u = tanh(steepness x / 2), and an
    item counts in the two nearest bins in proportion. It is close to the metric, not equal to
    it: train with it, report `metrics.average_precision`. The public code maximises AP.

    Args:
      queries: Embeddings [Q, D], before the tanh.
      database: Embeddings [N, D]; pass `queries` again for the paper's loss within a batch.
      similar: Whether each pair shares a label, [Q, N] bool.
      selves: Column of the query itself, [Q] int, which does not count; -1 if `database` lacks it.
      steepness: Slope of the relaxed sign; the public code's gamma, 1.
      num_bins: Parts of the histogram over [0, D]; D by default, fewer make it less sparse.

    Returns:
      Loss of every query, [Q], in [0, 1], float32 at least; 0 where nothing is similar.

    Raises:
      ValueError: if the shapes do not agree, or `similar` is not binary (not checked inside jit).

    Reference:
      He et al., Hashing as Tie-Aware Learning to Rank, CVPR 2018.
    """
    check_pairs(queries, database, similar)
    counted = _all_but_selves(selves, similar)
    relevant = (similar > 0) & counted
    num_bits = queries.shape[1]
    num_bins = num_bins or num_bits
    codes, others = (jnp.tanh(steepness * widen(x) / 2) for x in (queries, database))
    distances = (num_bits - codes @ others.T) / 2
    position = distances * (num_bins / num_bits)

    @jax.checkpoint
    def bin_sums(level):
        in_bin = jnp.maximum(1 - jnp.abs(position - level), 0)
        # The triangular kernel splits an item between its two nearest bins, which has a gradient.
        return jnp.sum(in_bin, 1, where=counted), jnp.sum(in_bin, 1, where=relevant)

    # One bin at a time, computed again for the gradient: [Q, N, bins] would fill the memory.
    items, hits = jax.lax.map(bin_sums, jnp.arange(num_bins + 1, dtype=position.dtype))
    # C_{d-1} + C_d = 2 C_d - c_d.
    precision = (2 * jnp.cumsum(hits, 0) - hits + 1) / (2 * jnp.cumsum(items, 0) - items + 1)
    num_relevant = jnp.sum(relevant, axis=1)
    average = jnp.sum(hits * precision, axis=0) / jnp.maximum(num_relevant, 1)
    return jnp.where(num_relevant > 0, 1 - average, 0)


@on_explicit_mesh(rows="queries")
def smooth_recall_at_k(
    queries: jax.Array,
    database: jax.Array,
    similar: jax.Array,
    selves: jax.Array,
    *,
    top_ks: tuple[int, ...] = (1, 2, 4, 8, 16),
    count_temperatures: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0),
    rank_temperature: float = 0.01,
) -> jax.Array:
    """Returns one minus a differentiable recall at K, ranked by cosine and averaged over several K.

    l_q = 1 - mean_K min(K, sum_{x in P} sigmoid((K - r_x) / t_K)) / min(K, |P|), with the smooth
    rank r_x = 1 + sum_{z != x} sigmoid((s_qz - s_qx) / t_r) and s the cosine. Defaults are those
    of the public code, which ranks the query itself among the others and so starts at rank 2;
    here the query itself, `selves`, does not count. Time grows as Q N^2, memory as N^2.

    Args:
      queries: Embeddings [Q, D], of any length; a zero vector has cosine 0 to everything.
      database: Embeddings [N, D]; pass `queries` again for the paper's loss within a batch.
      similar: Whether each pair shares a label, [Q, N] bool.
      selves: Column of the query itself, [Q] int, which does not count; -1 if `database` lacks it.
      top_ks: The values of K.
      count_temperatures: t_K, one for each K: how softly a rank is compared with K.
      rank_temperature: t_r: how softly similarities are compared.

    Returns:
      Loss of every query, [Q], in [0, 1], float32 at least; 0 where nothing is similar.

    Raises:
      ValueError: if the shapes do not agree, `similar` is not binary (not checked inside jit), a
        temperature is not positive, or there is not one count temperature for each K.

    Reference:
      Patel et al., Recall@k Surrogate Loss with Large Batches and Similarity Mixup, CVPR 2022.
    """
    check_pairs(queries, database, similar)
    if not 0 < len(top_ks) == len(count_temperatures):
        raise InputError(
            f"count_temperatures must have one value for each K of {top_ks}, "
            f"got {count_temperatures}"
        )
    check_positive("rank_temperature", rank_temperature)
    check_positive("count_temperatures", np.asarray(count_temperatures))
    counted = _all_but_selves(selves, similar)
    relevant = (similar > 0) & counted
    # Full float32: compared cosines differ by hundredths, and accelerators round more coarsely.
    cosine = cosines(queries, database, precision=jax.lax.Precision.HIGHEST)
    ranks = _smooth_ranks(cosine, counted, rank_temperature)
    num_relevant = jnp.sum(relevant, axis=1)
    recalls = []
    for k, temperature in zip(top_ks, count_temperatures, strict=True):
        inside = jnp.sum(jax.nn.sigmoid((k - ranks) / temperature), axis=1, where=relevant)
        recalls.append(jnp.minimum(inside, k) / jnp.clip(num_relevant, 1, k))
    mean = sum(recalls) / len(recalls)
    return jnp.where(num_relevant > 0, 1 - mean, 0)


def _smooth_ranks(cosine, counted, temperature):
    @jax.checkpoint
    def of_query(row):
        cosine, counted = row
        # The sum includes the comparison of an item with itself, which is 1/2 without a gradient,
        # so that 1/2 is added and not 1.
        gaps = (cosine[:, None] - cosine) / temperature
        return 0.5 + jnp.sum(jax.nn.sigmoid(gaps), axis=0, where=counted[:, None])

    # Few queries at a time, computed again for the gradient: [Q, N, N] would fill the memory.
    return jax.lax.map(of_query, (cosine, counted), batch_size=8)


def _all_but_selves(selves, similar):
    check_shape("selves", selves, len(similar))
    return jnp.arange(similar.shape[1]) != jnp.asarray(selves)[:, None]
