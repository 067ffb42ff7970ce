"""Damages valid files, the same way for the same seed."""

import random
import struct
from collections.abc import Callable, Sequence

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40)
_NUMBERS += (2**62, 2**63 - 1, 2**63, 2**64 - 1)
_FORMATS = ("<B", "<H", "<I", "<Q", ">H", ">I", ">Q")


def mutated(seed: int, valid: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """Returns one of some valid files with one to five pieces of damage.

    Args:
      seed: Equal seeds damage equal files alike.
      valid: What is damaged; two may be spliced.
      tokens: Pieces that the format gives a meaning, put in between or over what is there.
    """
    rng = random.Random(seed)
    content = bytearray(rng.choice(valid))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        rng.choice(_DAMAGES)(rng, content, valid, tokens)
    return bytes(content)


def _place(rng: random.Random, content: bytearray) -> int:
    """Returns a place, half the time near an end, where headers are."""
    length = len(content)
    near = min(length, 200)
    return rng.choice(
        (
            rng.randint(0, length),
            rng.randint(0, length),
            rng.randint(0, near),
            length - rng.randint(0, near),
        )
    )


def _flip(rng, content, valid, tokens):
    if content:
        content[min(_place(rng, content), len(content) - 1)] ^= 1 << rng.randrange(8)


def _overwrite(rng, content, valid, tokens):
    place = _place(rng, content)
    content[place : place + 1] = rng.randbytes(1)


def _truncate(rng, content, valid, tokens):
    del content[_place(rng, content) :]


def _insert(rng, content, valid, tokens):
    place = _place(rng, content)
    content[place:place] = rng.randbytes(rng.randint(1, 8))


def _remove(rng, content, valid, tokens):
    place = _place(rng, content)
    del content[place : place + rng.randint(1, 16)]


def _repeat(rng, content, valid, tokens):
    place, start = _place(rng, content), _place(rng, content)
    content[place:place] = content[start : start + rng.randint(1, 60)] * rng.choice((1, 1, 2, 40))


def _number(rng, content, valid, tokens):
    layout = rng.choice(_FORMATS)
    width = struct.calcsize(layout)
    place = _place(rng, content)
    number = rng.choice(_NUMBERS) % (1 << 8 * width)
    content[place : place + width] = struct.pack(layout, number)


def _splice(rng, content, valid, tokens):
    other = bytearray(rng.choice(valid))
    content[_place(rng, content) :] = other[_place(rng, other) :]


def _token(rng, content, valid, tokens):
    if tokens:
        place, token = _place(rng, content), rng.choice(tokens)
        content[place : place + rng.choice((0, len(token)))] = token


_Damage = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None]
_DAMAGES: tuple[_Damage, ...] = (
    _flip,
    _flip,
    _overwrite,
    _overwrite,
    _truncate,
    _insert,
    _remove,
    _repeat,
    _number,
    _number,
    _splice,
    _token,
    _token,
)
