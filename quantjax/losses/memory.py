"""Cross-batch memory: the embeddings and labels of the latest batches, as more columns for a loss.

Embeddings of some steps ago differ little from those of the present network, so a loss of pairs
can compare a batch with more of them than fit on a device. The state is an array tree: pass it
from step to step beside the network's state. In a loss of `methods.supervised_with_arrays`:

    def init_loss(key, batch, num_rows):
        x = jnp.zeros((len(batch["label"]), dim))
        return {}, memory.init(x, batch["label"], num_rows=1024)

    def loss(x, batch, context, params, state):
        state = memory.push(state, context.gather(x), context.gather(batch["label"]))
        positives = labels.share_label(batch["label"], state.labels)
        ignored = jnp.broadcast_to(~state.mask, positives.shape)
        values = losses.multi_similarity(x, state.x, positives, ignored)
        return jnp.mean(values), (state, {})

Pushed before the loss, as here and in the paper, the memory holds the batch itself, without
gradients. A queue of negatives, as MeCoQ's, is pushed after the loss.

Reference:
  Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from quantjax.arrays import check_shape, on_explicit_mesh
from quantjax.errors import InputError


class Memory(NamedTuple):
    """Rows of the latest batches, the newest last.

    Attributes:
      x: Embeddings [S, D].
      labels: Labels of the rows, [S, ...]: multi-hot [S, L], or class ids [S].
      mask: Which rows have been filled, [S] bool.
    """

    x: jax.Array
    labels: jax.Array
    mask: jax.Array


def init(x: jax.Array, labels: jax.Array, *, num_rows: int) -> Memory:
    """Returns an empty memory for embeddings and labels of the given shapes and types.

    Args:
      x: Embeddings [B, D], whose values do not count.
      labels: Labels [B, ...], whose values do not count.
      num_rows: S, the number of rows that the memory holds.

    Returns:
      A memory of zeros, whose mask is False.

    Raises:
      ValueError: if the shapes do not agree, or `num_rows` is below 1.
    """
    check_shape("x", x, "B", "D")
    check_shape("labels", labels, len(x), *labels.shape[1:])
    if num_rows < 1:
        raise InputError(f"num_rows must be at least 1, got {num_rows}")
    x, labels = (jnp.zeros((num_rows, *a.shape[1:]), jnp.result_type(a)) for a in (x, labels))
    return Memory(x, labels, jnp.zeros(num_rows, bool))


@on_explicit_mesh()
def push(memory: Memory, x: jax.Array, labels: jax.Array) -> Memory:
    """Returns the memory with a batch's rows in place of its oldest rows.

    The rows are held constant: no gradient reaches the network that made them. On many devices
    gather the rows first; then all devices hold the same memory, and that of one device.

    Args:
      memory: The memory of S rows before.
      x: Embeddings [B, D]; of more than S rows the last S are kept.
      labels: Labels [B, ...].

    Returns:
      The memory after, in the types of the memory before.

    Raises:
      ValueError: if the shapes do not agree with each other or with the memory.
    """
    check_shape("x", x, "B", memory.x.shape[1])
    check_shape("labels", labels, len(x), *memory.labels.shape[1:])
    new = Memory(x, labels, jnp.ones(len(x), bool))

    def shifted(old, rows):
        rows = jax.lax.stop_gradient(jnp.asarray(rows, jnp.result_type(old)))
        return jnp.concatenate((old, rows))[-len(old) :]

    return jax.tree.map(shifted, memory, new)
