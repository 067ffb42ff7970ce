"""Times depthwise convolutions of EfficientNet-Lite0 at 96 pixels: quantjax, XLA and torch.

    python -m experiments.benchmarks.depthwise

Each forward, and forward with both gradients, 32 images. The peer is the compiler's own grouped
convolution, which a flax network would run; torch's, the faster of its two layouts, is beside it.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.models.layers import depthwise, grouped

from . import timing

_BATCH = 32
_LAYERS = ((48, 32, 3, 1), (48, 96, 3, 2), (24, 144, 5, 2), (12, 240, 5, 1), (6, 672, 5, 1))
"""Side of the image, channels, side of the kernel, strides."""
_BAR = 10.0


def layer(
    side: int, channels: int, size: int, strides: int, seconds: float
) -> Iterator[timing.Timing]:
    """Times a depthwise convolution layer against XLA and torch.

    Args:
      side: Height and width of the image.
      channels: C.
      size: Side of the kernel.
      strides: In both directions.
      seconds: How long each comparison is timed.

    Yields:
      Forward, and forward with gradients.
    """
    torch = importlib.import_module("torch")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(_BATCH, side, side, channels)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 1, channels)).astype(np.float32)
    arguments = jnp.asarray(x), jnp.asarray(kernel)
    name = f"{side}x{side}x{channels} k={size} s={strides}"
    peers = {}
    for order in (torch.contiguous_format, torch.channels_last):
        images = torch.from_numpy(np.moveaxis(x, 3, 1)).contiguous(memory_format=order)
        filters = torch.from_numpy(np.moveaxis(kernel, (3, 2), (0, 1)).copy())
        peers[f"torch {str(order).removeprefix('torch.')}"] = images, filters

    def ours_by(function, gradient):
        def loss(x, kernel):
            return jnp.sum(jnp.square(function(x, kernel)))

        compiled = jax.jit(jax.grad(loss, (0, 1)) if gradient else function)
        return lambda: jax.block_until_ready(compiled(*arguments))

    def torch_by(images, filters, gradient):
        convolve = functools.partial(
            torch.nn.functional.conv2d, stride=strides, groups=channels, padding=size // 2
        )

        def forward():
            with torch.no_grad():
                convolve(images, filters)

        def both():
            leaves = [images.detach().requires_grad_(), filters.detach().requires_grad_()]
            torch.autograd.grad(convolve(*leaves).square().sum(), leaves)

        return both if gradient else forward

    for gradient in (False, True):
        functions = {
            "ours": ours_by(functools.partial(depthwise, strides=strides), gradient),
            "XLA grouped": ours_by(functools.partial(grouped, strides=strides), gradient),
            **{name: torch_by(*pair, gradient) for name, pair in peers.items()},
        }
        ours, compiler, *others = timing.side_by_side(list(functions.values()), seconds=seconds)
        torch_note = f"torch {1e3 * min(others):.2f} ms, {min(others) / ours:.2f} of ours"
        what = "gradients" if gradient else "forward"
        yield timing.Timing(f"{name} {what}", ours, compiler, "XLA grouped", _BAR, torch_note)


def main() -> None:
    """Runs the layers named on the command line, all by default."""
    cases = {
        f"{side}x{channels}": functools.partial(layer, side, channels, size, strides)
        for side, channels, size, strides in _LAYERS
    }
    timing.run_cases(__doc__, cases, peers=f"torch {importlib.metadata.version('torch')}")


if __name__ == "__main__":
    main()
