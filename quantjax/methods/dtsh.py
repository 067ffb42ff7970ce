"""DTSH: logistic loss on all triplets of a batch.

  L = mean over triplets of log(1 + e^-t) + lambda mean_ik (x_ik - sgn x_ik)^2,
  t = <x_a, x_p> - <x_a, x_n> - alpha

a, p and n are an anchor, an image that shares a label with it and an image that shares none; x is
the network's output, without an activation.

From public code (DeepHash-pytorch): inner products without the paper's factor of 1/2, alpha = 5,
lambda = 1, and the mean over an anchor's triplets first, then over the anchors that have some. The
paper has alpha = bits / 2 and sums, by our memory.

Our differences: an image is not its own positive, as it is in public code, which also cuts t to
[-100, 50].

Reference:
  Wang, Shi, Kitani, Deep Supervised Hashing with Triplet Labels, ACCV 2016.
"""

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.losses.rows import widen
from quantjax.methods import pairs
from quantjax.methods.base import Inputs, Method, images, of_bits
from quantjax.methods.supervised import supervised
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def dtsh(
    network: Network,
    *,
    bits: int,
    margin: float = 5.0,
    quantization_weight: float = 1.0,
    inputs: Inputs = images,
) -> Method:
    """Builds DTSH: trains a network by the triplets of a batch; codes are signs.

    A batch of B images has B^3 triplets, and their losses are all in memory: 67 MB for 256 images.

    Args:
      network: Inputs -> [B, bits], without an activation.
      bits: Length of a code.
      margin: alpha, in units of inner products.
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
        products = jnp.matmul(widen(x), widen(context.gather(x)).T)
        of_anchors, have_triplets = _triplet_means(products, found, margin)
        # Anchor by anchor, so that a class of many images does not outweigh the others.
        triplet = pairs.mean(of_anchors, have_triplets, context)
        error = jnp.mean(losses.sign_error(x)) / bits
        metrics = {"triplet_loss": triplet, "quantization_loss": error}
        return triplet + quantization_weight * error, metrics

    return supervised(of_bits(network, bits), loss, BinaryCodec(bits), inputs=inputs)


def _triplet_means(products, found, margin):
    """Averages the losses of each anchor's triplets, [b], and marks anchors that have triplets."""
    # From products alone: `losses.triplet_likelihood` would need three embeddings of each triplet.
    each = jax.nn.softplus(margin - products[:, :, None] + products[:, None, :])
    chosen = found.similar[:, :, None] & found.dissimilar[:, None, :]
    count = jnp.sum(chosen, axis=(1, 2), dtype=jnp.float32)
    return jnp.sum(each, axis=(1, 2), where=chosen) / jnp.maximum(count, 1), count > 0
