"""Selects triplets (anchor, positive, negative) for the losses in `quantjax.losses.triplet`.

Every function is jittable: it returns arrays whose shape depends on shapes alone, and a mask of
the real triplets. No gradient passes a selection. Anchors are rows and may be one device's part
of the batch; candidates are columns, gathered from all devices. The caller marks the positives
and negatives of each anchor:

    similar = labels.share_label(label, gather(label))
    positive, negative = similar & (index[:, None] != gather(index)), ~similar

where `index` numbers the items, because an anchor is not its own positive. Then

    chosen = selection.semi_hard(distances, positive, negative, margin=0.2)
    losses = triplet_margin(
        x[chosen.anchors], others[chosen.positives], others[chosen.negatives], margin=0.2)
    total = jnp.sum(losses, where=chosen.mask)
    mean = total / jnp.maximum(jnp.sum(chosen.mask), 1)

with `others = gather(x)`. Under `pmap` sum over the devices before dividing, for each has chosen
another number of triplets.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite, check_shape, on_explicit_mesh
from quantjax.errors import InputError
from quantjax.losses.rows import check_binary, check_multi_hot, squared_distances, widen


class Triplets(NamedTuple):
    """Row numbers of selected triplets, with a mask; entries whose mask is False mean nothing.

    Masked entries still hold valid row numbers, so that indexing by them is safe.

    Attributes:
      anchors: [T] int32.
      positives: [T] int32.
      negatives: [T] int32.
      mask: Which entries are triplets, [T] bool.
    """

    anchors: jax.Array
    positives: jax.Array
    negatives: jax.Array
    mask: jax.Array


def all_triplets(positive: jax.Array, negative: jax.Array) -> jax.Array:
    """Returns a mask of all triplets of a batch; `each_triplet` evaluates a loss on them.

    Args:
      positive: Whether each candidate is a positive of each anchor, [A, N] bool.
      negative: Whether it is a negative, [A, N] bool.

    Returns:
      Mask [A, N, N] bool by anchor, positive and negative.

    Raises:
      ValueError: if the shapes do not agree, or marks are not binary (not checked inside jit).
    """
    positive, negative = _marks(positive, negative)
    return positive[:, :, None] & negative[:, None, :]


@on_explicit_mesh(rows="anchors")
def each_triplet(
    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    anchors: jax.Array,
    candidates: jax.Array,
) -> jax.Array:
    """Evaluates a triplet loss on every anchor with every pair of candidates, anchor by anchor.

    The B^3 triplets of embeddings are never in memory together, forward or backward.

    Args:
      loss: (anchors, positives, negatives [T, D]) -> [T], its keywords bound by
        `functools.partial`.
      anchors: Embeddings [A, D].
      candidates: Embeddings [N, D].

    Returns:
      Losses [A, N, N] by anchor, positive and negative, to go with `all_triplets`; float32 at
      least.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check_shape("anchors", anchors, "A", "D")
    check_shape("candidates", candidates, "N", anchors.shape[1])
    check_finite("anchors", anchors)
    check_finite("candidates", candidates)
    # Before the rows are spread: a row's gradient is a sum over its triplets.
    anchors, candidates = widen(anchors), widen(candidates)
    num_candidates = candidates.shape[0]
    shape = (num_candidates, num_candidates, candidates.shape[1])

    def of_one(anchor):
        rows = anchor, candidates[:, None], candidates[None]
        rows = (jnp.broadcast_to(x, shape).reshape(-1, shape[-1]) for x in rows)
        return loss(*rows).reshape(shape[:2])

    return jax.lax.map(jax.checkpoint(of_one), anchors)


@on_explicit_mesh()
def semi_hard(
    distances: jax.Array, positive: jax.Array, negative: jax.Array, *, margin: float
) -> Triplets:
    """Selects, for each anchor and positive, the nearest negative beyond the positive.

    argmin_n d_an over d_ap < d_an < d_ap + m: such a negative is ranked correctly, but inside the
    margin. Unlike the hardest negatives it does not pull an untrained network to a constant.
    FaceNet names the interval; to take the nearest negative in it, not a random one, is our
    reading.

    Args:
      distances: Distances of anchors to candidates, [A, N], in the units of the loss.
      positive: Whether each candidate is a positive of each anchor, [A, N] bool.
      negative: Whether it is a negative, [A, N] bool.
      margin: m, in the units of the distances.

    Returns:
      Triplets [A * N], one for every anchor and candidate, False where the candidate is no
      positive or no negative lies in its interval.

    Raises:
      ValueError: if the shapes do not agree, or marks are not binary (not checked inside jit).

    Reference:
      Schroff et al., FaceNet: A Unified Embedding for Face Recognition and Clustering, CVPR 2015.
    """
    distances, positive, negative = _measured(distances, positive, negative)
    order, nearest_first = _negatives_in_order(distances, negative)
    rank = _count(nearest_first, distances, side="right")
    chosen, gap = _take(order, rank), _take(nearest_first, rank) - distances
    return _flat(chosen, positive & (gap < margin))


@on_explicit_mesh()
def random_violating(
    key: jax.Array, distances: jax.Array, positive: jax.Array, negative: jax.Array, *, margin: float
) -> Triplets:
    """Draws, for each anchor and positive, a random negative that violates the margin.

    n ~ uniform over d_an - d_ap < m. The draws depend on the number of rows. For equal draws on
    eight devices and on one, give each anchor its key and a single row, by `jax.vmap`. With one
    key under `pmap` the anchors of all devices draw alike: fold the device's number into the key.

    Args:
      key: Random key, consumed.
      distances: Distances of anchors to candidates, [A, N], in the units of the loss.
      positive: Whether each candidate is a positive of each anchor, [A, N] bool.
      negative: Whether it is a negative, [A, N] bool.
      margin: m, in the units of the distances.

    Returns:
      Triplets [A * N], one for every anchor and candidate, False where the candidate is no
      positive or no negative violates the margin.

    Raises:
      ValueError: if the shapes do not agree, or marks are not binary (not checked inside jit).

    Reference:
      Liu et al., Deep Triplet Quantization, ACM MM 2018.
    """
    distances, positive, negative = _measured(distances, positive, negative)
    order, nearest_first = _negatives_in_order(distances, negative)
    count = _count(nearest_first, distances + margin, side="left")
    rank = jax.random.randint(key, count.shape, 0, jnp.maximum(count, 1), jnp.int32)
    return _flat(_take(order, rank), positive & (count > 0))


@on_explicit_mesh()
def group_hard(
    key: jax.Array, x: jax.Array, label: jax.Array, *, num_groups: int, margin: float
) -> Triplets:
    """Draws margin-violating triplets for a whole training set, within random groups of its rows.

    In every group, each anchor and positive get one random negative with
    ||a - n||^2 - ||a - p||^2 < m. DTQ starts an epoch with this selection, from 20 groups, and
    halves their number when the triplets are fewer than 64,000: count the mask outside `jit`.

    Args:
      key: Random key, consumed.
      x: Embeddings [N, D].
      label: Multi-hot labels [N, L] of zeros and ones.
      num_groups: G, between 1 and N; the last groups may lack some rows where G does not divide N.
      margin: m, in units of squared distance.

    Returns:
      Triplets [G * S * S] of row numbers in x, with S = ceil(N / G).

    Raises:
      ValueError: if the shapes do not agree, labels are not zeros and ones (not checked inside
        jit), or `num_groups` is not between 1 and N.

    Reference:
      Liu et al., Deep Triplet Quantization, ACM MM 2018.
    """
    check_shape("x", x, "N", "D")
    check_shape("label", label, len(x), "L")
    check_multi_hot("label", label)
    if not 1 <= num_groups <= x.shape[0]:
        raise InputError(f"num_groups must be between 1 and {x.shape[0]}, got {num_groups}")
    check_finite("x", x)
    check_finite("label", label)
    x, label = widen(x), widen(label)
    size = -(-x.shape[0] // num_groups)
    shuffle_key, *keys = jax.random.split(key, num_groups + 1)
    rows = jax.random.permutation(shuffle_key, x.shape[0]).astype(jnp.int32)
    rows = jnp.pad(rows, (0, num_groups * size - x.shape[0]), constant_values=-1)

    def in_group(key_and_rows):
        key, rows = key_and_rows
        # Row numbers of -1 pad the last groups and take part in no triplet.
        real = (rows >= 0) & (rows >= 0)[:, None]
        similar = label[rows] @ label[rows].T > 0
        distances = squared_distances(x[rows], x[rows])
        positive = similar & real & ~jnp.eye(size, dtype=bool)
        chosen = random_violating(key, distances, positive, ~similar & real, margin=margin)
        return Triplets(*(jnp.maximum(rows[part], 0) for part in chosen[:3]), chosen.mask)

    # One group after another: the S x S distances of all groups at once would fill memory.
    triplets = jax.lax.map(in_group, (jnp.stack(keys), rows.reshape(num_groups, size)))
    return Triplets(*(part.reshape(-1) for part in triplets))


def _negatives_in_order(distances, negative):
    others_last = jnp.where(negative, distances, jnp.inf)
    order = jnp.argsort(others_last, axis=1)
    return order, jnp.take_along_axis(others_last, order, axis=1)


def _count(nearest_first, bounds, *, side):
    return jax.vmap(lambda row, bound: jnp.searchsorted(row, bound, side=side))(
        nearest_first, bounds
    )


def _take(of_row, rank):
    # A rank past the end is clipped to the last candidate, which the mask then excludes.
    return jnp.take_along_axis(of_row, jnp.minimum(rank, of_row.shape[1] - 1), axis=1)


def _flat(negatives, mask):
    anchors, positives = jnp.indices(mask.shape, jnp.int32)
    parts = anchors, positives, negatives.astype(jnp.int32), mask
    return Triplets(*(part.reshape(-1) for part in parts))


def _marks(positive, negative):
    check_shape("positive", positive, "A", "N")
    check_shape("negative", negative, *positive.shape)
    check_binary("positive", positive)
    check_binary("negative", negative)
    return jnp.asarray(positive) > 0, jnp.asarray(negative) > 0


def _measured(distances, positive, negative):
    check_shape("distances", distances, "A", "N")
    check_shape("positive", positive, *distances.shape)
    marks = _marks(positive, negative)
    # Distances between items that are neither positive nor negative are never read.
    check_finite("distances", distances, marks[0] | marks[1])
    return widen(distances), *marks
