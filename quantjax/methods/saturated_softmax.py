"""Saturated softmax, our recommended method: a softmax over cosines of almost binary embeddings.

  z_i = tanh( a sqrt(D) x_i / ||x_i|| )                      embedding of the network's output x_i
  l_i = -sum_l p_il log softmax_l( s cos(z_i, w_l) ),        p_il = y_il / sum_l y_il
  s   = sqrt(2) log( max(C - 1, 2) )                         for C classes

w_l is a trained proxy of class l. The entries of x / ||x|| are 1 / sqrt(D) at the root mean square,
so the slope a says how close to corners of the cube embeddings come: near a corner signs and
codewords lose little. The scale s is AdaCos's fixed one, which grows with the number of classes:
at a larger scale images stop moving before they have come close to others of their class.

Ours: the tanh, its slope, and the combination. A slope of 1 is a compromise by validation rows. On
classes that training has seen a steeper tanh is better, on many other classes a flatter one.
`experiments/field.py` compares the method with others.

References:
  Zhai and Wu, Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019 (the loss).
  Zhang et al., AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep Face
  Representations, CVPR 2019, eq. 12 (the scale).
"""

import functools
import math

import jax.numpy as jnp

from quantjax.arrays import check_positive
from quantjax.losses import rows
from quantjax.methods.base import Inputs, Method, codebooks_shape, images, of_bits
from quantjax.methods.cosine_softmax import fit_product
from quantjax.methods.proxies import with_proxies
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def saturated_softmax(
    network: Network, *, bits: int, slope: float = 1.0, inputs: Inputs = images
) -> Method:
    """Builds the method with signs as codes, compared by Hamming distance.

    Args:
      network: Inputs -> [B, bits]; the method applies the tanh.
      bits: Length of a code, D.
      slope: a, the sharpness of the tanh.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net", "loss"}, where "loss" are the proxies [L, D]. Images may have
      several labels.

    Raises:
      ValueError: if bits is below 1 or slope is not positive; when traced, if the batch has no
        labels or the network's output another width.
    """
    network = _saturated(of_bits(network, bits), slope)
    return with_proxies(network, bits, BinaryCodec(bits), scale_of=scale_of, inputs=inputs)


def saturated_softmax_product(
    network: Network,
    *,
    dim: int,
    num_codebooks: int,
    num_codewords: int,
    slope: float = 1.0,
    inputs: Inputs = images,
    refit_every: int = 1,
) -> Method:
    """Builds the method with product codes, compared with real queries by inner product.

    Args:
      network: Inputs -> [B, dim]; the method applies the tanh and divides by the length.
      dim: D.
      num_codebooks: M; it must divide dim.
      num_codewords: K, a power of two up to 256.
      slope: a, the sharpness of the tanh.
      inputs: Selects the network's input from a batch.
      refit_every: Epochs between two fits of the codebooks, see `supervised`.

    Returns:
      The method; params {"net", "loss"}, where "loss" are the proxies [L, D]. Images may have
      several labels.

    Raises:
      ValueError: if M does not divide D, K is not allowed or slope is not positive; when traced, if
        the batch has no labels or the network's output another width.
    """
    shape = codebooks_shape(dim, num_codebooks, num_codewords, "ip")
    return with_proxies(
        _saturated(of_bits(network, dim), slope),
        dim,
        functools.partial(fit_product, shape),
        scale_of=scale_of,
        inputs=inputs,
        refit_every=refit_every,
        min_rows=num_codewords,
    )


def scale_of(num_classes: int) -> float:
    """Returns AdaCos's fixed scale of the softmax over so many classes.

    Args:
      num_classes: C.
    """
    # Two classes would have a scale of 0.
    return math.sqrt(2) * math.log(max(num_classes - 1, 2))


def _saturated(network, slope):
    check_positive("slope", slope)

    def apply(params, net_state, x, **options):
        x, net_state = network.apply(params, net_state, x, **options)
        x = rows.unit(rows.widen(x))
        # Of length 1 in the end, for which nearest by Euclid is nearest by inner product.
        return rows.unit(jnp.tanh(slope * math.sqrt(x.shape[1]) * x)), net_state

    return Network(network.init, apply)
