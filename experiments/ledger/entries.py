"""Entries of the ledger: looks up an experiment, its ablation and its config by name."""

import importlib
import importlib.util
import pathlib
import pkgutil
import sys
from collections.abc import Collection
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from quantjax.errors import InputError, listed

_PACKAGE = __name__.split(".")[0]  # `experiments`, or its name in a wheel


class Entry(NamedTuple):
    """Entry of the ledger: an experiment and the overrides of an ablation.

    Attributes:
      name: METHOD_DATA or METHOD_DATA.ABLATION.
      module: The method's file.
      data_set: What its get_config and build take beside a config: (), or a key of its `DATA_SETS`.
      overrides: Settings of the ablation, {} for none.
    """

    name: str
    module: ModuleType
    data_set: tuple[str, ...]
    overrides: dict[str, Any]


def entry(name: str) -> Entry:
    """Returns the ledger's entry of a name.

    Args:
      name: METHOD_DATA, an experiment of this package, or the path of a Python file elsewhere,
        ending in ".py", whose folder is searched first for its imports. ".DATA" follows a path
        whose file has `DATA_SETS`, and ".ABLATION" may follow both.

    Raises:
      ValueError: if the file, the data set or the ablation does not exist, naming the existing
        ones.
    """
    # ".py" ends a path, while the names of experiments have no dot ahead of an ablation.
    path, suffix, rest = name.partition(".py")
    if suffix and rest[:1] in ("", "."):
        module, rest = _of_path(pathlib.Path(path + suffix)), rest[1:]
        title, data_set = module.__name__, ()
        if "DATA_SETS" in vars(module):
            word, _, rest = rest.partition(".")
            data_set = (_known(title, "data set", word, module.DATA_SETS),)
            title = f"{title}_{word}"
    else:
        title, _, rest = name.partition(".")
        if title not in (known := names()):
            raise InputError(
                f"no experiment {title}; there are {listed(known, title)}, or give the path of "
                "a .py file"
            )
        file, *data_set = known[title]
        module = importlib.import_module(f"{_PACKAGE}.{file}")
    ablations = vars(module).get("ABLATIONS", {})
    overrides = ablations[_known(title, "ablation", rest, ablations)] if rest else {}
    return Entry(f"{title}.{rest}" if rest else title, module, tuple(data_set), overrides)


def _known(title, kind, word, known):
    """Returns a word; raises InputError if it is not known."""
    if word not in known:
        raise InputError(f"{title} has no {kind} {word}; there are {listed(known, word) or 'none'}")
    return word


def _of_path(path):
    """Imports an experiment file outside of a package, once, under the file's name."""
    if not path.is_file():
        raise InputError(f"no experiment file {path}")
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path.resolve()):
        return loaded
    if importlib.util.find_spec(path.stem) is not None:
        raise InputError(f"{path} has the name of another module, {path.stem}; rename the file")
    # First, so that the file finds its own method file and no other of that name.
    sys.path.insert(0, str(path.resolve().parent))
    module = importlib.import_module(path.stem)
    if not (hasattr(module, "get_config") and hasattr(module, "build")):
        raise InputError(f"{path} must have get_config and build, as an experiment file has")
    return module


def names() -> dict[str, tuple[str, ...]]:
    """Returns the files of all experiments of this package, by name: (FILE,) or (FILE, DATA)."""
    found: dict[str, tuple[str, ...]] = {}
    folder = pathlib.Path(__file__).parents[1]
    for each in pkgutil.iter_modules([str(folder)]):
        path = folder / f"{each.name}.py"
        # Read first: other files, such as `pictures`, need not be imported.
        if not path.exists() or "\ndef get_config(" not in path.read_text(encoding="utf-8"):
            continue
        module = importlib.import_module(f"{_PACKAGE}.{each.name}")
        if "DATA_SETS" not in vars(module):
            found[each.name] = (each.name,)
        else:
            found |= {f"{each.name}_{word}": (each.name, word) for word in module.DATA_SETS}
    return found


def refuse_overwritten(settings: Collection[str], by: Collection[str], command: str) -> None:
    """Refuses settings that a command would overwrite without a word.

    Args:
      settings: Keys of settings that a user gave.
      by: Keys that the command sets itself.
      command: What to do instead.

    Raises:
      ValueError: if a key is in both.
    """
    for key in settings:
        if key in by:
            raise InputError(f"--set {key} would be overwritten; {command}")


def configure(entry: Entry, settings: dict[str, Any]) -> ConfigDict:
    """Returns an entry's config, changed first by its ablation and then by settings.

    Args:
      entry: From `entry`.
      settings: Values by key, such as bits and seed.

    Raises:
      ValueError: if a setting is not a key of the config, or has another type.
    """
    config = entry.module.get_config(*entry.data_set)
    # Settings come last: a length or a seed holds for an ablation too.
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
