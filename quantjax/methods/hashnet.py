"""HashNet: logistic loss on weighted pairs, with a tanh that sharpens into the sign.

Two images are compared by u = tanh(beta z), z the network's output. beta grows with the steps, so
that u starts smooth and ends close to the codes sgn(z).

  L = mean_ij w_ij [ log(1 + e^t) - s_ij t ],   t = alpha <u_i, u_j>

s_ij is 1 for images that share a label and 0 for others; w_ij = c_ij |S| / |S1| for a similar pair
and |S| / |S0| for another: both kinds weigh the same in sum. c_ij is the Jaccard similarity of the
labels, 1 for one label an image.

From the authors' code: alpha = 10 / bits, and beta = sqrt(1 + 0.005 t), t being the step, rounded
down to a multiple of 200.

Our differences: the pairs are those of one batch, without an image and itself; the authors' code
compares two batches, and public code keeps the pairs of an image and itself. |S1| and |S0| are
counted in the batch. The authors' code cuts t at 15, which is not needed here.

Reference:
  Cao et al., HashNet: Deep Learning to Hash by Continuation, ICCV 2017; its authors' code.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from quantjax import labels, losses
from quantjax.methods import pairs
from quantjax.methods.base import Inputs, Method, images, of_bits
from quantjax.methods.supervised import supervised
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def square_root_schedule(step: jax.Array) -> jax.Array:
    """Returns beta of the authors' code at a step: sqrt(1 + 0.005 t), new every 200 steps."""
    return jnp.sqrt(1 + 0.005 * (step // 200 * 200).astype(jnp.float32))


def hashnet(
    network: Network,
    *,
    bits: int,
    alpha: float | None = None,
    schedule: Callable[[jax.Array], jax.Array] = square_root_schedule,
    inputs: Inputs = images,
) -> Method:
    """Builds HashNet: trains a network by the weighted pairs of a batch; codes are signs.

    Args:
      network: Inputs -> [B, bits], without an activation.
      bits: Length of a code.
      alpha: Factor of the inner products; 10 / bits when None.
      schedule: Step [] int32 -> beta, the sharpness of the tanh.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net"}, state {"nets"}. Images may have several labels.

    Raises:
      ValueError: if bits is below 1; when traced, if the batch has no labels or the network's
        output another width.
    """
    network = of_bits(network, bits)  # first, as it checks the number of bits
    scale = 10 / bits if alpha is None else alpha

    def loss(x, batch, context):
        # In the loss alone: the codes are the same signs at any beta.
        beta = schedule(context.step)
        u = jnp.tanh(beta * x)
        found = pairs.in_batch(batch, context)
        each = losses.pairwise_likelihood(u, context.gather(u), found.similar, scale=scale)
        # Of pairs that share one label of several, those with few others weigh more.
        jaccard = labels.jaccard_similarity(batch["label"], context.gather(batch["label"]))
        weights = pairs.weights(found, context, jaccard)
        value = pairs.mean(weights * each, found.counted, context)
        return value, {"pair_loss": value, "beta": beta}

    return supervised(network, loss, BinaryCodec(bits), inputs=inputs)
