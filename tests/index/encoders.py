"""Small encoders in folders, of vectors and of photos, with codes of 16 bits."""

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import index
from quantjax.quantizers import BinaryCodec

CODEC = BinaryCodec(16)
PHOTOS = index.Preparation(8)


def of_vectors(folder, *, codec=CODEC, about=None):
    """Saves an encoder of vectors of 16 numbers, each of which is a bit; returns its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    index.save_encoder(
        folder,
        embed=lambda weights, x: x[:, : codec.num_bits] * weights,
        weights=jnp.float32(2),
        codec=codec,
        example=jax.ShapeDtypeStruct((16,), np.float32),
        about=about or {},
    )
    return folder


def of_photos(folder, *, photos=PHOTOS):
    """Saves an encoder of photos, projected at random; returns its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    kernel = np.random.default_rng(7).normal(size=(8 * 8 * 3, 16))
    index.save_encoder(
        folder,
        embed=lambda weights, x: (x.reshape(len(x), -1) / jnp.float32(255) - 0.5) @ weights,
        weights=jnp.asarray(kernel, jnp.float32),
        codec=CODEC,
        example=jax.ShapeDtypeStruct((8, 8, 3), np.uint8),
        photos=photos,
    )
    return folder


def plant_photos(folder, names, seed=0):
    """Writes a photo of noise for each name, 10 x 9 pixels; returns the folder."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 9, 3), dtype=np.uint8)).save(path)
    return folder
