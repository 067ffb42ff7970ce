"""Reads the files of checkpoints: the steps that are there, descriptions, and checked arrays."""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax

from quantjax.errors import DamagedError, InputError
from quantjax.run import processes, sealing

_DAMAGED, _NO_DAMAGE, _OTHER_RUN = 1, 2, 3


class OtherRunError(InputError):
    """Reports a checkpoint of another run, or of other arrays."""


def saved_steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps that a folder of checkpoints has, ascending; [] without a folder."""
    # Orbax renames a folder to its step's number when all of it is on disk.
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())


def best_step(values: dict[int, float], steps: Iterable[int]) -> int | None:
    """Returns the step with the largest value, the latest of equal steps, or None."""
    rated = [step for step in steps if step in values]
    return max(rated, key=lambda step: (values[step], step), default=None)


def describe(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """Reads the description of a checkpoint: "run", "leaves" and "checksums", see `Store.save`.

    Raises:
      DamagedError: if it cannot be read.
    """
    try:
        return _about(folder / str(step))
    except (ValueError, OSError) as error:
        raise DamagedError(f"checkpoint {step} in {folder} cannot be read: {error}") from None


def read_arrays(folder: pathlib.Path, step: int, like: dict[str, jax.Array]) -> dict[str, Any]:
    """Reads some arrays of a checkpoint, which may be of another experiment.

    Args:
      folder: Folder of checkpoints; it is not changed.
      step: Number of a saved step.
      like: Arrays of the due types, shapes and shardings, by their names in `sealing.by_path`.

    Returns:
      The arrays, by name.

    Raises:
      ValueError: naming the first array that is missing, or has another type or shape.
      DamagedError: if the checkpoint cannot be read.
    """

    def check(about):
        for name, due in sealing.described(like).items():
            found = about["leaves"].get(name, "missing")
            if found != due:
                where = f"checkpoint {step} in {folder}"
                raise OtherRunError(f"{where} does not fit: {name} is {found}, due is {due}")

    fine, found = try_reading(folder / str(step), like, check)
    if not fine:
        raise DamagedError(f"checkpoint {step} in {folder} cannot be read: {found}")
    return found


def try_reading(
    path: pathlib.Path, wanted: dict[str, jax.Array], check: Callable[[dict[str, Any]], None]
) -> tuple[bool, Any]:
    """Returns (True, arrays by name), or (False, the error) if a checkpoint's files are damaged.

    The processes first agree on the outcome: all skip a step that one process cannot read.

    Args:
      path: Folder of one checkpoint.
      wanted: Arrays of the due types, shapes and shardings, by name.
      check: Function of the checkpoint's description that may raise `OtherRunError`.
    """
    leaves, about, error = {}, {}, None
    try:
        about = _about(path)
        check(about)
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in wanted.items()
        }
        leaves = _arrays(path, abstract)
    except Exception as caught:  # libraries raise many kinds of errors on damaged files
        error = _unwrapped(caught, path)
    # Agreed before anything else: a process that raised alone would leave the others waiting.
    outcome = processes.all_agree(_kind(error))
    if outcome in (_NO_DAMAGE, _OTHER_RUN):
        if error is not None:
            raise error
        raise InputError(f"another process cannot go on from checkpoint {path.name}")
    if outcome == _DAMAGED:
        return False, error
    # A changed byte may still decode without an error, so the values are checked too.
    found, due = sealing.checksums(leaves), about["checksums"]
    wrong = sorted(name for name in found if found[name] != due.get(name))
    if processes.all_agree(len(wrong)):
        return False, InputError(f"its {wrong[0]} is not what was saved") if wrong else None
    return True, leaves


# Read directly: Orbax's manager would wait for all processes, and one that cannot read never comes.
def _about(folder):
    return sealing.unsealed(json.loads((folder / "about" / "metadata").read_text(encoding="utf-8")))


def _arrays(folder, abstract):
    # Here and not above: importing Orbax takes longer than importing all of quantjax.
    import orbax.checkpoint as ocp

    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        placed = ocp.checkpoint_utils.construct_restore_args(abstract)
        # In part: a warm start reads parameters alone, whatever the optimizer was.
        args = ocp.args.PyTreeRestore(abstract, restore_args=placed, partial_restore=True)
        found = handler.restore((folder / "state").resolve(), args=args)
    # Orbax leaves the description of an array in place where it finds no such array.
    absent = sorted(name for name, leaf in found.items() if not isinstance(leaf, jax.Array))
    if absent:
        raise InputError(f"its {absent[0]} is missing")
    return found


def _kind(error):
    """Classifies an error raised by reading: 0 for none, or one of the constants above."""
    if error is None:
        return 0
    if isinstance(error, OtherRunError):
        return _OTHER_RUN
    # Full memory or a failing disk does not mean that the files are damaged.
    away = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
    if away or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)):
        return _NO_DAMAGE
    return _DAMAGED


def _unwrapped(error, path):
    """Returns the OSError whose code tensorstore put into its message, else the error itself."""
    if isinstance(error, OSError):
        return error
    found = [code for each in _chain(error) if (code := _code_in_words(each))]
    return OSError(found[0], os.strerror(found[0]), str(path)) if found else error


def _code_in_words(error):
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else None


def system_error(error: BaseException | None) -> int | None:
    """Returns the errno of the operating-system error behind an exception, or None."""
    for each in _chain(error):
        number = each.errno if isinstance(each, OSError) else _code_in_words(each)
        if number is not None:
            return number
    return None


def _chain(error):
    """Yields an exception, then its causes, the nearest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
