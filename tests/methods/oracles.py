"""Float64 NumPy forms of equations that several methods share, and a network that is its input."""

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import methods
from quantjax.models.base import Network

# The feature is the output, so that a test can say what the loss is of.
PLAIN = Network(
    init=lambda key, example: ({"shift": jnp.zeros(example.shape[1])}, {}),
    apply=lambda params, state, x, *, train, key=None: (x + params["shift"], state),
)
CONTEXT = methods.Context(jax.random.key(3), jnp.int32(0), jnp.int32(0), *methods.Collectives())


def batch(num_rows, width, seed=0):
    """Features of three classes, in a shuffled order of the training set."""
    rng = np.random.default_rng(seed)
    return {
        "feature": np.float32(rng.normal(size=(num_rows, width))),
        "label": np.eye(3, dtype=np.uint8)[np.arange(num_rows) % 3],
        "index": rng.permutation(num_rows).astype(np.int32),
    }


def started(method, given, num_rows=1024):
    """Params and state of a method at its start."""
    return method.init(jax.random.key(0), given, num_rows)


def loss(method, params, state, given):
    """Value of a method's only phase on a batch, and its gradient with respect to the params."""
    (phase,) = method.phases
    value = jax.jit(jax.value_and_grad(lambda params: phase.loss(params, state, given, CONTEXT)[0]))
    return value(params)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def soft_quantize(codebooks, x, sharpness):
    """Mixtures of codewords by softmax(-sharpness ||x_m - c_mk||^2), side by side."""
    parts = []
    for book, part in zip(codebooks, np.split(x, len(codebooks), axis=1), strict=True):
        powers = np.exp(-sharpness * np.sum((part[:, None] - book) ** 2, axis=-1))
        parts.append(powers / powers.sum(axis=1, keepdims=True) @ book)
    return np.concatenate(parts, axis=1)


def nt_xent(first, second, temperature):
    """Mean over both directions and all rows, by loops."""
    rows = unit(np.concatenate([first, second]))
    count, total = len(rows), 0.0
    for i in range(count):
        others = [j for j in range(count) if j != i]
        powers = [np.exp(rows[i] @ rows[j] / temperature) for j in others]
        partner = (i + count // 2) % count
        total -= np.log(np.exp(rows[i] @ rows[partner] / temperature) / sum(powers))
    return total / count
