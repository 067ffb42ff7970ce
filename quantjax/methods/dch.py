"""DCH: pairs by a Cauchy distribution of their distance, steep within a small Hamming ball.

  L = mean_ij w_ij [ s_ij log(d_ij / gamma) + log(1 + gamma / d_ij) ]
      + lambda mean_i log(1 + d(|x_i|, 1) / gamma),   d(u, v) = bits / 2 (1 - cos(u, v))

x is the network's output and s_ij = 1 where two images share a label. w_ij is |S| / |S1| for a
similar pair and |S| / |S0| for another, counted in the batch: both kinds weigh the same in sum.

From public code (DeepHash-pytorch): gamma = 20, lambda = 0.1, an output without an activation; the
authors' code leaves a tanh to choice.

Our differences: an image and itself are no pair, as in the authors' code. 1 - cos is held above
1e-6, where public code cuts it at 0.01.

Reference:
  Cao, Long, Liu, Wang, Deep Cauchy Hashing for Hamming Space Retrieval, CVPR 2018; its authors'
  code.
"""

import jax.numpy as jnp

from quantjax import losses
from quantjax.methods import pairs
from quantjax.methods.base import Inputs, Method, images, of_bits
from quantjax.methods.supervised import supervised
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def dch(
    network: Network,
    *,
    bits: int,
    gamma: float = 20.0,
    quantization_weight: float = 0.1,
    inputs: Inputs = images,
) -> Method:
    """Builds DCH: trains a network by the weighted pairs of a batch; codes are signs.

    Args:
      network: Inputs -> [B, bits].
      bits: Length of a code.
      gamma: Distance in bits at which both kinds of pairs are equally likely.
      quantization_weight: lambda.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net"}, state {"nets"}. Images may have several labels.

    Raises:
      ValueError: if bits is below 1; when traced, if the batch has no labels or the network's
        output another width.
    """

    def loss(x, batch, context):
        found = pairs.in_batch(batch, context)
        # By cosines, so that the length of x has no part in either term.
        each = losses.pairwise_cauchy(x, context.gather(x), found.similar, gamma=gamma)
        pair = pairs.mean(pairs.weights(found, context) * each, found.counted, context)
        error = jnp.mean(losses.cauchy_sign_error(x, gamma=gamma))
        return pair + quantization_weight * error, {"pair_loss": pair, "quantization_loss": error}

    return supervised(of_bits(network, bits), loss, BinaryCodec(bits), inputs=inputs)
