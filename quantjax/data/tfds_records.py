"""Opens prepared data sets of TensorFlow Datasets and reads their records; never downloads."""

import contextlib
import difflib
import functools
import json
import shlex
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from quantjax.errors import InputError, MissingFileError, few, load_package

_FEW = 8  # names that an error shows
_OF_TFDS = "tensorflow_datasets.core.features."
_SEARCHING = threading.Lock()


class Records(NamedTuple):
    """Numbers the records of several splits in a row; made by `open_records`.

    Attributes:
      name: Name of the data set, with config and version.
      splits: Names of the splits.
      parts: TFDS's data source of each split.
      starts: First row of each split, then the number of all rows.
    """

    name: str
    splits: tuple[str, ...]
    parts: tuple[Any, ...]
    starts: np.ndarray

    def name_of(self, row: int) -> str:
        """Returns the name of a row for messages: data set, split and position in the split."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.name} {self.splits[part]}[{row - self.starts[part]}]"

    def read(self, rows: np.ndarray) -> list[Mapping[str, Any]]:
        """Reads the records of rows [n], with one request to each split.

        Raises:
          ValueError: if a file of the data set is missing or damaged.
        """
        parts = np.searchsorted(self.starts, rows, side="right") - 1
        # One request reads the records of a split in parallel; they are put in order again below.
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
    """Imports tensorflow_datasets; raises ModuleNotFoundError with the command to install it."""
    return load_package("tensorflow_datasets", extra="tfds", purpose="reading sets of TFDS")


def find_builder(name: str, folder: Path) -> Any:
    """Returns the TFDS builder of a data set, from its code or from its prepared files.

    The files name feature classes, and TFDS would import any module that they name. Here they may
    only name TFDS's own classes and those of modules that were imported before.

    Raises:
      ValueError: if neither code nor files exist, the name is invalid, or the files are damaged.
    """
    tfds = import_tfds()
    try:
        # Sets of a namespace, such as huggingface:, are fetched from elsewhere when they are named.
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
    """Prevents TFDS from importing modules that a data set's files name, while in the context."""
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
    """Opens the records of some splits of a data set; images stay encoded.

    Raises:
      FileNotFoundError: if the set is not prepared, or not for random access.
      ValueError: if a split does not exist, the splits have no row, or a file is damaged.
    """
    # Encoded, as TFDS would decode with TensorFlow or OpenCV, neither upright nor checked.
    name, decoders = builder.info.full_name, _skips(builder.info.features)
    parts, lengths = [], []
    for split in splits:
        try:
            parts.append(builder.as_data_source(split=split, decoders=decoders))
            lengths.append(len(parts[-1]))
        # The first group means a missing preparation or split, the second damaged files.
        except (NotImplementedError, KeyError, ValueError) as error:
            raise _why_not(builder, split, folder) from error
        except (RuntimeError, TypeError) as error:
            raise _damaged(name, split, error) from error
    if not any(lengths):
        raise _no_rows(builder, splits)
    return Records(name, tuple(splits), tuple(parts), np.cumsum([0, *lengths]))


def _skips(features: Mapping[str, Any]) -> dict[str, Any]:
    """Returns TFDS decoders that leave images encoded, except images in sequences."""
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
    # TFDS raises one kind of error for all three causes, so that each is looked up here.
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
    """Returns a Python command that prepares a set: the program `tfds` also needs Apache Beam."""
    config = builder.builder_config and builder.builder_config.name
    name = json.dumps(f"{builder.name}/{config}" if config else builder.name)
    place = json.dumps(str(folder))
    return "python -c " + shlex.quote(
        f"import tensorflow_datasets as tfds; tfds.builder({name}, data_dir={place}, "
        'file_format="array_record").download_and_prepare()'
    )


def _holds(folder: Path) -> str:
    """Returns the end of a sentence that lists the data sets prepared in a folder."""
    found = []
    # Folders are NAME/VERSION or NAME/CONFIG/VERSION.
    for depth in ("*/*", "*/*/*"):
        for path in folder.glob(f"{depth}/dataset_info.json"):
            *name, version = path.parent.relative_to(folder).parts
            found.append(f"{'/'.join(name)}:{version}")
    if not found:
        return "which holds no prepared set"
    return f"which holds {few(sorted(found), _FEW)}"
