"""DeepQuan: an unsupervised autoencoder with a product-quantized embedding.

Attested (abstract, and a review of the paper): a fully connected autoencoder with a decoder
symmetric to its encoder, a loss of the decoder's output that preserves the manifold, a weighted
triplet loss on the embedding against trivial solutions, product quantization of the embedding, and
alternating optimization of network, codebooks and codes.

Our reconstruction of the paper (the full text could not be read): every equation and weight, how
triplets and their weights come about without labels, first epochs of the autoencoder alone, the
distance at search. Do not print results of this method beside the paper's numbers as if they were
the paper's.

Reference:
  Chen, Cheung, Wang, Learning Deep Unsupervised Binary Codes for Image Retrieval, IJCAI 2018.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.batch import Batch
from quantjax.losses.rows import squared_distances, widen
from quantjax.methods.base import Inputs, Method, Phase, Refresh, codebooks_shape, images
from quantjax.models.base import Network
from quantjax.quantizers import ProductCodec, product

Weigh = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""`(squared distances of inputs [B, N], ranks [B, N]) -> weights of (a, p) and of (a, n)`, [B, N]
each; a triplet's weight is the product of the two. `weighted_triplets` explains the ranks."""


def heat_kernel(
    squared: jax.Array, ranks: jax.Array, *, width: float
) -> tuple[jax.Array, jax.Array]:
    """Weights triplets by a heat kernel of the input distances.

    A triplet's weight is exp(-||x_a - x_p||^2 / t^2) (1 - exp(-||x_a - x_n||^2 / t^2)).

    Args:
      squared: Squared distances of inputs, [B, N].
      ranks: Not used.
      width: t, such as the mean distance to a neighbour.

    Returns:
      Weights as positive and as negative, [B, N] each.
    """
    del ranks
    heat = jnp.exp(-squared / width**2)
    return heat, 1 - heat


def by_rank(squared: jax.Array, ranks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weights triplets by 1 / log2(1 + rank of the positive).

    Args:
      squared: Not used, except for its shape [B, N].
      ranks: Ranks as in `weighted_triplets`, [B, N]; where there is no positive the weight is 1.

    Returns:
      Weights as positive and as negative, [B, N] each; the latter are 1.
    """
    return 1 / jnp.log2(1.0 + jnp.maximum(ranks, 1)), jnp.ones_like(squared)


def equal(squared: jax.Array, ranks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weights all triplets equally, for an ablation."""
    del ranks
    return jnp.ones_like(squared), jnp.ones_like(squared)


def flat_images(batch: Batch) -> jax.Array:
    """Returns the batch's images flattened to rows [B, H W C]."""
    x = images(batch)
    return x.reshape(len(x), -1)


def weighted_triplets(
    distances: jax.Array, weights: tuple[jax.Array, jax.Array], ranks: jax.Array, *, margin: float
) -> tuple[jax.Array, jax.Array]:
    """Sums the weighted hinge losses of all triplets (anchor, neighbour, non-neighbour) of a batch.

        Sum over (a, p, n) of w_ap w_an [m + D_ap - D_an]_+.

    Args:
      distances: D, squared distances of embeddings, [B, N].
      weights: Weights of a pair as (a, p) and as (a, n), [B, N] each.
      ranks: 1 for the nearest neighbour, 0 for no neighbour, -1 for the anchor itself, [B, N].
      margin: m, in units of D.

    Returns:
      The sum and the number of triplets, both scalars.
    """
    positive, negative = ranks > 0, ranks == 0
    hinges = jax.nn.relu(margin + distances[:, :, None] - distances[:, None, :])
    of_positive = jnp.where(positive, weights[0], 0)
    of_negative = jnp.where(negative, weights[1], 0)
    total = jnp.einsum("bp,bpn,bn->", of_positive, hinges, of_negative)
    return total, jnp.sum(positive.sum(1, dtype=jnp.float32) * negative.sum(1))


def deepquan(
    encoder: Network,
    decoder: Network,
    *,
    dim: int,
    num_codebooks: int,
    num_codewords: int = 256,
    pretrain_epochs: int,
    reconstruction_weight: float,
    triplet_weight: float,
    quantization_weight: float,
    margin: float,
    weigh: Weigh,
    inputs: Inputs = flat_images,
    refit_every: int = 1,
    num_iterations: int = 5,
    metric: str = "l2",
) -> Method:
    """Builds DeepQuan: trains the autoencoder alone, then network and codebooks alternately.

    J = gamma mean ||x - g(f(x))||^2 + alpha mean_T w_apn [m + ||z_a - z_p||^2 - ||z_a - z_n||^2]_+
        + beta mean ||z - C h||^2
    with encoder f, decoder g, z = f(x), and codebooks C and codes h held constant. T is all
    triplets of a batch whose p is among the neighbours of a in input space and whose n is not.
    k-means makes the first codebooks; later refits are Lloyd iterations, which compute h for fixed
    C and C for fixed h in turn. All equations are our reconstruction of the paper; the names of the
    terms are attested, see the module.

    Batches need a column "neighbours", [B, k] positions in the training set, nearest first, as
    `data.nearest_neighbours` finds them; labels are not used.

    Ablations: triplet_weight = 0, weigh = `equal`, reconstruction_weight = 0 (and pretrain_epochs
    = 0), quantization_weight = 0 for the two-step form.

    Args:
      encoder: f, inputs [B, F] -> [B, dim].
      decoder: g, [B, dim] -> [B, F].
      dim: Width of z.
      num_codebooks: M; it must divide dim.
      num_codewords: K, a power of two up to 256; bits = M log2 K.
      pretrain_epochs: Epochs that train the autoencoder by the first term alone; k-means follows.
      reconstruction_weight: gamma.
      triplet_weight: alpha.
      quantization_weight: beta.
      margin: m, in units of squared distance of z.
      weigh: w: `heat_kernel` with its width, `by_rank` or `equal`.
      inputs: Selects the encoder's input [B, F] from a batch.
      refit_every: Epochs between two refits of the codebooks.
      num_iterations: Lloyd iterations of a refit.
      metric: "l2", "ip" or "cosine", the codec's distance.

    Returns:
      The method; params {"encoder", "decoder"}, state {"nets", "codebooks", "fitted"}.

    Raises:
      ValueError: if M does not divide dim, or K or the metric is not allowed.
    """
    shape = codebooks_shape(dim, num_codebooks, num_codewords, metric)
    networks = _Autoencoder(encoder, decoder, inputs)
    weights = {
        "reconstruction": reconstruction_weight,
        "triplets": triplet_weight,
        "quantization_error": quantization_weight,
    }
    trains = ("encoder", "decoder")
    pretraining = functools.partial(_pretraining_loss, networks, weights)
    joint = functools.partial(_joint_loss, networks, weights, weigh, margin)
    plan = Refresh(
        collect=networks.embed,
        update=functools.partial(_update, num_iterations),
        every=refit_every,
        start=pretrain_epochs,
        at_end=True,
        min_rows=num_codewords,
    )
    return Method(
        init=functools.partial(_init, networks, shape),
        phases=(
            Phase(name="reconstruction", loss=pretraining, trains=trains),
            Phase(name="joint", loss=joint, trains=trains),
        ),
        phase_at=lambda epoch: int(epoch >= pretrain_epochs),
        embed=networks.embed,
        codec=functools.partial(_codec, plan, metric),
        refresh=plan,
    )


class _Autoencoder(NamedTuple):
    """The two networks, f and g, and the function that selects the input of f."""

    encoder: Network
    decoder: Network
    inputs: Inputs

    def embed(self, params, state, batch):
        net_state = state["nets"]["encoder"]
        x = self.inputs(batch)
        return self.encoder.apply(params["encoder"], net_state, x, train=False)[0]

    def reconstruct(self, params, state, batch, context):
        """Returns x, z = f(x), the mean of ||x - g(z)||^2, and the state with new net states."""
        x, nets, keys = self.inputs(batch), state["nets"], jax.random.split(context.key)
        z, of_encoder = self.encoder.apply(
            params["encoder"], nets["encoder"], x, train=True, key=keys[0]
        )
        again, of_decoder = self.decoder.apply(
            params["decoder"], nets["decoder"], z, train=True, key=keys[1]
        )
        error = jnp.mean(losses.quantization_error(x, again))
        return x, z, error, {**state, "nets": {"encoder": of_encoder, "decoder": of_decoder}}


def _init(networks, shape, key, batch, num_rows):
    del num_rows
    keys = jax.random.split(key)
    x = networks.inputs(batch)
    encoder_params, encoder_state = networks.encoder.init(keys[0], x)
    # The decoder's shapes follow from an embedding, whatever the encoder's network is.
    z, _ = networks.encoder.apply(encoder_params, encoder_state, x, train=False)
    decoder_params, decoder_state = networks.decoder.init(keys[1], z)
    state = {
        "nets": {"encoder": encoder_state, "decoder": decoder_state},
        "codebooks": jnp.zeros(shape, jnp.float32),
        "fitted": jnp.asarray(False),
    }
    return {"encoder": encoder_params, "decoder": decoder_params}, state


def _pretraining_loss(networks, weights, params, state, batch, context):
    _, _, error, state = networks.reconstruct(params, state, batch, context)
    return weights["reconstruction"] * error, (state, {"reconstruction": error})


def _joint_loss(networks, weights, weigh, margin, params, state, batch, context):
    """Computes J of `deepquan` on a batch."""
    x, z, error, state = networks.reconstruct(params, state, batch, context)
    codebooks = state["codebooks"]
    # The paper alternates: C and h are constants while the networks are trained.
    quantized = jax.lax.stop_gradient(product.decode(codebooks, product.encode(codebooks, z)))
    distortion = jnp.mean(losses.quantization_error(z, quantized))
    terms = {
        "reconstruction": error,
        "triplets": _mean_triplet_loss(x, z, batch, context, weigh, margin),
        # Before the first k-means the codebooks are zeros, and would pull every z to 0.
        "quantization_error": jnp.where(state["fitted"], distortion, 0.0),
    }
    return sum(weights[name] * value for name, value in terms.items()), (state, terms)


def _update(num_iterations, key, params, state, rows, mask):
    """Fits the codebooks by k-means the first time, and refines them by Lloyd iterations later."""
    codebooks = state["codebooks"]
    num_codebooks, num_codewords, _ = codebooks.shape
    codebooks = jax.lax.cond(
        state["fitted"],
        lambda: product.refine_codebooks(codebooks, rows, num_iterations, mask),
        lambda: product.fit_codebooks(
            key, rows, num_codebooks=num_codebooks, num_codewords=num_codewords, mask=mask
        ),
    )
    return params, {**state, "codebooks": codebooks, "fitted": jnp.asarray(True)}


def _codec(plan, metric, params, state):
    del params
    plan.check_fitted(state["fitted"])
    return ProductCodec(state["codebooks"], metric=metric)


def _mean_triplet_loss(x, z, batch, context, weigh, margin):
    # A neighbour counts only if it is in the batch, so each row's neighbours are compared with the
    # training positions of all rows: b rows of this device, k neighbours, B rows on all devices.
    index = context.gather(batch["index"])
    at = batch["neighbours"][:, :, None] == index  # [b, k, B]
    ranks = jnp.where(jnp.any(at, axis=1), 1 + jnp.argmax(at, axis=1), 0)
    ranks = jnp.where(batch["index"][:, None] == index, -1, ranks)
    x, z = widen(x), widen(z)
    weights = weigh(squared_distances(x, context.gather(x)), ranks)
    distances = squared_distances(z, context.gather(z))
    total, number = weighted_triplets(distances, weights, ranks, margin=margin)
    # Devices have different numbers of triplets. Divided by the mean number, the average over
    # devices is the mean over all triplets.
    return total / jnp.maximum(context.mean(number), 1e-6)
