"""Defines the errors that quantjax raises on purpose.

Each is a `QuantjaxError` and also the built-in error of its kind, so that `except ValueError` and
`except QuantjaxError` both catch it. Its message is one line: the value, the value that was due,
and what to do. The launcher and the command line print that line without a traceback; every other
exception keeps its traceback.
"""

import difflib
import errno
import importlib
from collections.abc import Iterable
from types import ModuleType

_MOST_NAMES = 40  # that a message lists
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class QuantjaxError(Exception):
    """Serves as base class of the errors that quantjax raises on purpose."""


class InputError(QuantjaxError, ValueError):
    """Reports a value, shape or file content that does not fit."""


class InputTypeError(QuantjaxError, TypeError):
    """Reports a value of the wrong type."""


class RowError(QuantjaxError, IndexError):
    """Reports a row number outside of a data source."""


class FileError(QuantjaxError, OSError):
    """Reports a file or folder that cannot be read or written."""


class MissingFileError(QuantjaxError, FileNotFoundError):
    """Reports a file or folder that does not exist."""


class MissingPackageError(QuantjaxError, ModuleNotFoundError):
    """Reports an optional package that is not installed; the message names the extra to install."""


class NonFiniteError(QuantjaxError, FloatingPointError):
    """Reports a loss, gradient, parameter or state that is NaN or infinite."""


class DamagedError(QuantjaxError, RuntimeError):
    """Reports a checkpoint whose bytes have changed since it was saved."""


def listed(names: Iterable[str], wanted: str) -> str:
    """Returns known names for a message: all, or of more than 40 the closest to the wanted name.

    Args:
      names: Known names.
      wanted: Name that was given and is not known.
    """
    names = list(names)
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    # At a low cutoff, so that a beginning of a name finds what goes on like it.
    near = difflib.get_close_matches(wanted, names, n=5, cutoff=0.3) or names[:5]
    return f"{', '.join(near)} and {len(names) - len(near)} more"


def few(texts: Iterable[str], most: int = 5) -> str:
    """Returns the first texts and the number of the others, so that a message stays one line.

    Args:
      texts: Names, or other short texts.
      most: Number of texts that are shown.
    """
    texts = list(texts)
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def is_one_line(error: BaseException) -> bool:
    """Returns whether a command prints an error as one line, without a traceback.

    True for the errors of this module, and for a disk that is full, read-only or closed to the
    user. Any other error may be a fault of the program and is shown whole.
    """
    return isinstance(error, QuantjaxError) or (isinstance(error, OSError) and error.errno in _DISK)


def load_package(package: str, *, extra: str, purpose: str) -> ModuleType:
    """Imports an optional package, or raises an error with the command that installs it.

    Args:
      package: Name that `import` takes.
      extra: Extra of quantjax that installs it.
      purpose: Feature that needs the package; the message's first clause starts with it.

    Raises:
      ModuleNotFoundError: if the package is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        # An error about another name means that the package is installed but broken.
        if (error.name or "").partition(".")[0] != package.partition(".")[0]:
            raise
        raise MissingPackageError(
            f"{purpose} needs {package}, which is not installed: pip install 'quantjax[{extra}]'"
        ) from None
