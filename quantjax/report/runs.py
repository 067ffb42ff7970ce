"""Reads what runs have left in their folders, for tables and comparisons of several runs."""

import json
import pathlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from quantjax import evaluate
from quantjax.errors import MissingFileError, QuantjaxError
from quantjax.run import files, metric_log, workdirs

_RESULTS, _RECORDS = "results.json", "metrics.jsonl"


class Run(NamedTuple):
    """Describes a run by the files in its folder.

    Attributes:
      workdir: The folder.
      experiment: Name of the experiment, or None.
      status: "finished", "unfinished", "not measured" if it was only trained, or "damaged: " and
        the reason.
      epochs: Number of epochs that have ended; None if the run has no number of epochs.
      num_epochs: Number of epochs of the whole run, or None.
      written: Time of the last record in UTC, or None. An unfinished run that has written lately is
        at work.
      config: Settings by dotted key, without the places of data.
      results: As `evaluate.read_results` gives them; of an extended run perhaps still those of
        its earlier length.
      rows: Rows of results.json, with protocol and further facts.
    """

    workdir: pathlib.Path
    experiment: str | None = None
    status: str = "unfinished"
    epochs: int | None = None
    num_epochs: int | None = None
    written: str | None = None
    config: dict[str, Any] = {}  # noqa: RUF012  never changed
    results: Sequence[evaluate.Results] = ()
    rows: Sequence[dict[str, Any]] = ()


def find_runs(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the folders that hold a run, and in place of other folders the runs right in them.

    Args:
      folders: Existing paths. Files, and folders without a run, are left out.

    Raises:
      FileNotFoundError: if a path does not exist, or there is no run at all.
    """
    found = []
    for folder in folders:
        if not folder.exists():
            raise MissingFileError(f"there is no folder {folder}")
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        found += [folder] if _is_run(folder) else filter(_is_run, inside)
    if not found:
        raise MissingFileError(f"no run in {', '.join(map(str, folders))}; name folders of runs")
    return [*dict.fromkeys(found)]  # a folder may be named beside its parent


def _is_run(folder):
    return any((folder / name).is_file() for name in (workdirs.CONFIG, _RESULTS))


def read_run(workdir: pathlib.Path) -> Run:
    """Reads a run, which may be at work, unfinished or damaged.

    Args:
      workdir: The run's folder, which is not changed.
    """
    try:
        return _read_run(workdir)
    except QuantjaxError as error:
        # One damaged run of a hundred must not hide the others.
        return Run(workdir, status=f"damaged: {error}")


def _read_run(workdir):
    about, records = _about(workdir), metric_log.read(workdir / _RECORDS)
    settings = about.get("config")
    settings = workdirs.without_places(settings) if isinstance(settings, dict) else {}
    results, rows = [], []
    if has_results := (workdir / _RESULTS).is_file():
        results = evaluate.read_results(workdir)
        rows = json.loads((workdir / _RESULTS).read_text(encoding="utf-8"))
    num_epochs = settings.get("num_epochs")
    num_epochs = num_epochs if isinstance(num_epochs, int) else None
    epochs, written = _epochs(records), None
    if records:
        changed = (workdir / _RECORDS).stat().st_mtime
        written = datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")
    # Without records, as those of `quantjax train`, results tell of the end alone.
    trained = num_epochs is None or epochs >= num_epochs or (has_results and not records)
    status = "not measured" if trained and num_epochs is not None else "unfinished"
    return Run(
        workdir=workdir,
        experiment=about.get("experiment"),
        status="finished" if trained and has_results else status,
        epochs=None if num_epochs is None else epochs,
        num_epochs=num_epochs,
        written=written,
        config=workdirs.flat(settings),
        results=results,
        rows=rows,
    )


def _about(workdir):
    path = workdir / workdirs.CONFIG
    if not path.is_file():
        return {}
    # Not `read_config`: what `quantjax train` leaves has no config of an experiment file.
    with files.reading(f"cannot read {path}", "restore it"):
        return {**json.loads(path.read_text(encoding="utf-8"))}


def _epochs(records):
    """Returns the number of epochs that have ended, by the last record."""
    if not records:
        return 0
    ended = [
        each["after_epoch"] + 1 for each in records if isinstance(each.get("after_epoch"), int)
    ]
    # `fit` alone records no ends of epochs: its last record is of the epoch at work.
    return max(ended) if ended else int(records[-1].get("epoch", 0))


def short_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns names of runs: the shortest ends of their paths that all differ."""
    parts, names = [path.resolve().parts for path in paths], []
    for depth in range(1, 1 + max(map(len, parts))):
        names = ["/".join(each[-depth:]) for each in parts]
        if len({*names}) == len(names):
            break
    return names


def differing(configs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Returns the settings that differ between configs: their values by key, "-" for none.

    Args:
      configs: Settings of each run, by dotted key.
    """
    keys = sorted({key for config in configs for key in config})
    rows = {key: [config.get(key, "-") for config in configs] for key in keys}
    return {key: values for key, values in rows.items() if any(v != values[0] for v in values)}


def compare_results(
    first: Sequence[evaluate.Results], others: Sequence[evaluate.Results]
) -> list[tuple[evaluate.Results, evaluate.Comparison | str]]:
    """Compares two runs' results query by query, those of a metric and name with each other.

    Args:
      first: Results of the run that is subtracted.
      others: Results of the other run.

    Returns:
      For each of `others` that `first` has a like of, the result and its difference, or the reason
      why the two cannot be compared.
    """
    found = []
    for other in others:
        # Runs may hold several results of one metric, such as of codes and of floats: match alike.
        same = [each for each in first if _alike(each, other, first, others)]
        if not same:
            continue
        try:
            found.append((other, evaluate.compare(other, same[0])))
        except ValueError as error:
            # Results of different queries or databases cannot be paired.
            found.append((other, str(error)))
    return found


def _alike(a, b, of_a, of_b):
    """Returns whether two results match: equal metric, and equal name, or position and distance."""
    same_place = of_a.index(a) == of_b.index(b) and a.distance == b.distance
    return a.metric == b.metric and (a.name == b.name or same_place)
