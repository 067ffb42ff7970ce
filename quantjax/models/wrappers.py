"""Makes networks of networks: in half precision or microbatches, with a head, on scaled rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from quantjax.errors import InputError
from quantjax.models.base import Network, check_positive, from_nnx
from quantjax.models.layers import BatchNorm

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""Number types that a network may compute in, by name."""


def in_precision(network: Network, name: str) -> Network:
    """Makes a network compute in a given precision; params, statistics and outputs stay float32.

    Params and inputs are rounded before the network, so gradients and embeddings are float32. Batch
    statistics are float32 sums of rounded activations.

    Args:
      network: Any network.
      name: "float32", which changes nothing, or "bfloat16".

    Returns:
      The network, with the same params and state.

    Raises:
      ValueError: if the name is neither.
    """
    if name not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    if name == "float32":
        return network
    dtype = PRECISIONS[name]

    def apply(params, net_state, x, *, train, key=None):
        # Inside the differentiated function, so that gradients come back in float32.
        low_params, low_x = _cast((params, x), dtype)
        y, state = network.apply(low_params, net_state, low_x, train=train, key=key)
        # The state must keep its types, or the next step would compile again.
        state = jax.tree.map(lambda new, old: new.astype(old.dtype), state, net_state)
        return y.astype(jnp.float32), state

    return Network(network.init, apply)


def _cast(tree, dtype):
    def cast(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def microbatched(network: Network, size: int) -> Network:
    """Makes a network process a batch in microbatches of a few rows, forward and backward.

    Only the inputs and outputs of a microbatch are kept, and the gradient recomputes the rest: less
    memory for about a third more work. A microbatch takes rows from all over the batch, so that
    every device of a mesh holds a part of each microbatch. Size must then be a multiple of the
    number of devices.

    Dropout draws a mask for each microbatch, so its masks differ from the plain network's.

    Args:
      network: Network without batch statistics that training changes: they would be those of a
        microbatch.
      size: Rows of a microbatch.

    Returns:
      The network; it processes a batch of `size` or fewer rows at once. In training `apply` raises
      ValueError if size does not divide a larger batch, or the network's state would change.

    Raises:
      ValueError: if size is below 1.

    Reference:
      Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv 1604.06174.
    """
    if size < 1:
        raise InputError(f"size must be 1 or more, got {size}")

    def apply(params, net_state, x, *, train, key=None):
        rows = len(x)
        if rows <= size:
            return network.apply(params, net_state, x, train=train, key=key)
        num_turns = -(-rows // size)
        # In evaluation the last microbatch may be padded; in training its loss would be wrong.
        if train and rows % size:
            raise InputError(f"microbatches of {size} rows must divide the batch of {rows}")
        if train:
            _check_state(network, params, net_state, x[:size], key)

        # Checkpointed, so that activations are computed again instead of kept.
        @jax.checkpoint
        def turn(part):
            number, x = part
            turn_key = None if key is None else jax.random.fold_in(key, number)
            return network.apply(params, net_state, x, train=train, key=turn_key)[0]

        # Microbatch i takes row i of each run of num_turns rows, hence rows from every device.
        x = jnp.pad(x, ((0, num_turns * size - rows), *[(0, 0)] * (x.ndim - 1)))
        parts = x.reshape(size, num_turns, *x.shape[1:]).swapaxes(0, 1)
        y = jax.lax.map(turn, (jnp.arange(num_turns), parts))
        return y.swapaxes(0, 1).reshape(num_turns * size, *y.shape[2:])[:rows], net_state

    return Network(network.init, apply)


def _check_state(network, params, net_state, x, key):
    """Raises ValueError if training changes the network's state."""

    def state_of(net_state):
        return network.apply(params, net_state, x, train=True, key=key)[1]

    # An unchanged state leaves the traced function as the very variable that went in.
    traced = jax.make_jaxpr(state_of)(net_state).jaxpr
    changed = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for (path, _), before, after in zip(
            jax.tree_util.tree_leaves_with_path(net_state),
            traced.invars,
            traced.outvars,
            strict=True,
        )
        if before is not after
    ]
    if changed:
        raise InputError(
            f"a network with batch statistics ({changed[0]}) cannot train in microbatches: they "
            "would be of a few rows; freeze them, see models.fine_tuned, or take smaller batches"
        )


class Head(nnx.Module):
    """Applies batch normalisation, then a linear `bottleneck`."""

    def __init__(self, num_features: int, dim: int, *, rngs: nnx.Rngs):
        self.norm = BatchNorm(num_features, momentum=0.9, rngs=rngs)
        self.bottleneck = nnx.Linear(num_features, dim, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        """Maps features [B, F] to embeddings [B, dim]."""
        # Averages of ReLU outputs all point the same way: uncentred, cosines would start near 1.
        return self.bottleneck(self.norm(x, use_running_average=not train))


def fine_tuned(backbone: Network, num_features: int, *, dim: int) -> Network:
    """Adds a batch-normalized linear head to a backbone whose batch statistics stay frozen.

    All weights of the backbone have gradients, but it always runs with train=False: without
    dropout, and normalized by its published statistics. Statistics of small batches of other images
    make it worse, see `experiments/dqn.py`.

    Args:
      backbone: Images -> [B, F]; its `init` puts the pretrained weights into place.
      num_features: F.
      dim: D, the width of the embedding.

    Returns:
      The network: images -> [B, dim]; params and net_state {"backbone", "head"}.

    Raises:
      ValueError: if a size is below 1.
    """
    check_positive(num_features=num_features, dim=dim)
    head = from_nnx(functools.partial(Head, num_features, dim))

    def init(key, example):
        keys = jax.random.split(key)
        parts = {"backbone": backbone.init(keys[0], example)}
        # The head's `init` checks shapes, so it needs features of the example.
        features, _ = backbone.apply(*parts["backbone"], example, train=False)
        parts["head"] = head.init(keys[1], features)
        return tuple({name: part[i] for name, part in parts.items()} for i in range(2))

    def apply(params, net_state, x, *, train, key=None):
        features, _ = backbone.apply(params["backbone"], net_state["backbone"], x, train=False)
        y, of_head = head.apply(params["head"], net_state["head"], features, train=train, key=key)
        return y, {**net_state, "head": of_head}

    return Network(init, apply)


def standardized(network: Network, mean: np.ndarray) -> Network:
    """Makes a network centre its input rows on a mean and scale them, see `standardize`.

    Args:
      network: Rows [B, F] -> [B, D].
      mean: Mean of the training rows [F]; the state keeps it, so that it is saved with the network.

    Returns:
      The network, whose state has "mean" beside the network's own state "net".
    """

    def init(key, example):
        params, net_state = network.init(key, example)
        return params, {"net": net_state, "mean": jnp.asarray(mean, jnp.float32)}

    def apply(params, net_state, x, *, train, key=None):
        x = standardize(x, net_state["mean"])
        y, inner = network.apply(params, net_state["net"], x, train=train, key=key)
        return y, {**net_state, "net": inner}

    return Network(init, apply)


def standardize(x: jax.Array, mean: jax.Array) -> jax.Array:
    """Centres rows [B, F] on a mean [F] and scales them to length sqrt(F).

    A row that equals the mean stays zero. The length makes the entries about 1.
    """
    return unit(x - mean) * np.float32(np.sqrt(x.shape[1]))


def unit(x: jax.Array) -> jax.Array:
    """Divides rows [B, F] by their length; a row of zeros stays zero."""
    length = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.maximum(length, jnp.finfo(x.dtype).tiny)
