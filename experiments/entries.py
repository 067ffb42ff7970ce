"""What a name of the ledger stands for: an experiment file, what is left out, and its config."""

import importlib
import pathlib
import pkgutil
import subprocess
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import experiments
from quantjax.errors import InputError


class Entry(NamedTuple):
    """What a name of the ledger stands for.

    Attributes:
      name: FILE or FILE.ABLATION.
      module: The experiment file.
      overrides: Of the ablation.
    """

    name: str
    module: ModuleType
    overrides: dict[str, Any]


def entry(name: str) -> Entry:
    """Finds a name.

    Args:
      name: FILE or FILE.ABLATION.

    Raises:
      ValueError: if there is no such file or ablation, saying what there is.
    """
    file, _, ablation = name.partition(".")
    known = names()
    if file not in known:
        raise InputError(f"no experiment {file}; there are {', '.join(known)}")
    module = importlib.import_module(f"experiments.{file}")
    ablations = getattr(module, "ABLATIONS", {})
    if ablation and ablation not in ablations:
        raise InputError(
            f"{file} has no ablation {ablation}; there are {', '.join(ablations) or 'none'}"
        )
    return Entry(name, module, ablations[ablation] if ablation else {})


def names() -> list[str]:
    """Returns all experiment files."""
    found = []
    for module in pkgutil.iter_modules(experiments.__path__):
        path = pathlib.Path(experiments.__path__[0]) / f"{module.name}.py"
        if path.exists() and "\ndef get_config()" in path.read_text():
            found.append(module.name)
    return found


def configure(entry: Entry, settings: dict[str, Any]) -> ConfigDict:
    """Returns an entry's config with its ablation's overrides, and settings on top.

    Args:
      entry: From `entry`.
      settings: Such as bits and seed.

    Raises:
      ValueError: if a setting is none of the config's keys, or of another type.
    """
    config = entry.module.get_config()
    for overrides in (entry.overrides, settings):
        for key, value in overrides.items():
            if key not in config:
                raise InputError(f"{entry.name} has no setting {key}")
            try:
                config[key] = value
            except TypeError:
                kind = type(config[key]).__name__
                raise InputError(f"{key} of {entry.name} is of {kind}, got {value!r}") from None
    return config


def commit() -> str:
    """Returns the commit of the code, with a plus if the code differs from it."""
    root = pathlib.Path(__file__).parents[1]

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False
        ).stdout.strip()

    found = git("rev-parse", "--short=7", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    return f"{found}{'+' if changed else ''}" if found else "unknown"
