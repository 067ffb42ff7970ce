"""CSQ: every class has a code, its centre, and the bits of an image are pulled to it.

  L = mean_ik BCE( (tanh x_ik + 1) / 2, (c_ik + 1) / 2 ) + lambda mean_ik (|tanh x_ik| - 1)^2

x is the network's output and c_i the centre of the image's class, +1 and -1. Centres do not change
in training. They are the first rows of [H; -H] with H a Hadamard matrix, where bits is a power of
two and there are at most 2 bits classes, and random otherwise. An image of several labels has the
majority of their centres' bits; where the votes are even it takes the bit of one random code, the
same in all of training.

From public code (DeepHash-pytorch): the squared difference as quantization term, lambda = 1e-4.
The paper has log cosh(||tanh x| - 1|) there, by our memory.

Our differences: random centres are drawn one by one, each far from those before, see
`losses.bernoulli_centres`; the paper draws all until they are far apart.

Reference:
  Yuan et al., Central Similarity Quantization for Efficient Image and Video Retrieval, CVPR 2020.
"""

import jax.numpy as jnp

from quantjax import losses
from quantjax.methods import centres
from quantjax.methods.base import Inputs, Method, images, known_labels, of_bits
from quantjax.methods.supervised import supervised_with_arrays, without_weights
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def csq(
    network: Network, *, bits: int, quantization_weight: float = 1e-4, inputs: Inputs = images
) -> Method:
    """Builds CSQ: trains a network to give each image its class's code; codes are signs.

    Args:
      network: Inputs -> [B, bits]; the loss applies the tanh.
      bits: Length of a code.
      quantization_weight: lambda.
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
        centre = jnp.mean(losses.central_similarity(x, targets))
        # Of the tanh, whose signs are those of x: x itself may be of any length.
        error = jnp.mean(losses.sign_error(jnp.tanh(x))) / bits
        metrics = {"centre_loss": centre, "quantization_loss": error}
        return centre + quantization_weight * error, (of_classes, metrics)

    method = supervised_with_arrays(
        of_bits(network, bits), init_centres, loss, BinaryCodec(bits), inputs=inputs
    )
    return without_weights(method)
