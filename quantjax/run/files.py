"""Writes files atomically, and turns damage in a file into an error of one line.

Arrays are stored as safetensors files; their metadata (text by text) describes the arrays.
"""

import contextlib
import errno
import os
import pathlib
import pickle
import shutil
import stat
import struct
from collections.abc import Generator, Mapping
from typing import IO, Any

import ml_dtypes  # noqa: F401  NumPy, and so safetensors, knows bfloat16 once this is imported
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from quantjax.errors import FileError, InputError

DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    EOFError,
    struct.error,
    pickle.UnpicklingError,
    SafetensorError,
)
"""Errors that json, safetensors, pickle and checks of their content raise on damaged files."""

TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""NumPy's types by their names in safetensors; it has none for the others, such as F8_E4M3."""

_SHOWN = 200  # most characters of a value from a file in a message


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Generator[pathlib.Path]:
    """Yields the path of an empty file, which replaces `path` if the context ends without an error.

    A reader, also after a crash, finds the old content or the whole new content.

    Args:
      path: File in an existing folder; need not exist.

    Raises:
      OSError: if the folder cannot be written to. `path` and the folder are then as before.
    """
    # Beside the target, since a rename is atomic on one file system only. The process id keeps
    # two processes apart.
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Of a killed process, or a link that someone put there: never written through.
        remove(scratch)
        os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        mode = scratch.stat().st_mode  # as the umask has it
        yield scratch
        # safetensors makes files that only their owner may read.
        scratch.chmod(mode)
        # On disk before the rename: a crash could otherwise leave an empty file under the name.
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        remove(scratch)
        raise


@contextlib.contextmanager
def replacing_folder(path: pathlib.Path) -> Generator[pathlib.Path]:
    """Yields an empty folder, which replaces `path` if the context ends without an error.

    Args:
      path: Folder, which need not exist; all that it holds is lost. Its parent must exist. A link
        is replaced, and the folder that it leads to stays.

    Raises:
      OSError: if the parent cannot be written to. `path` is then as before.
    """
    scratch, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        remove(scratch)
        scratch.mkdir()
        yield scratch
        # No system renames a folder onto another that has files.
        if os.path.lexists(path):
            path.rename(old)
        scratch.rename(path)
    except BaseException:
        if os.path.lexists(old):
            old.rename(path)
        raise
    finally:
        for folder in (scratch, old):
            remove(folder)


def remove(path: pathlib.Path) -> None:
    """Removes a file, a folder, or a link but not its target; does nothing without any.

    Args:
      path: Scratch file or folder, which a killed process may have left.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        # A file where a folder is due is told of by what writes there next.
        with contextlib.suppress(NotADirectoryError):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def opened_plain(path: pathlib.Path, mode: str) -> Generator[IO[str]]:
    """Opens a text file for writing in place, but neither through a link nor a device.

    A folder that somebody else prepared may hold a link under the name, to a file of the user.

    Args:
      path: File in an existing folder; created if it does not exist.
      mode: "a" to append, or "a+" to read as well.

    Yields:
      The open file.

    Raises:
      InputError: if the path is a link, symbolic or hard, a folder or a device.
      OSError: if the file cannot be written.
    """

    def opener(name, flags):
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

    due = f"{path} must be a plain file, got a link, folder or device; remove it"
    try:
        file = open(  # noqa: SIM115  closed below
            path, mode, encoding="utf-8", errors="backslashreplace", opener=opener
        )
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise InputError(due) from None
        raise
    with file:
        found = os.fstat(file.fileno())
        # A hard link is a file of another folder too, which would be written as well.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise InputError(due)
        yield file


def make_plain_folder(path: pathlib.Path) -> None:
    """Makes a folder if there is none, but refuses a link, which may lead to files of the user.

    Args:
      path: Folder in an existing folder.

    Raises:
      InputError: if the path is a link or a file.
      OSError: if the folder cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(parents=True)
    if path.is_symlink() or not path.is_dir():
        raise InputError(f"{path} must be a plain folder, got a link or file; remove it")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in UTF-8 atomically.

    Args:
      path: File; replaced if it exists.
      text: New content of the file.

    Raises:
      OSError: if the file cannot be written.
    """
    with replacing(path) as scratch:
        # A file name that is no UTF-8 is written with its bytes.
        scratch.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_arrays(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None
) -> None:
    """Writes arrays into a safetensors file atomically.

    Args:
      path: File; replaced if it exists.
      arrays: Numbers or booleans of any shape, by name.
      about: Description of the arrays. safetensors writes several entries in no fixed order.

    Raises:
      OSError: if the file cannot be written.
    """
    # Not `ascontiguousarray`, which gives a single number an axis.
    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with replacing(path) as scratch:
        save_file(tensors, scratch, dict(about) if about else None)


def read_arrays(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a safetensors file; to be called in the context of `reading`.

    Args:
      path: Existing file.

    Returns:
      Arrays by name, and their description, which may be damaged.

    Raises:
      InputError: if an array's type is unknown to NumPy.
      SafetensorError, or another of `DAMAGE`: if the file is damaged.
    """
    with safe_open(path, "numpy") as file:
        check_types(file)
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def check_types(file: Any) -> None:
    """Raises InputError if an open safetensors file has an array of a type unknown to NumPy."""
    strange = {file.get_slice(name).get_dtype() for name in file.keys()} - TYPES.keys()  # noqa: SIM118
    if strange:
        raise InputError(f"it holds tensors of {min(strange)}, which is not supported")


@contextlib.contextmanager
def reading(claim: str, advice: str) -> Generator[None]:
    """Turns errors over a file's content into one InputError: `claim`, the reason and `advice`.

    Args:
      claim: Names the file, such as "cannot read a.json".
      advice: Tells the user how to get a whole file.

    Raises:
      InputError: if the context raises any of `DAMAGE`.
      FileError: if the system cannot read the file, for example without permission.
    """
    try:
        yield
    except DAMAGE as error:
        raise InputError(f"{claim}: {one_line(error)}; {advice}") from error
    except OSError as error:
        raise FileError(f"{claim}: {one_line(error)}") from error


def one_line(value: Any) -> str:
    """Shortens a value from a file to one line of at most 200 characters, for a message."""
    if isinstance(value, list | dict):
        value = type(value).__name__
    return " ".join((str(value) or type(value).__name__)[:_SHOWN].split())
