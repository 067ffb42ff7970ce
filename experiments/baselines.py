"""Baselines that a trained method has to beat, on the same split and with equal code length."""

import functools
from collections.abc import Callable

import numpy as np
from jax.sharding import Mesh
from ml_collections import config_dict

from quantjax import evaluate, train
from quantjax.data import class_counts
from quantjax.quantizers import packing
from quantjax.run import console, processes

from . import codes

_MOST_BYTES = 2 * 2**30  # of pixels as float32; fitting needs 3.5 times as much for a while


def baselines(
    experiment: train.Experiment, mesh: Mesh, trained: train.TrainState
) -> dict[str, Callable[[], evaluate.Results]]:
    """Returns the possible baselines: PQ of pixels, the untrained network and the class-id code.

    PQ is product quantization; the class-id code stores the class that a classifier predicts. Codes
    are as long as the trained method's, except the class-id code. A baseline that is left out
    prints its reason: the class-id code if training images do not have one label each; pixels if
    they take more than 2 GiB or the source has no images; all if queries or database have no
    labels. With several processes only the first measures pixels, because it must hold all of them.

    Args:
      experiment: Gives split, method, preprocessing and seed.
      mesh: From `run.parallel.data_mesh`.
      trained: Final state of `train.fit`.

    Returns:
      Functions by name, each of which measures a baseline by asymmetric distance.
    """
    found = {}
    splits = experiment.splits
    if (line := evaluate.unmeasured(splits)) is not None:
        console.say(f"baselines: left out, {line}")
        return found
    # Each baseline is a function, so that one that fails costs only its own row.
    if (due := _pixel_bytes(splits)) is None:
        console.say("pq on pixels: left out, the source has no images")
    elif due > _MOST_BYTES:
        console.say(
            f"pq on pixels: left out, they are {due / 2**30:.1f} GiB, more than "
            f"{_MOST_BYTES / 2**30:.0f}"
        )
    elif processes.is_first():
        # The trained codec has the length; a config may say more than the method uses.
        bits = experiment.method.codec(trained.params, trained.state).bits
        found["pq on pixels"] = functools.partial(pixels, experiment, bits)
    found["untrained network"] = functools.partial(untrained, experiment, mesh)
    if (class_counts.num_labels(splits.source.labels[splits.train]) == 1).all():
        found["class-id code"] = functools.partial(class_id_code, experiment, mesh, trained)
    else:
        console.say("class-id code: left out, it is of training images with one label each")
    return found


def pixels(experiment: train.Experiment, bits: int) -> evaluate.Results:
    """Measures product quantization of raw pixels, with codebooks of the training images.

    Args:
      experiment: Gives split and seed.
      bits: Code length; `packing.num_codewords` divides it into codebooks.

    Returns:
      One result, by asymmetric squared Euclidean distance.
    """
    splits = experiment.splits

    def flat(rows):
        return splits.source[rows]["image"].reshape(len(rows), -1) / np.float32(255)

    config = config_dict.create(
        seed=experiment.seed,
        bits=bits,
        num_codewords=packing.num_codewords(bits, len(splits.train)),
    )
    codec, dim = codes.pq(config, flat(splits.train))
    queries, database = (codes.padded(flat(rows), dim) for rows in (splits.query, splits.database))
    return codes.of_codec(splits, "pq on pixels", codec, queries, database)


def untrained(experiment: train.Experiment, mesh: Mesh) -> evaluate.Results:
    """Measures the method with its untrained network, after a single refresh if it has one.

    Args:
      experiment: Its network is initialised from its seed.
      mesh: From `run.parallel.data_mesh`.

    Returns:
      One result, by the asymmetric distance of the method's codec or the Hamming distance of codes.
    """
    method, splits = experiment.method, experiment.splits
    # With the seed of the run: these are the weights from which training began.
    fitted = train.initialize(experiment, mesh)
    if method.refresh is not None:
        fitted = train.refresh(experiment, fitted, epoch=0, mesh=mesh)
    return codes.of_codec(
        splits,
        "untrained network",
        method.codec(fitted.params, fitted.state),
        train.embed(experiment, fitted, splits.query, queries=True, mesh=mesh),
        train.embed(experiment, fitted, splits.database, mesh=mesh),
    )


def class_id_code(
    experiment: train.Experiment, mesh: Mesh, trained: train.TrainState
) -> evaluate.Results:
    """Measures a code of the class that a classifier of the trained embeddings predicts.

    Args:
      experiment: Gives split, method and preprocessing; training images have one label each.
      mesh: From `run.parallel.data_mesh`.
      trained: Final state of `train.fit`.

    Returns:
      One result; see `codes.class_id_code`.
    """
    splits = experiment.splits
    x = {
        name: train.embed(experiment, trained, getattr(splits, name), queries=queries, mesh=mesh)
        for name, queries in (("train", False), ("query", True), ("database", False))
    }
    return codes.class_id_code(splits, x)


def _pixel_bytes(splits):
    # One image tells the size: all images of a source have one shape.
    batch = splits.source[splits.train[:1]]
    if "image" not in batch:
        return None
    pixels = batch["image"].size
    rows = len(splits.train) + len(splits.query) + len(splits.database)
    return rows * pixels * np.dtype(np.float32).itemsize
