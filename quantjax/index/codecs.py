"""Converts a codec to tensors and settings, as files keep it, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError
from quantjax.quantizers import (
    BinaryCodec,
    ClassCodec,
    Codec,
    FloatCodec,
    NeuralResidualCodec,
    ProductCodec,
    ResidualCodec,
)

KINDS: dict[str, Any] = {
    "product": ProductCodec,
    "binary": BinaryCodec,
    "residual": ResidualCodec,
    "neural_residual": NeuralResidualCodec,
    "float": FloatCodec,
    "class": ClassCodec,
}
"""Codecs that files can keep, by the name that a manifest has for them."""

PREFIX = "codec."
"""Start of the names of a codec's tensors."""


def parts(codec: Codec) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
    """Splits a codec into its kind, its tensors and its settings.

    Args:
      codec: A codec of `KINDS`.

    Returns:
      Key of `KINDS`; tensors by name, which starts with `PREFIX`; and the static fields, JSON.

    Raises:
      ValueError: if the codec is of an unknown kind.
    """
    kind = next((name for name, cls in KINDS.items() if type(codec) is cls), None)
    if kind is None:
        raise InputError(f"no format for {type(codec).__name__}; there are {', '.join(KINDS)}")
    tensors, settings = {}, {}
    for field in dataclasses.fields(KINDS[kind]):
        value = getattr(codec, field.name)
        if field.metadata.get("static"):
            settings[field.name] = int(value) if isinstance(value, np.integer) else value
        elif value is not None:
            value = np.asarray(value)
            # safetensors stores little-endian, and the digest must be that of the stored bytes.
            tensors[PREFIX + field.name] = value.astype(value.dtype.newbyteorder("<"), copy=False)
    return kind, tensors, settings


def read(manifest: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Codec:
    """Builds the codec that `parts` split.

    Args:
      manifest: Its "codec" is a key of `KINDS`, its "settings" the static fields.
      tensors: All tensors of a file, by name.

    Returns:
      The codec, its arrays as JAX arrays.

    Raises:
      ValueError, or another of `files.DAMAGE`: if the parts do not fit each other.
    """
    kind = KINDS[manifest["codec"]]
    # Static fields are stored in the manifest, arrays as tensors; a damaged file may mix them up.
    is_setting = {field.name: "static" in field.metadata for field in dataclasses.fields(kind)}
    arrays = {
        name.removeprefix(PREFIX): _real(name, x)
        for name, x in tensors.items()
        if name.startswith(PREFIX)
    }
    for name, value in {**arrays, **manifest["settings"]}.items():
        if is_setting[name] != (name in manifest["settings"]):
            raise InputError(f"{name} must be {'a setting' if is_setting[name] else 'a tensor'}")
        if is_setting[name] and type(value) is not (str if name == "metric" else int):
            raise InputError(f"{name} must not be {value!r}")
    for name, x in arrays.items():
        if not np.isfinite(x).all():
            raise InputError(f"{name} must be of finite numbers")

    codec = kind(**arrays, **manifest["settings"])
    codec.check()
    # JAX keeps float32: a value that overflows there would not be the one that was saved.
    with np.errstate(over="raise"):
        return dataclasses.replace(codec, **{name: jnp.asarray(x) for name, x in arrays.items()})


def _real(name, x):
    # bfloat16 can be written, but NumPy's reader of safetensors does not know it.
    if x.dtype not in (np.float16, np.float32, np.float64):
        raise InputError(
            f"{name} must be of real numbers, got {x.dtype}; float16, 32 and 64 can be saved"
        )
    return x
