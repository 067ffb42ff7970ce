"""Codes on disk: one safetensors file and a JSON manifest that says what is in it."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from quantjax.quantizers import (
    BinaryCodec,
    ClassCodec,
    Codec,
    FloatCodec,
    ProductCodec,
    ResidualCodec,
)

FORMAT = "quantjax-codes"
VERSION = 1

_KINDS: dict[str, Callable[..., Codec]] = {
    "product": ProductCodec,
    "binary": BinaryCodec,
    "residual": ResidualCodec,
    "float": FloatCodec,
    "class": ClassCodec,
}


class Artefact(NamedTuple):
    """What a search needs.

    Attributes:
      codec: Measures distances to the codes.
      codes: [N, num_bytes] uint8.
      ids: The items' numbers in their source, [N] int64.
      manifest: Format, version, metric, bits, count and digests, as on disk.
    """

    codec: Codec
    codes: np.ndarray
    ids: np.ndarray
    manifest: dict[str, Any]


def save(
    folder: str | pathlib.Path, codec: Codec, codes: np.ndarray, *, ids: np.ndarray | None = None
) -> pathlib.Path:
    """Writes codes.safetensors and codes.json.

    Args:
      folder: Made if it is not there.
      codec: What made the codes.
      codes: [N, num_bytes] uint8.
      ids: The items' numbers, [N]; 0 to N - 1 when None.

    Returns:
      Path of the manifest.

    Raises:
      ValueError: if codes, codec and ids do not fit, or the codec is of no kind with a format.
    """
    folder = pathlib.Path(folder)
    kind = next((name for name, cls in _KINDS.items() if type(codec) is cls), None)
    if kind is None:
        raise ValueError(f"no format for {type(codec).__name__}; there are {', '.join(_KINDS)}")
    ids = np.arange(len(codes), dtype=np.int64) if ids is None else np.asarray(ids, np.int64)
    codes = np.asarray(codes)
    if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != codec.num_bytes:
        raise ValueError(
            f"codes must be uint8 [N, {codec.num_bytes}], got {codes.dtype} {codes.shape}"
        )
    if ids.shape != (len(codes),):
        raise ValueError(f"ids must have shape ({len(codes)},), got {ids.shape}")
    arrays, settings = _parts(codec)
    tensors = {"codes": codes, "ids": ids, **{f"codec.{name}": x for name, x in arrays.items()}}
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "codec": kind,
        "settings": settings,
        "metric": codec.metric,
        "bits": codec.bits,
        "num_bytes": codec.num_bytes,
        "count": len(codes),
        "digests": {name: _digest(x) for name, x in tensors.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    # The manifest goes last and names the digests: a pair from two saves is refused on loading.
    _replace(folder / "codes.safetensors", lambda path: safetensors_numpy.save_file(tensors, path))
    text = json.dumps(manifest, indent=2) + "\n"
    return _replace(folder / "codes.json", lambda path: path.write_text(text))


def load(folder: str | pathlib.Path) -> Artefact:
    """Reads what `save` wrote, and checks every digest.

    Args:
      folder: Where codes.json and codes.safetensors are.

    Returns:
      Codec, codes and ids.

    Raises:
      FileNotFoundError: if either file is missing.
      ValueError: if the format is another, or a tensor is not what the manifest says.
    """
    folder = pathlib.Path(folder)
    for name in ("codes.json", "codes.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; save an index there first")
    try:
        manifest = dict(json.loads((folder / "codes.json").read_text()))
        tensors = safetensors_numpy.load((folder / "codes.safetensors").read_bytes())
    except (ValueError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no readable codes: {error}; save them again") from None
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise ValueError(
            f"{folder}/codes.json must be {FORMAT} version {VERSION}, got "
            f"{manifest.get('format')} version {manifest.get('version')}"
        )
    missing = sorted({"codec", "settings", "digests"} - manifest.keys())
    if missing or manifest["codec"] not in _KINDS:
        raise ValueError(
            f"{folder}/codes.json must name a codec ({', '.join(_KINDS)}), settings and digests, "
            f"got codec {manifest.get('codec')!r} and {', '.join(missing) or 'nothing'} missing"
        )
    found = {name: _digest(x) for name, x in tensors.items()}
    wrong = sorted(
        name
        for name in {*found, *manifest["digests"]}
        if found.get(name) != manifest["digests"].get(name)
    )
    if wrong:
        raise ValueError(
            f"{folder}: {', '.join(wrong)} not what the manifest says; the files are damaged or "
            "of two different saves, save them again"
        )
    arrays = {
        name.removeprefix("codec."): jnp.asarray(x)
        for name, x in tensors.items()
        if name.startswith("codec.")
    }
    codec = _KINDS[manifest["codec"]](**arrays, **manifest["settings"])
    return Artefact(codec, tensors["codes"], tensors["ids"], manifest)


def _parts(codec):
    """Splits a codec into arrays and settings, by its dataclass fields."""
    arrays, settings = {}, {}
    for field in dataclasses.fields(codec):
        value = getattr(codec, field.name)
        if field.metadata.get("static"):
            settings[field.name] = value
        elif value is not None:
            arrays[field.name] = np.asarray(value)
    return arrays, settings


def _digest(x):
    head = f"{x.dtype.str} {x.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(x).tobytes()).hexdigest()


def _replace(path, write):
    scratch = path.with_name(f".{path.name}.tmp")
    write(scratch)
    return scratch.replace(path)
