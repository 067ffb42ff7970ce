"""Extracts features with a pretrained network once and caches them on disk.

A file of features carries three digests: of the weights, of the images and of the preprocessing.
Reading raises ValueError if a digest differs.
"""

import functools
import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from quantjax import models
from quantjax.data.arrays import ArraySource, with_columns
from quantjax.data.batches import padded
from quantjax.data.decoding import UnreadablePhotoError, decode
from quantjax.data.sources import Source, column
from quantjax.errors import InputError, MissingFileError
from quantjax.models import efficientnet_lite
from quantjax.run import files, parallel
from quantjax.run.paths import user_path

ROWS = 16
"""Images per device and batch: activations of more images do not fit a CPU's cache."""

_NAME = "feature"
_HASHED = 1024  # images in memory while they are hashed


class Extractor(NamedTuple):
    """Computes features from images: weights and a pure function.

    Attributes:
      weights: Pytree of arrays.
      apply: `(weights, images [B, H, W, C] uint8) -> [B, F]`, jittable, preprocessing included.
      preprocessing: Name of the network and of all preprocessing. It is part of the digest, so it
        must change whenever `apply` does.
    """

    weights: Any
    apply: Callable[[Any, jax.Array], jax.Array]
    preprocessing: str


def efficientnet_lite0(size: int = 224) -> Extractor:
    """Returns the published EfficientNet-Lite0, which gives 1,280 features for an RGB image.

    Args:
      size: Height and width in pixels to which images of any size are resized first, bilinear.

    Raises:
      ImportError: if the extra `pretrained` is not installed.
    """
    shape = (size, size, 3)
    network = models.efficientnet_lite0(shape)
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    parts = jax.eval_shape(network.init, jax.random.key(0), example)
    weights = efficientnet_lite.pretrained(*parts)

    def apply(weights, images):
        resized = jax.image.resize(
            jnp.asarray(images, jnp.float32), (len(images), *shape), "linear"
        )
        return network.apply(*weights, efficientnet_lite.normalize(resized), train=False)[0]

    return Extractor(weights, apply, f"efficientnet_lite0, resized to {size}, linear")


def digests(source: Source, extractor: Extractor) -> dict[str, str]:
    """Returns the digests that identify features: weights, images and preprocessing.

    Weights and images are hashed by SHA-256; the preprocessing is its name.

    Args:
      source: All images, in order.
      extractor: Weights and preprocessing.
    """
    of_weights = hashlib.sha256()
    # Path, type and shape enter too: equal bytes may belong to different networks.
    for path, leaf in jax.tree_util.tree_leaves_with_path(extractor.weights):
        array = np.asarray(leaf)
        of_weights.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        of_weights.update(np.ascontiguousarray(array).data)
    of_images = hashlib.sha256()
    for start in range(0, len(source), _HASHED):
        rows = np.arange(start, min(start + _HASHED, len(source)))
        image = column(source[rows], "image")
        of_images.update(f"{image.shape[1:]}".encode())
        of_images.update(np.ascontiguousarray(image).data)
    return {
        "weights": of_weights.hexdigest(),
        "images": f"{len(source)} {of_images.hexdigest()}",
        "preprocessing": extractor.preprocessing,
    }


def extract(
    source: Source,
    extractor: Extractor,
    *,
    path: str | os.PathLike[str],
    mesh: Mesh,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Returns the features of all images, read from the cache file or computed and written to it.

    Args:
      source: The images.
      extractor: Weights, network and preprocessing.
      path: A safetensors file; its folder is created.
      mesh: From `run.parallel.data_mesh`.
      progress: Called with the number of finished images and the number of all images.

    Returns:
      Features [N, F] float32, in the order of the source.

    Raises:
      ValueError: if the file is damaged, or has other weights, images or preprocessing.
    """
    path = user_path(path)
    due = digests(source, extractor)
    # A file of other features is an error: to compute them anew might overwrite hours of work.
    if path.exists():
        return read(path, due)
    features = _computed(source, extractor, mesh, progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_arrays(path, {_NAME: features}, due)
    except OSError as error:  # they took long to compute, and are whole
        warnings.warn(f"features are not kept: {error}", stacklevel=2)
    return features


def extract_photos(
    paths: Sequence[pathlib.Path],
    extractor: Extractor,
    *,
    size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, dict[str, UnreadablePhotoError]]:
    """Returns the features of photo files, each decoded once, and the errors of unreadable photos.

    Args:
      paths: P photos.
      extractor: Weights and network.
      size: Height and width in pixels to which photos are cropped and resized.
      progress: Called with the number of finished photos and the number of all photos.

    Returns:
      Features [N, F] float32 of the readable photos, in order, and the errors of the others.
    """
    apply = jax.jit(extractor.apply)
    weights = jax.device_put(extractor.weights)
    blocks, failures = [], {}
    with futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), ROWS):
            photos = [
                *pool.map(functools.partial(_decoded, size=size), paths[start : start + ROWS])
            ]
            failures |= {each.photo: each for each in photos if not isinstance(each, np.ndarray)}
            readable = [each for each in photos if isinstance(each, np.ndarray)]
            images = np.zeros((ROWS, size, size, 3), np.uint8)
            images[: len(readable)] = readable or 0
            blocks.append(apply(weights, images)[: len(readable)])
            # Fetched only now, so that the device computes while the next photos are decoded.
            blocks[-2:-1] = [np.asarray(x) for x in blocks[-2:-1]]
            progress(start + len(photos), len(paths))
    return np.concatenate(blocks, dtype=np.float32), failures


def _decoded(path, size):
    try:
        return decode(path, path, size=size)
    except UnreadablePhotoError as error:
        return error


def read(path: str | os.PathLike[str], due: dict[str, str]) -> np.ndarray:
    """Reads features from a file and checks that their digests are the expected digests.

    Args:
      path: File that `extract` wrote.
      due: Expected digests, from `digests`.

    Returns:
      Features [N, F] float32.

    Raises:
      FileNotFoundError: if the file does not exist.
      ValueError: if the file is damaged, or has other weights, images or preprocessing.
    """
    path = user_path(path)
    if not path.exists():
        raise MissingFileError(f"no features at {path}; extract them first")
    with files.reading(f"cannot read features {path}", "delete the file"):
        arrays, there = files.read_arrays(path)
        features = arrays[_NAME]
        if features.dtype != np.float32 or features.ndim != 2:
            raise InputError(
                f"{_NAME} must be float32 of 2 axes, got {features.dtype} of {features.ndim}"
            )
    differing = [
        f"{key} {_short(there.get(key))}, due {_short(due[key])}"
        for key in due
        if there.get(key) != due[key]
    ]
    if differing:
        raise InputError(
            f"{path} holds features of other {'; '.join(differing)}; delete it or name another file"
        )
    return features


def with_features(source: Source, features: np.ndarray) -> ArraySource:
    """Returns a copy of a source in memory with an added column "feature".

    Args:
      source: Any source; its own features are replaced.
      features: [N, F], finite.

    Raises:
      ValueError: if the number of features is not the number of rows.
    """
    return with_columns(source, **{_NAME: features})


def _computed(source, extractor, mesh, progress):
    # Each process extracts all features on its own devices, so that no gathering is needed.
    mesh = parallel.local(mesh)
    weights = jax.device_put(extractor.weights, parallel.replicated(mesh))
    apply = jax.jit(extractor.apply)
    size = ROWS * mesh.size
    features, done = [], 0
    for positions, mask in zip(*padded(len(source), size), strict=True):
        batch = parallel.put_rows(mesh, {"image": column(source[positions], "image")})
        # The mask drops the rows that pad the last batch.
        features.append(np.asarray(apply(weights, batch["image"]), np.float32)[mask])
        done += len(features[-1])
        progress(done, len(source))
    return np.concatenate(features)


def _short(digest):
    if digest is None:
        return "none"
    # A damaged file may hold a long text of several lines; the message must be one line.
    return files.one_line((digest if len(digest) < 64 else digest[:-56])[:80])
