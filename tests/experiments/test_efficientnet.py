"""The published network as a part of an experiment: its weights, its views, its work in turns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dqn
from experiments.tasks import cifar10, efficientnet
from quantjax import data
from quantjax.models import features
from quantjax.run import parallel

SIZE = 32


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (2 * features.ROWS, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def started():
    """The network, its params and its net_state, initialised under jit as `train.fit` does it."""
    network = efficientnet.network(4, size=SIZE)
    return network, *jax.jit(network.init)(jax.random.key(0), np.zeros((2, 32, 32, 3), np.uint8))


@pytest.mark.slow
def test_it_starts_as_a_new_bottleneck_on_the_published_features_on_any_devices(started, images):
    network, params, net_state = started
    extractor = features.efficientnet_lite0(SIZE)
    x = jax.jit(extractor.apply)(extractor.weights, images)
    bottleneck = params["head"]["bottleneck"]
    # The norm knows no mean yet, and a variance of 1.
    due = (x / np.sqrt(1 + 1e-5)) @ bottleneck["kernel"] + bottleneck["bias"]
    assert np.std(due) > 0.01
    embed = jax.jit(lambda images: network.apply(params, net_state, images, train=False)[0])
    for devices in jax.devices()[:1], jax.devices():
        batch = parallel.put_rows(parallel.data_mesh(devices), {"image": images})
        np.testing.assert_allclose(embed(batch["image"]), due, atol=1e-4)


@pytest.mark.slow
def test_training_keeps_the_published_statistics(started, images):
    network, params, net_state = started
    train = jax.jit(lambda images: network.apply(params, net_state, images, train=True)[1])
    after = train(images)
    for old, new in zip(
        jax.tree.leaves(net_state["backbone"]), jax.tree.leaves(after["backbone"]), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    assert np.any(after["head"]["norm"]["mean"] != net_state["head"]["norm"]["mean"])


def task_with(monkeypatch, images, views):
    source = data.from_arrays(images, np.arange(len(images)) % 2)
    rows = np.arange(len(images))
    splits = data.make_splits(
        source, train=rows[:8], validation=rows[8:9], query=rows[9:12], database=rows[12:]
    )
    monkeypatch.setattr(cifar10, "_source", lambda data_dir: source)
    monkeypatch.setattr(data, "cifar10_i", lambda source: splits)
    config = dqn.get_config("cifar10_finetuned")
    config.views = views
    return cifar10.finetuned(config)


def test_views_are_the_image_its_mirror_or_ten_moves(monkeypatch, images):
    one, flips, ten = (
        np.asarray(task_with(monkeypatch, images, each).preprocess({"image": images})["image"])
        for each in ("one", "flips", "ten_crop")
    )
    np.testing.assert_array_equal(one, images)
    np.testing.assert_array_equal(flips, np.stack([images, images[:, :, ::-1]], axis=1))
    assert ten.shape == (len(images), 10, 32, 32, 3)
    # The centre is the image as it is; up and left of it lie 4 pixels of its reflection.
    np.testing.assert_array_equal(ten[:, [0, 5]], flips)
    np.testing.assert_array_equal(ten[:, 1, 4:, 4:], images[:, :28, :28])
    np.testing.assert_array_equal(ten[:, 1, 3, 4:], images[:, 1, :28])
    np.testing.assert_array_equal(ten[:, 4, :28, :28], images[:, 4:, 4:])


def test_training_moves_and_mirrors_but_does_not_make_views(monkeypatch, images):
    task = task_with(monkeypatch, images, "ten_crop")
    changed = task.augment(jax.random.key(0), {"image": jnp.asarray(images)})["image"]
    assert changed.shape == images.shape
    assert (np.asarray(changed) != images).any()


def test_another_word_for_views_is_refused(monkeypatch, images):
    with pytest.raises(ValueError, match="views must be one of one, flips, ten_crop, got 'five'"):
        task_with(monkeypatch, images, "five")
