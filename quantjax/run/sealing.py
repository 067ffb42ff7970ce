"""Describes a checkpoint: names, types and checksums of its arrays, protected by a digest."""

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
    """Adds to a description (JSON) its SHA-256 digest."""
    return {**about, _SEAL: hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()}


def unsealed(about: dict[str, Any]) -> dict[str, Any]:
    """Returns a description without its digest; raises ValueError if the digest does not fit."""
    if about.keys() == _UNSEALED:  # written by a version without digests
        return about
    content = {name: value for name, value in dict(about).items() if name != _SEAL}
    if about != sealed(content):
        raise InputError("what it says of itself is not what was saved")
    return content


def checksums(leaves: dict[str, jax.Array]) -> dict[str, int]:
    """Returns a 32-bit checksum of each array, which any changed entry alters and no mesh does."""
    return {name: int(value) for name, value in jax.device_get(_sums(leaves)).items()}


@jax.jit
def _sums(leaves):
    def checksum(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        if x.dtype == jnp.bool:
            x = x.astype(jnp.uint8)
        # Words of 32 bits at most: without x64, JAX has no larger ones.
        width = min(x.dtype.itemsize, 4)
        bits = jax.lax.bitcast_convert_type(x, np.dtype(f"uint{8 * width}"))
        bits = bits.ravel().astype(jnp.uint32)
        # A change in one entry is multiplied by an odd number, and so is never 0 modulo 2^32.
        place = jax.lax.iota(jnp.uint32, bits.size)
        return jnp.sum(bits * (place * np.uint32(2654435761) | np.uint32(1)), dtype=jnp.uint32)

    return jax.tree.map(checksum, leaves)


def described(leaves: dict[str, jax.Array]) -> dict[str, str]:
    """Returns the type and shape of each array as text."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}


def by_path(train_state: Any) -> dict[str, jax.Array]:
    """Flattens a pytree into a dict from paths to arrays, free of any library's container types."""
    leaves = jax.tree_util.tree_leaves_with_path(train_state)
    return {name_of(path): leaf for path, leaf in leaves}


def name_of(path: Any) -> str:
    """Returns the name of the array at a pytree path, its keys joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def with_leaves(train_state: Any, leaves: dict[str, Any]) -> Any:
    """Replaces the arrays of a pytree that `leaves` names, as `by_path` does; others stay."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(name_of(path), leaf), train_state
    )
