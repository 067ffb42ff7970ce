"""GreedyHash: a linear classifier of the signs, trained as if the sign were the identity.

  L = mean_i CE( W sgn(x_i), y_i ) + lambda mean_ik ||x_ik| - 1|^3

x is the network's output, without an activation; W is trained with the network. The gradient passes
the sign unchanged.

From public code (DeepHash-pytorch): lambda = 0.1, which is 1 for ImageNet, and a W that starts
uniform within 1 / sqrt(bits), as a layer of PyTorch.

Our difference: several labels of an image share the target evenly; public code takes the first.

Reference:
  Su et al., Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN, NeurIPS 2018.
"""

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.methods.base import Inputs, Method, images, known_labels, of_bits
from quantjax.methods.supervised import supervised_with_arrays
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def greedyhash(
    network: Network, *, bits: int, quantization_weight: float = 0.1, inputs: Inputs = images
) -> Method:
    """Builds GreedyHash: trains a network by a classifier of its signs; codes are signs.

    Args:
      network: Inputs -> [B, bits], without an activation.
      bits: Length of a code.
      quantization_weight: lambda.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net", "loss"}, where "loss" is the classifier W [L, bits]. Images may
      have several labels.

    Raises:
      ValueError: if bits is below 1; when traced, if the batch has no labels or the network's
        output another width.
    """

    def init_classifier(key, batch, num_rows):
        del num_rows
        shape, bound = (known_labels(batch).shape[1], bits), bits**-0.5
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound), {}

    def loss(x, batch, context, classifier, state):
        del context
        # The classifier sees the codes themselves, so that nothing is lost at the sign later.
        class_loss = jnp.mean(losses.greedy_hash(x, batch["label"], classifier))
        error = jnp.mean(losses.cubed_sign_error(x))
        metrics = {"class_loss": class_loss, "quantization_loss": error}
        return class_loss + quantization_weight * error, (state, metrics)

    return supervised_with_arrays(
        of_bits(network, bits), init_classifier, loss, BinaryCodec(bits), inputs=inputs
    )
