"""Expands the paths that users give: options, config keys and arguments of public functions."""

import os
import pathlib

from quantjax.errors import InputError


def user_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path with "~" replaced by the home folder.

    Args:
      path: As the user gave it.

    Raises:
      ValueError: if it begins with "~", and that home folder is unknown.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"{os.fspath(path)} begins with ~, whose folder is unknown; give the whole path"
        ) from None
