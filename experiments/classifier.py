"""Multinomial logistic regression, fitted by full-batch L-BFGS until convergence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from quantjax.errors import InputError

_MOST_STEPS = 1_000
_FLAT = 1e-5  # norm of the gradient; float32 tells no smaller one from rounding


class Classifier(NamedTuple):
    """Linear classifier: weights and bias.

    Attributes:
      weights: [D, C].
      bias: [C].
    """

    weights: jax.Array
    bias: jax.Array

    def scores(self, x: jax.Array) -> jax.Array:
        """Returns the logits [N, C] of embeddings [N, D]."""
        return jnp.matmul(x, self.weights, precision=jax.lax.Precision.HIGHEST) + self.bias


def fit_classifier(
    x: np.ndarray, class_ids: np.ndarray, *, num_classes: int, penalty: float = 1e-4
) -> Classifier:
    """Fits a logistic regression with an L2 penalty by L-BFGS, from zeros.

    The objective is mean cross-entropy + penalty / 2 ||s weights||^2, with s the root mean square
    of all numbers in x, so that embeddings of any length are penalised alike. The minimum is
    unique, even for separable classes, so no random start is needed. L-BFGS is used because
    Newton's matrix would have (D C)^2 entries.

    Args:
      x: Embeddings [N, D].
      class_ids: Class of each, [N], 0 to C - 1.
      num_classes: C.
      penalty: Weight of the squared weights; the bias is free. Our choice, not tuned on any data.

    Returns:
      The classifier.

    Raises:
      ValueError: if the shapes do not agree, or a class id is out of range.
    """
    if x.ndim != 2 or class_ids.shape != x.shape[:1]:
        raise InputError(
            f"x must have shape [N, D] and class_ids [N], got {x.shape} and {class_ids.shape}"
        )
    if not 0 <= class_ids.min() <= class_ids.max() < num_classes:
        raise InputError(
            f"class_ids must lie in 0 to {num_classes - 1}, got {class_ids.min()} to "
            f"{class_ids.max()}"
        )
    # Scaled to a mean square of 1, and the weights back at the end.
    length = max(float(np.sqrt(np.mean(np.square(x)))), np.finfo(np.float32).tiny)
    start = Classifier(jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes))
    fitted = _fit(start, jnp.asarray(x / length, jnp.float32), jnp.asarray(class_ids), penalty)
    return fitted._replace(weights=fitted.weights / length)


@jax.jit
def _fit(start, x, class_ids, penalty):
    optimizer = optax.lbfgs()

    def loss(classifier):
        scores = classifier.scores(x)
        entropy = optax.softmax_cross_entropy_with_integer_labels(scores, class_ids)
        return jnp.mean(entropy) + penalty / 2 * jnp.sum(jnp.square(classifier.weights))

    # The line search of L-BFGS has already computed the next value and gradient; this reuses them.
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        classifier, state, _, number = carry
        value, gradient = value_and_grad(classifier, state=state)
        updates, state = optimizer.update(
            gradient, state, classifier, value=value, grad=gradient, value_fn=loss
        )
        classifier = optax.apply_updates(classifier, updates)
        return classifier, state, optax.tree.norm(gradient), number + 1

    # By the gradient alone: near the minimum float32 cannot tell values apart.
    def goes_on(carry):
        _, _, norm, number = carry
        return (norm > _FLAT) & (number < _MOST_STEPS)

    first = (start, optimizer.init(start), jnp.inf, 0)
    return jax.lax.while_loop(goes_on, step, first)[0]
