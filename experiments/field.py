"""Trains the field's methods under equal conditions, and searches seen and unseen classes.

    python -m experiments.field csq_fashion_mnist --config.bits=32
    python -m experiments.ledger run field_csq_fashion_mnist --bits 16 32 64 --seeds 0 1 2

The first command trains CSQ on Fashion-MNIST and measures the search among unseen classes, as other
experiments do. The ledger trains once as well, and measures all four searches of
`data.seen_unseen`. `quantjax/methods` has the equations of the methods.

- Network, split and augmentation: the data set's (`experiments/tasks/`).
- Batches: shuffled, or with `images_per_class` images of each class in a batch.
- Optimizer: Adam with decoupled weight decay; its rate falls to 0 by a cosine.
- Settings: three rates and two values of one keyword of the method, see `METHODS`: six for each
  method, of which `python -m experiments.ledger tune NAME` chooses by validation rows.
- Codes: signs, or one codeword of `num_codewords` in each of bits / log2(num_codewords) codebooks.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict, config_dict

from quantjax import data, launch, methods, models, train
from quantjax.batch import Batch
from quantjax.quantizers import FloatCodec
from quantjax.run import console, parallel

from . import codes, configs
from .baselines import baselines
from .tasks import cifar10, clothing, digits, fashion_mnist, omniglot
from .tasks.task import OnData, Task

_RATES = (1e-3, 3e-4, 3e-3)


class Row(NamedTuple):
    """A method with the keyword that tuning may change.

    Attributes:
      method: Builds the method from a network and keywords.
      keyword: Keyword of the method that tuning sets.
      values: Values to try; the first is the default.
      codebooks: Whether the codes are of codebooks; otherwise they are signs.
      views: Whether the method learns from views, without labels: the data set's augmentations.
    """

    method: Callable[..., methods.Method]
    keyword: str
    values: tuple[float, float]
    codebooks: bool = False
    views: bool = False


def _flat(batch: Batch) -> jax.Array:
    """Returns features, or where there are none pixels, as rows."""
    x = batch["feature"] if "feature" in batch else batch["image"]
    return x.reshape(len(x), -1)


def _adsq(network: models.Network, *, bits: int, **keywords: Any) -> methods.Method:
    """Builds ADSQ with the weights of `experiments/adsq.py`; a third of 30 epochs is LabelNet's."""

    def label_network(shape):
        return models.mlp(shape, hidden=(256, 128), dim=bits)

    # The number of classes is known once there is a batch.
    of_labels = models.Network(
        lambda key, label: label_network(label.shape[1:]).init(key, label),
        lambda params, state, label, **options: label_network(label.shape[1:]).apply(
            params, state, label, **options
        ),
    )
    return methods.adsq(
        of_labels,
        network,
        bits=bits,
        label_epochs=10,
        likelihood_weight=1.0,
        difference_weight=1.0,
        balance_weight=0.05,
        label_code_weight=1.0,
        **keywords,
    )


METHODS = {
    "adsq": Row(_adsq, "quantization_weight", (0.05, 0.5)),
    "bihalf": Row(functools.partial(methods.bihalf, features=_flat), "pull", (6.0, 0.1)),
    "bihalf_supervised": Row(methods.bihalf_supervised, "pull", (6.0, 1.0)),
    "cibhash": Row(methods.cibhash, "temperature", (0.3, 0.1), views=True),
    "cosine_softmax": Row(methods.cosine_softmax, "scale", (16.0, 6.0), codebooks=True),
    "csq": Row(methods.csq, "quantization_weight", (1e-4, 1e-1)),
    "dch": Row(methods.dch, "quantization_weight", (0.1, 0.01)),
    "dhn": Row(methods.dhn, "quantization_weight", (0.1, 0.01)),
    "dpn": Row(methods.dpn, "margin", (1.0, 0.5)),
    "dpsh": Row(methods.dpsh, "quantization_weight", (0.1, 1.0)),
    "dqn": Row(methods.dqn, "quantization_weight", (1e-4, 1e-2), codebooks=True),
    "dqn_ste": Row(methods.dqn_ste, "quantization_weight", (1e-4, 1e-2), codebooks=True),
    "dsh": Row(methods.dsh, "quantization_weight", (0.1, 0.01)),
    "dtq": Row(methods.dtq, "margin", (30.0, 10.0), codebooks=True),
    "dtsh": Row(methods.dtsh, "quantization_weight", (1.0, 0.1)),
    "greedyhash": Row(methods.greedyhash, "quantization_weight", (0.1, 1.0)),
    "hashnet": Row(methods.hashnet, "alpha", (0.3, 0.1)),
    "orthohash": Row(methods.orthohash, "scale", (8.0, 4.0)),
    "pqnet": Row(methods.pqnet, "sharpness", (5.0, 10.0), codebooks=True),
    "saturated_softmax": Row(methods.saturated_softmax, "slope", (1.0, 4.0)),
    "saturated_softmax_product": Row(
        methods.saturated_softmax_product, "slope", (1.0, 0.25), codebooks=True
    ),
    "spq": Row(methods.spq, "temperature", (0.5, 0.2), codebooks=True, views=True),
    "triplet_quantization": Row(methods.triplet_quantization, "quantization_weight", (1.0, 0.3)),
}
"""Methods by name. The values stand around the default of the paper or of public code."""

_OF_TEN = {"num_epochs": 30, "batch_size": 128}
_ON_DATA: dict[str, tuple[Callable[[ConfigDict], dict[str, Task]], dict[str, Any]]] = {
    "cifar10_features": (
        cifar10.evaluations,
        # Smaller than in `dqn`: features of 60,000 images take minutes instead of half an hour.
        {**cifar10.EVALUATIONS, **_OF_TEN, "image_size": 128, "dropout": 0.3},
    ),
    "clothing_features": (
        clothing.evaluations,
        {**clothing.EVALUATIONS, **_OF_TEN, "dropout": 0.3},
    ),
    "fashion_mnist": (fashion_mnist.evaluations, {**fashion_mnist.EVALUATIONS, **_OF_TEN}),
    # Small, and needs no download: to try the bench.
    "mnist": (digits.evaluations, _OF_TEN),
    "omniglot": (
        omniglot.evaluations,
        # Shuffled batches would show most characters once, and leave nothing to compare.
        {**omniglot.EVALUATIONS, "num_epochs": 60, "batch_size": 128, "images_per_class": 4},
    ),
}

DATA_SETS = {
    f"{method}_{name}": OnData(lambda config, make=make: make(config)["unseen_in_unseen"], settings)
    for method, (name, (make, settings)) in itertools.product(METHODS, _ON_DATA.items())
}
"""METHOD_DATA for every method on every data set."""


def get_config(data_set: str) -> ConfigDict:
    """Returns the config of a method on a data set; --config.KEY=VALUE overrides a setting.

    Args:
      data_set: Key of `DATA_SETS`.
    """
    row = _row(data_set)
    return configs.create(
        DATA_SETS[data_set].settings,
        seed=0,  # of the network, of batches, and of the draw of unseen classes
        final=False,  # True: train on the validation set too, see `configs.splits`
        precision="float32",
        microbatch=config_dict.placeholder(int),  # rows at a time through the network
        bits=32,
        num_codewords=256,
        num_codebooks=config_dict.placeholder(int),  # follows from bits and num_codewords
        dim=64,  # of embeddings that codebooks code
        images_per_class=config_dict.placeholder(int),  # in a batch; None: batches are shuffled
        learning_rate=_RATES[0],
        weight_decay=1e-2,
        **{row.keyword: row.values[0]},
    )


def trials(data_set: str) -> list[dict[str, Any]]:
    """Returns the six settings that tuning may try.

    Args:
      data_set: Key of `DATA_SETS`.
    """
    row = _row(data_set)
    return [
        {"learning_rate": rate, row.keyword: value}
        for rate, value in itertools.product(_RATES, row.values)
    ]


def build(config: ConfigDict, data_set: str) -> train.Experiment:
    """Builds the experiment for `train.fit` from a config.

    Args:
      config: From `get_config`.
      data_set: Key of `DATA_SETS`.
    """
    return _on_task(config, data_set, DATA_SETS[data_set].task(config))


def measure(config: ConfigDict, data_set: str) -> list[codes.Measured]:
    """Trains a method once and measures the four searches of `data.seen_unseen`.

    Args:
      config: From `get_config`.
      data_set: Key of `DATA_SETS`.

    Returns:
      For each search its results: of the codes, named after the search; of the embeddings
      ("SEARCH float"); and among seen queries of the class-id code ("SEARCH class-id code").
    """
    make, _ = _ON_DATA[_data(data_set)]
    tasks = make(config)
    experiment = _on_task(config, data_set, tasks["unseen_in_unseen"])
    mesh = parallel.data_mesh()
    with console.progress(experiment) as report:
        state = train.fit(experiment, mesh=mesh, callbacks=[report]).state
    codec = experiment.method.codec(state.params, state.state)
    splits = {name: task.splits for name, task in tasks.items()}
    embed = functools.partial(_embedded, experiment, state, mesh)
    # The searches share rows, each of which is embedded once.
    queries = embed([each.query for each in splits.values()], queries=True)
    database = embed([*(each.database for each in splits.values()), experiment.splits.train])
    return [_searched(codec, name, splits[name], queries, database) for name in splits]


def _searched(codec, name, splits, queries, database):
    """Measures one search."""
    x = {
        "train": database(splits.train),
        "query": queries(splits.query),
        "database": database(splits.database),
    }
    real = FloatCodec(x["query"].shape[1], metric=_metric(codec))
    results = [
        codes.of_codec(splits, row, each, x["query"], x["database"])
        for row, each in ((name, codec), (f"{name} float", real))
    ]
    # Unseen classes have no number among those of the classifier.
    if name.startswith("seen"):
        found = codes.class_id_code(splits, x)
        results.append(found._replace(name=f"{name} class-id code"))
    return codes.Measured(splits, data.audit(splits), results)


def _embedded(experiment, state, mesh, lists, *, queries=False):
    """Embeds the rows of some lists; returns a function from rows to their embeddings."""
    rows = np.unique(np.concatenate(lists))
    x = train.embed(experiment, state, rows, queries=queries, mesh=mesh)
    return lambda wanted: x[np.searchsorted(rows, wanted)]


def _metric(codec):
    # Without signs the angle is compared.
    return "cosine" if codec.metric == "hamming" else codec.metric


def _on_task(config, data_set, task):
    """Builds the experiment of a method on a task."""
    data.check_training_labels(task.splits)
    method = _built(config, _row(data_set), task)
    rows = task.splits.train
    # Views are changed twice as it is.
    task = task._replace(augment=lambda key, batch: batch) if _row(data_set).views else task
    if config.images_per_class is None:
        batches = data.shuffled(len(rows), config.batch_size)
    else:
        batches = data.class_balanced(
            task.splits.source.labels[rows],
            classes_per_batch=config.batch_size // config.images_per_class,
            images_per_class=config.images_per_class,
        )
    # Proxies and codebooks of a loss learn like the network.
    trained = sorted({name for phase in method.phases for name in phase.trains})
    optimizers = {name: _optimizer(config, method, name, len(batches(0, 0))) for name in trained}
    return configs.experiment(config, f"field_{data_set}", task, method, optimizers, batches)


def _optimizer(config, method, name, steps_per_epoch) -> optax.GradientTransformation:
    """Returns Adam whose rate falls over the epochs that train an entry of params."""
    phases = [method.phases[method.phase_at(epoch)] for epoch in range(config.num_epochs)]
    epochs = sum(name in phase.trains for phase in phases)
    # optax needs a step, even for an entry that too few epochs leave untrained.
    steps = max(epochs * steps_per_epoch, 1)
    schedule = optax.cosine_decay_schedule(config.learning_rate, steps)
    return optax.adamw(schedule, weight_decay=config.weight_decay)


def _built(config, row, task):
    """Builds the method of a row for a task."""
    keywords = {row.keyword: config[row.keyword], "inputs": task.inputs}
    if row.views:
        keywords["view"] = task.augment
    width = config.dim if row.codebooks else config.bits
    network = configs.network(config, task.network(width))
    if not row.codebooks:
        return row.method(network, bits=config.bits, **keywords)
    sizes = {
        "dim": config.dim,
        "num_codebooks": configs.num_codebooks(config),
        "num_codewords": config.num_codewords,
    }
    return row.method(network, **sizes, **keywords)


def _row(data_set):
    return METHODS[_method(data_set)]


def _method(data_set):
    """Returns the method of METHOD_DATA."""
    return next(name for name in METHODS if data_set.removeprefix(f"{name}_") in _ON_DATA)


def _data(data_set):
    """Returns the data set of METHOD_DATA."""
    return data_set.removeprefix(f"{_method(data_set)}_")


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="field", data_sets=DATA_SETS)
