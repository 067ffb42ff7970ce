"""A cross-batch memory in a method, as the docstring of `losses.memory` has it."""

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import labels, losses, methods, quantizers, train
from quantjax.losses import memory
from quantjax.run import parallel
from tests import toy


def init_loss(key, batch, num_rows):
    x = jnp.zeros((len(batch["label"]), 8))
    return {}, memory.init(x, batch["label"], num_rows=100)


def loss(x, batch, context, params, state):
    state = memory.push(state, context.gather(x), context.gather(batch["label"]))
    positives = labels.share_label(batch["label"], state.labels)
    ignored = jnp.broadcast_to(~state.mask, positives.shape)
    values = losses.multi_similarity(x, state.x, positives, ignored)
    return jnp.mean(values), (state, {})


def test_eight_devices_keep_the_memory_of_one():
    method = methods.supervised_with_arrays(
        toy.network(), init_loss, loss, quantizers.BinaryCodec(8)
    )
    experiment = toy.experiment(method, num_epochs=1)
    meshes = parallel.data_mesh(jax.devices()[:1]), parallel.data_mesh()
    one, eight = (train.fit(experiment, mesh=mesh).state for mesh in meshes)
    for kind in ("params", "state"):
        here, there = (jax.tree.leaves(getattr(state, kind)) for state in (one, eight))
        for a, b in zip(here, there, strict=True):
            np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=0, atol=1e-5)
    # Two of the four batches fill the memory, each with its own rows.
    kept = one.state["loss"]
    assert kept.mask.all()
    assert len(np.unique(kept.x, axis=0)) == 100
