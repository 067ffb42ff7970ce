"""CIBHash: contrastive learning of sign codes from two views of each image, without labels.

The codes of two random views of an image must find each other among those of all other images of
the batch, and the chances of their bits must agree.

    p = sigmoid(x)                        the chance that a bit is set, x the network's output
    b = sgn(x)                            straight-through: its gradient goes to p
    L = NT-Xent(b, b') + beta ( KL(p || p') + KL(p' || p) ) / 2

NT-Xent is SimCLR's loss: the cross entropy of picking b' by a softmax of cos(b, .) / tau. The
second distribution of each KL is held constant.

Equations, tau = 0.3 and beta = 0.001 are those of the public code, which chose both on validation
data from tau in {0.2, 0.3, 0.4} and beta in {1e-5, ..., 5e-3}. Its network is a frozen VGG16 with
two trained layers of width 1,024 and `bits`; its views are SimCLR's crops, flips, colours and blur,
for which `view` stands. Logarithms are exact here; the code adds 1e-8 to their arguments. The paper
has no form with labels.

Reference:
  Qiu, Su, Ou, Yu, Chen, Unsupervised Hashing with Contrastive Information Bottleneck, IJCAI 2021.
"""

import jax.numpy as jnp

from quantjax import losses
from quantjax.batch import Augment
from quantjax.methods import views
from quantjax.methods.base import Inputs, Method, images, of_bits
from quantjax.methods.supervised import supervised
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec


def cibhash(
    network: Network,
    *,
    bits: int,
    view: Augment,
    temperature: float = 0.3,
    divergence_weight: float = 0.001,
    inputs: Inputs = images,
) -> Method:
    """Builds CIBHash: learns signs on which two views of an image agree; see the module.

    Args:
      network: Inputs -> [B, bits], without an activation.
      bits: Length of a code.
      view: `(key, batch) -> batch`, a random change of preprocessed rows; called for each row twice
        a step. `data.augment.on_images` makes one of image transforms.
      temperature: tau.
      divergence_weight: beta.
      inputs: Selects the network's input from a batch.

    Returns:
      The method; params {"net"}, state {"nets"}. Labels are not used.

    Raises:
      ValueError: if bits is below 1, or `view` is no function; when traced, if the network's output
        has another width.
    """

    def loss(x, batch, context):
        # Without the sigmoid, which the loss applies, the output has the same signs.
        pairs = views.split(x, batch, context)
        value = losses.cibhash(*pairs, temperature=temperature, weight=divergence_weight)
        return jnp.mean(value), {}

    viewed = views.of_two_views(of_bits(network, bits), view, inputs)
    return supervised(viewed, loss, BinaryCodec(bits), inputs=views.whole)
