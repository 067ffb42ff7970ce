"""DHN: logistic loss on the pairs of a batch, and a prior that pulls embeddings to -1 and +1.

  L = mean_ij [ log(1 + e^t) - s_ij t ] + lambda mean_ik log cosh(|x_ik| - 1),   t = <x_i, x_j> / 2

x = tanh of the network's output, s_ij = 1 where both images share a label. The prior is the paper's
smooth form of the bimodal Laplacian, of which ||x| - 1| is the exact one.

From public code (DeepHash-pytorch): means in place of sums, lambda = 0.1; the paper chooses lambda
by cross-validation.

Our differences: pairs are those of the batch, without an image and itself. Public code keeps a
table of outputs as for DPSH, and has no tanh.

Reference:
  Zhu, Long, Wang, Cao, Deep Hashing Network for Efficient Similarity Retrieval, AAAI 2016.
"""

import jax.numpy as jnp

from quantjax import losses
from quantjax.methods import pairs
from quantjax.methods.base import Inputs, Method, images, of_bits
from quantjax.methods.supervised import supervised
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def dhn(
    network: Network, *, bits: int, quantization_weight: float = 0.1, inputs: Inputs = images
) -> Method:
    """Builds DHN: trains a network by the pairs of a batch; codes are signs.

    Args:
      network: Inputs -> [B, bits]; the method applies the tanh.
      bits: Length of a code.
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
        each = losses.pairwise_likelihood(x, context.gather(x), found.similar)
        pair = pairs.mean(each, found.counted, context)
        # A mean over bits too: the default weight belongs to it.
        error = jnp.mean(losses.log_cosh_sign(x)) / bits
        return pair + quantization_weight * error, {"pair_loss": pair, "quantization_loss": error}

    return supervised(of_bits(network, bits, jnp.tanh), loss, BinaryCodec(bits), inputs=inputs)
