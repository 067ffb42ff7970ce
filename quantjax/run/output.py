"""Keeps the output of a run: alive without a reader, with times, and in a log file."""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Callable, Generator

from quantjax.run import files


class _Log:
    """Collects the lines of a run, each with its time, and writes them once a file is named."""

    def __init__(self):
        self._waiting: list[str] = []
        self._unended = ""
        self._file = None
        self.stack = contextlib.ExitStack()

    def open(self, path):
        files.make_plain_folder(path.parent)
        self._file = self.stack.enter_context(files.opened_plain(path, "a"))
        self._flush()

    def add(self, text):
        *lines, self._unended = (self._unended + text).split("\n")
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
        self._waiting += [f"{moment} {line}\n" for line in lines]
        self._flush()

    def _flush(self):
        if self._file is None:
            return
        # As for the terminal: a disk that is full ends no run for a line of its log.
        with contextlib.suppress(OSError, ValueError):
            self._file.writelines(self._waiting)
            self._file.flush()
        self._waiting = []


_log: _Log | None = None


@contextlib.contextmanager
def surviving(copy: Callable[[str], None] | None = None) -> Generator[None]:
    """Makes a program survive the loss of its reader: drops output that cannot be written.

    `COMMAND | head`, a terminal that was closed and a full disk under a log file all make writes
    fail. From the first failure on, the stream writes to the null device.

    Args:
      copy: Called with each text for standard error.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Surviving(before[0]), _Surviving(before[1], copy)
    try:
        yield
    finally:
        # Python flushes the streams at exit once more, and would fail there.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def kept() -> Generator[None]:
    """Makes the output of a run survive, and collects its lines and errors for `log_into`."""
    global _log
    _log = _Log()
    try:
        with surviving(_log.add):
            yield
    finally:
        with contextlib.suppress(OSError):  # of the last lines on a full disk
            _log.stack.close()
        _log = None


def log_into(path: pathlib.Path) -> None:
    """Writes all lines of the run, from its start on, into a file as well.

    Args:
      path: Appended to; its folder is created in an existing one.

    Raises:
      ValueError: if the path is a link, a folder or a device, or its folder is a link or a file.
      OSError: if the file cannot be created.
    """
    if _log is not None:
        _log.open(path)


def log(text: str) -> None:
    """Adds lines to the log of the run, and to nothing outside of a run."""
    if _log is not None:
        _log.add(f"{text}\n")


def stamped(text: str) -> str:
    """Puts the time of day ahead of a line of a run, and nothing outside of a run."""
    return text if _log is None else f"{time.strftime('%H:%M:%S')} {text}"


class _Surviving:
    """Forwards to a text stream, and redirects it to the null device once a write fails."""

    def __init__(self, stream, copy=None):
        self._stream, self._copy = stream, copy

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        if self._copy is not None:
            self._copy(text)
        return self._attempt(self._stream.write, text)

    def flush(self):
        self._attempt(self._stream.flush)

    def _attempt(self, function, *args):
        try:
            return function(*args)
        except (OSError, ValueError):  # ValueError: the stream was closed
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                # The descriptor itself, which libraries in C++ write to as well.
                os.dup2(null, self._stream.fileno())
                os.close(null)
            return len(args[0]) if args else None
