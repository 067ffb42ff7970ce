"""Makes names beyond ASCII work under any locale, in files and in what is printed."""

import contextlib
import io
import os
import pathlib
import sys

from quantjax.errors import InputError


def prepare(*, restart: bool) -> None:
    """Prepares a program for names that the locale's encoding does not have.

    Python encodes paths as the locale says, while libraries in C++ take UTF-8 alone, and an order
    or a digest of names must not depend on the machine. So under another encoding (of an old
    locale, or by PYTHONUTF8=0) the program starts anew in Python's UTF-8 mode. Letters that the
    output cannot encode are printed by their number.

    Args:
      restart: Whether the process runs this program alone, so that it may start anew.
    """
    if restart and sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's stream is none
            stream.reconfigure(errors="backslashreplace")


def check_path(path: pathlib.Path) -> None:
    """Raises ValueError if libraries in C++, which take UTF-8, would name another path than Python.

    Args:
      path: Folder of a run, which need not exist.
    """
    text = str(path.absolute())
    # The error tells of a letter that the locale lacks, or of bytes that are no UTF-8.
    with contextlib.suppress(UnicodeEncodeError):
        if os.fsencode(text) == text.encode():
            return
    raise InputError(
        f"checkpoints need a path in UTF-8, got {text!a} where Python encodes paths as "
        f"{sys.getfilesystemencoding()}; set PYTHONUTF8=1 or LC_ALL=C.UTF-8, or rename it"
    )
