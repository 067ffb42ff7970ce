"""OrthoHash: one classification loss, the cosines to fixed codes of the classes.

  v = g (x - mean x) / sqrt(var x + 1e-5) + h,   L = mean_i CE( s (cos(v_i, c_l) - m y_il) )

x is the network's output; mean and variance are those of each bit over the whole batch, on however
many devices it is, so that about half of the images have a bit of +1. In search they are running
means, as in any batch normalisation; g and h are trained. c_l are the centres of the classes, +1
and -1, which do not change.

From the authors' code: s = 8, m = 0.2 (0.3 on CIFAR-10), the running means' momentum of 0.1, g and
h; several labels of an image share the target evenly.

Our differences: centres are balanced and far apart, see `losses.bernoulli_centres`; the authors
draw each bit by itself, or until the centres are apart. The running variance is that of the batch,
not B / (B - 1) of it. Their network has no bias before the normalisation, where it has no effect.

Reference:
  Hoe et al., One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning
  Objective, NeurIPS 2021; its authors' code.
"""

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.losses.rows import widen
from quantjax.methods import centres
from quantjax.methods.base import Inputs, Method, images, known_labels, of_bits
from quantjax.methods.supervised import supervised_with_arrays
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec

_MOMENTUM = 0.1
_EPSILON = 1e-5


def orthohash(
    network: Network,
    *,
    bits: int,
    scale: float = 8.0,
    margin: float = 0.2,
    inputs: Inputs = images,
) -> Method:
    """Builds OrthoHash: trains a network by cosines to class centres; codes are signs.

    Args:
      network: Inputs -> [B, bits]; the method normalizes its outputs.
      bits: Length of a code.
      scale: s, the sharpness of the softmax.
      margin: m, taken off the cosines of an image's own labels.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net", "loss"}, where "loss" are g and h; state {"nets", "loss"}, where
      "loss" are the centres [L, bits] and running statistics. Images may have several labels.

    Raises:
      ValueError: if bits is below 1; when traced, if the batch has no labels or more classes than
        there are codes, or the network's output has another width.
    """

    def init_loss(key, batch, num_rows):
        del num_rows
        ones, zeros = jnp.ones(bits, jnp.float32), jnp.zeros(bits, jnp.float32)
        # Not Hadamard rows: one bit is +1 in all of the first, and normalized bits are half -1.
        of_classes = centres.make_random(key, known_labels(batch).shape[1], bits)
        statistics = {"mean": zeros, "variance": ones}
        return {"g": ones, "h": zeros}, {"centres": of_classes, "statistics": statistics}

    def loss(x, batch, context, affine, state):
        # Gathered, since devices that normalize their own rows would train another network.
        everyone = widen(context.gather(x))
        here = {"mean": jnp.mean(everyone, axis=0), "variance": jnp.var(everyone, axis=0)}
        v = _normalized(x, affine, here)
        value = jnp.mean(
            losses.orthogonal_cosine(
                v, batch["label"], state["centres"], scale=scale, margin=margin
            )
        )
        running = jax.tree.map(_moved, state["statistics"], here)
        return value, ({**state, "statistics": running}, {"class_loss": value})

    method = supervised_with_arrays(
        of_bits(network, bits), init_loss, loss, BinaryCodec(bits), inputs=inputs
    )

    # The signs are those of v, as the loss saw it, and not of the network's output.
    def embed(params, state, batch):
        x = method.embed(params, state, batch)
        return _normalized(x, params["loss"], state["loss"]["statistics"])

    return method._replace(embed=embed, embed_query=embed)


def _normalized(x, affine, statistics):
    centred = widen(x) - statistics["mean"]
    return affine["g"] * centred * jax.lax.rsqrt(statistics["variance"] + _EPSILON) + affine["h"]


def _moved(running, here):
    # Constant for the gradient: the statistics of this step alone are differentiated.
    return (1 - _MOMENTUM) * running + _MOMENTUM * jax.lax.stop_gradient(here)
