"""Finds the folder of a data set on this machine."""

import os
from collections.abc import Iterable
from pathlib import Path

from quantjax.errors import MissingFileError
from quantjax.run.paths import user_path


def locate(
    data_dir: str | Path | None,
    folder: str,
    *,
    origin: str,
    files: Iterable[str] = (),
    extra: Iterable[str] = (),
) -> Path:
    """Returns the folder of a data set, searched for in `data_dir` or in the default places.

    If `data_dir` is given, only it is searched; else $QUANTJAX_DATA, then each of `extra`.

    Args:
      data_dir: The parent of `folder`, or `folder` itself under any name; None searches.
      folder: Name of the data set's folder.
      origin: Address from which a user gets the data set, for the error.
      files: Names or patterns of what it has inside; a parent with one of these is the folder.
      extra: More parents, in which systems install the data set.

    Raises:
      FileNotFoundError: if no place has the data set; the message names all places.
    """
    environment = os.environ.get("QUANTJAX_DATA")
    # A folder that the user names is never passed over in silence for another copy of the set.
    if data_dir is not None:
        parents = [str(data_dir)]
    else:
        parents = [*([environment] if environment else []), *extra]
    files = tuple(files)  # looked at once for each parent
    for parent in map(user_path, parents):
        if (parent / folder).is_dir():
            return parent / folder
        if any(any(parent.glob(name)) for name in files):
            return parent
    tried = ", ".join(parents) if parents else "nowhere, QUANTJAX_DATA is not set"
    raise MissingFileError(
        f"data folder {folder} not found, looked in: {tried}; name the folder that holds it "
        f"with --config.data_dir=FOLDER or QUANTJAX_DATA=FOLDER, or fetch it from {origin}"
    )
