"""Loads weights from files of other libraries into a network's params and net_state."""

import fnmatch
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError
from quantjax.models import torch_files
from quantjax.run import files
from quantjax.run.paths import user_path
from quantjax.run.sealing import by_path

TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""PyTorch's name of each array of a layer."""

_SHOWN = 3


class Source(NamedTuple):
    """Names the tensor to load a parameter from, and the function that converts its layout."""

    name: str
    layout: Callable[[np.ndarray], np.ndarray]


Names = Mapping[str, str | Source | None] | Callable[[str], str | Source | None]


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors or PyTorch file by name; torch is not needed.

    The file's content decides how it is read, not its suffix. A PyTorch file (of any version) holds
    a state dict, itself or under "state_dict" or "model". Its pickle cannot run code: it may name
    only tensors and plain containers. Tensors of a PyTorch file are read-only views, and share
    memory if the file's tensors do.

    Args:
      path: The file.

    Raises:
      OSError: if the file cannot be opened.
      ValueError: if the file is truncated, damaged, of another kind, or holds other objects than
        tensors.
    """
    path = user_path(path)
    data = path.read_bytes()
    # A name says little: .pth, .pt and .bin hold either of torch's formats, or safetensors.
    if data.startswith(torch_files.ZIP_MAGIC):
        return _state_dict(*torch_files.read_zip(data, str(path)), str(path))
    if data.startswith(torch_files.LEGACY_MAGIC):
        return _state_dict(*torch_files.read_legacy(data, str(path)), str(path))
    # A safetensors file begins with a length of 8 bytes, then a JSON object.
    if data[8:9] == b"{":
        advice = "the file is truncated or damaged, fetch it anew"
        with files.reading(f"cannot read {path}", advice):
            return files.read_arrays(path)[0]
    raise InputError(
        f"{path} is neither a safetensors file nor one that torch.save wrote; save the weights "
        "anew as safetensors"
    )


def load(
    params: Any,
    net_state: Any,
    tensors: Mapping[str, np.ndarray],
    names: Names,
    *,
    unused: tuple[str, ...] = (),
) -> tuple[Any, Any]:
    """Copies tensors of a file into a network's params and net_state.

    Targets are named by their path, such as "layers/0/convolution/kernel". A source given only by
    name has PyTorch's layout: kernels [out, in, ...] become [..., in, out], other arrays stay.

    Args:
      params: Params of a `Network`, for their structure, shapes and types.
      net_state: Net state of the `Network`, likewise.
      tensors: Values by name, as `read` returns them.
      names: Target path -> name of the tensor, `Source(name, layout)`, or None to keep the value
        that the target has; a function or a dict. A path that a dict lacks is an error.
      unused: Patterns (of `fnmatch`) of tensors that may be left over.

    Raises:
      ValueError: if a target has no tensor, a tensor has another shape or kind, or a tensor is left
        over; the first few of each are listed.
    """
    targets = {path: leaf for tree in (params, net_state) for path, leaf in by_path(tree).items()}
    sources = {path: _source(path, names) for path in targets}
    if isinstance(names, Mapping) and (strangers := sorted(set(names) - set(targets))):
        raise InputError(f"names has {strangers[0]!r}, which is no target")
    # All misfits are collected before an error, which then shows the kind of the mistake.
    missing, misfit = [], []
    values = dict(targets)
    for path, source in sources.items():
        if source is None:
            continue
        if source.name not in tensors:
            missing.append(f"{path} (from {source.name!r})")
            continue
        try:
            values[path] = _converted(source.layout(tensors[source.name]), targets[path])
        except ValueError as error:
            misfit.append(f"{path} (from {source.name!r}) {error}")
    # A tensor left over is a hint that the file belongs to a larger network.
    used = {source.name for source in sources.values() if source is not None}
    left = [
        repr(name)
        for name in tensors
        if name not in used and not any(fnmatch.fnmatchcase(name, each) for each in unused)
    ]
    _refuse_misfits({"missing": missing, "of another shape or kind": misfit, "unexpected": left})
    return tuple(
        jax.tree.unflatten(jax.tree.structure(tree), [values[path] for path in by_path(tree)])
        for tree in (params, net_state)
    )


def after_flattening(height: int, width: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function that converts PyTorch's weights of a dense layer after flattened maps.

    PyTorch flattens [C, H, W] and holds [out, C H W]; we flatten [H, W, C] and hold [H W C, out].

    Args:
      height: H of the maps.
      width: W of the maps.

    Returns:
      The layout of a `Source`. It raises ValueError where H W does not divide the inputs.
    """

    def layout(tensor):
        maps = tensor.reshape(len(tensor), -1, height, width)
        return maps.transpose(2, 3, 1, 0).reshape(-1, len(tensor))

    return layout


def _source(path: str, names: Names) -> Source | None:
    if isinstance(names, Mapping) and path not in names:
        raise InputError(f"names has no entry for {path!r}; give None to keep its value")
    source = names[path] if isinstance(names, Mapping) else names(path)
    if isinstance(source, str):
        return Source(source, _from_torch if path.split("/")[-1] == "kernel" else np.asarray)
    return source


def _from_torch(tensor: np.ndarray) -> np.ndarray:
    # [out, in, ...] becomes [..., in, out]; a tensor of one axis stays.
    return tensor.transpose((*range(2, tensor.ndim), *range(min(tensor.ndim, 2))[::-1]))


def _converted(value: np.ndarray, target: jax.Array) -> jax.Array:
    if value.shape != target.shape:
        raise InputError(f"has shape {value.shape}, due is {target.shape}")
    # Floats of another width are rounded; counts are never taken for weights.
    if jnp.issubdtype(value.dtype, jnp.floating) != jnp.issubdtype(target.dtype, jnp.floating):
        raise InputError(f"has type {value.dtype}, due is {target.dtype}")
    return jnp.array(value, target.dtype)


def _refuse_misfits(groups: Mapping[str, list[str]]) -> None:
    parts = [
        f"{len(group)} {kind}: {', '.join(group[:_SHOWN])}{', ...' if len(group) > _SHOWN else ''}"
        for kind, group in groups.items()
        if group
    ]
    if parts:
        raise InputError(f"the weights are not of this network; {'; '.join(parts)}")


def _state_dict(value: Any, content: Mapping[str, bytes], name: str) -> dict[str, np.ndarray]:
    # Training checkpoints nest the state dict, sometimes twice.
    for key in ("state_dict", "model"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict):
        raise InputError(f"{name} holds no state dict, but {type(value).__name__}")
    tensors = {}
    for key, tensor in value.items():
        if type(key) is not str or type(tensor) is not torch_files.Tensor:
            raise InputError(
                f"{name} holds {type(tensor).__name__} under {str(key)[:80]!r}, not a tensor; due "
                "is a state dict, itself or under 'state_dict' or 'model'"
            )
        try:
            tensors[key] = torch_files.view(tensor, content)
        except ValueError as error:
            raise InputError(f"cannot read {name}: {error}; fetch it anew") from error
    return tensors
