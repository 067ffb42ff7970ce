"""Measures a method during training: use of its codewords, and mAP of validation queries."""

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from quantjax import train
from quantjax.errors import InputError
from quantjax.evaluate.evaluation import encode
from quantjax.evaluate.method import measure_validation, unmeasured
from quantjax.quantizers import BinaryCodec, Codec, ProductCodec, ResidualCodec
from quantjax.quantizers.ema import perplexity
from quantjax.run import processes

_ROWS = 2048  # training rows whose codes are looked at


def watcher(
    experiment: train.Experiment, *, every: int = 1, mesh: Mesh | None = None
) -> train.AfterEpoch:
    """Returns an `after_epoch` function for `train.fit` that calls `watch`.

    Args:
      experiment: The experiment to train.
      every: Epochs between two measurements by validation queries; the last epoch is always
        measured. With 0 only the use of codewords is measured.
      mesh: Devices to measure on; all of them when None.

    Returns:
      `(train_state, epoch) -> values`, see `watch`.

    Raises:
      ValueError: if `every` is negative.
    """
    if every < 0:
        raise InputError(f"every must be 0 or more epochs, got {every}")

    def after_epoch(train_state, epoch):
        last = epoch + 1 == experiment.num_epochs
        validate = bool(every) and (last or (epoch + 1) % every == 0)
        return watch(experiment, train_state, mesh=mesh, validate=validate)

    return after_epoch


def watch(
    experiment: train.Experiment,
    train_state: train.TrainState,
    *,
    mesh: Mesh | None = None,
    validate: bool = True,
) -> dict[str, float]:
    """Measures codeword usage and validation mAP of a method during training.

    Args:
      experiment: The experiment in training.
      train_state: The current train state.
      mesh: From `run.parallel.data_mesh`; all devices when None.
      validate: Whether to measure validation queries, if the split has labelled ones.

    Returns:
      "codebook_perplexity" (mean over the codebooks, from 1 to K) and "dead_codewords" (of all
      codebooks) of some 2,048 training images, or "bit_entropy" (mean over the bits, from 0 to 1);
      "validation", mAP. An empty dict before the codec exists.
    """
    splits = experiment.splits
    try:
        codec = processes.on_host(experiment.method.codec(train_state.params, train_state.state))
    except ValueError:  # before the first codebooks
        return {}
    rows = splits.train[np.unique(np.linspace(0, len(splits.train) - 1, _ROWS).astype(int))]
    x = train.embed(experiment, train_state, rows, mesh=mesh)
    found = usage_of(codec, encode(codec, x))
    if validate and len(splits.validation) and unmeasured(splits, "validation") is None:
        found["validation"] = measure_validation(experiment, train_state, mesh=mesh).value
    return found


def usage_of(codec: Codec, codes: np.ndarray) -> dict[str, float]:
    """Measures how evenly codes use a codec's codewords or bits.

    Args:
      codec: Codec with codewords or bits; another codec gives an empty dict.
      codes: Codes [N, num_bytes] uint8.
    """
    if isinstance(codec, BinaryCodec):
        ones = np.unpackbits(codes, axis=1, bitorder="little")[:, : codec.bits].mean(axis=0)
        shares = np.stack([ones, 1 - ones])
        entropy = -np.sum(shares * np.log2(np.where(shares > 0, shares, 1)), axis=0)
        return {"bit_entropy": float(entropy.mean())}
    if not isinstance(codec, (ProductCodec, ResidualCodec)):
        return {}
    assignments = np.asarray(codec.assignments(jnp.asarray(codes)))
    num_codewords = codec.codebooks.shape[1]
    counts = np.stack([np.bincount(column, minlength=num_codewords) for column in assignments.T])
    return {
        "codebook_perplexity": float(np.mean(perplexity(jnp.asarray(counts)))),
        "dead_codewords": int(np.sum(counts == 0)),
    }
