"""BiHalf: sign codes of which every bit splits a batch into halves, without and with labels.

Each bit of a batch is +1 for the larger half of the rows and -1 for the others, so that it carries
all it can. Without labels the cosines of codes must match those of given features; with labels a
linear classifier must tell the classes from the codes.

    b = half(u)                                  by bit, straight-through; u the network's output
    L = mean_ij (cos(b_i, b_j) - cos(f_i, f_j))^2  without labels, f the features
    L = mean_i CE(W b_i, y_i)                    with labels
        + gamma / 2 mean (u - b)^2               either way, the mean over rows and bits

The last term's gradient is gamma (u - b) / (B K), which the public code adds in its backward pass.
An item is encoded to the signs of u, as in paper and code.

The form without labels, its halves and gamma = 6 are those of the public code; of the paper a
reader reports 3. There f is what enters the last layer, of a frozen VGG16, the only layer trained,
and row i of a batch is compared with row i + B/2 alone, not with all rows as here. No text has
views of images: an augmentation is the experiment's. The form with labels is not the authors': FIRe
(github.com/CISiPLab/cisip-FIRe) lists it, as cross entropy alone; W without a bias is our choice.

Reference:
  Li and van Gemert, Deep Unsupervised Image Hashing by Maximizing Bit Entropy, AAAI 2021.
"""

import jax
import jax.numpy as jnp

from quantjax import losses
from quantjax.methods import base
from quantjax.methods.base import Inputs, Method, known_labels, of_bits
from quantjax.methods.supervised import supervised, supervised_with_arrays
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec, binary


def bihalf(
    network: Network,
    *,
    bits: int,
    pull: float = 6.0,
    features: Inputs = base.features,
    inputs: Inputs = base.images,
) -> Method:
    """Builds BiHalf without labels: codes whose cosines match those of features; see the module.

    Args:
      network: Inputs -> [B, bits], without an activation.
      bits: Length of a code.
      pull: gamma. The public code trains for 300 epochs; in few, so strong a pull holds the codes
        near where they start.
      features: Selects f from a batch, [B, F]: the column "feature", such as a frozen network's
        output, which may be the network's input too.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net"}, state {"nets"}.
    """

    def loss(x, batch, context):
        # Halves of each device's rows alone would be other codes.
        codes, pulled = _halves(context.gather(x), pull)
        # Held constant, even if trained weights have made the features.
        f = context.gather(jax.lax.stop_gradient(features(batch)))
        match = jnp.mean(losses.pairwise_cosine_match(codes, codes, f, f))
        return match + pulled, {"cosine_match": match}

    return supervised(of_bits(network, bits), loss, BinaryCodec(bits), inputs=inputs)


def bihalf_supervised(
    network: Network, *, bits: int, pull: float = 6.0, inputs: Inputs = base.images
) -> Method:
    """Builds BiHalf with labels: a linear classifier trained on halved codes; see the module.

    Args:
      network: Inputs -> [B, bits], without an activation.
      bits: Length of a code.
      pull: gamma.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net", "loss"}, where "loss" is W, [L, bits].
    """

    def init_classifier(key, batch, num_rows):
        del num_rows
        shape, bound = (known_labels(batch).shape[1], bits), bits**-0.5
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound), {}

    def loss(x, batch, context, weights, state):
        codes, pulled = _halves(context.gather(x), pull)
        # Signs of signs: the loss is GreedyHash's, of other codes.
        classes = jnp.mean(losses.greedy_hash(codes, context.gather(batch["label"]), weights))
        return classes + pulled, (state, {"cross_entropy": classes})

    return supervised_with_arrays(
        of_bits(network, bits), init_classifier, loss, BinaryCodec(bits), inputs=inputs
    )


def _halves(x, pull):
    """Returns the halved codes of a whole batch, and the pull of its embeddings towards them."""
    codes = binary.median_sign(x)
    # A term of the loss, where the public code changes the gradient: it shows in the loss.
    gap = losses.quantization_error(x, jax.lax.stop_gradient(codes))
    return codes, pull / 2 * jnp.mean(gap) / x.shape[1]
