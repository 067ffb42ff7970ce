"""DPN: every class has a code, and each output must reach its side of zero by a margin.

  L = mean_i sum_k max(0, m - x_ik c_ik)

x is the network's output, without an activation, and c_i the centre of the image's class, +1 and
-1. The hinge leaves an output alone once it is beyond the margin on its side. An image of several
labels has the majority of their centres' bits, as in CSQ.

From public code (DeepHash-pytorch): m = 1. That code averages over bits; the paper sums, as we do.

Our differences: centres are rows of a Hadamard matrix where they suffice, see `methods.csq`; the
paper draws them at random. We leave out its other assignment, which moves a centre to the signs of
its class's mean after each epoch, and its ternary codes.

Reference:
  Fan et al., Deep Polarized Network for Supervised Learning of Accurate Binary Hashing Codes,
  IJCAI 2020.
"""

import jax.numpy as jnp

from quantjax import losses
from quantjax.methods import centres
from quantjax.methods.base import Inputs, Method, images, known_labels, of_bits
from quantjax.methods.supervised import supervised_with_arrays, without_weights
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def dpn(network: Network, *, bits: int, margin: float = 1.0, inputs: Inputs = images) -> Method:
    """Builds DPN: trains a network to give each image its class's code; codes are signs.

    Args:
      network: Inputs -> [B, bits], without an activation.
      bits: Length of a code.
      margin: m.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net"}, state {"nets", "loss"}, where "loss" are the centres [L, bits].
      Images may have several labels.

    Raises:
      ValueError: if bits is below 1; when traced, if the batch has no labels or more classes than
        there are codes, or the network's output has another width.
    """

    def init_centres(key, batch, num_rows):
        del num_rows
        # In the state, so that a run that is resumed has the centres it began with.
        return {}, centres.make(key, known_labels(batch).shape[1], bits)

    def loss(x, batch, context, params, of_classes):
        del context, params
        targets = centres.of_rows(batch["label"], of_classes)
        value = jnp.mean(losses.class_wise_margin(x, targets, margin=margin))
        return value, (of_classes, {"centre_loss": value})

    method = supervised_with_arrays(
        of_bits(network, bits), init_centres, loss, BinaryCodec(bits), inputs=inputs
    )
    return without_weights(method)
