"""Losses of rows with many positives, [Q, D] x [N, D] -> [Q]: marks say which columns those are.

`positives` and `ignored` are binary, as `similar` is in `losses.pairwise`. An ignored column is
neither a positive nor a negative: the row itself, padding, or an empty place of `losses.memory`.
"""

import jax
import jax.numpy as jnp

from quantjax.arrays import check_positive, check_shape, on_explicit_mesh
from quantjax.losses.rows import check_binary, cosines, log_one_plus_sum


@on_explicit_mesh(rows="queries")
def supervised_contrastive(
    queries: jax.Array,
    keys: jax.Array,
    positives: jax.Array,
    ignored: jax.Array | None = None,
    *,
    temperature: float,
) -> jax.Array:
    """Returns SupCon: the mean cross entropy of picking each positive by a softmax of cosines.

    l_i = -1/|P_i| sum_{p in P_i} log( exp(s_ip / T) / sum_{j not ignored} exp(s_ij / T) ), with
    s_ij = cos(q_i, k_j): the paper's L_out. With one positive a row it is `nt_xent`. The paper has
    both views of the batch on both sides.

    Args:
      queries: Embeddings [Q, D], of any length; a zero vector has cosine 0 to everything.
      keys: Embeddings [N, D], the columns: `queries` again, or gathered from all devices.
      positives: Whether each column is a positive of the row, [Q, N] bool, such as
        `labels.share_label`; the loss is 0 for a row without any.
      ignored: Columns that do not count, [Q, N] bool, even among the positives: the row itself.
        None ignores none.
      temperature: T.

    Returns:
      Loss of every row, [Q], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, marks are not binary, or the temperature is not
        positive (values are not checked inside jit).

    Reference:
      Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, eq. 2.
    """
    check_positive("temperature", temperature)
    positive, negative = _marks(queries, keys, positives, ignored)
    logits = cosines(queries, keys) / temperature
    count = jnp.sum(positive, axis=1)
    total = jax.nn.logsumexp(logits, axis=1, where=positive | negative)
    mean = jnp.sum(logits, axis=1, where=positive) / jnp.maximum(count, 1)
    return jnp.where(count > 0, total - mean, 0)


@on_explicit_mesh(rows="queries")
def multi_similarity(
    queries: jax.Array,
    keys: jax.Array,
    positives: jax.Array,
    ignored: jax.Array | None = None,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 1.0,
    epsilon: float = 0.1,
) -> jax.Array:
    """Returns soft maxima of the dissimilarity of positives and of the similarity of negatives.

    l_i = 1/alpha log(1 + sum_{p in P_i} exp(-alpha (s_ip - lambda)))
          + 1/beta log(1 + sum_{n in N_i} exp(beta (s_in - lambda))),
    with s_ij = cos(q_i, k_j). Of the positives P_i has those with s_ip < max_n s_in + epsilon, and
    of the negatives N_i those with s_in > min_p s_ip - epsilon. A row without positives or without
    negatives costs 0. The defaults are the paper's; public code has beta = 40 and lambda = 0.5.

    Args:
      queries: Embeddings [Q, D], of any length; a zero vector has cosine 0 to everything.
      keys: Embeddings [N, D]: `queries` again, gathered from all devices, or with a memory's rows.
      positives: Whether each column is a positive of the row, [Q, N] bool.
      ignored: Columns that do not count, [Q, N] bool, even among the positives: the row itself.
        None ignores none.
      alpha: Sharpness of the soft maximum of positives.
      beta: Sharpness of the soft maximum of negatives.
      base: lambda, the cosine from which on a pair costs much.
      epsilon: Margin of the selection of pairs.

    Returns:
      Loss of every row, [Q], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, or marks are not binary (not checked inside jit).

    Reference:
      Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning,
      CVPR 2019, eq. 7, 8 and 10.
    """
    positive, negative = _marks(queries, keys, positives, ignored)
    cosine = cosines(queries, keys)
    farthest = jnp.min(cosine, axis=1, where=positive, initial=jnp.inf, keepdims=True)
    nearest = jnp.max(cosine, axis=1, where=negative, initial=-jnp.inf, keepdims=True)
    hard_positive = positive & (cosine < nearest + epsilon)
    hard_negative = negative & (cosine > farthest - epsilon)
    pull = log_one_plus_sum(-alpha * (cosine - base), hard_positive, axis=1) / alpha
    return pull + log_one_plus_sum(beta * (cosine - base), hard_negative, axis=1) / beta


def _marks(queries, keys, positives, ignored):
    """Checks the arguments of a loss, and returns its positives and negatives, [Q, N] bool."""
    check_shape("queries", queries, "Q", "D")
    check_shape("keys", keys, "N", queries.shape[1])
    ignored = jnp.zeros(positives.shape, bool) if ignored is None else ignored
    for name, marks in {"positives": positives, "ignored": ignored}.items():
        check_shape(name, marks, len(queries), len(keys))
        check_binary(name, marks)
    positive, counted = jnp.asarray(positives) > 0, ~(jnp.asarray(ignored) > 0)
    return positive & counted, ~positive & counted
