"""Codes of features or pixels without a trained network: what a trained method has to beat.

    python -m experiments.ledger run codes_cifar10_features

- PQ and OPQ, ranked by asymmetric squared Euclid; ITQ, LSH and Hashing-Baseline, ranked by Hamming
  distance: fitted to the training rows without labels.
- The class-id code: the answer of a classifier, in ceil(log2 C) bits.

docs/results.md has the numbers. `experiments/baselines.py` has the baselines of a trained method.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from quantjax import data, evaluate
from quantjax.data import class_counts
from quantjax.quantizers import (
    BinaryCodec,
    ClassCodec,
    Codec,
    FloatCodec,
    ProductCodec,
    packing,
    product,
    rotation,
)

from . import configs
from .classifier import fit_classifier
from .tasks import cifar10, clothing, digits, fashion_mnist, omniglot
from .tasks.task import OnData

_TURNS = 25  # of OPQ, as many as k-means has iterations


DATA_SETS = {
    "fashion_mnist": OnData(fashion_mnist.pixels, fashion_mnist.PIXELS),
    "cifar10_features": OnData(cifar10.features, cifar10.FEATURES),
    "clothing_features": OnData(clothing.features, clothing.FEATURES),
    # The searches of `experiments/field.py`.
    "field_cifar10_features": OnData(
        cifar10.evaluations, {**cifar10.EVALUATIONS, "image_size": 128}
    ),
    "field_clothing_features": OnData(clothing.evaluations, clothing.EVALUATIONS),
    "field_fashion_mnist": OnData(fashion_mnist.evaluations, fashion_mnist.EVALUATIONS),
    "field_mnist": OnData(digits.evaluations, {}),
    "field_omniglot": OnData(omniglot.evaluations, omniglot.EVALUATIONS),
}
"""Data sets by name, each with the settings that extend those of `get_config`."""


class Measured(NamedTuple):
    """Results of the codes, with the split and its audit.

    Attributes:
      splits: The split.
      audited: Audit of the split.
      results: A result for each code.
    """

    splits: data.Splits
    audited: data.Audit
    results: list[evaluate.Results]


def get_config(data_set: str) -> ConfigDict:
    """Returns the config of codes without training.

    Args:
      data_set: Key of `DATA_SETS`.
    """
    settings = DATA_SETS[data_set].settings
    return configs.create(settings, seed=0, final=False, bits=32, num_codewords=256)


def measure(config: ConfigDict, data_set: str) -> list[Measured]:
    """Measures uncoded features, and codes fitted to training rows: `CODES` and the class-id code.

    Args:
      config: From `get_config`.
      data_set: Key of `DATA_SETS`.

    Returns:
      For each search of the data set its results "features", "pq", "opq", "itq", "lsh",
      "hashing-baseline", "class-id code"; of several searches "pq, SEARCH" and so on.
    """
    tasks = DATA_SETS[data_set].task(config)
    # The searches of one training share its rows.
    searches = tasks if isinstance(tasks, dict) else {"": tasks}
    splits = {name: task.splits for name, task in searches.items()}
    x = _rows(next(iter(splits.values())), "train")
    fitted = {name: fit(config, x) for name, fit in CODES.items()}
    return [_searched(each, fitted, name) for name, each in splits.items()]


def _searched(splits, fitted, search):
    """Measures fitted codes in one search; its name, if it has one, follows those of the codes."""
    audited = data.audit(splits)
    x = {name: _rows(splits, name) for name in ("train", "query", "database")}
    results = [
        of_codec(splits, name, codec, padded(x["query"], dim), padded(x["database"], dim))
        for name, (codec, dim) in fitted.items()
    ]
    # Unseen classes have no number among those of the classifier.
    if not search.startswith("unseen"):
        results.append(class_id_code(splits, x))
    if search:
        results = [each._replace(name=f"{each.name}, {search}") for each in results]
    return Measured(splits, audited, results)


def _rows(splits, name):
    """Returns the features of a list's rows, or their pixels where there are no features."""
    batch = splits.source[getattr(splits, name)]
    if "feature" in batch:
        return batch["feature"]
    return batch["image"].reshape(len(batch["image"]), -1) / np.float32(255)


def class_id_code(splits: data.Splits, x: dict[str, np.ndarray]) -> evaluate.Results:
    """Measures the class-id code: the class number that a logistic regression predicts.

    Logistic regression on the training rows knows their C classes, so the code has ceil(log2 C)
    bits. A query ranks the classes by probability. If the database has only these classes, a hash
    must beat this code to be worth its bits. If it has other classes, the result is the level of a
    mere classifier.

    Args:
      splits: Its training rows have one label each.
      x: Features [N, F] of "train", "query" and "database".

    Returns:
      One result, ranked asymmetrically by -log of the class's probability.

    Reference:
      Sablayrolles et al., How Should We Evaluate Supervised Hashing?, ICASSP 2017, arXiv
      1609.06753.
    """
    labels = splits.source.labels
    # The database may have other classes, for which the classifier has no number.
    known, class_ids = np.unique(class_counts.class_ids(labels[splits.train]), return_inverse=True)
    classifier = fit_classifier(x["train"], class_ids, num_classes=len(known))
    scores = jax.jit(classifier.scores)
    return of_codec(
        splits,
        "class-id code",
        ClassCodec(len(known)),
        np.asarray(scores(jnp.asarray(x["query"]))),
        np.asarray(scores(jnp.asarray(x["database"]))),
    )


def of_codec(
    splits: data.Splits, name: str, codec: Codec, queries: np.ndarray, database: np.ndarray
) -> evaluate.Results:
    """Measures a codec by its distance: Hamming, float or asymmetric.

    Args:
      splits: Whose rows these are.
      name: Name of the result.
      codec: The fitted codec.
      queries: Query features, [Q, F].
      database: Database features to encode, [N, F].
    """
    labels = splits.source.labels
    return evaluate.evaluate(
        codec,
        queries,
        evaluate.encode(codec, database),
        labels[splits.query],
        labels[splits.database],
        name=name,
        distance=_distance(codec),
        task=evaluate.task_of(splits),
    )


def padded(x: np.ndarray, dim: int) -> np.ndarray:
    """Pads x [N, F] with zeros to [N, dim]."""
    return np.pad(x, ((0, 0), (0, dim - x.shape[1])))


def plain(config: ConfigDict, x: np.ndarray) -> tuple[Codec, int]:
    """Returns a codec without quantization, compared by squared Euclid, and its width."""
    del config
    return FloatCodec(x.shape[1], metric="l2"), x.shape[1]


def pq(config: ConfigDict, x: np.ndarray) -> tuple[Codec, int]:
    """Fits product quantization by k-means; returns its codec and the padded width."""
    x, sizes = _sized(config, x)
    codebooks = _fit_codebooks(jax.random.key(config.seed), x, **sizes)
    return ProductCodec(codebooks, metric="l2"), x.shape[1]


def opq(config: ConfigDict, x: np.ndarray) -> tuple[Codec, int]:
    """Fits optimized product quantization (OPQ); returns its codec and the padded width."""
    x, sizes = _sized(config, x)
    fitted = _opq(jax.random.key(config.seed), x, num_iterations=_TURNS, **sizes)
    return ProductCodec(fitted.codebooks, rotation=fitted.rotation, metric="l2"), x.shape[1]


def _sized(config, x):
    """Returns x, padded to a multiple of the codebooks, with the numbers of codebooks and words."""
    num_codebooks = packing.num_codebooks(config.bits, config.num_codewords)
    # Zeros change no distance.
    x = padded(x, -(-x.shape[1] // num_codebooks) * num_codebooks)
    return jnp.asarray(x), {"num_codebooks": num_codebooks, "num_codewords": config.num_codewords}


def itq(config: ConfigDict, x: np.ndarray) -> tuple[Codec, int]:
    """Fits iterative quantization (ITQ); returns its codec and width."""
    fitted = _itq(jax.random.key(config.seed), jnp.asarray(x), num_bits=config.bits)
    return BinaryCodec(config.bits, fitted.mean, fitted.projection), x.shape[1]


def lsh(config: ConfigDict, x: np.ndarray) -> tuple[Codec, int]:
    """Returns a codec of signs of random orthogonal projections (LSH), and its width."""
    axes = rotation.random_rotation(jax.random.key(config.seed), x.shape[1])[:, : config.bits]
    return BinaryCodec(config.bits, jnp.mean(jnp.asarray(x), axis=0), axes), x.shape[1]


def hashing_baseline(config: ConfigDict, x: np.ndarray) -> tuple[Codec, int]:
    """Fits Hashing-Baseline: signs of randomly rotated principal axes; returns codec and width.

    It is ITQ before its first turn. The public code ranks by the L1 distance of a query's sigmoids
    to the bits of an item; here queries are bits too.

    Reference:
      Moummad et al., Hashing-Baseline: Rethinking Hashing in the Age of Pretrained Models, arXiv
      2509.14427.
    """
    fitted = _itq(
        jax.random.key(config.seed), jnp.asarray(x), num_bits=config.bits, num_iterations=0
    )
    return BinaryCodec(config.bits, fitted.mean, fitted.projection), x.shape[1]


CODES = {
    "features": plain,
    "pq": pq,
    "opq": opq,
    "itq": itq,
    "lsh": lsh,
    "hashing-baseline": hashing_baseline,
}
"""What is fitted to the training rows without labels: (config, x [N, F]) -> (codec, width)."""

# Compiled whole, instead of operation by operation.
_fit_codebooks = jax.jit(product.fit_codebooks, static_argnames=("num_codebooks", "num_codewords"))
_opq = jax.jit(rotation.opq, static_argnames=("num_codebooks", "num_codewords", "num_iterations"))
_itq = jax.jit(rotation.itq, static_argnames="num_bits")


def _distance(codec):
    """Returns the kind of distance by which a codec ranks."""
    if isinstance(codec, FloatCodec):
        return "float"
    # Bits are compared with bits; real queries are compared with all other codes.
    return "hamming" if codec.metric == "hamming" else "aqd"
