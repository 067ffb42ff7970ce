"""A method, measured on a split: with codes, with codes on both sides, and without any."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from quantjax import metrics, parallel, processes, train
from quantjax.data.audit import Audit, audit
from quantjax.data.class_counts import num_labels
from quantjax.data.protocols import Splits
from quantjax.errors import InputError
from quantjax.evaluate.evaluation import encode, evaluate
from quantjax.evaluate.results import Results
from quantjax.quantizers import Codec, FloatCodec, product


def task_of(splits: Splits, asked: str = "query") -> str:
    """Names what results must share to be compared: the split, and which of its lists asks."""
    return f"{asked} of {splits.digest} {splits.source_digest or ''}".strip()


def unmeasured(splits: Splits, asked: str = "query") -> str | None:
    """Returns why a search cannot be measured by labels, or None if it can.

    Labels tell which items are relevant, so queries and database need some. A row without a label
    is relevant to no query, and as a query it counts as 0.

    Args:
      splits: Whose lists these are.
      asked: The list that asks: "query" searches the database, "validation" what that searches.
    """
    labels = splits.source.labels
    for name in (asked, "database" if asked == "query" else "validation_database"):
        rows = getattr(splits, name)
        if len(rows) and not num_labels(labels[rows]).any():
            return f"nothing is measured: none of the {len(rows)} {name} rows has a label"
    if labels.ndim == 2 and labels.shape[1] == 1:
        return "nothing is measured: there is one class, so every item is relevant to every query"
    return None


class Retrieval(NamedTuple):
    """A method, measured.

    Attributes:
      results: One for each distance, and for the validation queries; none where labels are missing.
      codec: The method's codec.
      codes: Codes of the database, [N, num_bytes] uint8, in the order of `splits.database`.
      audit: What was found about the split.
      unmeasured: A line for each list of queries that labels cannot measure, saying why.
    """

    results: list[Results]
    codec: Codec
    codes: np.ndarray
    audit: Audit
    unmeasured: tuple[str, ...] = ()

    def __repr__(self) -> str:
        lines = [repr(each) for each in self.results] or [*self.unmeasured]
        return f"<Retrieval of {len(self.codes):,} codes by {self.codec!r}: {'; '.join(lines)}>"


def evaluate_method(
    experiment: train.Experiment,
    trained: train.TrainState,
    *,
    mesh: Mesh | None = None,
    name: str | None = None,
    measures: Sequence[metrics.Measure] = (metrics.measures.average_precision(),),
    audited: Audit | None = None,
) -> Retrieval:
    """Audits, embeds and codes a split, and measures what quantization costs.

    Queries and database need no labels: without them the database is coded all the same, and the
    result says what was not measured.

    Args:
      experiment: What was trained, or not yet: its method, splits and preprocessing.
      trained: A train state of it, with codebooks.
      mesh: From `parallel.data_mesh`; all devices when None.
      name: What is evaluated, the experiment's name when None; "NAME float" is the unquantized
        embedding, "NAME validation" the validation queries against the database without them.
      measures: What to measure.
      audited: From `data.audit`, with whatever it was told to allow; None audits here.

    Returns:
      Results: asymmetric and symmetric distances (or Hamming), float, then validation.

    Raises:
      ValueError: if the codebooks do not exist yet, or the audit refuses the split.
    """
    splits, name = experiment.splits, experiment.name if name is None else name
    mesh = parallel.data_mesh() if mesh is None else mesh
    audited = audit(splits) if audited is None else audited
    if audited.digest != splits.digest:
        raise InputError(
            f"audited must be of these splits, {splits.digest[:8]}, got {audited.digest[:8]}"
        )
    codec = processes.on_host(experiment.method.codec(trained.params, trained.state))
    database = train.embed(experiment, trained, splits.database, mesh=mesh)
    codes = encode(codec, database, mesh=mesh)
    asks = ("query", "validation") if len(splits.validation) else ("query",)
    missing = {asked: unmeasured(splits, asked) for asked in asks}
    results: list[Results] = []
    if missing["query"] is None:
        queries = train.embed(experiment, trained, splits.query, queries=True, mesh=mesh)
        search = functools.partial(
            evaluate,
            queries=queries,
            query_labels=splits.source.labels[splits.query],
            database_labels=splits.source.labels[splits.database],
            measures=measures,
            mesh=mesh,
            task=task_of(splits),
        )
        kinds = ("hamming",) if codec.metric == "hamming" else ("aqd", "sqd")
        results = [search(codec, codes=codes, name=name, distance=kind) for kind in kinds]
        metric = codec.metric if codec.metric in product.METRICS else "cosine"  # signs: their angle
        plain = FloatCodec(database.shape[1], metric=metric)
        stored = encode(plain, database, mesh=mesh)
        results.append(search(plain, codes=stored, name=f"{name} float", distance="float"))
    if missing.get("validation", "none") is None:
        held = None
        if splits.validation_searches is None:
            held = codes[np.isin(splits.database, splits.validation_database)]
        validation = f"{name} validation"
        results.append(
            measure_validation(
                experiment, trained, mesh=mesh, name=validation, measures=measures, codes=held
            )
        )
    lines = tuple(line for line in missing.values() if line is not None)
    return Retrieval(results, codec, codes, audited, lines)


def measure_validation(
    experiment: train.Experiment,
    trained: train.TrainState,
    *,
    mesh: Mesh | None = None,
    name: str = "validation",
    measures: Sequence[metrics.Measure] = (metrics.measures.average_precision(),),
    codes: np.ndarray | None = None,
) -> Results:
    """Measures what validation queries find, by the asymmetric or the Hamming distance.

    Args:
      experiment: What was trained, or still trains.
      trained: A train state of it, with codebooks.
      mesh: From `parallel.data_mesh`; all devices when None.
      name: Of the result.
      measures: What to measure.
      codes: Of `splits.validation_database`, if they are there already.

    Raises:
      ValueError: if the codebooks do not exist yet, or validation rows or what they search have no
        labels.
    """
    splits = experiment.splits
    mesh = parallel.data_mesh() if mesh is None else mesh
    if (line := unmeasured(splits, "validation")) is not None:
        raise InputError(line)
    codec = processes.on_host(experiment.method.codec(trained.params, trained.state))
    if codes is None:
        database = train.embed(experiment, trained, splits.validation_database, mesh=mesh)
        codes = encode(codec, database, mesh=mesh)
    labels = splits.source.labels
    return evaluate(
        codec,
        train.embed(experiment, trained, splits.validation, queries=True, mesh=mesh),
        codes,
        labels[splits.validation],
        labels[splits.validation_database],
        name=name,
        distance="hamming" if codec.metric == "hamming" else "aqd",
        measures=measures,
        mesh=mesh,
        task=task_of(splits, "validation"),
    )
