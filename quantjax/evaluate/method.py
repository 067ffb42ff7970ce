"""A method, measured on a split: with codes, with codes on both sides, and without any."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from quantjax import embedding, metrics, processes
from quantjax.data.audit import Audit, audit
from quantjax.data.protocols import Splits
from quantjax.errors import InputError
from quantjax.evaluate.evaluation import encode, evaluate
from quantjax.evaluate.results import Results
from quantjax.methods.base import Batch, Method
from quantjax.quantizers import Codec, FloatCodec, product


def task_of(splits: Splits, asked: str = "query") -> str:
    """Names what results must share to be compared: the split, and which of its lists asks."""
    return f"{asked} of {splits.digest} {splits.source_digest or ''}".strip()


class Retrieval(NamedTuple):
    """A method, measured.

    Attributes:
      results: One for each distance, and for the validation queries.
      codec: The method's codec.
      codes: Codes of the database, [N, num_bytes] uint8, in the order of `splits.database`.
      audit: What was found about the split.
    """

    results: list[Results]
    codec: Codec
    codes: np.ndarray
    audit: Audit


def evaluate_method(
    method: Method,
    params: Any,
    state: Any,
    splits: Splits,
    *,
    preprocess: Callable[[Batch], Batch],
    mesh: Mesh,
    name: str,
    measures: Sequence[metrics.Measure] = (metrics.measures.average_precision(),),
    audited: Audit | None = None,
) -> Retrieval:
    """Audits, embeds and codes a split, and measures what quantization costs.

    Args:
      method: What was trained, or not yet.
      params: Its params.
      state: Its state, with codebooks.
      splits: Queries and database; validation queries, if any, get a result of their own.
      preprocess: `batch -> batch` on device.
      mesh: From `parallel.data_mesh`.
      name: What is evaluated; "NAME float" is the unquantized embedding, "NAME validation" the
        validation queries against the database without them.
      measures: What to measure.
      audited: From `data.audit`, with whatever it was told to allow; None audits here.

    Returns:
      Results: asymmetric and symmetric distances (or Hamming), float, then validation.

    Raises:
      ValueError: if the codebooks do not exist yet, or the audit refuses the split.
    """
    audited = audit(splits) if audited is None else audited
    if audited.digest != splits.digest:
        raise InputError(
            f"audited must be of these splits, {splits.digest[:8]}, got {audited.digest[:8]}"
        )
    codec = processes.on_host(method.codec(params, state))

    def embedded(side, rows):
        return embedding.embed(
            side, params, state, splits.source, rows, preprocess=preprocess, mesh=mesh
        )

    queries = embedded(method.embed_query, splits.query)
    database = embedded(method.embed, splits.database)
    codes = encode(codec, database, mesh=mesh)
    labels = splits.source.labels

    def measured(codec, codes, name, distance):
        return evaluate(
            codec,
            queries,
            codes,
            labels[splits.query],
            labels[splits.database],
            name=name,
            distance=distance,
            measures=measures,
            mesh=mesh,
            task=task_of(splits),
        )

    kinds = ("hamming",) if codec.metric == "hamming" else ("aqd", "sqd")
    results = [measured(codec, codes, name, kind) for kind in kinds]
    metric = codec.metric if codec.metric in product.METRICS else "cosine"  # signs: by their angle
    plain = FloatCodec(database.shape[1], metric=metric)
    stored = encode(plain, database, mesh=mesh)
    results.append(measured(plain, stored, f"{name} float", "float"))
    if len(splits.validation):
        held = None
        if splits.validation_searches is None:
            held = codes[np.isin(splits.database, splits.validation_database)]
        results.append(
            measure_validation(
                method,
                params,
                state,
                splits,
                preprocess=preprocess,
                mesh=mesh,
                name=f"{name} validation",
                measures=measures,
                codes=held,
            )
        )
    return Retrieval(results, codec, codes, audited)


def measure_validation(
    method: Method,
    params: Any,
    state: Any,
    splits: Splits,
    *,
    preprocess: Callable[[Batch], Batch],
    mesh: Mesh,
    name: str = "validation",
    measures: Sequence[metrics.Measure] = (metrics.measures.average_precision(),),
    codes: np.ndarray | None = None,
) -> Results:
    """Measures what validation queries find, by the asymmetric or the Hamming distance.

    Args:
      method: What was trained, or still trains.
      params: Its params.
      state: Its state, with codebooks.
      splits: Validation rows, and what they search.
      preprocess: `batch -> batch` on device.
      mesh: From `parallel.data_mesh`.
      name: Of the result.
      measures: What to measure.
      codes: Of `splits.validation_database`, if they are there already.

    Raises:
      ValueError: if the codebooks do not exist yet.
    """
    codec = processes.on_host(method.codec(params, state))

    def embedded(side, rows):
        return embedding.embed(
            side, params, state, splits.source, rows, preprocess=preprocess, mesh=mesh
        )

    if codes is None:
        codes = encode(codec, embedded(method.embed, splits.validation_database), mesh=mesh)
    labels = splits.source.labels
    return evaluate(
        codec,
        embedded(method.embed_query, splits.validation),
        codes,
        labels[splits.validation],
        labels[splits.validation_database],
        name=name,
        distance="hamming" if codec.metric == "hamming" else "aqd",
        measures=measures,
        mesh=mesh,
        task=task_of(splits, "validation"),
    )
