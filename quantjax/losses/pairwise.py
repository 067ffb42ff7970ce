"""Pairwise losses: one loss for each query and database embedding, [Q, D] x [N, D] -> [Q, N].

`similar` is binary: True and False, 0 and 1, or the papers' +1 and -1. None of these losses takes
soft targets; outside jit, values other than these raise ValueError. `pair_weights` takes the soft
similarity of labels, as weights.
"""

import jax
import jax.numpy as jnp

from quantjax.arrays import check_shape, on_explicit_mesh
from quantjax.losses.rows import check_binary, check_pairs, cosines, squared_distances, widen


@on_explicit_mesh(rows="queries")
def pairwise_cosine(queries: jax.Array, database: jax.Array, similar: jax.Array) -> jax.Array:
    """Squares the difference between each pair's cosine similarity and its target of +1 or -1.

    l_ij = (s_ij - cos(q_i, d_j))^2, with s_ij = +1 for a similar pair and -1 otherwise.

    Args:
      queries: Embeddings [Q, D], of any length; a zero vector has cosine 0 to everything.
      database: Embeddings [N, D]; pass `queries` again for the paper's symmetric loss.
      similar: Whether each pair shares a label, [Q, N] bool.

    Returns:
      Loss of every pair, [Q, N], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, or `similar` is not binary (not checked inside jit).

    Reference:
      Cao et al., Deep Quantization Network for Efficient Image Retrieval, AAAI 2016, eq. 1.
    """
    check_pairs(queries, database, similar)
    cosine = cosines(queries, database)
    return jnp.square(_target(similar, cosine.dtype) - cosine)


@on_explicit_mesh(rows="queries")
def pairwise_inner_product(
    queries: jax.Array, database: jax.Array, similar: jax.Array, *, scale: float | None = None
) -> jax.Array:
    """Squares the difference between each pair's scaled inner product and its target of +1 or -1.

    l_ij = (s_ij - scale <q_i, d_j>)^2, with s_ij = +1 for a similar pair and -1 otherwise. With
    scale = 1 / B, B the number of bits of a code, it is what the paper's variant DQNip puts in
    place of the cosine. The default is 1 / D, which is the same where every entry of an embedding
    is a bit. A product code has fewer entries or more than bits: give its scale.

    Args:
      queries: Embeddings [Q, D].
      database: Embeddings [N, D]; pass `queries` again for the paper's symmetric loss.
      similar: Whether each pair shares a label, [Q, N] bool.
      scale: Factor of the inner product; 1 / D when None.

    Returns:
      Loss of every pair, [Q, N], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, or `similar` is not binary (not checked inside jit).

    Reference:
      Cao et al., Deep Quantization Network for Efficient Image Retrieval, AAAI 2016, table 2.
    """
    check_pairs(queries, database, similar)
    products = jnp.matmul(widen(queries), widen(database).T)
    similarity = products / queries.shape[1] if scale is None else scale * products
    return jnp.square(_target(similar, similarity.dtype) - similarity)


@on_explicit_mesh(rows="queries")
def pairwise_likelihood(
    queries: jax.Array, database: jax.Array, similar: jax.Array, *, scale: float = 0.5
) -> jax.Array:
    """Returns the negative log likelihood of each pair's label under a logistic model.

    l_ij = log(1 + e^t) - s_ij t, with t = scale <q_i, d_j>, s_ij = 1 for a similar pair and 0
    otherwise. DPSH, DHN and our reconstruction of ADSQ use the default scale of 1/2; HashNet calls
    the scale alpha, and multiplies the loss by `pair_weights`.

    Args:
      queries: Embeddings [Q, D].
      database: Embeddings [N, D]; pass `queries` again for the papers' symmetric loss.
      similar: Whether each pair shares a label, [Q, N] bool.
      scale: Factor of the inner product.

    Returns:
      Loss of every pair, [Q, N], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, or `similar` is not binary (not checked inside jit).

    Reference:
      Li et al., Feature Learning Based Deep Supervised Hashing with Pairwise Labels, IJCAI 2016.
    """
    check_pairs(queries, database, similar)
    logits = scale * jnp.matmul(widen(queries), widen(database).T)
    # For a similar pair log(1 + e^t) - t is log(1 + e^-t), which does not cancel for large t.
    signed = jnp.where(similar > 0, -logits, logits)
    # log(1 + e^t), a third faster than softplus, which also looks for NaN.
    return jnp.maximum(signed, 0) + jnp.log1p(jnp.exp(-jnp.abs(signed)))


@on_explicit_mesh(rows="queries")
def pairwise_contrastive(
    queries: jax.Array, database: jax.Array, similar: jax.Array, *, margin: float
) -> jax.Array:
    """Returns half the squared distance of similar pairs and half the margin violation of others.

    l_ij = s_ij / 2 D_ij + (1 - s_ij) / 2 [m - D_ij]_+, with D_ij = ||q_i - d_j||_2^2, s_ij = 1 for
    a similar pair and 0 otherwise. DSH also adds alpha `absolute_sign_error` of both sides.

    Args:
      queries: Embeddings [Q, D].
      database: Embeddings [N, D]; pass `queries` again for the paper's symmetric loss.
      similar: Whether each pair shares a label, [Q, N] bool.
      margin: m, in units of squared distance; 2 D in DSH, half of the largest distance of codes.

    Returns:
      Loss of every pair, [Q, N], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, or `similar` is not binary (not checked inside jit).

    Reference:
      Liu et al., Deep Supervised Hashing for Fast Image Retrieval, CVPR 2016.
    """
    check_pairs(queries, database, similar)
    distances = squared_distances(widen(queries), widen(database))
    return jnp.where(similar > 0, distances, jax.nn.relu(margin - distances)) / 2


@on_explicit_mesh(rows="queries")
def pairwise_cauchy(
    queries: jax.Array, database: jax.Array, similar: jax.Array, *, gamma: float
) -> jax.Array:
    """Returns the negative log likelihood of each pair's label under a Cauchy model.

    l_ij = s_ij log(d_ij / gamma) + log(1 + gamma / d_ij), with d_ij = D/2 (1 - cos(q_i, d_j)),
    s_ij = 1 for a similar pair and 0 otherwise. A dissimilar pair at distance 0 costs infinitely
    much in the paper; here 1 - cos is held above 1e-6, and passes no gradient there. The paper's
    pair weights are `pair_weights`.

    Args:
      queries: Embeddings [Q, D], of any length; a zero vector has cosine 0 to everything.
      database: Embeddings [N, D]; pass `queries` again for the paper's symmetric loss.
      similar: Whether each pair shares a label, [Q, N] bool.
      gamma: Distance at which both labels are equally likely, in bits.

    Returns:
      Loss of every pair, [Q, N], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, or `similar` is not binary (not checked inside jit).

    Reference:
      Cao et al., Deep Cauchy Hashing for Hamming Space Retrieval, CVPR 2018.
    """
    check_pairs(queries, database, similar)
    # Float32 in full on accelerators too: 1 - cos of near neighbours is a difference of equals.
    cosine = cosines(queries, database, precision=jax.lax.Precision.HIGHEST)
    distances = queries.shape[1] / 2 * jnp.maximum(1 - cosine, 1e-6)
    # s log(d / gamma) + log(1 + gamma / d) is log(1 + d / gamma) for a similar pair.
    return jnp.log1p(jnp.where(similar > 0, distances / gamma, gamma / distances))


@on_explicit_mesh(rows="queries")
def pairwise_cosine_match(
    queries: jax.Array,
    database: jax.Array,
    query_features: jax.Array,
    database_features: jax.Array,
) -> jax.Array:
    """Squares the difference between each pair's cosine and the cosine of the pair's features.

    l_ij = (cos(q_i, d_j) - cos(f_i, g_j))^2. It needs no labels: BiHalf and the unsupervised form
    of GreedyHash have signs on both sides of the first cosine and, in the second, the features
    that the signs are made of. Whether gradients reach the features is the caller's choice: the
    papers' features come from a network that is not trained.

    Args:
      queries: Embeddings [Q, D], or straight-through signs; a zero vector has cosine 0 to
        everything.
      database: Embeddings [N, D]; pass `queries` again for the papers' symmetric loss.
      query_features: Features f of the queries, [Q, F].
      database_features: Features g of the database, [N, F].

    Returns:
      Loss of every pair, [Q, N], float32 at least.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Li and van Gemert, Deep Unsupervised Image Hashing by Maximizing Bit Entropy, AAAI 2021.
    """
    check_shape("queries", queries, "Q", "D")
    check_shape("database", database, "N", queries.shape[1])
    check_shape("query_features", query_features, len(queries), "F")
    check_shape("database_features", database_features, len(database), query_features.shape[1])
    return jnp.square(cosines(queries, database) - cosines(query_features, database_features))


def pair_weights(
    similar: jax.Array, jaccard: jax.Array | None = None, *, similar_fraction: float | jax.Array
) -> jax.Array:
    """Returns pair weights that give similar and dissimilar pairs the same total weight.

    w_ij = c_ij |S| / |S1| for a similar pair and |S| / |S0| otherwise, S1 being the similar pairs,
    S0 the others and S all. Multiply a pairwise loss by it.

    The counts are those of the whole batch, hence given as |S1| / |S|. Under `jit` that is
    `jnp.mean(similar)`; under `pmap`, where each device has its own rows of `similar`, it is
    `jax.lax.pmean(jnp.mean(similar), "data")`, or `context.mean(jnp.mean(similar))` in a method.

    Args:
      similar: Whether each pair shares a label, [Q, N] bool.
      jaccard: c_ij for multi-label data, [Q, N], from `labels.jaccard_similarity`; 1 when None. It
        does not weigh dissimilar pairs: it is 0 there, and would remove them from the loss. This
        is our reading; the paper's text could not be checked.
      similar_fraction: |S1| / |S| over the whole batch, between 0 and 1.

    Returns:
      Weights [Q, N], float32 at least, of mean 2 over the batch (without `jaccard`).

    Raises:
      ValueError: if the shapes do not agree, or `similar` is not binary (not checked inside jit).

    Reference:
      Cao et al., HashNet: Deep Learning to Hash by Continuation, ICCV 2017.
    """
    check_shape("similar", similar, "Q", "N")
    check_binary("similar", similar)
    if jaccard is not None:
        check_shape("jaccard", jaccard, *similar.shape)
    confidence = 1 if jaccard is None else widen(jaccard)
    fraction = jnp.asarray(similar_fraction, jnp.float32)
    return jnp.where(similar > 0, confidence / fraction, 1 / (1 - fraction))


def _target(similar, dtype):
    # Compared with 0, because `similar` may also hold the papers' +1 and -1.
    return jnp.where(similar > 0, 1, -1).astype(dtype)
