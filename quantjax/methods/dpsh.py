"""DPSH: logistic loss on pairs of a batch's images and all training images.

  L = mean_ij [ log(1 + e^t) - s_ij t ] + lambda mean_ik (x_ik - sgn x_ik)^2,   t = <x_i, u_j> / 2

x_i is the network's output for an image of the batch, without an activation, and u_j the latest
output of training image j, held constant; s_ij is 1 where both share a label. A table keeps u; it
is written before it is read, so that images of the batch are compared with each other as they are.

From public code (DeepHash-pytorch): the table, means in place of sums, lambda = 0.1.

Our differences: an image counts once its output is in the table; public code compares with rows of
zeros until then, which have no gradient but a part in the mean. The paper has lambda = 10 beside
sums, by our memory, and updates by hand the gradient that reaches both images of a pair.

Reference:
  Li, Wang, Kang, Feature Learning Based Deep Supervised Hashing with Pairwise Labels, IJCAI 2016.
"""

import jax
import jax.numpy as jnp

from quantjax import labels, losses
from quantjax.methods.base import Inputs, Method, images, known_labels, of_bits
from quantjax.methods.supervised import supervised_with_arrays, without_weights
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def dpsh(
    network: Network, *, bits: int, quantization_weight: float = 0.1, inputs: Inputs = images
) -> Method:
    """Builds DPSH: trains a network by pairs with all training images; codes are signs.

    Args:
      network: Inputs -> [B, bits], without an activation.
      bits: Length of a code.
      quantization_weight: lambda.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net"}, state {"nets", "loss"}, where "loss" is the table: outputs "x"
      [num_rows, bits], "label" [num_rows, L] and "seen" [num_rows]. Images may have several labels.

    Raises:
      ValueError: if bits is below 1; when traced, if the batch has no labels or the network's
        output another width.
    """

    def init_table(key, batch, num_rows):
        del key
        label = known_labels(batch)
        # With labels, since a batch brings those of its own rows alone.
        table = {
            "x": jnp.zeros((num_rows, bits), jnp.float32),
            "label": jnp.zeros((num_rows, label.shape[1]), label.dtype),
            "seen": jnp.zeros(num_rows, bool),
        }
        return {}, table

    def loss(x, batch, context, params, table):
        del params
        table = _written(table, x, batch, context)
        similar = labels.share_label(batch["label"], table["label"])
        each = losses.pairwise_likelihood(x, table["x"], similar)
        # The other rows are zeros: of images that no batch has had, or padding.
        pair = jnp.mean(jnp.mean(each, axis=1, where=table["seen"]))
        error = jnp.mean(losses.sign_error(x)) / bits
        metrics = {"pair_loss": pair, "quantization_loss": error}
        return pair + quantization_weight * error, (table, metrics)

    method = supervised_with_arrays(
        of_bits(network, bits), init_table, loss, BinaryCodec(bits), inputs=inputs
    )
    return without_weights(method)


def _written(table, x, batch, context):
    """Writes the outputs of all devices into the table, which is the same on every device."""
    # All devices write all rows, or their tables would differ from the next step on.
    rows = context.gather(batch["index"])
    new = {
        "x": jax.lax.stop_gradient(x).astype(jnp.float32),
        "label": batch["label"],
        "seen": jnp.ones(len(x), bool),
    }
    return {name: table[name].at[rows].set(context.gather(new[name])) for name in table}
