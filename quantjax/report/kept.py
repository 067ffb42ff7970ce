"""Measures the arrays for a report's figures once, and keeps them in the workdir."""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import evaluate, train
from quantjax.data.sources import row_name
from quantjax.errors import InputError
from quantjax.metrics import measures
from quantjax.run import files, parallel
from quantjax.run.paths import user_path

KEPT = "report.safetensors"
"""File of a workdir that keeps the arrays of its report."""

_QUERIES = 500  # that curves are measured on, evenly spread over all
_CUTS = 25  # points of a curve
_PAIRS = 4000  # distances of each kind
_POINTS = 1500  # items that are projected
_SHOWN = 4  # queries of each kind: best, median, worst
_NEAR = 8  # neighbours of a query
_CLASS_NEAR = 10  # neighbours whose classes are counted
_SIDE = 64  # pixels of a picture
_AT_ONCE = 16  # queries whose distances to all items are held at once


class Kept(NamedTuple):
    """Arrays, facts and missing figures that `read` finds in a workdir.

    Attributes:
      arrays: By name, see `keep`.
      about: Facts of the run, JSON.
      missing: Reason for each missing array, by the figure's name.
    """

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]
    missing: dict[str, str]

    def part(self, name: str) -> dict[str, np.ndarray]:
        """Returns the arrays of one figure, by their names without the figure's."""
        prefix = f"{name}/"
        kept = self.arrays.items()
        return {key.removeprefix(prefix): x for key, x in kept if key.startswith(prefix)}

    @property
    def classes(self) -> list[str]:
        """Returns the names of the classes, as far as they were kept."""
        return self.about.get("classes") or []


class _Run(NamedTuple):
    """Input of the measurements: a trained method and its codes."""

    experiment: train.Experiment
    trained: train.TrainState
    retrieval: evaluate.Retrieval
    mesh: Any


def keep(
    workdir: str | pathlib.Path,
    experiment: train.Experiment,
    trained: train.TrainState,
    retrieval: evaluate.Retrieval,
    *,
    about: dict[str, Any] | None = None,
) -> None:
    """Measures the arrays of the report's figures, and writes them into the workdir.

    If a figure cannot be measured, the reason is kept in its place and the other figures are
    measured. One process measures all figures, on one device.

    Args:
      workdir: The run's folder.
      experiment: The run's experiment.
      trained: The final train state.
      retrieval: From `evaluate.evaluate_method`.
      about: Further facts (JSON) for the page, such as the command.
    """
    mesh = parallel.data_mesh(jax.local_devices()[:1])
    local = _local(mesh, {"params": trained.params, "state": trained.state})
    run = _Run(
        experiment=experiment,
        trained=trained._replace(**local),
        retrieval=retrieval._replace(codec=_local(mesh, retrieval.codec)),
        mesh=mesh,
    )
    arrays: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    # One figure at a time: what one needs may be missing where another has all it needs.
    for name, measure in _MEASURED.items():
        try:
            arrays.update({f"{name}/{key}": value for key, value in measure(run).items()})
        except Exception as error:  # a figure may fail, the run may not
            missing[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    facts = {
        # A thousand names at most: they are part of every read of the file.
        "classes": [*experiment.splits.source.classes[:1000]],
        "experiment": experiment.name,
        "step": int(np.asarray(trained.step)),
        "written": time.strftime("%Y-%m-%d %H:%M:%S"),
        **(about or {}),
    }
    metadata = {"about": json.dumps(facts), "missing": json.dumps(missing)}
    files.write_arrays(user_path(workdir) / KEPT, arrays, metadata)


def read(workdir: str | pathlib.Path) -> Kept:
    """Reads the arrays and facts that `keep` wrote.

    Args:
      workdir: The run's folder.

    Returns:
      The arrays; for a run without arrays, none and the reason.
    """
    path = user_path(workdir) / KEPT
    reason = f"the run left no {KEPT}: it has not ended, or is of an older version"
    if path.exists():
        try:
            arrays, metadata = files.read_arrays(path)
            return Kept(arrays, json.loads(metadata["about"]), json.loads(metadata["missing"]))
        except (*files.DAMAGE, OSError) as error:
            reason = f"{KEPT} is damaged: {files.one_line(error)}"
    return Kept({}, {}, dict.fromkeys(_MEASURED, reason))


def _local(mesh, tree):
    """Copies replicated arrays to the mesh of this process's first device."""
    # With the sharding of a run on one device, whose programs then serve here too.
    local = jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)
    return jax.device_put(local, parallel.replicated(mesh))


def _embedded(run, rows, *, queries):
    return train.embed(run.experiment, run.trained, rows, queries=queries, mesh=run.mesh)


def _spread(number, most):
    """Returns up to `most` positions, evenly spread over 0 to `number` - 1."""
    return np.unique(np.linspace(0, number - 1, most).astype(int))


def _main(run):
    """Returns the run's first result, which ranks by the codes."""
    if not run.retrieval.results:
        raise InputError("; ".join(run.retrieval.unmeasured) or "nothing was measured")
    return run.retrieval.results[0]


def _labels(run, rows):
    return run.experiment.splits.source.labels[rows]


def _distances(run, rows):
    """Yields distances [q, N] of queries to all items, a few queries at a time."""
    codec, codes = run.retrieval.codec, jnp.asarray(run.retrieval.codes)
    x = _embedded(run, rows, queries=True)
    for start in range(0, len(x), _AT_ONCE):
        some = x[start : start + _AT_ONCE]
        # Padded to a fixed number: the last queries would compile another program.
        padded = np.pad(some, ((0, _AT_ONCE - len(some)), (0, 0)))
        yield np.asarray(_measure(codec, padded, codes))[: len(some)]


@jax.jit
def _measure(codec, queries, codes):
    return codec.distances(queries, codes)


def _curves(run):
    """Measures precision and recall at many cuts, with their bounds over ties."""
    result, splits = _main(run), run.experiment.splits
    rows = splits.query[_spread(len(splits.query), _QUERIES)]
    number = len(splits.database)
    # Geometric cuts: precision changes fast at the start of a ranking and slowly later.
    cuts = np.unique(np.geomspace(1, number, _CUTS).round().astype(int))
    asked = [kind(top_k=int(cut)) for kind in (measures.precision, measures.recall) for cut in cuts]
    # One evaluation for all cuts, since each ranks all queries.
    found = evaluate.evaluate(
        run.retrieval.codec,
        _embedded(run, rows, queries=True),
        run.retrieval.codes,
        _labels(run, rows),
        _labels(run, splits.database),
        name="curves",
        distance="hamming" if result.distance == "hamming" else "aqd",
        measures=asked,
        mesh=run.mesh,
    ).numbers
    fields = ("value", "worst", "best", "low", "high", "chance")
    values = {field: np.array([each._asdict()[field] for each in found]) for field in fields}
    curves = {"cuts": cuts, "queries": np.array(len(rows))}
    for i, kind in enumerate(("precision", "recall")):
        part = slice(i * len(cuts), (i + 1) * len(cuts))
        curves |= {f"{kind}_{field}": values[field][part] for field in fields}
    return curves


def _pair_distances(run):
    """Samples distances of similar and of dissimilar pairs."""
    _main(run)
    splits = run.experiment.splits
    rows = splits.query[_spread(len(splits.query), 4 * _AT_ONCE)]
    relevance = evaluate.relevance(_labels(run, rows), _labels(run, splits.database))
    similar = relevance.grades(slice(None))[:, relevance.database] > 0
    distances = np.concatenate([*_distances(run, rows)])
    draw = np.random.default_rng(0)
    found = {}
    for name, chosen in (("similar", distances[similar]), ("dissimilar", distances[~similar])):
        if not len(chosen):
            raise InputError(f"no pair of a query and an item is {name}")
        found[name] = draw.choice(chosen, min(_PAIRS, len(chosen)), replace=False)
    return found


def _per_class(run):
    """Averages the query values of each class."""
    result, splits = _main(run), run.experiment.splits
    member = _members(run, splits.query)
    counts = member.sum(axis=0)
    if not counts.any():
        raise InputError("no query has a class")
    # A query of several classes counts for each of them.
    sums = result.per_query[result.metric] @ member
    return {"value": sums / np.maximum(counts, 1), "queries": counts.astype(np.int64)}


def _members(run, rows):
    """Returns the class membership of rows, multi-hot [N, L] float."""
    labels = _labels(run, rows)
    if labels.ndim == 2:
        return labels.astype(np.float64)
    classes = len(run.experiment.splits.source.classes)
    if classes > 1000:
        raise InputError(f"there are {classes:,} classes, more than a figure shows")
    return (labels[:, None] == np.arange(classes)).astype(np.float64)


def _confusion(run):
    """Returns, for each query class, the shares of classes among the 10 nearest items.

    Items tied at the last distance share the remaining places.
    """
    _main(run)
    splits = run.experiment.splits
    rows = splits.query[_spread(len(splits.query), _QUERIES)]
    asked, items = _members(run, rows), _members(run, splits.database)
    near = min(_CLASS_NEAR, len(items))
    shares = []
    for distances in _distances(run, rows):
        last = np.partition(distances, near - 1, axis=1)[:, near - 1 : near]
        inside, tied = distances < last, distances == last
        # Items tied at the last distance share its places: the order of storage must not matter.
        left = near - inside.sum(axis=1, keepdims=True)
        weights = inside + tied * (left / tied.sum(axis=1, keepdims=True))
        shares.append(weights @ items / near)
    counts = asked.sum(axis=0)
    share = asked.T @ np.concatenate(shares) / np.maximum(counts, 1)[:, None]
    return {"share": share.astype(np.float32)}


def _usage(run):
    """Counts how often each codeword, or each value of a bit, occurs in the database."""
    codec = run.retrieval.codec
    counts = evaluate.codeword_counts(codec, run.retrieval.codes)
    if counts is None:
        raise InputError(f"{type(codec).__name__} has no codewords")
    return {"counts": counts}


def _projection(run):
    """Samples embeddings of the database, and their decoded codes."""
    splits = run.experiment.splits
    places = _spread(len(splits.database), _POINTS)
    rows = splits.database[places]
    x = _embedded(run, rows, queries=False)
    if x.shape[1] < 2:
        raise InputError("embeddings of one number have no plane")
    decoded = np.asarray(run.retrieval.codec.decode(jnp.asarray(run.retrieval.codes[places])))
    # A point has one colour: of several labels the first, and without any the first class.
    labels = _labels(run, rows)
    if labels.ndim == 2:
        labels = labels.argmax(axis=1) if labels.shape[1] else np.zeros(len(labels), np.int64)
    found = {"x": x.astype(np.float32), "labels": labels.astype(np.int64)}
    return {**found, "decoded": decoded} if decoded.shape == x.shape else found


def _examples(run):
    """Chooses the best, median and worst queries and finds their nearest items."""
    result, splits = _main(run), run.experiment.splits
    values = result.per_query[result.metric]
    order = np.argsort(values, kind="stable")
    # Fewer per kind for small sets, so that no query is both best and worst.
    shown = max(1, min(_SHOWN, len(order) // 3))
    middle = (len(order) - shown) // 2
    kinds = [order[::-1][:shown], order[middle : middle + shown], order[:shown]]
    kinds = kinds[: min(len(order), 3)]
    chosen = np.concatenate(kinds)
    rows = splits.query[chosen]
    distances = np.concatenate([*_distances(run, rows)])
    # Stable, so that tied items come in the order of storage in every run.
    near = np.argsort(distances, axis=1, kind="stable")[:, :_NEAR]
    items = splits.database[near]
    relevance = evaluate.relevance(_labels(run, rows), _labels(run, splits.database))
    hits = np.take_along_axis(relevance.grades(slice(None))[:, relevance.database] > 0, near, 1)
    found = {
        "kind": np.repeat(np.arange(len(kinds)), shown),
        "value": values[chosen],
        "hits": hits,
        "distances": np.take_along_axis(distances, near, axis=1),
        "names": _text(run, rows),
        "item_names": _text(run, items.reshape(-1)),
    }
    pictures = _pictures(run, np.concatenate([rows, items.reshape(-1)]))
    if pictures is None:
        return found
    shape = (*items.shape, *pictures.shape[1:])
    return {**found, "images": pictures[: len(rows)], "items": pictures[len(rows) :].reshape(shape)}


def _text(run, rows):
    """Returns the rows' names as the bytes of a JSON list: safetensors holds no text."""
    names = [row_name(run.experiment.splits.source, row)[-80:] for row in rows]
    return np.frombuffer(json.dumps(names).encode(), np.uint8)


def _pictures(run, rows):
    """Returns images of rows, [N, H, W, C] uint8 of at most 64 pixels, or None without images."""
    source = run.experiment.splits.source
    if "image" not in source[rows[:1]]:
        return None
    images = np.concatenate([source[rows[i : i + 64]]["image"] for i in range(0, len(rows), 64)])
    height, width = images.shape[1:3]
    # Small pictures: the page holds them all, as text.
    scale = _SIDE / max(height, width)
    if scale >= 1:
        return images
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = jax.image.resize(
        jnp.asarray(images, jnp.float32), (len(images), *size, images.shape[3]), "linear"
    )
    return np.asarray(jnp.clip(jnp.round(small), 0, 255)).astype(np.uint8)


_MEASURED: dict[str, Callable[[_Run], dict[str, np.ndarray]]] = {
    "examples": _examples,
    "curves": _curves,
    "distances": _pair_distances,
    "usage": _usage,
    "projection": _projection,
    "per_class": _per_class,
    "confusion": _confusion,
}
