"""Cosine softmax: the cosines to trained class proxies classify, product quantization codes.

The loss knows nothing of the codes. It spreads the classes over the sphere, and product codebooks
are then fitted to the unit embeddings of the training rows. Queries stay real and are ranked by
inner product.

References:
  Zhai and Wu, Classification is a Strong Baseline for Deep Metric Learning, BMVC 2019 (the loss).
  Jegou, Douze, Schmid, Product Quantization for Nearest Neighbor Search, TPAMI 2011 (the codes).
"""

import functools

import jax

from quantjax.losses import rows
from quantjax.methods.base import Inputs, Method, codebooks_shape, images, of_bits
from quantjax.methods.proxies import with_proxies
from quantjax.models.base import Network
from quantjax.quantizers import ProductCodec, product


def cosine_softmax(
    network: Network,
    *,
    dim: int,
    num_codebooks: int,
    num_codewords: int,
    scale: float = 16.0,
    inputs: Inputs = images,
    refit_every: int = 1,
) -> Method:
    """Builds the method: softmax over cosines to class proxies, then product quantization.

    l_i = -sum_l p_il log softmax_l( s cos(x_i, w_l) ), with p_i = y_i / sum_l y_il: several labels
    of a row share the target evenly.

    Args:
      network: Inputs -> [B, D]; its outputs are divided by their length.
      dim: D.
      num_codebooks: M; it must divide dim.
      num_codewords: K, a power of two up to 256.
      scale: s, the sharpness of the softmax.
      inputs: Selects the network's input from a batch.
      refit_every: Epochs between two fits of the codebooks, see `supervised`.

    Returns:
      The method; params {"net", "loss"}, where "loss" are the proxies [L, D].

    Raises:
      ValueError: if M does not divide D, or K is not allowed; when traced, if the batch has no
        labels or the network's output another width.
    """
    shape = codebooks_shape(dim, num_codebooks, num_codewords, "ip")
    return with_proxies(
        Network(network.init, functools.partial(_apply_unit, of_bits(network, dim))),
        dim,
        functools.partial(fit_product, shape),
        scale_of=lambda num_classes: scale,
        inputs=inputs,
        refit_every=refit_every,
        min_rows=num_codewords,
    )


def _apply_unit(network, params, net_state, x, **options):
    x, net_state = network.apply(params, net_state, x, **options)
    return rows.unit(rows.widen(x)), net_state


def fit_product(
    shape: tuple[int, int, int], key: jax.Array, x: jax.Array, mask: jax.Array
) -> ProductCodec:
    """Fits product codebooks to unit embeddings by k-means, see `supervised.FitCodec`.

    Args:
      shape: (M, K, d).
      key: Random key, consumed.
      x: Embeddings of length 1, [N, D].
      mask: Whether each row is real, [N] bool.

    Returns:
      The codec, which ranks by inner product.
    """
    num_codebooks, num_codewords, _ = shape
    # Of unit rows the nearest by Euclid, which k-means knows, is the nearest by inner product.
    codebooks = product.fit_codebooks(
        key, x, num_codebooks=num_codebooks, num_codewords=num_codewords, mask=mask
    )
    return ProductCodec(codebooks, metric="ip")
