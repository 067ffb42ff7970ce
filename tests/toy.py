"""A toy set that a network can separate and k-means cannot, and experiments on it.

Methods are made once of the same options, so that their programs are compiled once.
"""

import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from quantjax import data, labels, losses, methods, models, quantizers, train
from quantjax.methods.adsq import with_semantic_layer
from quantjax.methods.deepquan import heat_kernel

CLASSES, PER_CLASS, SIDE = 4, 96, 8


@functools.cache
def splits() -> data.Splits:
    """Four classes: a faint pattern each, under strong nuisance that all share."""
    rng = np.random.default_rng(7)
    class_ids = np.repeat(np.arange(CLASSES), PER_CLASS)
    pixels = SIDE * SIDE
    pattern = rng.normal(size=(CLASSES, pixels))
    nuisance = rng.normal(size=(len(class_ids), 6)) @ rng.normal(size=(6, pixels))
    image = 128 + 9 * pattern[class_ids] + 14 * nuisance + 4 * rng.normal(size=nuisance.shape)
    image = np.clip(image, 0, 255).astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
    place = np.arange(len(class_ids)) % PER_CLASS
    rows = np.arange(len(class_ids))
    columns = features_and_neighbours(class_ids, rows[place < 64])
    source = data.from_arrays(image, class_ids, **columns)
    return data.make_splits(
        source,
        train=rows[place < 64],
        validation=rows[(place >= 64) & (place < 68)],
        query=rows[(place >= 68) & (place < 76)],
        database=rows[place >= 76],
    )


def features_and_neighbours(class_ids: np.ndarray, train_rows: np.ndarray) -> dict:
    """Columns for methods without labels: classes are clusters in many noisy dimensions."""
    rng = np.random.default_rng(8)
    centre = 0.5 * rng.normal(size=(CLASSES, 64))
    feature = np.float32(centre[class_ids] + rng.normal(size=(len(class_ids), 64)))
    neighbours = np.full((len(class_ids), 20), -1, np.int32)
    neighbours[train_rows] = data.nearest_neighbours(feature[train_rows], num_neighbours=20).rows
    return {"feature": feature, "neighbours": neighbours}


def normalize(batch):
    return {**batch, "image": (batch["image"].astype("float32") - 128) / 64}


@functools.cache
def network(dim: int = 8) -> models.Network:
    return models.mlp((SIDE, SIDE, 1), hidden=(32,), dim=dim)


_network = network


@functools.cache
def dqn(network: models.Network | None = None, **options) -> methods.Method:
    sizes = {"dim": 8, "num_codebooks": 2, "num_codewords": 16}
    return methods.dqn(network or _network(), **{**sizes, **options})


@functools.cache
def dqn_stored(**options) -> methods.Method:
    """DQN whose codes stay as the last refit left them."""
    return dqn(reassign="refit", **options)


@functools.cache
def dqn_ste(**options) -> methods.Method:
    sizes = {"dim": 8, "num_codebooks": 2, "num_codewords": 16}
    return methods.dqn_ste(network(), **{**sizes, **options})


@functools.cache
def triplet_quantization(**options) -> methods.Method:
    method = methods.triplet_quantization(network(), **{"bits": 8, **options})
    (phase,) = method.phases

    def gentle(*args):
        # A sixteenth of the rate: at more, which triplets are chosen turns on the last digits.
        value, rest = phase.loss(*args)
        return value / 16, rest

    return method._replace(phases=(phase._replace(loss=gentle),))


_OF_ADSQ = {
    "bits": 8,
    "label_epochs": 2,
    "likelihood_weight": 1.0,
    "difference_weight": 1.0,
    "quantization_weight": 0.1,
    "balance_weight": 0.05,
    "label_code_weight": 1.0,
}


@functools.cache
def adsq(**options) -> methods.Method:
    label_network = models.mlp((CLASSES,), hidden=(32, 32), dim=8)
    return methods.adsq(label_network, network(), **{**_OF_ADSQ, **options})


@functools.cache
def adsq_semantic(**options) -> methods.Method:
    """ADSQ with a semantic layer of 6 features in every network."""
    above = models.mlp((6,), hidden=(), dim=8)
    below = models.mlp((CLASSES,), hidden=(32,), dim=6), network(6)
    numbers = {**_OF_ADSQ, "semantic_dim": 6, "semantic_weight": 0.5}
    networks = (with_semantic_layer(each, above) for each in below)
    return methods.adsq(*networks, **{**numbers, **options})


@functools.cache
def deepquan(**options) -> methods.Method:
    numbers = {
        "dim": 8,
        "num_codebooks": 2,
        "num_codewords": 16,
        "pretrain_epochs": 1,
        "reconstruction_weight": 0.01,
        "triplet_weight": 1.0,
        "quantization_weight": 0.05,
        "margin": 1.0,
        "weigh": functools.partial(heat_kernel, width=10.0),
        "inputs": lambda batch: batch["feature"],
    }
    encoder, decoder = (
        models.mlp((64,), hidden=(32,), dim=8),
        models.mlp((8,), hidden=(32,), dim=64),
    )
    return methods.deepquan(encoder, decoder, **{**numbers, **options})


@functools.cache
def supervised(**options) -> methods.Method:
    """Central similarity with fixed centres."""
    centres = losses.hadamard_centres(CLASSES, 8)

    def loss(x, batch, context):
        targets = losses.class_centres(jax.random.key(0), batch["label"], centres)
        value = jnp.mean(losses.central_similarity(x, targets))
        return value, {"central_similarity": value}

    return methods.supervised(network(), loss, quantizers.BinaryCodec(8), **options)


def _fit(key, x, mask):
    codebooks = quantizers.product.fit_codebooks(
        key, x, num_codebooks=2, num_codewords=16, mask=mask
    )
    return quantizers.ProductCodec(codebooks)


@functools.cache
def supervised_with_arrays(**options) -> methods.Method:
    """A trained classifier, pairs with a table of all outputs, and codebooks fitted behind."""

    def init_loss(key, batch, num_rows):
        num_classes = batch["label"].shape[1]
        shapes = {"x": (num_rows, 8), "label": (num_rows, num_classes)}
        table = {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}
        return 0.3 * jax.random.normal(key, (num_classes, 8), jnp.float32), table

    def loss(x, batch, context, weights, table):
        rows, x = context.gather(batch["index"]), jnp.tanh(x)
        new = {"x": jax.lax.stop_gradient(x), "label": batch["label"]}
        table = {name: table[name].at[rows].set(context.gather(new[name])) for name in new}
        similar = labels.share_label(batch["label"], table["label"])
        pairs = jnp.mean(losses.pairwise_likelihood(x, table["x"], similar))
        classes = jnp.mean(losses.orthogonal_cosine(x, batch["label"], weights))
        return pairs + 0.1 * classes, (table, {"pair_loss": pairs, "class_loss": classes})

    numbers = {"refit_every": 2, "min_rows": 16, **options}
    return methods.supervised_with_arrays(network(), init_loss, loss, _fit, **numbers)


@functools.cache
def cosine_softmax(**options) -> methods.Method:
    # A blunt softmax: at a scale of 16 the rate of the toy's optimizer is too large.
    sizes = {"dim": 8, "num_codebooks": 2, "num_codewords": 16, "scale": 4.0}
    return methods.cosine_softmax(network(), **{**sizes, **options})


METHODS = {
    "dqn": dqn,
    "dqn_stored": dqn_stored,
    "dqn_ste": dqn_ste,
    "triplet_quantization": triplet_quantization,
    "adsq": adsq,
    "adsq_semantic": adsq_semantic,
    "deepquan": deepquan,
    "cosine_softmax": cosine_softmax,
    "supervised": supervised,
    "supervised_with_arrays": supervised_with_arrays,
}
"""Every method at toy size; a new one is tested by adding a row."""

WITH_CODEBOOKS = {"dqn": dqn, "dqn_ste": dqn_ste, "deepquan": deepquan}
"""Those whose codec does not exist before a refresh, and that take sizes of codebooks."""

WEIGHTS = {
    "dqn": ("quantization_weight",),
    "dqn_stored": ("quantization_weight",),
    "dqn_ste": ("quantization_weight",),
    "triplet_quantization": ("quantization_weight",),
    "adsq": (
        "likelihood_weight",
        "difference_weight",
        "quantization_weight",
        "balance_weight",
        "label_code_weight",
    ),
    "adsq_semantic": ("semantic_weight", "likelihood_weight"),
    "deepquan": ("reconstruction_weight", "triplet_weight", "quantization_weight"),
}
"""The weights in the loss of each."""


_OPTIMIZER = optax.sgd(0.2, momentum=0.9)


def experiment(method: methods.Method, **changes) -> train.Experiment:
    """An experiment on the toy set: 4 steps an epoch."""
    entries = {name for phase in method.phases for name in phase.trains}
    base = train.Experiment(
        name="toy",
        method=method,
        splits=splits(),
        sampler=data.shuffled(len(splits().train), 64),
        preprocess=normalize,
        optimizers=dict.fromkeys(entries, _OPTIMIZER),
        num_epochs=12,
        batch_size=64,
        seed=0,
    )
    return base._replace(**changes)


def interrupted(whole: train.Experiment) -> train.Experiment:
    """An experiment that gets a SIGTERM at the start of its second epoch."""

    def sampler(seed, epoch):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole.sampler(seed, epoch)

    return whole._replace(sampler=sampler)
