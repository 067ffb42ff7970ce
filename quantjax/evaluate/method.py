"""Measures a trained method on a split: by real queries, by codes on both sides, without codes."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from quantjax import metrics, train
from quantjax.data.audit import Audit, audit
from quantjax.data.class_counts import num_labels
from quantjax.data.protocols import Splits
from quantjax.errors import InputError
from quantjax.evaluate.evaluation import encode, evaluate
from quantjax.evaluate.results import Results
from quantjax.quantizers import Codec, FloatCodec, product
from quantjax.run import parallel, processes


def task_of(splits: Splits, asked: str = "query") -> str:
    """Returns the id of a task: the split and its list of queries.

    Only results of equal tasks are compared.
    """
    return f"{asked} of {splits.digest} {splits.source_digest or ''}".strip()


def unmeasured(splits: Splits, asked: str = "query") -> str | None:
    """Returns the reason why labels cannot measure a search, or None if they can.

    Labels define the relevant items, so both queries and database need labels. A row without a
    label is relevant to no query, and counts as 0 as a query.

    Args:
      splits: The splits.
      asked: List of queries: "query" searches the database, "validation" the validation database.
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
    """Results of a measured method, with its codec, codes and audit.

    Attributes:
      results: One result for each distance and for the validation queries; empty without labels.
      codec: The method's codec.
      codes: Codes of the database, [N, num_bytes] uint8, in the order of `splits.database`.
      audit: Audit of the split.
      unmeasured: The reason for each list of queries that labels cannot measure.
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
    """Measures a method on a split, with and without codes, after auditing the split.

    Queries and database need no labels: without them the database is coded all the same, and the
    result says what was not measured.

    Args:
      experiment: The experiment: its method, splits and preprocessing.
      trained: A train state of the experiment, with codebooks.
      mesh: From `run.parallel.data_mesh`; all devices when None.
      name: Name of the results, the experiment's name when None; "NAME float" is the unquantized
        embedding, "NAME validation" the validation queries against the database without them.
      measures: Measures from `metrics.measures`.
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
    """Measures the retrieval of the validation queries, by asymmetric or Hamming distance.

    Args:
      experiment: The experiment, trained or in training.
      trained: A train state of the experiment, with codebooks.
      mesh: From `run.parallel.data_mesh`; all devices when None.
      name: Name of the result.
      measures: Measures from `metrics.measures`.
      codes: Codes of `splits.validation_database`, if already computed.

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
