"""SPQ: self-supervised product quantization, from two views of each image and without labels.

The embedding of one view must find the quantized embedding of the other view, and the reverse,
among those of all other images of the batch. Codebooks are trained with the network.

    z_m = sum_k softmax_k( -tau_q ||x_m - c_mk||^2 ) c_mk            soft quantization of slice m
    L = NT-Xent(x_a, z_b) + NT-Xent(x_b, z_a)                      a and b the two views

NT-Xent is SimCLR's loss on cosines with temperature tau, `losses.cross_quantized`.

Equations, tau_q = 5, tau = 0.5, M = 8, K = 16 and first codewords drawn from a normal distribution
of deviation 0.1 sqrt(2 / (K + D)) are those of the public code, whose README calls the paper's 0.2
a divisor of the same distances. Its network is a ResNet-18 with a last layer without a bias; its
views are SimCLR's, for which `view` stands.

Our difference: items are ranked by the squared Euclidean distance to their codewords. The public
code sums the slices' distances without squares, which no codec here does. The paper has no form
with labels.

Reference:
  Jang and Cho, Self-supervised Product Quantization for Deep Unsupervised Image Retrieval, ICCV
  2021.
"""

import functools
import math

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.arrays import check_positive
from quantjax.batch import Augment
from quantjax.methods import views
from quantjax.methods.base import Inputs, Method, codebooks_shape, images, of_bits
from quantjax.methods.supervised import TrainedCodec, supervised_with_arrays
from quantjax.models.base import Network
from quantjax.quantizers import ProductCodec, product


def spq(
    network: Network,
    *,
    dim: int,
    view: Augment,
    num_codebooks: int = 8,
    num_codewords: int = 16,
    sharpness: float = 5.0,
    temperature: float = 0.5,
    inputs: Inputs = images,
) -> Method:
    """Builds SPQ: trains network and codebooks on pairs of views; see the module.

    Args:
      network: Inputs -> [B, dim], without an activation.
      dim: D, the embedding's width.
      view: `(key, batch) -> batch`, a random change of preprocessed rows; called for each row twice
        a step. `data.augment.on_images` makes one of image transforms.
      num_codebooks: M; it must divide dim.
      num_codewords: K, a power of two up to 256; bits = M log2 K.
      sharpness: tau_q, the reciprocal of a squared distance.
      temperature: tau.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net", "loss"}, where "loss" are the codebooks [M, K, d]. Labels are not
      used.

    Raises:
      ValueError: if M does not divide dim, K is not allowed, tau_q or tau is not positive, or
        `view` is no function; when traced, if the network's output has another width.
    """
    shape = codebooks_shape(dim, num_codebooks, num_codewords, "l2")
    check_positive("sharpness", sharpness)
    check_positive("temperature", temperature)

    def init_loss(key, batch, num_rows):
        del batch, num_rows
        # So small that all codewords weigh about the same at first, and none is left out.
        deviation = 0.1 * math.sqrt(2 / (num_codewords + dim))
        return deviation * jax.random.normal(key, shape, jnp.float32), {}

    def loss(x, batch, context, codebooks, state):
        first, second, all_first, all_second, *columns = views.split(x, batch, context)
        quantize = functools.partial(product.soft_quantize, codebooks, temperature=1 / sharpness)
        crossed = functools.partial(losses.cross_quantized, temperature=temperature)
        # Each view's embedding looks for the other's codes, as a query does in a database.
        forth = crossed(first, quantize(second), all_first, quantize(all_second), *columns)
        back = crossed(second, quantize(first), all_second, quantize(all_first), *columns)
        return jnp.mean(forth + back), (state, {})

    return supervised_with_arrays(
        views.of_two_views(of_bits(network, dim), view, inputs),
        init_loss,
        loss,
        TrainedCodec(lambda codebooks, state: ProductCodec(codebooks, metric="l2")),
        inputs=views.whole,
    )
