"""Normalizes batches in float32 and returns the precision of the inputs."""

import jax
from flax import nnx


class BatchNorm(nnx.BatchNorm):
    """Applies batch normalisation in float32 and returns the type of its input.

    Flax's BatchNorm returns float32 for bfloat16 inputs, because its statistics are float32, and
    all later layers would then compute in float32.
    """

    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalizes [..., C] by the statistics of the batch, or by the running statistics."""
        return super().__call__(x, use_running_average, mask=mask).astype(x.dtype)
