"""Applies networks to large batches in microbatches, so that the loss still sees all pairs."""

import jax

from quantjax.errors import InputError
from quantjax.models.base import Network


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
        if train and rows % size:
            raise InputError(f"microbatches of {size} rows must divide the batch of {rows}")
        if train:
            _check_state(network, params, net_state, x[:size], key)

        @jax.checkpoint
        def turn(part):
            number, x = part
            turn_key = None if key is None else jax.random.fold_in(key, number)
            return network.apply(params, net_state, x, train=train, key=turn_key)[0]

        # Microbatch i takes row i of each run of num_turns rows, hence rows from every device.
        x = jax.numpy.pad(x, ((0, num_turns * size - rows), *[(0, 0)] * (x.ndim - 1)))
        parts = x.reshape(size, num_turns, *x.shape[1:]).swapaxes(0, 1)
        y = jax.lax.map(turn, (jax.numpy.arange(num_turns), parts))
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
