"""DTQ: a triplet loss on real embeddings, and additive codes that are refitted every epoch.

    L = mean_T [m + ||z_a - z_p||^2 - ||z_a - z_n||^2]_+
        + lambda mean_i ||z_i - sum_m C_m b_mi||^2

z is the tanh of the network's output, C_m the codebooks, each as wide as z, and b the codes. C and
b are constants while the network is trained. Every epoch begins with a refit to the embeddings of
all training rows: k-means by slices the first time, then codes for given codebooks and codebooks
for given codes, by regularised least squares.

The public code has the margin of 30 for 64 tanh outputs, one round of such a refit, its ridge of
1e-3, ranking by inner product, and Group Hard: once an epoch the training set is cut into random
groups, in which every anchor and positive get a random negative that violates the margin.

Our differences: the batch is the group, and embeddings are those of the step. Codes are found by
beam search, as items are encoded, not by iterated conditional modes. The quantization error is
squared, as in the paper; the code's is not, and its lambda is 0, where ours is that of the same
authors' DQN and DVSQ. The code fits codebooks anew to the database; here they are those of the
training rows. The paper's weak orthogonality of codebooks is missing, as in the code.

Reference:
  Liu, Cao, Long, Wang, Wang, Deep Triplet Quantization, ACM MM 2018.
"""

import functools

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.methods import triplets
from quantjax.methods.base import Inputs, Method, Refresh, codebooks_shape, images, of_bits
from quantjax.methods.supervised import TrainedCodec, supervised_with_arrays, without_weights
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

    Returns:
      The method; params {"net"}, state {"nets", "loss"}, where "loss" are the codebooks [M, K, D],
      the codes [num_rows, M] of all training rows, and whether they were fitted.

    Raises:
      ValueError: if M does not divide dim, or K or the metric is not allowed; when traced, if the
        batch has no labels or the network's output another width.
    """
    shape = codebooks_shape(dim, num_codebooks, num_codewords, metric)

    def init_codes(key, batch, num_rows):
        del key, batch
        return {}, {
            "codebooks": jnp.zeros((num_codebooks, num_codewords, dim), jnp.float32),
            "codes": jnp.zeros((num_rows, num_codebooks), jnp.uint8),
            "fitted": jnp.asarray(False),
        }

    def loss(z, batch, context, params, state):
        del params
        chosen = triplets.random_negatives(z, batch, context, margin=margin)
        hinge = functools.partial(losses.triplet_margin, margin=margin)
        triplet = triplets.mean(hinge, z, context.gather(z), chosen, context)
        # Codes of the last refit: the paper trains the network with codebooks and codes held.
        quantized = additive.decode(state["codebooks"], state["codes"][batch["index"]])
        error = jnp.mean(losses.quantization_error(z, quantized))
        metrics = {"triplet_loss": triplet, "quantization_error": error}
        return triplet + quantization_weight * error, (state, metrics)

    def codec(params, state):
        del params
        plan.check_fitted(state["fitted"])
        return ResidualCodec(state["codebooks"], metric=metric, beam_width=_BEAM)

    network = of_bits(network, dim, jnp.tanh)
    built = supervised_with_arrays(network, init_codes, loss, TrainedCodec(codec), inputs=inputs)
    method, update = without_weights(built), functools.partial(_refit, shape)
    # From epoch 0 on, so that the loss never sees codebooks of zeros.
    plan = Refresh(
        collect=method.embed, update=update, every=1, start=0, at_end=True, min_rows=num_codewords
    )
    return method._replace(refresh=plan)


def _refit(shape, key, params, state, rows, mask):
    fit = functools.partial(product.fit_codebooks, num_codebooks=shape[0], num_codewords=shape[1])
    # Later refits go on from the codebooks that the network was trained with.
    start = jax.lax.cond(
        state["loss"]["fitted"],
        lambda: state["loss"]["codebooks"],
        lambda: additive.block_diagonal(fit(key, rows, mask=mask)),
    )
    refine = functools.partial(additive.refine_codebooks, num_rounds=1, ridge=1e-3)
    books = refine(start, rows, beam_width=_BEAM, mask=mask)
    # Encoded anew: the round moved the codewords after it chose among them.
    codes = additive.encode(books, rows, beam_width=_BEAM)
    found = {"codebooks": books, "codes": codes, "fitted": jnp.asarray(True)}
    return params, {**state, "loss": found}
