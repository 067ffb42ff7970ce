"""Triplet quantization: trains binary codes that keep the ranking of the real embeddings.

Attested by the abstract: a quantization loss measured on triplets, in place of ||f - sgn f||^2, so
that the order of retrieval survives quantization; binary codes, whose bits are signs. By the
authors' patent CN201710555687.9: queries are quantized too, and Hamming distance ranks.

Reconstruction (formulas, margins, weights, layer sizes and mining were not found): the three
readings of the loss (`quantjax.losses.triplet`), the sum L_tri + lambda L_TQ, the triplet loss in
FaceNet's form (the paper cites it) on embeddings of length 1, and semi-hard triplets that both
terms share. Do not print results of this method beside the paper's numbers as if they were the
paper's.

Reference:
  Zhou, Huang, Zhang, Wang, Deep Hashing with Triplet Quantization Loss, VCIP 2017.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.losses import selection
from quantjax.losses.rows import squared_distances, unit, widen
from quantjax.methods import pairs
from quantjax.methods.base import Inputs, Method, images, of_bits
from quantjax.methods.supervised import supervised
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec

TripletLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Quantization = Callable[[jax.Array, jax.Array, selection.Triplets], tuple[jax.Array, jax.Array]]
"""`(x [A, D], candidates [N, D], chosen) -> (losses [T], mask [T])`; the mean is over the mask."""
Select = Callable[..., selection.Triplets]


def on_triplets(loss: TripletLoss) -> Quantization:
    """Builds a quantization term that applies a loss to the selected triplets, the paper's idea.

    Args:
      loss: `losses.triplet_quantization` or `losses.asymmetric_triplet_quantization`, their margin
        bound by `functools.partial`, or `losses.order_drop`: (anchors, positives, negatives [T, D])
        -> [T].
    """

    def quantization(x, candidates, chosen):
        rows = x[chosen.anchors], candidates[chosen.positives], candidates[chosen.negatives]
        return loss(*rows), chosen.mask

    return quantization


def on_rows(loss: Callable[[jax.Array], jax.Array]) -> Quantization:
    """Builds a quantization term that applies a loss to each embedding, the paper's baseline.

    Args:
      loss: `losses.sign_error`, or another of [B, D] -> [B].
    """

    def quantization(x, candidates, chosen):
        del candidates, chosen
        return loss(x), jnp.ones(len(x), bool)

    return quantization


def triplet_quantization(
    network: Network,
    *,
    bits: int,
    margin: float = 0.5,
    quantization: Quantization | None = None,
    quantization_weight: float = 1.0,
    select: Select = selection.semi_hard,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    inputs: Inputs = images,
) -> Method:
    """Builds the method: trains a network by L_tri + lambda L_TQ; codes are signs.

    L_tri is the mean of [m + ||a - p||^2 - ||a - n||^2]_+ over the chosen triplets of the batch,
    with a, p and n the embeddings f scaled to length 1. L_TQ is the mean of `quantization` of the
    embeddings f as they are; a loss of triplets gets the same triplets. Terms of triplets are 0 if
    no triplet is chosen: train on batches of several images of several classes
    (`data.class_balanced`). Queries become signs too, and Hamming distance ranks, as in the
    authors' patent; search without codes compares the angles of f.

    All defaults are ours, none is the paper's.

    Args:
      network: Inputs -> [B, bits]; the method applies the activation.
      bits: B, the length of a code and width of the embedding.
      margin: m, in units of the squared distance of embeddings of length 1, which is 4 at most.
      quantization: L_TQ, from `on_triplets` or `on_rows`. None is our first reading,
        `losses.triplet_quantization`, with margin m / 4: Hamming distances reach 1 and the squared
        distances of L_tri reach 4.
      quantization_weight: lambda.
      select: `(distances, positive, negative, *, margin) -> Triplets`, on squared distances of
        embeddings of length 1.
      activation: Function from the network's output to f: tanh, or the identity. Where tanh
        saturates, f is almost a code already, and L_TQ has little effect.
      inputs: Selects the network's input from a batch: `images` or `features`.

    Returns:
      The method; params {"net"}, state {"nets"}.

    Raises:
      ValueError: if bits is below 1; and when the network first runs, if its output has another
        width.
    """
    if quantization is None:
        quantization = on_triplets(
            functools.partial(losses.triplet_quantization, margin=margin / 4)
        )

    def loss(x, batch, context):
        triplet, error, metrics = _terms(x, batch, context, margin, select, quantization)
        return triplet + quantization_weight * error, metrics

    return supervised(of_bits(network, bits, activation), loss, BinaryCodec(bits), inputs=inputs)


def _terms(x, batch, context, margin, select, quantization):
    """Computes L_tri and L_TQ of `triplet_quantization` on a batch, and its metrics."""
    candidates = context.gather(x)
    positive, negative, _ = pairs.in_batch(batch, context)
    # Widened to float32 first: bfloat16 squares would tie distances that differ.
    a, others = unit(widen(x)), unit(widen(candidates))
    # The choice of triplets has no gradient; their losses have.
    distances = jax.lax.stop_gradient(squared_distances(a, others))
    chosen = select(distances, positive, negative, margin=margin)
    rows = a[chosen.anchors], others[chosen.positives], others[chosen.negatives]
    triplet = pairs.mean(losses.triplet_margin(*rows, margin=margin), chosen.mask, context)
    error = pairs.mean(*quantization(x, candidates, chosen), context)
    metrics = {
        "triplet_loss": triplet,
        "quantization_loss": error,
        "pairs_with_triplet": pairs.mean(chosen.mask, positive.reshape(-1), context),
    }
    return triplet, error, metrics
