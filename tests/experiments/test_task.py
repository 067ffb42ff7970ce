"""Features are centred and of one length, some dropped in training; labels must teach something."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import adsq, deepquan, dqn, triplet_quantization
from experiments.tasks import task
from quantjax import data, methods, models, train
from quantjax.batch import Collectives
from quantjax.data import augment
from quantjax.run import parallel


def splits(label):
    image = np.zeros((len(label), 2, 2, 1), np.uint8)
    rows = np.arange(len(label))
    return data.make_splits(
        data.from_arrays(image, np.array(label)),
        train=rows[:8],
        validation=rows[8:9],
        query=rows[9:10],
        database=rows[10:],
    )


CLASS_IDS = [0, 1] * 6


def config_of(method, **changes):
    """Returns a method's config for digits, with those changes that it has keys for."""
    config = method.get_config("mnist")
    changes = {"num_epochs": 1, "learning_rate": 0.1, "bits": 8, **changes}
    config.update({key: value for key, value in changes.items() if key in config})
    return config


def on_features(label=CLASS_IDS, dropout=0.0):
    x = np.random.default_rng(0).normal(loc=3, size=(len(label), 5)).astype(np.float32)
    return x, task.on_features(splits(label), x, hidden=(4,), dropout=dropout)


def test_features_are_centred_on_training_rows_and_of_one_length():
    x, found = on_features()
    column = found.splits.source[np.arange(12)]["feature"]
    centred = np.float64(x) - np.float64(x[:8]).mean(axis=0)
    due = np.sqrt(5) * centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(column, due, atol=1e-5)
    assert column.dtype == np.float32


def test_images_are_distorted_in_training_and_prepared_by_the_loop():
    found = task.Task(
        splits=splits(CLASS_IDS),
        network=lambda dim: models.mlp((2, 2, 1), hidden=(4,), dim=dim),
        inputs=methods.images,
        augment=augment.on_images(lambda key, images: images + np.uint8(3)),
        preprocess=augment.normalize(mean=(0.5,), std=(0.25,)),
    )
    image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    changed = found.augment(jax.random.key(0), {"image": image})["image"]
    assert changed.dtype == np.uint8
    np.testing.assert_array_equal(changed, image + 3)
    config = config_of(dqn, batch_size=4, num_codewords=16, dim=8)
    experiment = dqn.on_task(config, "toy", found)
    state = train.initialize(experiment, parallel.data_mesh(jax.devices()[:1]))
    prepared = train.make_prepare(experiment)(state, {"image": jnp.asarray(image)})["image"]
    np.testing.assert_allclose(prepared, ((image + 3.0) / 255 - 0.5) / 0.25, atol=1e-5)


def test_a_feature_that_is_the_mean_stays_zero():
    x = np.ones((12, 5), np.float32)
    found = task.on_features(splits(CLASS_IDS), x, hidden=())
    np.testing.assert_array_equal(found.splits.source[np.arange(12)]["feature"], 0)


def test_training_drops_a_share_and_scales_up_the_rest():
    _, found = on_features(dropout=0.25)
    batch = {"feature": jnp.ones((200, 50))}
    dropped = np.asarray(found.augment(jax.random.key(0), batch)["feature"])
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(4 / 3)}
    assert np.mean(dropped == 0) == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(found.preprocess(batch)["feature"], 1)
    _, whole = on_features()
    np.testing.assert_array_equal(whole.augment(jax.random.key(0), batch)["feature"], 1)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_that_cannot_be_is_refused(dropout):
    with pytest.raises(ValueError, match="dropout must be 0 or more and below 1"):
        on_features(dropout=dropout)


@pytest.mark.parametrize("method", [dqn, adsq, triplet_quantization])
@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0] * 8 + [1] * 4, "all 8 training rows share a class"),
        (
            [[0, 1]] * 3 + [[0, 0]] + [[1, 0]] * 8,
            "1 of 8 training rows have no class: 3; give",
        ),
        (list(range(12)), "no two of the 8 training rows share a class"),
    ],
    ids=["one class", "no class", "no pair"],
)
def test_labels_that_teach_nothing_are_refused(method, label, message):
    config = config_of(method, batch_size=4, images_per_class=2)
    x = np.ones((12, 5), np.float32)
    found = task.on_features(splits(label), x, hidden=())
    with pytest.raises(ValueError, match=message):
        method.on_task(config, "toy", found)


@pytest.mark.parametrize("method", [adsq, dqn, triplet_quantization])
@pytest.mark.parametrize("batch_size", [-4, 0, 10])
def test_batches_that_cannot_be_are_refused(method, batch_size):
    config = config_of(method, batch_size=batch_size, images_per_class=5)
    with pytest.raises(ValueError, match=r"batch_size must be|classes_per_batch|images of"):
        method.on_task(config, "toy", on_features()[1])


@pytest.fixture
def given(monkeypatch):
    """What each perceptron that is built from here on is given: {input shape: {(type, rows)}}."""
    found, mlp = {}, models.mlp

    def noted(shape, **options):
        network, seen = mlp(shape, **options), found.setdefault(shape, set())

        def apply(params, net_state, x, *, train, key=None):
            if train:
                types = {leaf.dtype.name for leaf in [x, *jax.tree.leaves(params)]}
                seen.add((*types, len(x)))
            return network.apply(params, net_state, x, train=train, key=key)

        return models.Network(network.init, apply)

    monkeypatch.setattr(models, "mlp", noted)
    return found


@pytest.mark.parametrize(
    ("method", "networks"),
    [
        (dqn, {(5,)}),
        (triplet_quantization, {(5,)}),
        (adsq, {(2,), (5,)}),  # labels and features
        (deepquan, {(5,), (8,)}),  # there and back
    ],
)
@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({}, ("float32", 8)),
        ({"precision": "bfloat16"}, ("bfloat16", 8)),
        ({"microbatch": 2}, ("float32", 2)),
        ({"precision": "bfloat16", "microbatch": 2}, ("bfloat16", 2)),
    ],
)
@pytest.mark.by_default("*experiments.dqn-*", "changes3-*triplet*")
def test_every_network_computes_as_the_config_says(method, networks, changes, due, given):
    small = {"batch_size": 8, "images_per_class": 4, "num_codewords": 16, "dim": 8}
    config = config_of(method, **small, margin=0.5, num_neighbours=3, **changes)
    experiment = method.on_task(config, "toy", on_features()[1])
    state = train.initialize(experiment, parallel.data_mesh(jax.devices()[:1]))
    rows = experiment.splits.train
    batch = {**experiment.splits.source[rows], "index": np.arange(8, dtype=np.int32)}
    for phase in experiment.method.phases:
        step = train.make_step(experiment, phase)
        jax.eval_shape(
            lambda *parts, step=step: step(*parts, collectives=Collectives()), state, batch
        )
    assert given == {network: {due} for network in networks}


@pytest.mark.parametrize(("bits", "dim", "due"), [(32, 48, 48), (32, None, 64), (48, None, 96)])
def test_an_embedding_without_a_width_has_the_papers(bits, dim, due):
    assert dqn.dim(config_of(dqn, bits=bits, dim=dim)) == due


def test_the_inner_product_of_dqn_is_divided_by_the_bits(rng):
    x = rng.normal(size=(5, 48)).astype(np.float32)
    similar = rng.uniform(size=(5, 5)) < 0.5
    for bits in (16, 32):
        loss = dqn.pair_loss(config_of(dqn, bits=bits, pair_loss="inner_product"))
        due = (np.where(similar, 1, -1) - np.float64(x) @ np.float64(x).T / bits) ** 2
        np.testing.assert_allclose(loss(x, x, similar), due, rtol=1e-5)


def test_the_papers_settings_reach_the_method():
    changes = {"num_epochs": 10, "batch_size": 8, "num_codewords": 16, **dqn.ABLATIONS["paper"]}
    built = dqn.on_task(config_of(dqn, **changes), "toy", on_features()[1])
    params, state = train.initialize(built, parallel.data_mesh(jax.devices()[:1]))[2:4]
    assert state["codebooks"].shape == (2, 16, 16)
    assert state["assignments"].shape == (1024, 2)
    assert [epoch for epoch in range(3) if built.method.refresh.due(epoch)] == [1, 2]
    fitted = {**state, "fitted": jnp.asarray(True)}
    assert built.method.codec(params, fitted).metric == "l2"
    weights = jax.tree.map(jnp.ones_like, params["net"])
    optimizer = built.optimizers["net"]
    no_gradient = jax.tree.map(jnp.zeros_like, weights)
    updates, _ = optimizer.update(no_gradient, optimizer.init(weights), weights)
    decayed = sorted({-float(leaf.ravel()[0]) for leaf in jax.tree.leaves(updates)})
    # Rate 0.1 times 0.0005; twice as much for biases, ten times for the bottleneck.
    np.testing.assert_allclose(decayed, np.array([1, 2, 10, 20]) * 5e-5, rtol=1e-5)
