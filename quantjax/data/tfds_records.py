"""Finds sets that TensorFlow Datasets has prepared, and their records by row; downloads nothing."""

import contextlib
import difflib
import functools
import importlib
import json
import shlex
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from quantjax.errors import InputError, MissingFileError, MissingPackageError

_FEW = 8  # names that an error shows
_OF_TFDS = "tensorflow_datasets.core.features."
_SEARCHING = threading.Lock()


class Records(NamedTuple):
    """Records of splits that follow each other; made by `open_records`.

    Attributes:
      name: The set, with config and version.
      splits: Names of the splits.
      parts: What TFDS gives for each.
      starts: First row of each split, then the number of all rows.
    """

    name: str
    splits: tuple[str, ...]
    parts: tuple[Any, ...]
    starts: np.ndarray

    def name_of(self, row: int) -> str:
        """Returns what to call a row in an error."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.name} {self.splits[part]}[{row - self.starts[part]}]"

    def read(self, rows: np.ndarray) -> list[Mapping[str, Any]]:
        """Returns the records of rows [n], asking each split once.

        Raises:
          ValueError: if a file of the set is missing or damaged.
        """
        parts = np.searchsorted(self.starts, rows, side="right") - 1
        records: dict[int, Mapping[str, Any]] = {}
        for part in np.unique(parts):
            places = np.flatnonzero(parts == part)
            numbers = (rows[places] - self.starts[part]).tolist()
            try:
                found = self.parts[part].__getitems__(numbers)
            except Exception as error:  # of a C++ library, on damaged files
                raise _damaged(self.name, self.splits[part], error) from error
            records.update(zip(places.tolist(), found, strict=True))
        return [records[place] for place in range(len(rows))]


def import_tfds() -> ModuleType:
    """Returns tensorflow_datasets; raises ModuleNotFoundError with what to install."""
    try:
        return importlib.import_module("tensorflow_datasets")
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "sets of TFDS need tensorflow-datasets, which is not installed: "
            'pip install "quantjax[tfds]"'
        ) from error


def find_builder(name: str, folder: Path) -> Any:
    """Returns the builder of a set, from its code or from what is prepared in a folder.

    Files of the folder name classes of features, and TFDS would import any module for them. Here
    they may name TFDS's own, and those of modules that were imported before.

    Raises:
      ValueError: if there is neither, the name is none, or the files of the set are damaged.
    """
    tfds = import_tfds()
    try:
        if tfds.core.naming.parse_builder_name_kwargs(name)[0].namespace:
            raise InputError("the part before the colon is a namespace, whose sets are downloaded")
        with _importing_nothing(tfds.features.FeatureConnector):
            return tfds.builder(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        alike = difflib.get_close_matches(name.split(":")[0].split("/")[0], known)
        advice = f"; did you mean {' or '.join(alike)}?" if alike else ""
        raise InputError(
            f"no set {name} in TFDS or in {folder}, {_holds(folder)}{advice}"
        ) from None
    except ImportError:  # of the code of a set that was imported
        raise
    except Exception as error:  # of TFDS, of many lines, and of libraries that read its files
        reason = textwrap.shorten(str(error).split('}": ', 1)[-1], 200) or type(error).__name__
        of_files = isinstance(error, _UnknownFeatureError | json.JSONDecodeError)
        if isinstance(error, AssertionError | ValueError) and not of_files:
            raise InputError(f"no set {name} in TFDS: {reason}") from error
        raise InputError(f"cannot read {name} in {folder}: {reason}") from error


class _UnknownFeatureError(ValueError):
    pass


@contextlib.contextmanager
def _importing_nothing(connector):
    """Keeps TFDS's search for a class of features from importing what a file names."""
    with _SEARCHING:
        search = connector.cls_from_name.__func__
        connector.cls_from_name = classmethod(functools.partial(_known, search))
        try:
            yield
        finally:
            connector.cls_from_name = classmethod(search)


def _known(search, cls, name):
    if not name.startswith(_OF_TFDS) and name not in cls._registered_features:
        raise _UnknownFeatureError(f"{name[:80]!r} is no feature of TFDS; import its module first")
    return search(cls, name)


def open_records(builder: Any, splits: Sequence[str], folder: Path) -> Records:
    """Returns the records of a builder's splits, images still encoded.

    Raises:
      FileNotFoundError: if the set is not prepared, or not for random access.
      ValueError: if it has no such split, the splits have no row, or a file is damaged.
    """
    name, decoders = builder.info.full_name, _skips(builder.info.features)
    parts, lengths = [], []
    for split in splits:
        try:
            parts.append(builder.as_data_source(split=split, decoders=decoders))
            lengths.append(len(parts[-1]))
        except (NotImplementedError, KeyError, ValueError) as error:
            raise _why_not(builder, split, folder) from error
        except (RuntimeError, TypeError) as error:
            raise _damaged(name, split, error) from error
    if not any(lengths):
        raise _no_rows(builder, splits)
    return Records(name, tuple(splits), tuple(parts), np.cumsum([0, *lengths]))


def _skips(features: Mapping[str, Any]) -> dict[str, Any]:
    """Returns decoders that leave encoded what images a record has, but for those in sequences."""
    tfds = import_tfds()
    decoders: dict[str, Any] = {}
    for key, feature in features.items():
        if isinstance(feature, tfds.features.Image):
            decoders[key] = tfds.decode.SkipDecoding()
        elif isinstance(feature, tfds.features.FeaturesDict):
            decoders[key] = _skips(feature)
    return decoders


def _why_not(builder: Any, split: str, folder: Path) -> Exception:
    """Returns the error for a split that cannot be opened."""
    tfds = import_tfds()
    name = builder.info.full_name
    if not builder.is_prepared():
        return MissingFileError(
            f"{name} is not prepared in {folder}, {_holds(folder)}; prepare it, for which many "
            f"sets need TensorFlow: {_command(builder, folder)}"
        )
    formats = builder.info.available_file_formats()
    if not formats & tfds.core.FileFormat.with_random_access():
        came = ", ".join(sorted(each.value for each in formats))
        return MissingFileError(
            f"{name} is prepared in {folder} as {came}, which has no random access; prepare it in "
            "another folder, a set of your own after an import of its code: "
            f"{_command(builder, folder / 'array_record')}"
        )
    return _no_rows(builder, split)


def _no_rows(builder: Any, split: str | Sequence[str]) -> ValueError:
    has = ", ".join(f"{key} ({each.num_examples:,})" for key, each in builder.info.splits.items())
    return InputError(
        f"split must name rows of {builder.info.full_name}, which has {has}, got {split!r}"
    )


def _damaged(name: str, split: str, error: Exception) -> ValueError:
    return InputError(
        f"cannot read {split} of {name}: {error}; delete what is prepared, and prepare it anew"
    )


def _command(builder: Any, folder: Path) -> str:
    """Returns a command that prepares a set; the program `tfds` would need Apache Beam too."""
    config = builder.builder_config and builder.builder_config.name
    name = json.dumps(f"{builder.name}/{config}" if config else builder.name)
    place = json.dumps(str(folder))
    return "python -c " + shlex.quote(
        f"import tensorflow_datasets as tfds; tfds.builder({name}, data_dir={place}, "
        'file_format="array_record").download_and_prepare()'
    )


def _holds(folder: Path) -> str:
    """Returns which sets are prepared in a folder, as the end of a sentence."""
    found = []
    for depth in ("*/*", "*/*/*"):
        for path in folder.glob(f"{depth}/dataset_info.json"):
            *name, version = path.parent.relative_to(folder).parts
            found.append(f"{'/'.join(name)}:{version}")
    if not found:
        return "which holds no prepared set"
    more = f" and {len(found) - _FEW} more" if len(found) > _FEW else ""
    return f"which holds {', '.join(sorted(found)[:_FEW])}{more}"
