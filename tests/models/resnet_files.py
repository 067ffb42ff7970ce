"""Makes residual networks' weight files with torchvision's names, and computes their outputs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

WIDTHS = (64, 128, 256, 512)


class Architecture(NamedTuple):
    """Blocks of each stage, whether a block has three convolutions, and side of the stem's."""

    counts: tuple[int, ...]
    is_deep: bool
    stem: int


RESNET18 = Architecture((2, 2, 2, 2), False, 7)
RESNET50 = Architecture((3, 4, 6, 3), True, 7)
CIFAR_RESNET18 = Architecture((2, 2, 2, 2), False, 3)


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a file."""
    due = {}

    def add(convolution, norm, out, depth, side):
        due[f"{convolution}.weight"] = (out, depth, side, side)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            due[f"{norm}.{leaf}"] = (out,)
        due[f"{norm}.num_batches_tracked"] = ()

    add("conv1", "bn1", 64, 3, architecture.stem)
    depth = 64
    for stage, (width, count) in enumerate(zip(WIDTHS, architecture.counts, strict=True), 1):
        out = 4 * width if architecture.is_deep else width
        for number in range(count):
            block = f"layer{stage}.{number}"
            if architecture.is_deep:
                add(f"{block}.conv1", f"{block}.bn1", width, depth, 1)
                add(f"{block}.conv2", f"{block}.bn2", width, width, 3)
                add(f"{block}.conv3", f"{block}.bn3", out, width, 1)
            else:
                add(f"{block}.conv1", f"{block}.bn1", width, depth, 3)
                add(f"{block}.conv2", f"{block}.bn2", out, width, 3)
            if number == 0 and (stage > 1 or depth != out):
                add(f"{block}.downsample.0", f"{block}.downsample.1", out, depth, 1)
            depth = out
    return due | {"fc.weight": (1000, depth), "fc.bias": (1000,)}


def synthetic(architecture: Architecture) -> dict[str, np.ndarray]:
    """Random tensors that keep values in range."""
    rng = np.random.default_rng(1)
    tensors = {}
    for name, shape in shapes(architecture).items():
        if len(shape) == 4:
            value = rng.standard_normal(shape, np.float32) * math.prod(shape[1:]) ** -0.5
        elif name.endswith(("running_var", "weight")) and len(shape) == 1:
            value = rng.uniform(0.5, 1.5, shape)
        elif shape:
            value = 0.3 * rng.standard_normal(shape)
        else:
            value = np.int64(7)
        tensors[name] = np.asarray(value, np.float32 if shape else np.int64)
    return tensors


class Layers(NamedTuple):
    """Layers on [B, C, H, W].

    Attributes:
      convolve: (x, kernel, strides, padding) -> x.
      normalize: (x, scale, bias, running mean, running variance) -> x; in training, the running
        statistics change in place.
      max_pool: Of 3x3 pixels, stride 2, padding 1.
      relu: x -> x.
    """

    convolve: Callable[..., Any]
    normalize: Callable[..., Any]
    max_pool: Callable[..., Any]
    relu: Callable[..., Any]


def forward(x: Any, tensors: dict[str, Any], layers: Layers) -> Any:
    """Features [B, C] of images [B, C, H, W], as torchvision's module computes them."""

    def layer(x, convolution, norm, strides=1):
        kernel = tensors[f"{convolution}.weight"]
        x = layers.convolve(x, kernel, strides, (kernel.shape[-1] - 1) // 2)
        leaves = ("weight", "bias", "running_mean", "running_var")
        return layers.normalize(x, *(tensors[f"{norm}.{leaf}"] for leaf in leaves))

    is_large = tensors["conv1.weight"].shape[-1] == 7
    x = layers.relu(layer(x, "conv1", "bn1", 2 if is_large else 1))
    if is_large:
        x = layers.max_pool(x)
    is_deep = "layer1.0.conv3.weight" in tensors
    for block in sorted({name.rpartition(".conv")[0] for name in tensors if ".conv" in name}):
        strides = 2 if block in ("layer2.0", "layer3.0", "layer4.0") else 1
        y = layers.relu(layer(x, f"{block}.conv1", f"{block}.bn1", 1 if is_deep else strides))
        y = layer(y, f"{block}.conv2", f"{block}.bn2", strides if is_deep else 1)
        if is_deep:
            y = layer(layers.relu(y), f"{block}.conv3", f"{block}.bn3")
        if f"{block}.downsample.0.weight" in tensors:
            x = layer(x, f"{block}.downsample.0", f"{block}.downsample.1", strides)
        x = layers.relu(x + y)
    return x.mean((2, 3))


def numpy_layers(*, train: bool) -> Layers:
    def padded(x, padding, value=0.0):
        return np.pad(x, ((0, 0), (0, 0), *[(padding, padding)] * 2), constant_values=value)

    def windows(x, side, strides):
        sizes = [(size - side) // strides + 1 for size in x.shape[2:]]
        for i, j in np.ndindex(side, side):
            part = x[:, :, i::strides, j::strides]
            yield i, j, part[:, :, : sizes[0], : sizes[1]]

    def convolve(x, kernel, strides, padding):
        return sum(
            np.tensordot(kernel[:, :, i, j], part, axes=(1, 1)).swapaxes(0, 1)
            for i, j, part in windows(padded(x, padding), kernel.shape[-1], strides)
        )

    def normalize(x, scale, bias, running_mean, running_var):
        mean, var = running_mean, running_var
        if train:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            running_mean[:] = 0.9 * running_mean + 0.1 * mean
            running_var[:] = 0.9 * running_var + 0.1 * x.var((0, 2, 3), ddof=1)
        mean, var, scale, bias = (each[:, None, None] for each in (mean, var, scale, bias))
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def max_pool(x):
        return np.max([part for *_, part in windows(padded(x, 1, -np.inf), 3, 2)], axis=0)

    return Layers(convolve, normalize, max_pool, lambda x: np.maximum(x, 0))


def torch_layers(torch: Any, *, train: bool) -> Layers:
    functional = torch.nn.functional

    def convolve(x, kernel, strides, padding):
        return functional.conv2d(x, kernel, stride=strides, padding=padding)

    def normalize(x, scale, bias, mean, var):
        return functional.batch_norm(
            x, mean, var, scale, bias, training=train, momentum=0.1, eps=1e-5
        )

    def max_pool(x):
        return functional.max_pool2d(x, 3, stride=2, padding=1)

    return Layers(convolve, normalize, max_pool, functional.relu)
