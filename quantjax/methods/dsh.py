"""DSH: similar images are pulled together and others pushed apart, up to a margin.

  L = mean_ij [ s_ij / 2 D_ij + (1 - s_ij) / 2 max(0, m - D_ij) ] + alpha mean_ik ||x_ik| - 1|

D_ij = ||x_i - x_j||^2, x the network's output, without an activation: the second term alone draws
it to -1 and +1. s_ij = 1 where both images share a label.

m = 2 bits is the paper's. From public code (DeepHash-pytorch): alpha = 0.1, on the mean over bits;
the paper has 0.01 on the sum, by our memory.

Our differences: pairs are those of the batch, as the paper's, without an image and itself. Public
code keeps a table of outputs as for DPSH.

Reference:
  Liu, Wang, Shan, Chen, Deep Supervised Hashing for Fast Image Retrieval, CVPR 2016.
"""

import jax.numpy as jnp

from quantjax import losses
from quantjax.methods import pairs
from quantjax.methods.base import Inputs, Method, images, of_bits
from quantjax.methods.supervised import supervised
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def dsh(
    network: Network,
    *,
    bits: int,
    margin: float | None = None,
    quantization_weight: float = 0.1,
    inputs: Inputs = images,
) -> Method:
    """Builds DSH: trains a network by the distances of a batch's pairs; codes are signs.

    Args:
      network: Inputs -> [B, bits], without an activation.
      bits: Length of a code.
      margin: m, in units of squared distance; 2 bits when None.
      quantization_weight: alpha.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net"}, state {"nets"}. Images may have several labels.

    Raises:
      ValueError: if bits is below 1; when traced, if the batch has no labels or the network's
        output another width.
    """
    margin = 2 * bits if margin is None else margin

    def loss(x, batch, context):
        found = pairs.in_batch(batch, context)
        # Without a margin, dissimilar images would be driven apart without end.
        each = losses.pairwise_contrastive(x, context.gather(x), found.similar, margin=margin)
        pair = pairs.mean(each, found.counted, context)
        # A mean over bits too: the default weight belongs to it.
        error = jnp.mean(losses.absolute_sign_error(x)) / bits
        return pair + quantization_weight * error, {"pair_loss": pair, "quantization_loss": error}

    return supervised(of_bits(network, bits), loss, BinaryCodec(bits), inputs=inputs)
