"""Batch normalisation that keeps the precision of what it is given."""

import jax
from flax import nnx


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation in float32 whose output has its input's type.

    Flax's own returns float32 for bfloat16 inputs, the statistics being float32, and all layers
    after the first one would compute in float32.
    """

    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalises [..., C] by the batch's statistics, or by those that were gathered."""
        return super().__call__(x, use_running_average, mask=mask).astype(x.dtype)
