"""Contrastive losses, [B]: each row must find the other view of its image among all columns.

Rows are the embeddings that have a loss, and columns are the embeddings they are compared with.
`positives` and `selves` (or `own`) give positions of columns, so that on many devices the rows of
one device can be compared with the columns gathered from all devices. `ignored` takes columns out
of the negatives, such as images that are known to share the row's label.
"""

import jax
import jax.numpy as jnp

from quantjax.arrays import check_positive, check_shape, on_explicit_mesh
from quantjax.losses.rows import check_binary, check_same, cosines, widen
from quantjax.quantizers import binary


@on_explicit_mesh(rows="queries")
def nt_xent(
    queries: jax.Array,
    keys: jax.Array,
    positives: jax.Array,
    selves: jax.Array,
    ignored: jax.Array | None = None,
    *,
    temperature: float,
) -> jax.Array:
    """Returns NT-Xent: the cross entropy of picking each row's positive by a softmax of cosines.

    l_i = -log( exp(s_ip / T) / sum_{j != i} exp(s_ij / T) ), with s_ij = cos(q_i, k_j). SimCLR's
    loss has both views of the batch on both sides: `nt_xent_of_views` takes the two views.

    Args:
      queries: Embeddings [B, D], of any length; a zero vector has cosine 0 to everything.
      keys: Embeddings [N, D], the columns.
      positives: Column of each row's positive, [B] int; the loss is 0 where this is no column,
        such as -1, or is the row itself.
      selves: Column of the row itself, [B] int, which does not count; -1 if `keys` lacks it.
      ignored: Columns that are no negatives of a row, [B, N] bool; the positive counts even so.
        None ignores none.
      temperature: T.

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, the temperature is not positive, or `ignored` is not
        binary (values are not checked inside jit).

    Reference:
      Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
      ICML 2020, eq. 1.
    """
    _check_columns(queries, keys, positives, selves, ignored)
    check_positive("temperature", temperature)
    logits = cosines(queries, keys) / temperature
    positive, negative = _columns(positives, selves, ignored, keys.shape[0])
    total = jax.nn.logsumexp(logits, axis=1, where=positive | negative)
    surprise = total - jnp.sum(logits, axis=1, where=positive)
    return jnp.where(jnp.any(positive, axis=1), surprise, 0)


@on_explicit_mesh(rows="first")
def nt_xent_of_views(
    first: jax.Array,
    second: jax.Array,
    all_first: jax.Array,
    all_second: jax.Array,
    own: jax.Array,
    ignored: jax.Array | None = None,
    *,
    temperature: float,
) -> jax.Array:
    """Returns NT-Xent of two views of a batch, averaged over both directions.

    l_i = ( NT-Xent(a_i -> b_i) + NT-Xent(b_i -> a_i) ) / 2. The columns are all rows of a and b
    but the row itself. The mean over i is SimCLR's loss.

    Args:
      first: Embeddings a of one view, [B, D].
      second: Embeddings b of the other view, [B, D].
      all_first: Columns of `first`, [N, D]: `first` again, or gathered from all devices.
      all_second: Columns of `second`, [N, D].
      own: Position of each row in those columns, [B] int: `arange(B)` on one device.
      ignored: Items neither of whose views is a negative of a row, [B, N] bool; the row's positive
        counts even so. None ignores none.
      temperature: T.

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, the temperature is not positive, or `ignored` is not
        binary (values are not checked inside jit).

    Reference:
      Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
      ICML 2020, eq. 1.
    """
    _check_views(("first", first), ("second", second), all_first, all_second, own)
    columns = jnp.concatenate((all_first, all_second))
    in_first, in_second = jnp.asarray(own), jnp.asarray(own) + len(all_first)
    if ignored is not None:
        check_shape("ignored", ignored, len(first), len(all_first))
        ignored = jnp.concatenate((ignored, ignored), axis=1)
    forth = nt_xent(first, columns, in_second, in_first, ignored, temperature=temperature)
    back = nt_xent(second, columns, in_first, in_second, ignored, temperature=temperature)
    return (forth + back) / 2


@on_explicit_mesh(rows="queries")
def debiased_nt_xent(
    queries: jax.Array,
    keys: jax.Array,
    positives: jax.Array,
    selves: jax.Array,
    ignored: jax.Array | None = None,
    *,
    temperature: float,
    positive_prior: float,
) -> jax.Array:
    """Returns NT-Xent corrected for false negatives: columns of the row's own class.

    l_i = -log( p / (p + Ng) ), Ng = max( (sum_j n_j - rho M p) / (1 - rho), M exp(-1 / T) ), with
    p = exp(s_ip / T), n_j = exp(s_ij / T) of the M negatives (the paper's N) and rho the chance
    that a negative is of the row's own class. A prior of 0 gives `nt_xent`. MeCoQ's public code
    differs twice: its floor is exp(-M / T), which is 0 for any batch, and its M leaves out the
    memory's columns. MeCoQ compares the quantized embeddings of two views; `keys` then holds the
    batch's columns and after them those of the code memory.

    Args:
      queries: Embeddings [B, D], of any length; a zero vector has cosine 0 to everything.
      keys: Embeddings [N, D], the columns.
      positives: Column of each row's positive, [B] int; the loss is 0 where this is no column,
        such as -1, or is the row itself.
      selves: Column of the row itself, [B] int, which does not count; -1 if `keys` lacks it.
      ignored: Columns that are no negatives of a row, [B, N] bool; the positive counts even so.
        None ignores none.
      temperature: T.
      positive_prior: rho, in [0, 1).

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, the temperature is not positive, or `ignored` is not
        binary (values are not checked inside jit).

    Reference:
      Wang et al., Contrastive Quantization with Code Memory for Unsupervised Image Retrieval,
      AAAI 2022; Chuang et al., Debiased Contrastive Learning, NeurIPS 2020, eq. 8.
    """
    _check_columns(queries, keys, positives, selves, ignored)
    check_positive("temperature", temperature)
    logits = cosines(queries, keys) / temperature
    positive, negative = _columns(positives, selves, ignored, keys.shape[0])
    counted = positive | negative
    # Everything is divided by exp(largest), so that no temperature overflows.
    largest = jnp.max(logits, axis=1, where=counted, initial=-1 / temperature)
    largest = jax.lax.stop_gradient(largest)
    powers = jnp.exp(jnp.where(counted, logits - largest[:, None], 0))
    count = jnp.sum(negative, axis=1)
    own = jnp.sum(powers, axis=1, where=positive)
    others = jnp.sum(powers, axis=1, where=negative)
    debiased = (others - positive_prior * count * own) / (1 - positive_prior)
    floor = count * jnp.exp(-1 / temperature - largest)
    # Without a negative the sum is 0: the tiny number keeps its logarithm finite.
    negatives = jnp.maximum(debiased, jnp.maximum(floor, jnp.finfo(logits.dtype).tiny))
    gap = jnp.log(negatives) + largest - jnp.sum(logits, axis=1, where=positive)
    return jnp.where(jnp.any(positive, axis=1), jax.nn.softplus(gap), 0)


@on_explicit_mesh(rows="x")
def cross_quantized(
    x: jax.Array,
    quantized: jax.Array,
    all_x: jax.Array,
    all_quantized: jax.Array,
    own: jax.Array,
    ignored: jax.Array | None = None,
    *,
    temperature: float = 0.5,
) -> jax.Array:
    """Returns NT-Xent between the embeddings of one view and the quantized embeddings of the other.

    l_i = ( NT-Xent(x_i -> z_i) + NT-Xent(z_i -> x_i) ) / 2. The columns are all rows of x and z
    but the row itself. SPQ's objective crosses the views a and b of a batch:
    `cross_quantized(x_a, z_b, ...) + cross_quantized(x_b, z_a, ...)`, x real and z quantized.

    Args:
      x: Embeddings of one view, [B, D].
      quantized: Quantized embeddings of the other view, [B, D].
      all_x: Columns of `x`, [N, D]: `x` again, or gathered from all devices.
      all_quantized: Columns of `quantized`, [N, D].
      own: Position of each row in those columns, [B] int: `arange(B)` on one device.
      ignored: Items neither of whose views is a negative of a row, [B, N] bool; the row's positive
        counts even so. None ignores none.
      temperature: tau, the public code's 0.5.

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, the temperature is not positive, or `ignored` is not
        binary (values are not checked inside jit).

    Reference:
      Jang and Cho, Self-supervised Product Quantization for Deep Unsupervised Image Retrieval,
      ICCV 2021.
    """
    _check_views(("x", x), ("quantized", quantized), all_x, all_quantized, own)
    return nt_xent_of_views(
        x, quantized, all_x, all_quantized, own, ignored, temperature=temperature
    )


@on_explicit_mesh(rows="first")
def cibhash(
    first: jax.Array,
    second: jax.Array,
    all_first: jax.Array,
    all_second: jax.Array,
    own: jax.Array,
    ignored: jax.Array | None = None,
    *,
    temperature: float = 0.3,
    weight: float = 0.001,
) -> jax.Array:
    """Returns NT-Xent between two views' sign codes plus the KL divergence of their bits.

    l_i = ( NT-Xent(b_i -> b'_i) + NT-Xent(b'_i -> b_i) ) / 2
          + weight ( KL(p_i || p'_i) + KL(p'_i || p_i) ) / 2,
    with p = sigmoid(x) the chance that a bit is set and b = sgn(x), straight-through to p. As in
    the public code the second distribution of either KL is constant; the logarithms are exact
    here, where that code adds 1e-8 to their arguments.

    Args:
      first: Embeddings of one view, before the sigmoid, [B, D].
      second: Embeddings of the other view, [B, D].
      all_first: Columns of `first`, [N, D]: `first` again, or gathered from all devices.
      all_second: Columns of `second`, [N, D].
      own: Position of each row in those columns, [B] int: `arange(B)` on one device.
      ignored: Items neither of whose views is a negative of a row, [B, N] bool; the row's positive
        counts even so. None ignores none.
      temperature: tau, the public code's 0.3.
      weight: Weight of the divergence, summed over bits; the public code's 0.001.

    Returns:
      Loss of every row, [B], float32 at least.

    Raises:
      ValueError: if the shapes do not agree, the temperature is not positive, or `ignored` is not
        binary (values are not checked inside jit).

    Reference:
      Qiu et al., Unsupervised Hashing with Contrastive Information Bottleneck, IJCAI 2021.
    """
    _check_views(("first", first), ("second", second), all_first, all_second, own)
    check_positive("temperature", temperature)
    first, second, all_first, all_second = map(widen, (first, second, all_first, all_second))
    codes = [_probable_sign(x) for x in (first, second, all_first, all_second)]
    divergence = _bernoulli_divergence(first, second) + _bernoulli_divergence(second, first)
    crossed = nt_xent_of_views(*codes, own, ignored, temperature=temperature)
    return crossed + weight * divergence / 2


def _columns(positives, selves, ignored, num_columns):
    # One-hot masks, not a gather: numbers outside the columns (-1) then select no column.
    numbers = jnp.arange(num_columns)
    counted = numbers != jnp.asarray(selves)[:, None]
    positive = (numbers == jnp.asarray(positives)[:, None]) & counted
    if ignored is not None:
        counted &= ~(jnp.asarray(ignored) > 0)
    return positive, counted & ~positive


def _probable_sign(x):
    # tanh(x / 2) / 2 is sigmoid(x) - 1/2 without its rounding, which would flip small values.
    return binary.sign(jnp.tanh(x / 2) / 2)


def _bernoulli_divergence(x, constant):
    # KL(p || q) = sum p log(p / q) + (1 - p) log((1 - p) / (1 - q)), of x = log(p / (1 - p)).
    other = jax.lax.stop_gradient(constant)
    terms = jax.nn.sigmoid(x) * (x - other) - jax.nn.softplus(x) + jax.nn.softplus(other)
    return jnp.sum(terms, axis=-1)


def _check_columns(queries, keys, positives, selves, ignored):
    check_shape("queries", queries, "B", "D")
    check_shape("keys", keys, "N", queries.shape[1])
    check_shape("positives", positives, len(queries))
    check_shape("selves", selves, len(queries))
    if ignored is not None:
        check_shape("ignored", ignored, len(queries), len(keys))
        check_binary("ignored", ignored)


def _check_views(named_first, named_second, all_first, all_second, own):
    (name, first), (other, second) = named_first, named_second
    check_same(other, second, name, first)
    check_shape(f"all_{name}", all_first, "N", first.shape[1])
    check_same(f"all_{other}", all_second, f"all_{name}", all_first)
    check_shape("own", own, len(first))
