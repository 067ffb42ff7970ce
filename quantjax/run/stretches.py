"""Records the stretches of a run in its workdir: which code, command and devices took which steps.

A run that was stopped and goes on begins a new stretch. stretches.json has an object for each, with
the keys of `begin`, of `end`, and whatever else the caller knows. A killed stretch has no end.
"""

import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from quantjax.run import files

FILE = "stretches.json"
"""File of a workdir that lists the stretches of its run, oldest first."""

Stretch = dict[str, Any]


def begin(workdir: pathlib.Path, step: int, about: Mapping[str, Any]) -> None:
    """Adds a stretch, with "begin" (the time), "from" (the step) and "sources".

    Args:
      workdir: Folder of the run, which this process has locked.
      step: The step that the stretch starts at.
      about: Further entries (JSON), among them "flags" and "sources", from `sources.digests`. Of
        the sources the file keeps only what is new since the stretches before.
    """
    earlier = read(workdir)
    known = {path: sha for stretch in earlier for path, sha in stretch["sources"].items()}
    fresh = {path: digest for path, digest in about["sources"].items() if known.get(path) != digest}
    path = workdir / FILE
    if path.exists() and not earlier:
        # It is damaged: kept for a person to look at.
        os.replace(path, path.with_name(f"{FILE}.unreadable"))
    _write(workdir, [*earlier, {"begin": now(), "from": step, **about, "sources": fresh}])


def end(workdir: pathlib.Path, step: int, **about: Any) -> None:
    """Completes the last stretch, with "end" (the time) and "to" (the step); does nothing twice.

    Args:
      workdir: Folder of the run, which this process has locked.
      step: The step that the stretch ends at.
      about: Further entries (JSON), such as the signal that ended it.
    """
    found = read(workdir)
    if found and "end" not in found[-1]:
        found[-1] |= {"end": now(), "to": step, **about}
        _write(workdir, found)


def now() -> str:
    """Returns the time in UTC, such as "2026-01-31T12:00:00+00:00"."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read(workdir: pathlib.Path) -> list[Stretch]:
    """Reads the stretches of a run, oldest first; a damaged file gives a warning and none.

    Args:
      workdir: Folder of the run; an older version left no file there.
    """
    path = workdir / FILE
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for stretch in found:
            parts = {"from": int, "sources": dict, "flags": dict}
            wrong = [name for name, kind in parts.items() if not isinstance(stretch[name], kind)]
            if wrong:
                raise TypeError(f"a stretch has a wrong {wrong[0]!r}")
    except files.DAMAGE as error:
        warnings.warn(
            f"{path} is damaged, so which code took earlier steps is not known: "
            f"{files.one_line(error)}",
            stacklevel=2,
        )
        return []
    return list(found)


def _write(workdir, found):
    files.write_text(workdir / FILE, json.dumps(found, indent=1) + "\n")


def trained_by(found: Sequence[Stretch], step: int) -> dict[str, str]:
    """Returns the digests of the sources that took the steps up to a step, the latest of each file.

    Args:
      found: From `read`.
      step: The step that a run stands at.
    """
    known: dict[str, str] = {}
    trained: dict[str, str] = {}
    ends = [*(stretch["from"] for stretch in found[1:]), step]
    for stretch, end in zip(found, ends, strict=False):
        known = {**known, **stretch["sources"]}
        # A stretch that was killed before a checkpoint took no step of those that are left.
        if end > stretch["from"]:
            trained = known
    return trained


def summary(found: Sequence[Stretch]) -> list[Stretch]:
    """Returns the stretches without digests, but with "changed": files that differ from before."""
    known: set[str] = set()
    rows = []
    for stretch in found:
        rows.append({**stretch, "changed": sorted(known & stretch["sources"].keys())})
        del rows[-1]["sources"]
        known |= stretch["sources"].keys()
    return rows
