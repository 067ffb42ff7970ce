"""Digests the source files that a process has loaded, and tells which of two states differ."""

import hashlib
import os
import pathlib
import sys
from collections.abc import Mapping

from quantjax.errors import InputError, few
from quantjax.run import processes

_INSTALLED = {"site-packages", "dist-packages"}  # names of folders that pip installs into


def digests(*packages: str) -> dict[str, str]:
    """Returns the SHA-256 of each loaded source file of the user's and of this package's code.

    These are this package, the given packages, and every module that is neither installed nor of
    the standard library, such as the user's files. Code that was typed into a notebook or after
    `-c` has no file, and is left out.

    Args:
      packages: Names of further packages, or of modules of theirs.

    Returns:
      The first 16 hex digits by file, such as "quantjax/labels.py": names of modules, which do not
      tell where the files lie.
    """
    roots = {name.partition(".")[0] for name in (__name__, *packages)} - {"__main__"}
    library = os.path.dirname(os.__file__) + os.sep
    found = {}
    for name, module in [*sys.modules.items()]:
        # Strings: paths of the thousands of modules of a process take a tenth of a second.
        file = getattr(module, "__file__", None) or ""
        if not file.endswith(".py"):
            continue
        is_foreign = file.startswith(library) or not _INSTALLED.isdisjoint(file.split(os.sep))
        # A file may have been removed since it was loaded.
        if (name.partition(".")[0] in roots or not is_foreign) and os.path.isfile(file):
            file = pathlib.Path(file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            found[_named(name, module, file)] = digest[:16]
    return found


def _named(name, module, file):
    """Returns the path of a module's file below the folder that Python found the module in."""
    if name == "__main__":
        spec = getattr(module, "__spec__", None)
        # `python FILE` knows no module, `python -m MODULE` does.
        name = file.stem if spec is None else spec.name
    path = name.replace(".", "/")
    return f"{path}/__init__.py" if file.name == "__init__.py" else f"{path}.py"


def combined(found: Mapping[str, str]) -> str:
    """Returns one digest of all files, which two runs of the same code have in common."""
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Returns the files, sorted, whose digests differ.

    A file that only one side has loaded does not count: loading it was a change of another file,
    or of an option.
    """
    return sorted(path for path in before.keys() & now.keys() if before[path] != now[path])


def check_same(found: Mapping[str, str]) -> None:
    """Raises ValueError, in every process, if the processes of a run have different sources.

    Args:
      found: From `digests`.

    Raises:
      ValueError: naming the files, in a process that differs from process 0.
    """
    differing = changed(processes.from_first(lambda: {**found}), found)
    if processes.all_agree(len(differing)):
        which = f"process {processes.number()}" if differing else "another process"
        files = f" ({few(differing)})" if differing else ""
        raise InputError(
            f"{which} runs other code than process 0{files}; update it and start again"
        )
