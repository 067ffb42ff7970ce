"""Deep Quantization Network (DQN): pairwise cosine loss and a product-quantized embedding.

Two methods share this file. `dqn` has the paper's equations: codebooks have no gradient and are
refitted by k-means between epochs. `dqn_ste` is ours: the codebooks start from k-means once and are
then trained with the network through straight-through assignment.

Symbols: z an embedding of width R, C the M codebooks of K codewords, h the code of an image (a
codeword of each codebook), C h the embedding that the code stands for, lambda the weight of the
quantization error. A refit computes the codebooks anew from the embeddings of all training images.

The paper has: the cosine loss on pairs; the quantization error against stored codes h, which stay
as they are between refits; one k-means for each subspace, each epoch; the Euclidean distance of
the real query to C h; K = 256, M = bits / 8, R = 16 M; batches of 64, momentum 0.9, weight decay
0.0005, a new layer at ten times the rate; rate and lambda by cross-validation among powers of ten,
lambda from 1e-5 to 1. The variant "paper" of the experiments has these settings, except batch size
and rates, which are the experiment's.

Only the authors' code has: all pairs of a batch, means where the paper sums, lambda = 1e-4 and 0
before the first codebooks, a refit every two epochs, ranking by inner product. These are the
defaults of `dqn`. The code also has R = 300, no weight decay, biases at twice the rate, ten crops
at test, half the rate every 500 steps. For a batch of B images, lambda times a mean weighs as much
as B lambda in the paper's sums.

Our differences: h is the nearest codeword at every step, unless `reassign` is "refit". k-means gets
embeddings computed anew in evaluation mode; the authors keep those that training steps computed. It
starts by k-means++ and takes 12 Lloyd iterations with momentum; theirs is scikit-learn's
MiniBatchKMeans. A refit follows the last epoch; their codebooks can be two epochs old. The gradient
is the true one; the paper's equation (9) lacks the terms of the norms. In the experiments R = 48 at
every length, and the schedule of the rate is ours.

Reference:
  Cao, Long, Wang, Zhu, Wen, Deep Quantization Network for Efficient Image Retrieval, AAAI 2016.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from quantjax import labels, losses
from quantjax.errors import InputError
from quantjax.methods.base import Inputs, Method, Phase, Refresh, codebooks_shape, images
from quantjax.models.base import Network
from quantjax.quantizers import ProductCodec, product

PairLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Refit = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def restart(
    key: jax.Array, codebooks: jax.Array, x: jax.Array, mask: jax.Array, *, num_iterations: int = 12
) -> jax.Array:
    """Refits codebooks by k-means from scratch, as the authors' code does.

    Args:
      key: Random key, consumed.
      codebooks: Current codebooks, [M, K, d]; only their shape is used.
      x: Embeddings of the training set, [N, D].
      mask: Whether each row is real, [N] bool.
      num_iterations: Lloyd iterations.

    Returns:
      Codebooks [M, K, d].
    """
    return product.fit_codebooks(
        key,
        x,
        num_codebooks=codebooks.shape[0],
        num_codewords=codebooks.shape[1],
        num_iterations=num_iterations,
        mask=mask,
    )


def warm_start(
    key: jax.Array, codebooks: jax.Array, x: jax.Array, mask: jax.Array, *, num_iterations: int = 5
) -> jax.Array:
    """Refits codebooks by Lloyd iterations from the current codebooks.

    This is cheaper than `restart`, and never increases the quantization error. The first time,
    when all codewords are still equal, it fits from scratch like `restart`.

    Args:
      key: Random key, consumed.
      codebooks: Current codebooks, [M, K, d].
      x: Embeddings of the training set, [N, D].
      mask: Whether each row is real, [N] bool.
      num_iterations: Lloyd iterations.

    Returns:
      Codebooks [M, K, d].
    """
    return jax.lax.cond(
        # Lloyd iterations cannot tell equal codewords apart, and would leave all but one dead.
        jnp.all(codebooks == codebooks[:, :1]),
        lambda: restart(key, codebooks, x, mask),
        lambda: product.refine_codebooks(codebooks, x, num_iterations, mask),
    )


def dqn(
    network: Network,
    *,
    dim: int,
    num_codebooks: int,
    num_codewords: int = 256,
    quantization_weight: float = 1e-4,
    pair_loss: PairLoss = losses.pairwise_cosine,
    metric: str = "ip",
    refit: Refit = restart,
    refit_every: int = 2,
    reassign: str = "step",
    inputs: Inputs = images,
) -> Method:
    """Builds DQN: trains the network by L + lambda Q, and fits codebooks by k-means.

    L is the mean of (s_ij - cos(z_i, z_j))^2 over all pairs of the batch, the diagonal included;
    Q is the mean of ||z_i - C h_i||^2, the squared distance of an embedding to its codewords, with
    C and h held constant. It counts only once codebooks exist, after `refit_every` epochs. The
    defaults are those of the authors' code; the paper refits every epoch, ranks by "l2" and holds
    h between refits. The module's docstring has the symbols and all differences.

    Args:
      network: Inputs -> [B, dim]; the method applies the bottleneck's tanh.
      dim: R, the embedding's width.
      num_codebooks: M; it must divide dim.
      num_codewords: K, a power of two up to 256; bits = M log2 K.
      quantization_weight: lambda.
      pair_loss: `losses.pairwise_cosine`, or another two-sided loss for an ablation.
      metric: "ip", "l2" or "cosine", the codec's distance.
      refit: `restart` or `warm_start`.
      refit_every: Epochs between two refits.
      reassign: When the codes h change: "refit" keeps the codes of the last refit, as the paper
        does; "step" takes the nearest codewords of the present embedding at every step.
      inputs: Selects the network's input from a batch: `images` or `features`.

    Returns:
      The method; params {"net"}, state {"nets", "codebooks", "fitted"}, and with reassign "refit"
      "assignments", the codeword numbers [num_rows, M] uint8 of all training rows.

    Raises:
      ValueError: if M does not divide dim, or K, the metric or `reassign` is not allowed.
    """
    shape = codebooks_shape(dim, num_codebooks, num_codewords, metric)
    if reassign not in ("step", "refit"):
        raise InputError(f'reassign must be "step" or "refit", got {reassign!r}')

    def init(key, batch, num_rows):
        params, net_state = network.init(key, inputs(batch))
        state = {
            "nets": {"net": net_state},
            "codebooks": jnp.zeros(shape, jnp.float32),
            "fitted": False,
        }
        # Only if they are used: the codes of a million images would enlarge every checkpoint.
        if reassign == "refit":
            state["assignments"] = jnp.zeros((num_rows, num_codebooks), jnp.uint8)
        # As an array: a Python bool would be a constant of the compiled program.
        return {"net": params}, jax.tree.map(jnp.asarray, state)

    forward = functools.partial(_forward, network, inputs)
    assign = _assigned_by_refit if reassign == "refit" else _assigned_now
    loss = functools.partial(_dqn_loss, forward, assign, pair_loss, quantization_weight)
    return _method(
        init,
        Phase(name="joint", loss=loss, trains=("net",)),
        Refresh(
            collect=functools.partial(_embed, network, inputs),
            update=functools.partial(_refit_codebooks, refit),
            every=refit_every,
            start=refit_every,
            at_end=True,
            min_rows=num_codewords,
        ),
        lambda params, state: state["codebooks"],
        metric,
    )


def _dqn_loss(forward, assign, pair_loss, quantization_weight, params, state, batch, context):
    """Computes L + lambda Q of `dqn` on a batch."""
    z, similar, nets = forward(params, state, batch, context)
    pair = jnp.mean(pair_loss(z, context.gather(z), similar))
    quantized = jax.lax.stop_gradient(product.decode(state["codebooks"], assign(state, batch, z)))
    error = jnp.mean(losses.quantization_error(z, quantized))
    # Before the first refit the codebooks are zeros, and would pull every z to 0.
    total = pair + jnp.where(state["fitted"], quantization_weight, 0.0) * error
    return total, ({**state, "nets": nets}, {"pair_loss": pair, "quantization_error": error})


def _assigned_now(state, batch, z):
    del batch
    return product.encode(state["codebooks"], z)


def _assigned_by_refit(state, batch, z):
    del z
    return state["assignments"][batch["index"]]


def _refit_codebooks(refit, key, params, state, rows, mask):
    codebooks = refit(key, state["codebooks"], rows, mask)
    state = {**state, "codebooks": codebooks, "fitted": jnp.asarray(True)}
    # Codes are stored here, because they must not follow the embeddings until the next refit.
    if "assignments" in state:
        state["assignments"] = product.encode(codebooks, rows)
    return params, state


def dqn_ste(
    network: Network,
    *,
    dim: int,
    num_codebooks: int,
    num_codewords: int = 256,
    quantization_weight: float = 1e-4,
    temperature: float = 1.0,
    pair_loss: PairLoss = losses.pairwise_cosine,
    metric: str = "ip",
    start: int = 1,
    inputs: Inputs = images,
) -> Method:
    """Builds a variant of DQN whose codebooks are trained by gradients of the loss.

    After `start` epochs k-means fills the codebooks. From then on the loss adds the pairwise loss
    between real and quantized embeddings, as in asymmetric search, and the quantization error,
    both through `quantizers.product.quantize`. This is not in the paper.

    Args:
      network: Inputs -> [B, dim]; the method applies the bottleneck's tanh.
      dim: R, the embedding's width.
      num_codebooks: M; it must divide dim.
      num_codewords: K, a power of two up to 256; bits = M log2 K.
      quantization_weight: lambda of the quantization error.
      temperature: Temperature of the straight-through softmax, in units of squared distance.
      pair_loss: A two-sided pair loss.
      metric: "ip", "l2" or "cosine", the codec's distance.
      start: Epoch that begins with k-means.
      inputs: Selects the network's input from a batch: `images` or `features`.

    Returns:
      The method; params {"net", "codebooks"}, state {"nets", "fitted"}.

    Raises:
      ValueError: if M does not divide dim, or K or the metric is not allowed.
    """
    shape = codebooks_shape(dim, num_codebooks, num_codewords, metric)

    def init(key, batch, num_rows):
        del num_rows
        params, net_state = network.init(key, inputs(batch))
        state = {"nets": {"net": net_state}, "fitted": jnp.asarray(False)}
        return {"net": params, "codebooks": jnp.zeros(shape, jnp.float32)}, state

    forward = functools.partial(_forward, network, inputs)
    loss = functools.partial(_ste_loss, forward, pair_loss, quantization_weight, temperature)
    return _method(
        init,
        Phase(name="joint", loss=loss, trains=("net", "codebooks")),
        Refresh(
            collect=functools.partial(_embed, network, inputs),
            update=_start_codebooks,
            every=None,
            start=start,
            at_end=False,
            rewrites=("codebooks",),
            min_rows=num_codewords,
        ),
        lambda params, state: params["codebooks"],
        metric,
    )


def _ste_loss(forward, pair_loss, quantization_weight, temperature, params, state, batch, context):
    """Computes the pairwise losses of real and of quantized embeddings, and their distance."""
    z, similar, nets = forward(params, state, batch, context)
    quantized = product.quantize(params["codebooks"], z, temperature=temperature)
    pair = jnp.mean(pair_loss(z, context.gather(z), similar))
    asymmetric = jnp.mean(pair_loss(z, context.gather(quantized), similar))
    error = jnp.mean(losses.quantization_error(z, quantized))
    # Not scaled by lambda: search compares real with quantized embeddings, as this loss does.
    quantized_part = asymmetric + quantization_weight * error
    # Before k-means fills the codebooks they are zeros, and quantized embeddings mean nothing.
    total = pair + jnp.where(state["fitted"], 1.0, 0.0) * quantized_part
    metrics = {"pair_loss": pair, "asymmetric_pair_loss": asymmetric, "quantization_error": error}
    return total, ({**state, "nets": nets}, metrics)


def _start_codebooks(key, params, state, rows, mask):
    codebooks = restart(key, params["codebooks"], rows, mask)
    return {**params, "codebooks": codebooks}, {**state, "fitted": jnp.asarray(True)}


def _method(init, phase, refresh, codebooks_of, metric):
    """Returns the method of one phase; `codebooks_of` gets the codebooks from params and state."""

    def codec(params, state):
        refresh.check_fitted(state["fitted"])
        return ProductCodec(codebooks_of(params, state), metric=metric)

    # k-means fits the embeddings that the codec encodes, so one function gives both.
    return Method(init=init, phases=(phase,), embed=refresh.collect, codec=codec, refresh=refresh)


def _forward(network, inputs, params, state, batch, context):
    """Returns embeddings [b, R], similar pairs [b, B], and net states; b rows of B are here."""
    output, net_state = network.apply(
        params["net"], state["nets"]["net"], inputs(batch), train=True, key=context.key
    )
    # Rows of this device with the rows of all devices, so that every pair of the batch counts.
    similar = labels.share_label(batch["label"], context.gather(batch["label"]))
    return jnp.tanh(output), similar, {"net": net_state}


def _embed(network, inputs, params, state, batch):
    output, _ = network.apply(params["net"], state["nets"]["net"], inputs(batch), train=False)
    return jnp.tanh(output)
