"""Writes report pages, of one run or comparing several runs, as self-contained HTML files."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from quantjax import evaluate
from quantjax.errors import InputError, MissingFileError
from quantjax.report import figures
from quantjax.report.kept import read
from quantjax.report.runs import compare_results, differing, short_names
from quantjax.run import console, files, metric_log, workdirs
from quantjax.run.paths import user_path

PAGE = "report.html"
"""File of a workdir that holds its report."""


def draw(workdir: str | pathlib.Path) -> list[figures.Figure]:
    """Draws the figures of a run's page from the files in its workdir.

    Args:
      workdir: The run's folder.

    Returns:
      The figures, in the page's order; one that cannot be drawn holds the reason.
    """
    workdir = user_path(workdir)
    # Not from `fit`: the page is drawn from files alone, also years later.
    return [*figures.of_run(read(workdir), metric_log.read(workdir / "metrics.jsonl"))]


def write(
    workdir: str | pathlib.Path, drawn: Sequence[figures.Figure] | None = None
) -> pathlib.Path:
    """Writes a run's report.html from the files in its workdir.

    Args:
      workdir: The run's folder.
      drawn: From `draw`, which this calls when None.

    Returns:
      The page's path.

    Raises:
      FileNotFoundError: if the folder has no results.
      ValueError: if results or config are damaged.
    """
    workdir = user_path(workdir)
    results, kept = _results(workdir), read(workdir)
    experiment, config = _config(workdir)
    examples, examples_note = figures.examples(kept)
    classes, classes_note = figures.classes(kept)
    page = _template("run.html").render(
        title=kept.about.get("experiment") or experiment,
        headline=headline(results),
        rows=[_row(result, number) for result in results for number in result.numbers],
        ids=_ids(results),
        figures=draw(workdir) if drawn is None else drawn,
        examples=examples,
        kinds=figures.KINDS,
        examples_note=examples_note,
        classes=classes,
        classes_note=classes_note,
        facts=_facts(workdir, results, kept),
        audit=_audit(workdir),
        config=config,
    )
    files.write_text(workdir / PAGE, page)
    return workdir / PAGE


def compare(
    workdirs: Sequence[str | pathlib.Path], out: str | pathlib.Path = "comparison.html"
) -> pathlib.Path:
    """Writes a page that compares several runs: their results, paired tests and curves.

    Args:
      workdirs: Folders of at least two runs; the other runs are compared with the first.
      out: The page's path.

    Returns:
      The page's path.

    Raises:
      FileNotFoundError: if a folder has no results.
      ValueError: if a folder is repeated, fewer than two are given, or results are damaged.
    """
    paths = [user_path(workdir) for workdir in workdirs]
    # A run compared with itself would look like two equal runs.
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise InputError(f"a comparison takes two different workdirs or more, got {len(paths)}")
    results = [_results(path) for path in paths]
    names = short_names(paths)
    page = _template("comparison.html").render(
        title=f"{len(paths)} runs",
        rows=[
            {"run": name, **_row(result, number)}
            for name, found in zip(names, results, strict=True)
            for result in found
            for number in result.numbers
        ],
        ids=_ids([result for found in results for result in found]),
        tests={
            f"{name} minus {names[0]}": tests
            for name, found in zip(names[1:], results[1:], strict=True)
            if (tests := _tests(results[0], found))
        },
        figures=figures.of_runs(
            names,
            [read(path) for path in paths],
            [metric_log.read(p / "metrics.jsonl") for p in paths],
        ),
        settings=differing([_config(path)[1] for path in paths]),
        names=names,
    )
    out = user_path(out)
    files.write_text(out, page)
    return out


def headline(results: Sequence[evaluate.Results]) -> list[str]:
    """Returns sentences that summarise a run's results.

    Args:
      results: Results of a run, the result of its codes first.
    """
    if not results:
        return ["Nothing was measured."]
    first = results[0]
    number = first.numbers[0]
    lines = [
        f"{first.name}: {number.short} {number.words} with codes of {first.bits} bits "
        f"({first.distance_in_words}), over {first.num_queries:,} queries and "
        f"{first.num_database:,} items. A random order gets {number.chance:.3f}."
    ]
    # `evaluate_method` names the unquantized embedding so.
    whole = [each for each in results[1:] if each.name == f"{first.name} float"]
    if whole:
        lines.append(f"Without codes the same embeddings get {whole[0].value:.3f}.")
    if first.zero_queries:
        lines.append(f"{first.zero_queries:,} queries have no relevant item and count as 0.")
    return lines


def _template(name):
    import jinja2

    environment = jinja2.Environment(
        # Names of classes and settings come from others: escaped, they cannot be markup.
        loader=jinja2.PackageLoader("quantjax.report"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)


def _results(workdir):
    if not workdir.is_dir():
        raise MissingFileError(f"there is no folder {workdir}")
    return evaluate.read_results(workdir)


def _config(workdir):
    """Returns experiment and settings; without an experiment file the folder's name and none."""
    try:
        about = workdirs.read_config(workdir)
    except (InputError, MissingFileError):
        about = {}
    return about.get("experiment", workdir.name), workdirs.flat(about.get("config", {}))


def _row(result, number):
    return {
        "name": result.name,
        "distance": result.distance_in_words,
        "bits": "-" if result.bits is None else result.bits,
        "metric": number.short,
        "value": number.words,
        "ties": f"{number.worst:.3f} to {number.best:.3f}",
        "chance": "-" if number.chance != number.chance else f"{number.chance:.3f}",
    }


def _ids(results):
    return [*{number.metric: None for result in results for number in result.numbers}]


def _facts(workdir, results, kept):
    """Returns the rows of the table of facts: protocol, seed, commit, device and others."""
    first = _json(workdir / "results.json")[0] if results else {}
    run = first.get("run", {})
    versions = ", ".join(f"{name} {value}" for name, value in first.get("versions", {}).items())
    facts = {
        "protocol": first.get("protocol"),
        "split": first.get("split"),
        "seed": first.get("seed"),
        "steps": kept.about.get("step"),
        "commit": kept.about.get("commit"),
        "command": kept.about.get("command"),
        "begin of training": run.get("begin"),
        "end of training": run.get("end"),
        "restarts": run.get("restarts"),
        "changed since training": ", ".join(run.get("changed_code", ())),
        "wall time": kept.about.get("seconds") and f"{kept.about['seconds']} s before baselines",
        "device": first.get("device"),
        "versions": versions,
        "written": kept.about.get("written"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _audit(workdir):
    """Returns the findings of the split's audit, one line each."""
    rows = _json(workdir / "results.json")
    audit = rows[0].get("audit", {}) if rows else {}
    if not audit:
        return ["No audit is kept."]
    return console.audit_findings(audit) or [
        "No overlaps, no equal images, every query has a match."
    ]


def _json(path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))


def _tests(first, others):
    """Tests the differences of two runs' results, paired by query, for shared metrics and tasks."""
    tests = []
    for other, found in compare_results(first, others):
        row = {"result": other.name, "distance": other.distance_in_words}
        if isinstance(found, str):
            tests.append({**row, "missing": found})
            continue
        tests.append(
            {
                **row,
                "metric": other.numbers[0].short,
                "difference": f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f})",
                "p_value": f"{found.p_value:.4f}",
            }
        )
    return tests
