"""PQN: a product quantization network, trained on triplets with quantized positives and negatives.

Slices of the embedding and codewords have length 1, and codebooks are trained with the network.

    s_m(x) = sum_k softmax_k( 2 alpha <x_m, c_mk> ) c_mk         soft quantization of slice m
    l = 1 / (1 + exp( <x, s(x_+)> - <x, s(x_-)> ))               x an anchor, x_+ and x_- the others
    b_m = argmax_k <x_m, c_mk>                                   code, ranked by <q, c_b>

Equations and ranking are those of the first author's notes; another reader reports a hinge for l.
The paper is said to find alpha from 1 to 80 much alike, 1 a little too soft, and gradients that
vanish above 20; the default of 5 is ours.

Our choices, for which we found no text: the triplets are all pairs of a row and a positive of the
batch, each with a random negative; the codewords start as random directions.

Reference:
  Yu, Yuan, Fang, Jin, Product Quantization Network for Fast Image Retrieval, ECCV 2018.
"""

import math

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.arrays import check_positive
from quantjax.losses.rows import unit, widen
from quantjax.methods import triplets
from quantjax.methods.base import Inputs, Method, codebooks_shape, images, of_bits
from quantjax.methods.supervised import TrainedCodec, supervised_with_arrays
from quantjax.models.base import Network
from quantjax.quantizers import ProductCodec, product


def pqnet(
    network: Network,
    *,
    dim: int,
    num_codebooks: int,
    num_codewords: int = 256,
    sharpness: float = 5.0,
    inputs: Inputs = images,
) -> Method:
    """Builds PQN: trains network and codebooks by asymmetric triplets; see the module.

    Args:
      network: Inputs -> [B, dim]; the method divides each of its M slices by its length.
      dim: D, the embedding's width.
      num_codebooks: M; it must divide dim.
      num_codewords: K, a power of two up to 256; bits = M log2 K.
      sharpness: alpha.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net", "loss"}, where "loss" are the codebooks [M, K, d] before they are
      divided by their lengths.

    Raises:
      ValueError: if M does not divide dim, K is not allowed or alpha is not positive; when traced,
        if the batch has no labels or the network's output another width.
    """
    shape = codebooks_shape(dim, num_codebooks, num_codewords, "ip")
    check_positive("sharpness", sharpness)

    def unit_slices(x):
        return unit(widen(x).reshape(len(x), num_codebooks, -1)).reshape(x.shape)

    def init_loss(key, batch, num_rows):
        del batch, num_rows
        return unit(jax.random.normal(key, shape, jnp.float32)), {}

    def loss(x, batch, context, codebooks, state):
        # Made unit at every use, not after a step, so that gradients only turn codewords.
        unit_books = unit(codebooks)
        # Of vectors of length 1, -alpha ||x - c||^2 and 2 alpha <x, c> have the same softmax.
        soft = product.soft_quantize(unit_books, x, temperature=1 / sharpness)
        chosen = triplets.random_negatives(x, batch, context, margin=math.inf)
        # Anchors stay real, as queries do in search.
        value = triplets.mean(losses.triplet_sigmoid, x, context.gather(soft), chosen, context)
        return value, (state, {"triplets": context.mean(jnp.sum(chosen.mask, dtype=jnp.float32))})

    return supervised_with_arrays(
        of_bits(network, dim, unit_slices),
        init_loss,
        loss,
        TrainedCodec(lambda codebooks, state: ProductCodec(unit(codebooks), metric="ip")),
        inputs=inputs,
    )
