"""A head behind a backbone: every weight is trained, the backbone's statistics are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import models

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def parts():
    # Its last layer being linear, a residual network of patches stands in for a backbone.
    backbone = models.patch_resnet(SHAPE, patch=2, channels=(4,), num_blocks=(0,), dim=6)
    network = models.fine_tuned(backbone, 6, dim=3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(16, *SHAPE)), jnp.float32)
    return backbone, network, *network.init(jax.random.key(0), images), images


def test_it_is_the_head_of_the_backbone(parts):
    backbone, network, params, net_state, images = parts
    features, _ = backbone.apply(params["backbone"], net_state["backbone"], images, train=False)
    out, same = network.apply(params, net_state, images, train=False)
    bottleneck = params["head"]["bottleneck"]
    due = features / np.sqrt(1 + 1e-5) @ bottleneck["kernel"] + bottleneck["bias"]
    np.testing.assert_allclose(out, due, atol=1e-5)
    assert jax.tree.all(jax.tree.map(np.array_equal, same, net_state))


def test_training_centres_features_and_leaves_the_backbones_statistics(parts):
    _, network, params, net_state, images = parts
    out, after = network.apply(params, net_state, images, train=True)
    centred = out - params["head"]["bottleneck"]["bias"]
    np.testing.assert_allclose(centred.mean(axis=0), 0, atol=1e-5)
    before = net_state["backbone"]
    assert jax.tree.all(jax.tree.map(np.array_equal, after["backbone"], before))
    mean = after["head"]["norm"]["mean"]
    assert np.abs(mean).max() > 0


def test_every_weight_has_a_gradient(parts):
    _, network, params, net_state, images = parts
    weights = jnp.cos(jnp.arange(48.0)).reshape(16, 3)

    def loss(params):
        return jnp.sum(weights * network.apply(params, net_state, images, train=True)[0] ** 2)

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(params)):
        # What shifts all rows alike is taken away by the norm behind it.
        shifts = jax.tree_util.keystr(path) == "['backbone']['bottleneck']['bias']"
        assert shifts or np.abs(gradient).max() > 1e-6, path
