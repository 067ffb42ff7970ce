"""Augments images at random on the device: (key, images [B, H, W, C]) -> same shape and dtype.

A constructor takes the hyper-parameters and returns the transform, a pure function. Each image is
transformed independently: its change depends on the key and on its position in the batch only.
uint8 images stay uint8, rounded. Only `normalize` changes the units of pixels. It comes last
before the network: `train.fit` runs an experiment's `preprocess` after its `augment`.

    distort = compose(random_crop(padding=4), random_flip())
    augment = on_images(distort)                   # (key, batch) -> batch
    preprocess = normalize(mean=..., std=...)      # batch -> batch

`flips` and `ten_crop` are not random: they make several views of each image for `preprocess`, and
the embeddings of the views are averaged.
"""

import math
from typing import Protocol

import jax
import jax.numpy as jnp

from quantjax.batch import Augment, Preprocess
from quantjax.data.sources import column
from quantjax.errors import InputError, InputTypeError


class Transform(Protocol):
    """Transforms images at random."""

    def __call__(self, key: jax.Array, images: jax.Array, /) -> jax.Array:
        """Returns the changed images, of the same shape and dtype.

        Args:
          key: Random key.
          images: Images [B, H, W, C].
        """
        ...


def compose(*transforms: Transform) -> Transform:
    """Chains transforms, which run from left to right.

    Args:
      *transforms: Each `(key, images) -> images`; without transforms images stay unchanged.

    Returns:
      `(key, images) -> images`; each transform gets a separate key.
    """

    def transform(key, images):
        for each, subkey in zip(transforms, jax.random.split(key, len(transforms)), strict=True):
            images = each(subkey, images)
        return images

    return transform


def on_images(transform: Transform) -> Augment:
    """Turns a transform of images into a transform of batches.

    Args:
      transform: `(key, images) -> images`.

    Returns:
      `(key, batch) -> batch`, with "image" replaced and every other column unchanged. It raises
      ValueError if a batch has no images.
    """
    return lambda key, batch: {**batch, "image": transform(key, column(batch, "image"))}


def standardize(images: jax.Array, *, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Scales each channel of images to zero mean and unit deviation: (x - mean) / std.

    Args:
      images: Images [..., H, W, C]; uint8 is divided by 255, floats are in [0, 1] already.
      mean: Mean of each of the C channels, black = 0 and white = 1.
      std: Standard deviation of each channel, in the same units.

    Returns:
      Images [..., H, W, C] float32.

    Raises:
      ValueError: if mean and std do not hold one number per channel.
      TypeError: if images are neither uint8 nor floating.
    """
    if not images.ndim or (len(mean), len(std)) != (images.shape[-1], images.shape[-1]):
        raise InputError(
            f"mean and std must hold one number per channel, got {len(mean)} and {len(std)} "
            f"for images of shape {images.shape}"
        )
    _check_dtype(images)
    # In the units of the pixels, so that one multiplication scales them.
    white = 255.0 if images.dtype == jnp.uint8 else 1.0
    shift = jnp.asarray(mean, jnp.float32) * white
    factor = 1 / (jnp.asarray(std, jnp.float32) * white)
    return ((images.astype(jnp.float32) - shift) * factor).astype(jnp.float32)


def normalize(*, mean: tuple[float, ...], std: tuple[float, ...]) -> Preprocess:
    """Returns a `preprocess` function that applies `standardize` to the images of a batch.

    Args:
      mean: Mean of each of the C channels, black = 0 and white = 1.
      std: Standard deviation of each channel, in the same units.

    Returns:
      `batch -> batch`, with "image" replaced by float32 and every other column as it came.

    Raises:
      ValueError: if mean and std differ in length, or a deviation is not positive.
    """
    if len(mean) != len(std) or not all(deviation > 0 for deviation in std):
        raise InputError(
            f"mean and std must be equally long and std positive, got {mean} and {std}"
        )
    return lambda batch: {**batch, "image": standardize(column(batch, "image"), mean=mean, std=std)}


def flips() -> Preprocess:
    """Returns a `preprocess` function that makes two views of each image: itself and its mirror.

    The mirror image is flipped left to right.

    Returns:
      `batch -> batch`, with "image" [B, H, W, C] replaced by views [B, 2, H, W, C] and every other
      column as it came.
    """

    def views(batch):
        images = column(batch, "image")
        _check_images(images)
        return {**batch, "image": jnp.stack([images, images[:, :, ::-1]], axis=1)}

    return views


def ten_crop(size: tuple[int, int]) -> Preprocess:
    """Returns a `preprocess` function that makes ten crops: corners, centre and their mirrors.

    Views 0 to 4 are cut out top left, top right, bottom left, bottom right and in the centre, where
    an odd margin is smaller above and on the left; view i + 5 is view i mirrored left to right.

    Args:
      size: Height and width of a view, h and w.

    Returns:
      `batch -> batch`, with "image" [B, H, W, C] replaced by views [B, 10, h, w, C] and every other
      column as it came.

    Raises:
      ValueError: if a side is not positive; when run, if a side is longer than the image's.

    Reference:
      Krizhevsky, Sutskever, Hinton, ImageNet Classification with Deep Convolutional Neural
      Networks, NIPS 2012.
    """
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"size must be a positive height and width, got {size}")

    def views(batch):
        images = column(batch, "image")
        _check_images(images)
        down, right = images.shape[1] - height, images.shape[2] - width
        if down < 0 or right < 0:
            raise InputError(
                f"size must fit into images of {images.shape[1]} x {images.shape[2]} pixels, "
                f"got {size}"
            )
        corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
        crops = jnp.stack([images[:, y : y + height, x : x + width] for y, x in corners], axis=1)
        # Crops are [B, 5, h, w, C], so that the width is the last axis but one.
        return {**batch, "image": jnp.concatenate([crops, crops[..., ::-1, :]], axis=1)}

    return views


def random_flip() -> Transform:
    """Returns a transform that mirrors each image left to right with probability 1/2."""

    def transform(key, images):
        _check_images(images)
        mirrored = jax.random.bernoulli(key, jnp.float32(0.5), (images.shape[0], 1, 1, 1))
        return jnp.where(mirrored, images[:, :, ::-1], images)

    return transform


def random_crop(*, padding: int, mode: str = "reflect") -> Transform:
    """Returns a transform that pads each image and crops it to its old size at a random place.

    With `mode="constant"` it shifts an image by whole pixels over a black background.

    Args:
      padding: Pixels added on every side, which is also the largest shift along both axes.
      mode: Content of the added pixels, a mode of `jnp.pad`: "reflect", "edge", "constant" (0),
        "wrap".

    Returns:
      `(key, images) -> images`.

    Raises:
      ValueError: if padding is negative; when run, if it is too large to reflect the image.
    """
    _check_range("padding", padding)

    def transform(key, images):
        _check_images(images)
        batch, *size = images.shape
        if mode == "reflect" and padding >= min(size[:2]):
            raise InputError(f"padding must be below the {min(size[:2])} pixels, got {padding}")
        around = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
        padded = jnp.pad(images, around, mode=mode)
        corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1, jnp.int32)

        # A slice per image under vmap, since each image has another corner.
        def cut(image, corner):
            return jax.lax.dynamic_slice(image, (*corner, jnp.int32(0)), size)

        return jax.vmap(cut)(padded, corners)

    return transform


def random_erase(*, size: int, fill: float = 0.0) -> Transform:
    """Returns a transform that fills a random square of each image with one value (Cutout).

    Args:
      size: Side of the square in pixels. Its centre is a uniformly drawn pixel; the part outside of
        the image is lost.
      fill: Value of the filled pixels, in the units of the images.

    Returns:
      `(key, images) -> images`.

    Raises:
      ValueError: if size is negative.

    Reference:
      DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout,
      arXiv 1708.04552, 2017.
    """
    _check_range("size", size)

    def transform(key, images):
        _check_images(images)
        batch, height, width, _ = images.shape
        # Apart, or squares would lie on the diagonal.
        row_key, column_key = jax.random.split(key)

        def inside(key, length):
            first = jax.random.randint(key, (batch, 1), 0, length, jnp.int32) - size // 2
            return (jnp.arange(length) >= first) & (jnp.arange(length) < first + size)

        # A square is an interval of rows times an interval of columns.
        square = inside(row_key, height)[:, :, None] & inside(column_key, width)[:, None]
        return jnp.where(square[..., None], jnp.asarray(fill, images.dtype), images)

    return transform


def random_affine(*, degrees: float, scale: float, shear: float, shift: float) -> Transform:
    """Returns a transform that rotates, scales, shears and shifts each image about its centre.

    The pixel at p = (y, x) off the centre is read, by `resample`, from

      y' = ( cos a y + sin a x) / s_y + t_y
      x' = (-sin a y + cos a x + tan b y) / s_x + t_x

    with a, b, t uniform and s log-uniform; pixels outside the image are 0.

    Args:
      degrees: Angle a is in [-degrees, degrees]; a positive one turns counterclockwise.
      scale: s_y and s_x, drawn apart, are in [1 / (1 + scale), 1 + scale].
      shear: Angle b is in [-shear, shear], degrees below 90.
      shift: t_y and t_x are in [-shift, shift], pixels.

    Returns:
      `(key, images) -> images`.

    Raises:
      ValueError: if a number is negative, or shear is 90 or more.
    """
    for name, value in (("degrees", degrees), ("scale", scale), ("shift", shift)):
        _check_range(name, value)
    _check_range("shear", shear, below=90)

    def transform(key, images):
        _check_images(images)
        batch, height, width, _ = images.shape
        keys = jax.random.split(key, 4)

        def uniform(key, shape, largest):
            # A draw per image, [B, 1, 1], so that it broadcasts over rows and columns.
            of_images = (*shape, batch, 1, 1)
            return jax.random.uniform(key, of_images, jnp.float32, minval=-largest, maxval=largest)

        angle = uniform(keys[0], (), math.radians(degrees))
        slant = jnp.tan(uniform(keys[1], (), math.radians(shear)))
        scale_y, scale_x = jnp.exp(uniform(keys[2], (2,), math.log1p(scale)))
        shift_y, shift_x = uniform(keys[3], (2,), shift)
        centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
        y, x = jnp.arange(height)[:, None] - centre_y, jnp.arange(width) - centre_x
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        # The inverse map: for each pixel of the result, the place in the image to read it from.
        rows = (cos * y + sin * x) / scale_y + shift_y + centre_y
        columns = ((slant - sin) * y + cos * x) / scale_x + shift_x + centre_x
        return resample(images, rows, columns)

    return transform


def resample(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Samples images at fractional positions, bilinearly; pixels outside an image are 0.

    Args:
      images: Images [B, H, W, C], uint8 or floating.
      rows: Row position to sample for each result pixel, [B, h, w]; 0 is the first row's centre.
      columns: Column position, [B, h, w], likewise.

    Returns:
      Images [B, h, w, C] of the same dtype; uint8 is rounded to the nearest.

    Raises:
      ValueError: if images are not [B, H, W, C].
      TypeError: if they are neither uint8 nor floating.
    """
    _check_images(images)
    _check_dtype(images)
    batch, height, width, channels = images.shape
    # A black frame of one pixel: positions further out are clipped onto it and read 0.
    framed = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    rows, columns = jnp.clip(rows + 1, 0, height + 1), jnp.clip(columns + 1, 0, width + 1)
    top = jnp.minimum(rows.astype(jnp.int32), height)
    left = jnp.minimum(columns.astype(jnp.int32), width)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    stride = width + 2
    first = jnp.arange(batch)[:, None, None] * (height + 2) * stride + top * stride + left

    def pixel(offset):
        values = framed.at[first + offset].get(mode="promise_in_bounds")
        return values.astype(jnp.float32)

    upper = pixel(0) * (1 - right) + pixel(1) * right
    lower = pixel(stride) * (1 - right) + pixel(stride + 1) * right
    values = upper * (1 - down) + lower * down
    return (jnp.round(values) if images.dtype == jnp.uint8 else values).astype(images.dtype)


def _check_images(images):
    if images.ndim != 4:
        raise InputError(f"images must have shape [B, H, W, C], got {images.shape}")


def _check_dtype(images):
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputTypeError(f"images must be uint8 or floating, got {images.dtype}")


def _check_range(name, value, below=math.inf):
    if not 0 <= value < below:
        raise InputError(f"{name} must be 0 or more and below {below}, got {value}")
