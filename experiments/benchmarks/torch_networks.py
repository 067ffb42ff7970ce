"""The networks of `experiments.benchmarks.training` in torch, and a step of DQN on them."""

import collections
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RATE, MOMENTUM, ERROR_WEIGHT = 1e-3, 0.9, 1e-4


def convnet(
    input_shape: tuple[int, int, int],
    *,
    channels: Sequence[int],
    kernel_sizes: Sequence[int],
    hidden: int,
    dim: int,
) -> Any:
    """Returns `models.convnet`, all borders alike; ours pads even sides less above and left."""
    nn = _torch().nn
    height, width, depth = input_shape
    layers = []
    for out, size in zip(channels, kernel_sizes, strict=True):
        layers += [nn.Conv2d(depth, out, size, stride=2, padding=size // 2), nn.ReLU()]
        height, width, depth = -(-height // 2), -(-width // 2), out
    layers += [nn.Flatten(), nn.Linear(height * width * depth, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, dim))


def cifar_resnet18(input_shape: tuple[int, int, int], *, dim: int) -> Any:
    """Returns `models.cifar_resnet18`, its names being torchvision's."""
    nn = _torch().nn

    class Block(nn.Module):
        def __init__(self, depth, width, strides):
            super().__init__()
            self.conv1 = nn.Conv2d(depth, width, 3, strides, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.downsample = nn.Sequential()
            if strides > 1:
                shortcut = nn.Conv2d(depth, width, 1, strides, bias=False)
                self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

        def forward(self, x):
            y = self.bn1(self.conv1(x)).relu()
            return (self.bn2(self.conv2(y)) + self.downsample(x)).relu()

    layers = {"conv1": nn.Conv2d(input_shape[2], 64, 3, 1, 1, bias=False)}
    layers |= {"bn1": nn.BatchNorm2d(64), "relu": nn.ReLU()}
    for stage, width in enumerate((64, 128, 256, 512)):
        first = Block(max(width // 2, 64), width, 2 if stage else 1)
        layers[f"layer{stage + 1}"] = nn.Sequential(first, Block(width, width, 1))
    layers |= {"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    layers["bottleneck"] = nn.Linear(512, dim)
    return nn.Sequential(collections.OrderedDict(layers))


def alexnet(input_shape: tuple[int, int, int], *, dim: int) -> Any:
    """Returns `models.alexnet_torchvision`, dropout behind the dense layers as ours has it."""
    nn = _torch().nn
    depth = input_shape[2]
    features = nn.Sequential(
        *(nn.Conv2d(depth, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    length = features(_torch().zeros(1, depth, *input_shape[:2])).numel()
    classifier = nn.Sequential(
        *(nn.Identity(), nn.Linear(length, 4096), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
    )
    parts = {"features": features, "flat": nn.Flatten(), "classifier": classifier}
    return nn.Sequential(collections.OrderedDict(**parts, bottleneck=nn.Linear(4096, dim)))


def stepper(
    network: Any,
    images: np.ndarray,
    class_ids: np.ndarray,
    codebooks: np.ndarray,
    *,
    channels_last: bool,
    compiled: bool,
) -> tuple[Callable[[], Any], Callable[[], None]]:
    """Returns a step of DQN by SGD with momentum, and a function that waits for the device.

    Args:
      network: Network to train, on the GPU if the machine has one.
      images: [B, H, W, C] float32.
      class_ids: One of each image, [B].
      codebooks: [M, K, d]; they stay.
      channels_last: Whether images and kernels are laid out as ours are.
      compiled: Whether `torch.compile` makes one program of network and loss.
    """
    torch = _torch()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # XLA multiplies float32 on tensor cores, too.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    network = network.to(device, memory_format=layout)
    x = torch.from_numpy(np.moveaxis(images, 3, 1).copy()).to(device, memory_format=layout)
    ids, books = (torch.from_numpy(a).to(device) for a in (class_ids, codebooks))
    signs = torch.where(ids[:, None] == ids, 1.0, -1.0)
    count, _, width = books.shape
    places = torch.arange(count, device=device)

    def loss(x):
        z = torch.tanh(network(x))
        unit = torch.nn.functional.normalize(z)
        slices = z.view(-1, count, width).transpose(0, 1)
        gaps = books.square().sum(-1)[:, None] - 2 * torch.bmm(slices, books.transpose(1, 2))
        quantized = books[places, gaps.argmin(-1).T].reshape(z.shape)
        error = (z - quantized).square().sum(1).mean()
        return (signs - unit @ unit.T).square().mean() + ERROR_WEIGHT * error

    value = torch.compile(loss, dynamic=False) if compiled else loss
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM, fused=True)

    def step():
        optimizer.zero_grad()
        total = value(x)
        total.backward()
        optimizer.step()
        return total

    return step, torch.cuda.synchronize if device == "cuda" else lambda: None


def describe() -> str:
    """Returns torch's version, threads and device as text."""
    torch = _torch()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}"


def _torch():
    return importlib.import_module("torch")
