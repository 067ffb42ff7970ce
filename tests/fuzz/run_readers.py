"""Readers of what a run leaves: its config, its records, its results."""

import json
import tempfile
import warnings
from pathlib import Path

import numpy as np

from quantjax import evaluate
from quantjax.quantizers import BinaryCodec
from quantjax.run import metric_log, sources, stretches, workdirs
from tests.fuzz import restructured
from tests.fuzz.reader import JSON_TOKENS, Reader

_ABOUT = {"experiment": "toy", "config": {"bits": 8, "rates": [0.1, 0.2], "data_dir": None}}
_ROWS, _QUERIES = "results.json", "per_query.safetensors"


def _results(name: str) -> bytes:
    """A file of results of two queries."""
    rng = np.random.default_rng(0)
    codec = BinaryCodec(8)
    codes = evaluate.encode(codec, rng.normal(size=(4, 8)))
    labels = np.arange(4) % 2
    found = evaluate.evaluate(
        codec, rng.normal(size=(2, 8)), codes, labels[:2], labels, name="toy", distance="hamming"
    )
    with tempfile.TemporaryDirectory() as folder:
        evaluate.write_results(folder, [found], {})
        return (Path(folder) / name).read_bytes()


def _other(name: str):
    content = _results(name)
    return lambda path: (path.parent / name).write_bytes(content)


def _read_results(path: Path) -> None:
    for result in evaluate.read_results(path.parent):
        assert all(len(values) == result.num_queries for values in result.per_query.values())


def _read_records(path: Path) -> None:
    steps = [record["step"] for record in metric_log.rewind(path, 25)]
    assert all(step <= 25 for step in steps)


def _records() -> list[bytes]:
    lines = [{"step": step, "epoch": 0, "phase": "joint", "loss": 0.5} for step in (10, 20, 30)]
    return ["".join(json.dumps(line) + "\n" for line in lines).encode()]


_SOURCES = ({"a.py": "0f", "b.py": "1e"}, {"a.py": "2d"})


def _stretches() -> list[bytes]:
    about = {"flags": {"keep": 3}, "code": "0f", "devices": "1 x cpu", "num_steps": 20}
    with tempfile.TemporaryDirectory() as folder:
        for step, digests in zip((0, 10), _SOURCES, strict=True):
            stretches.begin(Path(folder), step, {**about, "sources": digests})
            stretches.end(Path(folder), step + 10, stopped="SIGTERM")
        return [(Path(folder) / stretches.FILE).read_bytes()]


def _read_stretches(path: Path) -> None:
    with warnings.catch_warnings():
        # Damage is a warning, since it must not stop a run.
        warnings.simplefilter("error")
        found = stretches.read(path.parent)
    assert len(stretches.summary(found)) == len(found)
    sources.changed(stretches.trained_by(found, 15), _SOURCES[1])


READERS = {
    "config": Reader(
        lambda: [json.dumps(_ABOUT, indent=2).encode()],
        lambda path: workdirs.claim(path.parent, _ABOUT),
        "config.json",
        JSON_TOKENS,
        restructured.json_value,
    ),
    "records of a run": Reader(_records, _read_records, "metrics.jsonl", JSON_TOKENS),
    "stretches of a run": Reader(
        _stretches,
        _read_stretches,
        stretches.FILE,
        JSON_TOKENS,
        restructured.json_value,
        errors=(UserWarning,),
    ),
    "results": Reader(
        lambda: [_results(_ROWS)],
        _read_results,
        _ROWS,
        JSON_TOKENS,
        restructured.json_value,
        prepare=_other(_QUERIES),
    ),
    "values of queries": Reader(
        lambda: [_results(_QUERIES)],
        _read_results,
        _QUERIES,
        restructured=restructured.safetensors,
        prepare=_other(_ROWS),
    ),
}
