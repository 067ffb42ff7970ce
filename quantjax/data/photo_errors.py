"""Makes one-line errors for unusable photos: the photo, the reason and advice."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from quantjax.errors import InputError

_SIZE_ADVICE = "resize and crop by --size=PX (in Python size=PX)"
_SKIP_ADVICE = "go on without by --skip_unreadable (in Python skip_unreadable=True)"
_SHOWN = 200  # photos that an error names
_OBJECT = re.compile(r" ?<[\w.]+ object at 0x[0-9a-f]+>")  # how Python prints a file in memory


class UnreadablePhotoError(InputError):
    """Reports a photo that cannot be used; made by `unreadable`.

    Attributes:
      photo: Name of the photo in the message.
      reason: Reason why the photo cannot be used.
      advice: A remedy other than replacing or removing the photo; may be empty.
    """

    photo: str
    reason: str
    advice: str


class TooManyPixelsError(InputError):
    """Reports a photo, or a tile of a photo, with more pixels than Pillow's limit."""


def check_file(path: Path) -> None:
    """Raises ValueError if a path is a dangling link, a pipe or another thing that is no file."""
    if not path.is_file() and os.path.lexists(path):
        raise unreadable(path, "it is a dangling link or no regular file")


def unreadable(name: object, reason: object, advice: str = "") -> UnreadablePhotoError:
    """Returns the error for a photo that cannot be used, with a reason and further advice."""
    text = _OBJECT.sub("", str(reason)[:400])
    shown = " ".join(text.split()) or type(reason).__name__
    line = "; ".join(filter(None, (shown, advice, "replace it or take it away")))
    error = UnreadablePhotoError(f"cannot read photo {name}: {line}")
    error.photo, error.reason, error.advice = str(name), shown, advice
    return error


def all_unreadable(
    errors: Sequence[UnreadablePhotoError], total: int, *, may_skip: bool
) -> InputError:
    """Returns the error that names all unreadable photos.

    Args:
      errors: One error for each unreadable photo, at least one.
      total: Number of all photos, readable and unreadable.
      may_skip: Whether the caller can continue without the photos; the error then says how.
    """
    text = str(errors[0])
    if len(errors) > 1:
        advice = dict.fromkeys(error.advice for error in errors if error.advice)
        text = "; ".join(
            (
                f"cannot read {len(errors)} of {total} photos: {named(errors)}",
                *advice,
                "replace them or take them away",
            )
        )
    return InputError(f"{text}, or {_SKIP_ADVICE}" if may_skip else text)


def named(errors: Sequence[UnreadablePhotoError]) -> str:
    """Lists unreadable photos and their reasons as text, for a one-line message."""
    shown = ", ".join(f"{error.photo} ({error.reason})" for error in errors[:_SHOWN])
    return shown + (f" and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else "")


def mixed(
    name: object, size: tuple[int, ...], other: object, other_size: tuple[int, ...]
) -> ValueError:
    """Returns the error for two photos whose heights and widths differ."""
    return InputError(
        f"photos must have one size, got {name} of {size[0]} x {size[1]} and {other} "
        f"of {other_size[0]} x {other_size[1]} (height x width); {_SIZE_ADVICE}"
    )
