"""DTQ: a triplet loss on real embeddings, and additive codes that are refitted every epoch.

    L = mean_T [m + ||z_a - z_p||^2 - ||z_a - z_n||^2]_+
        + lambda mean_i ||z_i - sum_m C_m b_mi||^2

z is the tanh of the network's output, C_m the codebooks, each as wide as z, and b the codes. C and
b are constants while the network is trained. Every epoch begins with a refit to the embeddings of
all training rows: k-means by slices the first time, then codes for given codebooks and codebooks
for given codes, by regularised least squares.

The public code has the margin of 30 for 64 tanh outputs, one round of such a refit, its ridge of
1e-3, ranking by inner product, and triplets by Group Hard: once an epoch the training set is cut
into random groups, and in each group every anchor and positive get a random negative that violates
the margin.

Our differences: the batch is the group, and embeddings are those of the step. Codes are found by
beam search, as items are encoded, not by three sweeps of iterated conditional modes. The
quantization error is squared, as in the paper; the code's is not, and its lambda is 0, where ours
is that of the same authors' DQN and DVSQ. The code fits codebooks anew to the database that it
ranks; here they are those of the training rows. The paper's weak orthogonality of codebooks is
missing, as in the code.

Reference:
  Liu, Cao, Long, Wang, Wang, Deep Triplet Quantization, ACM MM 2018.
"""

import functools

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.methods import pairs, triplets
from quantjax.methods.base import Inputs, Method, Phase, Refresh, codebooks_shape, images, of_bits
from quantjax.models.base import Network
from quantjax.quantizers import ResidualCodec, additive, product

_BEAM = 5  # partial sums kept in encoding


def dtq(
    network: Network,
    *,
    dim: int = 64,
    num_codebooks: int = 4,
    num_codewords: int = 256,
    margin: float = 30.0,
    quantization_weight: float = 1e-4,
    metric: str = "ip",
    inputs: Inputs = images,
    refit_every: int = 1,
) -> Method:
    """Builds DTQ: triplets and additive codes; see the module.

    Args:
      network: Inputs -> [B, dim]; the method applies the tanh.
      dim: D, the embedding's width.
      num_codebooks: M; the first k-means needs it to divide dim.
      num_codewords: K, a power of two up to 256; bits = M log2 K.
      margin: m, in units of squared distance; these are below 4 D.
      quantization_weight: lambda.
      metric: "ip", "l2" or "cosine", the codec's distance.
      inputs: Selects the network's input from a batch.
      refit_every: Epochs between two refits; one follows the last epoch.

    Returns:
      The method; params {"net"}, state {"nets", "codebooks" [M, K, D], "codes", the codeword
      numbers [num_rows, M] of all training rows, "fitted"}.

    Raises:
      ValueError: if M does not divide dim, or K or the metric is not allowed; when traced, if the
        batch has no labels or the network's output another width.
    """
    shape = codebooks_shape(dim, num_codebooks, num_codewords, metric)
    network = of_bits(network, dim, jnp.tanh)

    def init(key, batch, num_rows):
        params, net_state = network.init(key, inputs(batch))
        state = {
            "nets": {"net": net_state},
            "codebooks": jnp.zeros((num_codebooks, num_codewords, dim), jnp.float32),
            "codes": jnp.zeros((num_rows, num_codebooks), jnp.uint8),
            "fitted": jnp.asarray(False),
        }
        return {"net": params}, state

    def embed(params, state, batch, *, train=False, key=None):
        net_state = state["nets"]["net"]
        z, net_state = network.apply(params["net"], net_state, inputs(batch), train=train, key=key)
        return (z, net_state) if train else z

    plan = Refresh(
        collect=embed,
        update=functools.partial(_refit, shape),
        every=refit_every,
        start=0,
        at_end=True,
        min_rows=num_codewords,
    )

    def codec(params, state):
        plan.check_fitted(state["fitted"])
        return ResidualCodec(state["codebooks"], metric=metric, beam_width=_BEAM)

    loss = functools.partial(_loss, embed, margin, quantization_weight)
    phase = Phase(name="joint", loss=loss, trains=("net",))
    return Method(init=init, phases=(phase,), embed=embed, codec=codec, refresh=plan)


def _loss(embed, margin, weight, params, state, batch, context):
    z, net_state = embed(params, state, batch, train=True, key=context.key)
    chosen = triplets.random_negatives(z, batch, context, margin=margin)
    others = context.gather(z)
    rows = z[chosen.anchors], others[chosen.positives], others[chosen.negatives]
    triplet = pairs.mean(losses.triplet_margin(*rows, margin=margin), chosen.mask, context)
    quantized = additive.decode(state["codebooks"], state["codes"][batch["index"]])
    error = jnp.mean(losses.quantization_error(z, quantized))
    metrics = {"triplet_loss": triplet, "quantization_error": error}
    return triplet + weight * error, ({**state, "nets": {"net": net_state}}, metrics)


def _refit(shape, key, params, state, rows, mask):
    num_codebooks, num_codewords, _ = shape
    fit = functools.partial(
        product.fit_codebooks, num_codebooks=num_codebooks, num_codewords=num_codewords, mask=mask
    )
    start = jax.lax.cond(
        state["fitted"],
        lambda: state["codebooks"],
        lambda: additive.block_diagonal(fit(key, rows)),
    )
    books = additive.refine_codebooks(
        start, rows, num_rounds=1, beam_width=_BEAM, ridge=1e-3, mask=mask
    )
    codes = additive.encode(books, rows, beam_width=_BEAM)
    return params, {**state, "codebooks": books, "codes": codes, "fitted": jnp.asarray(True)}
