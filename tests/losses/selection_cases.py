"""Rows of the contract test for `quantjax.losses.selection`."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import losses
from quantjax.losses import selection
from tests.losses.case import Case, coin, normal, seed

_LIKELIHOOD = functools.partial(losses.triplet_likelihood, margin=1.0)


def _all_triplets(positive, negative):
    result = np.zeros((*positive.shape, negative.shape[1]), bool)
    for a, p, n in np.ndindex(result.shape):
        result[a, p, n] = bool(positive[a, p]) and bool(negative[a, n])
    return result


def _each_triplet(anchors, candidates):
    """The function under test with one loss."""
    return selection.each_triplet(_LIKELIHOOD, anchors, candidates)


def _each_likelihood(anchors, candidates):
    result = np.zeros((len(anchors), len(candidates), len(candidates)))
    for a, anchor in enumerate(anchors):
        inner = [sum(u * v for u, v in zip(anchor, c, strict=True)) for c in candidates]
        for p, n in np.ndindex(result.shape[1:]):
            result[a, p, n] = np.logaddexp(0, 1.0 - (inner[p] - inner[n]) / 2)
    return result


def _by_anchor(chosen, shape):
    """Lays triplets out as [A, N] by anchor and positive, -1 where there is none.

    An anchor becomes its distance from the row it stands in, which is 0 on every device.
    """
    anchors, positives, negatives, mask = (part.reshape(shape) for part in chosen)
    anchors = anchors - jnp.arange(shape[0], dtype=jnp.int32)[:, None]
    return *(jnp.where(mask, part, -1) for part in (anchors, positives, negatives)), mask


def _semi_hard(distances, positive, negative, *, margin):
    chosen = selection.semi_hard(distances, positive, negative, margin=margin)
    return _by_anchor(chosen, distances.shape)


def _random_violating(seed, distances, positive, negative, *, margin):
    key = jax.random.key(seed)
    chosen = selection.random_violating(key, distances, positive, negative, margin=margin)
    return _by_anchor(chosen, distances.shape)


def _keyed_by_anchor(seeds, distances, positive, negative, *, margin):
    rows = (x[:, None] for x in (distances, positive, negative))
    chosen = jax.vmap(functools.partial(_random_violating, margin=margin))(seeds, *rows)
    return tuple(part[:, 0] for part in chosen)


def _table(distances, positive, choose):
    """Calls `choose(a, p)` for every positive; it returns a negative or None."""
    anchors, positives, negatives = np.full((3, *distances.shape), -1)
    mask = np.zeros(distances.shape, bool)
    for a, p in np.argwhere(positive).tolist():
        n = choose(a, p)
        if n is not None:
            anchors[a, p], positives[a, p], negatives[a, p], mask[a, p] = 0, p, n, True
    return anchors, positives, negatives, mask


def _nearest_beyond(distances, positive, negative, margin):
    def choose(a, p):
        inside = [
            (distances[a, n], n)
            for n in np.flatnonzero(negative[a])
            if distances[a, p] < distances[a, n] < distances[a, p] + margin
        ]
        return min(inside)[1] if inside else None

    return _table(distances, positive, choose)


def _violating(distances, negative, a, p, margin):
    found = [
        (distances[a, n], n)
        for n in np.flatnonzero(negative[a])
        if distances[a, n] - distances[a, p] < margin
    ]
    return [n for _, n in sorted(found)]


def _drawn(key, distances, positive, negative, margin):
    choices = {
        pair: _violating(distances, negative, *pair, margin) for pair in np.ndindex(positive.shape)
    }
    counts = np.array([len(choice) for choice in choices.values()]).reshape(positive.shape)
    ranks = np.asarray(jax.random.randint(key, counts.shape, 0, np.maximum(counts, 1), np.int32))
    return _table(
        distances, positive, lambda a, p: choices[a, p][ranks[a, p]] if choices[a, p] else None
    )


def _drawn_of_one_seed(seed, *arguments, margin):
    return _drawn(jax.random.key(seed), *arguments, margin)


def _drawn_of_each_seed(seeds, *arguments, margin):
    each = [
        _drawn(jax.random.key(seed), *(x[None] for x in rows), margin)
        for seed, *rows in zip(seeds, *arguments, strict=True)
    ]
    return tuple(np.concatenate(parts) for parts in zip(*each, strict=True))


def _group_hard(seed, x, label, *, num_groups, margin):
    """Lays the triplets out as [N, N], and counts them."""
    key = jax.random.key(seed)
    chosen = selection.group_hard(key, x, label, num_groups=num_groups, margin=margin)
    nobody = jnp.full((len(x), len(x)), -1, jnp.int32)
    anchors = jnp.where(chosen.mask, chosen.anchors, len(x))
    table = nobody.at[anchors, chosen.positives].set(chosen.negatives, mode="drop")
    return table, jnp.sum(chosen.mask, dtype=jnp.int32)


def _drawn_in_groups(seed, x, label, num_groups, margin):
    shuffle_key, *keys = jax.random.split(jax.random.key(seed), num_groups + 1)
    rows = np.asarray(jax.random.permutation(shuffle_key, len(x)))
    size = -(-len(x) // num_groups)
    table, count = np.full((len(x), len(x)), -1), 0
    for key, start in zip(keys, range(0, num_groups * size, size), strict=True):
        group = rows[start : start + size]
        positive, negative, distances = np.zeros((3, size, size))  # Empty places are neither.
        for i, j in itertools.product(range(len(group)), repeat=2):
            shared = any(label[group[i]].astype(bool) & label[group[j]].astype(bool))
            positive[i, j], negative[i, j] = shared and i != j, not shared
            distances[i, j] = sum((x[group[i]] - x[group[j]]) ** 2)
        _, _, chosen, mask = _drawn(key, distances, positive, negative, margin)
        for a, p in np.argwhere(mask):
            table[group[a], group[p]] = group[chosen[a, p]]
        count += mask.sum()
    return table, count


_CANDIDATES = (("AN", normal), ("AN", coin), ("AN", coin))
_MARGINS = ({"margin": 0.5}, {"margin": 2.0})


def _triplets(function, of, oracle, seeds=(), **fields):
    return Case(
        function,
        of=of,
        oracle=oracle,
        arguments=(*seeds, *_CANDIDATES),
        result="AN,AN,AN,AN",
        dtypes="int32,int32,int32,bool",
        settings=_MARGINS,
        trained=(),
        **fields,
    )


CASES = (
    Case(
        selection.all_triplets,
        oracle=_all_triplets,
        arguments=(("AN", coin), ("AN", coin)),
        result="ANN",
        dtypes="bool",
        trained=(),
    ),
    Case(
        _each_triplet,
        of=selection.each_triplet,
        oracle=_each_likelihood,
        arguments=(("AD", normal), ("ND", normal)),
        result="ANN",
        trained=(0, 1),
    ),
    _triplets(_semi_hard, selection.semi_hard, _nearest_beyond),
    # Draws of one key follow the number of rows: all devices draw for all rows, or
    _triplets(
        _random_violating,
        selection.random_violating,
        _drawn_of_one_seed,
        seeds=(("", seed),),
        local="",
    ),
    # each row has a key of its own.
    _triplets(
        _keyed_by_anchor,
        selection.random_violating,
        _drawn_of_each_seed,
        seeds=(("A", seed),),
        refused=(),
        remark="of a key for each anchor",
    ),
    Case(
        _group_hard,
        of=selection.group_hard,
        oracle=_drawn_in_groups,
        arguments=(("", seed), ("ND", normal), ("NL", coin)),
        result="NN,",
        dtypes="int32,int32",
        # Five groups of 24 rows leave one place of the last one empty.
        settings=({"num_groups": 2, "margin": 2.0}, {"num_groups": 5, "margin": 8.0}),
        trained=(),
        local="",
    ),
)
