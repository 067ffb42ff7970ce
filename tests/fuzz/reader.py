"""What a fuzz test needs to know of a reader."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

JSON_TOKENS = (
    *b"[ ] { } , : null true -1 0 1e999 NaN Infinity".split(),
    b'""',
    b'"a"',
    b'"\\ud800"',
    b'"\\n"',
    b'{"a": [1]}',
    b"9" * 30,
    b"9" * 5000,
    b"[" * 5000,
)


class Reader(NamedTuple):
    """What is damaged, and how it is read.

    Attributes:
      valid: Makes valid files.
      read: Reads the file at a path; an assertion in it says what no damage may lead to.
      name: Of the file.
      tokens: See `mutated`.
      restructured: Damages what a file says, by a seed; half the inputs come of it.
      wrap: Makes a file of damaged bytes, so that no checksum hides what lies behind it.
      prepare: Puts other files beside the one at a path.
      errors: The documented ones.
      names_file: Whether each of them does; what lists have in common is an error of none of them.
    """

    valid: Callable[[], Sequence[bytes]]
    read: Callable[[Path], Any]
    name: str = "file"
    tokens: Sequence[bytes] = ()
    restructured: Callable[[int, bytes], bytes] | None = None
    wrap: Callable[[bytes], bytes] = bytes
    prepare: Callable[[Path], Any] = str
    errors: tuple[type[Exception], ...] = (ValueError,)
    names_file: bool = True
