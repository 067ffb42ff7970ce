"""What a checkpoint says of itself: names, types and checksums of its arrays, under a digest."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.errors import InputError

_SEAL = "digest"
_UNSEALED = {"run", "leaves", "checksums", "value"}


def sealed(about: dict[str, Any]) -> dict[str, Any]:
    """Returns a description (JSON) with its digest."""
    return {**about, _SEAL: hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()}


def unsealed(about: dict[str, Any]) -> dict[str, Any]:
    """Returns what was sealed, or raises ValueError if it is not as it was."""
    if about.keys() == _UNSEALED:  # of a version that did not seal it
        return about
    content = {name: value for name, value in dict(about).items() if name != _SEAL}
    if about != sealed(content):
        raise InputError("what it says of itself is not what was saved")
    return content


def checksums(leaves: dict[str, jax.Array]) -> dict[str, int]:
    """Returns a number for each leaf, the same on any mesh, that no changed byte leaves alone."""
    return {name: int(value) for name, value in jax.device_get(_sums(leaves)).items()}


@jax.jit
def _sums(leaves):
    def checksum(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        if x.dtype == jnp.bool:
            x = x.astype(jnp.uint8)
        width = min(x.dtype.itemsize, 4)
        bits = jax.lax.bitcast_convert_type(x, np.dtype(f"uint{8 * width}"))
        bits = bits.ravel().astype(jnp.uint32)
        # A change in one entry is multiplied by an odd number, and so is never 0 modulo 2^32.
        place = jax.lax.iota(jnp.uint32, bits.size)
        return jnp.sum(bits * (place * np.uint32(2654435761) | np.uint32(1)), dtype=jnp.uint32)

    return jax.tree.map(checksum, leaves)


def described(leaves: dict[str, jax.Array]) -> dict[str, str]:
    """Returns type and shape of each leaf."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}


def by_path(train_state: Any) -> dict[str, jax.Array]:
    """Returns leaves by path, in one flat dict: no library's container types end up on disk."""
    leaves = jax.tree_util.tree_leaves_with_path(train_state)
    return {name_of(path): leaf for path, leaf in leaves}


def name_of(path: Any) -> str:
    """Returns what a leaf at a path is called."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
