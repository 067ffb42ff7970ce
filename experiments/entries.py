"""Entries of the ledger: looks up an experiment file, its ablation and its config by name."""

import importlib
import importlib.util
import pathlib
import pkgutil
import sys
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import experiments
from quantjax.errors import InputError


class Entry(NamedTuple):
    """Entry of the ledger: an experiment file and the overrides of an ablation.

    Attributes:
      name: FILE or FILE.ABLATION, FILE being the experiment file's name without its folder.
      module: The experiment file.
      overrides: Settings of the ablation, {} for none.
    """

    name: str
    module: ModuleType
    overrides: dict[str, Any]


def entry(name: str) -> Entry:
    """Returns the ledger's entry of a name.

    Args:
      name: FILE or FILE.ABLATION. FILE is an experiment of this folder, or the path of a Python
        file elsewhere, ending in ".py", whose folder is searched first for its imports.

    Raises:
      ValueError: if the file or the ablation does not exist, naming the existing ones.
    """
    path, suffix, rest = name.partition(".py")
    file, _, ablation = name.partition(".")
    if suffix and rest[:1] in ("", "."):
        module, ablation = _of_path(pathlib.Path(path + suffix)), rest[1:]
        file = module.__name__
    elif file in (known := names()):
        module = importlib.import_module(f"experiments.{file}")
    else:
        raise InputError(
            f"no experiment {file}; there are {', '.join(known)}, or give the path of a .py file"
        )
    ablations = getattr(module, "ABLATIONS", {})
    if ablation and ablation not in ablations:
        raise InputError(
            f"{file} has no ablation {ablation}; there are {', '.join(ablations) or 'none'}"
        )
    overrides = ablations[ablation] if ablation else {}
    return Entry(f"{file}.{ablation}" if ablation else file, module, overrides)


def _of_path(path):
    """Imports an experiment file outside of a package, once, under the file's name."""
    if not path.is_file():
        raise InputError(f"no experiment file {path}")
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path.resolve()):
        return loaded
    if importlib.util.find_spec(path.stem) is not None:
        raise InputError(f"{path} has the name of another module, {path.stem}; rename the file")
    sys.path.insert(0, str(path.resolve().parent))
    module = importlib.import_module(path.stem)
    if not (hasattr(module, "get_config") and hasattr(module, "build")):
        raise InputError(f"{path} must have get_config and build, as an experiment file has")
    return module


def names() -> list[str]:
    """Returns the names of all experiment files of this folder."""
    found = []
    for module in pkgutil.iter_modules(experiments.__path__):
        path = pathlib.Path(experiments.__path__[0]) / f"{module.name}.py"
        if path.exists() and "\ndef get_config()" in path.read_text():
            found.append(module.name)
    return found


def configure(entry: Entry, settings: dict[str, Any]) -> ConfigDict:
    """Returns an entry's config, changed first by its ablation and then by settings.

    Args:
      entry: From `entry`.
      settings: Values by key, such as bits and seed.

    Raises:
      ValueError: if a setting is not a key of the config, or has another type.
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
