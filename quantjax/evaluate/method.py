"""Measures a method on a split, at the end of training and after its epochs.

At the end by real queries, by codes on both sides, and without codes; after an epoch by validation
queries and by the use of codewords.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from quantjax import metrics, train
from quantjax.data.audit import Audit, audit
from quantjax.data.class_counts import num_labels
from quantjax.data.protocols import Splits
from quantjax.errors import InputError
from quantjax.evaluate.evaluation import encode, evaluate
from quantjax.evaluate.results import Results
from quantjax.quantizers import (
    BinaryCodec,
    Codec,
    FloatCodec,
    NeuralResidualCodec,
    ProductCodec,
    ResidualCodec,
    product,
)
from quantjax.quantizers.ema import perplexity
from quantjax.run import parallel, processes

_ROWS = 2048  # training rows whose use of codewords is measured after an epoch


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
    sides = {"query": splits.query, "database": splits.database}
    if asked == "validation":
        sides = {"validation": splits.validation, "validation_database": splits.validation_database}
    for name, rows in sides.items():
        if len(rows) and not num_labels(labels[rows]).any():
            return f"nothing is measured: none of the {len(rows)} {name} rows has a label"
    # Every ranking would be perfect.
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
    # The codec may raise: before anything is embedded.
    codec = processes.on_host(experiment.method.codec(trained.params, trained.state))
    database = train.embed(experiment, trained, splits.database, mesh=mesh)
    codes = encode(codec, database, mesh=mesh)
    asks = ("query", "validation") if len(splits.validation) else ("query",)
    missing = {asked: unmeasured(splits, asked) for asked in asks}
    results: list[Results] = []
    if missing["query"] is None:
        results = _search(
            experiment, trained, codec, codes, database, name=name, measures=measures, mesh=mesh
        )
    if missing.get("validation", "none") is None:
        # Where validation queries search the database, its codes are here already.
        held = None
        if splits.validation_searches is None:
            held = codes[np.isin(splits.database, splits.validation_database)]
        found = measure_validation(
            experiment,
            trained,
            mesh=mesh,
            name=f"{name} validation",
            measures=measures,
            codes=held,
        )
        results.append(found)
    lines = tuple(line for line in missing.values() if line is not None)
    return Retrieval(results, codec, codes, audited, lines)


def _search(experiment, trained, codec, codes, database, *, name, measures, mesh):
    """Returns the results of the queries by the codec's distances, and by the embeddings alone."""
    splits = experiment.splits
    search = functools.partial(
        evaluate,
        queries=train.embed(experiment, trained, splits.query, queries=True, mesh=mesh),
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
    return [*results, search(plain, codes=stored, name=f"{name} float", distance="float")]


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


def watcher(
    experiment: train.Experiment, *, every: int = 1, mesh: Mesh | None = None
) -> train.AfterEpoch:
    """Returns an `after_epoch` function for `train.fit` that calls `watch`.

    Args:
      experiment: The experiment to train.
      every: Epochs between two measurements by validation queries; the last epoch is always
        measured. With 0 only the use of codewords is measured.
      mesh: Devices to measure on; all of them when None.

    Returns:
      `(train_state, epoch) -> values`, see `watch`.

    Raises:
      ValueError: if `every` is negative.
    """
    if every < 0:
        raise InputError(f"every must be 0 or more epochs, got {every}")

    def after_epoch(train_state, epoch):
        # The last epoch is the one that is kept, whatever `every` says.
        last = epoch + 1 == experiment.num_epochs
        validate = bool(every) and (last or (epoch + 1) % every == 0)
        return watch(experiment, train_state, mesh=mesh, validate=validate)

    return after_epoch


def watch(
    experiment: train.Experiment,
    train_state: train.TrainState,
    *,
    mesh: Mesh | None = None,
    validate: bool = True,
) -> dict[str, float]:
    """Measures codeword usage and validation mAP of a method during training.

    Args:
      experiment: The experiment in training.
      train_state: The current train state.
      mesh: From `run.parallel.data_mesh`; all devices when None.
      validate: Whether to measure validation queries, if the split has labelled ones.

    Returns:
      "codebook_perplexity" (mean over the codebooks, from 1 to K) and "dead_codewords" (of all
      codebooks) of some 2,048 training images, or "bit_entropy" (mean over the bits, from 0 to 1);
      "validation", mAP. An empty dict before the codec exists.
    """
    splits = experiment.splits
    try:
        codec = processes.on_host(experiment.method.codec(train_state.params, train_state.state))
    except ValueError:  # before the first codebooks
        return {}
    # Evenly spread: datasets are often sorted by class.
    rows = splits.train[np.unique(np.linspace(0, len(splits.train) - 1, _ROWS).astype(int))]
    x = train.embed(experiment, train_state, rows, mesh=mesh)
    found = usage_of(codec, encode(codec, x))
    if validate and len(splits.validation) and unmeasured(splits, "validation") is None:
        found["validation"] = measure_validation(experiment, train_state, mesh=mesh).value
    return found


def usage_of(codec: Codec, codes: np.ndarray) -> dict[str, float]:
    """Measures how evenly codes use a codec's codewords or bits.

    Args:
      codec: Codec with codewords or bits; another codec gives an empty dict.
      codes: Codes [N, num_bytes] uint8.
    """
    counts = codeword_counts(codec, codes)
    if counts is None:
        return {}
    if isinstance(codec, BinaryCodec):
        shares = counts / len(codes)
        # 0 log 0 is 0: a bit that never changes carries nothing.
        entropy = -np.sum(shares * np.log2(np.where(shares > 0, shares, 1)), axis=1)
        return {"bit_entropy": float(entropy.mean())}
    return {
        "codebook_perplexity": float(np.mean(perplexity(jnp.asarray(counts)))),
        "dead_codewords": int(np.sum(counts == 0)),
    }


def codeword_counts(codec: Codec, codes: np.ndarray) -> np.ndarray | None:
    """Counts how often each codeword, or each value of a bit, occurs in codes.

    Args:
      codec: Any codec.
      codes: Codes [N, num_bytes] uint8.

    Returns:
      Counts [M, K] of the codewords, or [bits, 2] of zeros and ones; None for a codec without
      codewords or bits.
    """
    if isinstance(codec, BinaryCodec):
        bits = np.unpackbits(codes, axis=1, bitorder="little")[:, : codec.bits]
        ones = bits.sum(axis=0, dtype=np.int64)
        return np.stack([len(codes) - ones, ones], axis=1)
    if not isinstance(codec, (ProductCodec, ResidualCodec, NeuralResidualCodec)):
        return None
    assignments = np.asarray(codec.assignments(jnp.asarray(codes)))
    size = codec.codebooks.shape[1]
    return np.stack([np.bincount(column, minlength=size) for column in assignments.T])
