"""Draws README's picture: digits as queries, with their nearest images by 32-bit codes.

    python -m experiments.pictures

It trains `dqn_mnist`, on digits that need no download, and writes docs/pictures/neighbours.png.
Every query searches the whole database by asymmetric distance. The rows are chosen by rule and not
by eye: of all queries, ranked by average precision, two that cut the ranking into thirds, and then
the two of the lowest average precision. Misses are thus shown far more often than they happen.
"""

import argparse
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from quantjax import evaluate, labels, metrics, plots, train
from quantjax.run import files
from quantjax.run.paths import user_path

from . import dqn_mnist

_OUT = pathlib.Path("docs/pictures/neighbours.png")
_DPI = 200


def main() -> None:
    """Trains `dqn_mnist` and writes the picture."""
    parser = argparse.ArgumentParser(description="Draw README's picture.")
    parser.add_argument("--out", type=user_path, default=_OUT, help="where the picture goes")
    out = parser.parse_args().out
    experiment = dqn_mnist.build(dqn_mnist.get_config())
    figure = neighbours(experiment, train.fit(experiment).state)
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(out) as scratch:
        figure.savefig(scratch, dpi=_DPI, format="png")


def neighbours(
    experiment: train.Experiment,
    state: train.TrainState,
    *,
    num_neighbours: int = 11,
    figsize: tuple[float, float] = (7.0, 2.5),
) -> Any:
    """Draws four queries of a trained experiment with the images nearest to them.

    Args:
      experiment: Gives split, method and preprocessing; its source has images.
      state: Final state of `train.fit`.
      num_neighbours: Number of nearest images of each query; equal distances are in the order
        of storage.
      figsize: Inches.

    Returns:
      The figure; each query is titled by its average precision.
    """
    splits = experiment.splits
    label = splits.source.labels
    distances = _distances(experiment, state)
    relevant = np.asarray(labels.share_label(label[splits.query], label[splits.database]))
    precisions = np.asarray(metrics.average_precision(distances, relevant))
    queries = choose(precisions)
    # Stable, so that equal distances are in the order of storage.
    found = np.argsort(distances[queries], axis=1, kind="stable")[:, :num_neighbours]
    images = splits.source[splits.database[found.ravel()]]["image"]
    return plots.neighbours(
        splits.source[splits.query[queries]]["image"],
        images.reshape(*found.shape, *images.shape[1:]),
        np.take_along_axis(relevant[queries], found, axis=1),
        titles=[f"AP {precisions[query]:.2f}" for query in queries],
        figsize=figsize,
    )


def choose(precisions: np.ndarray, *, num_spread: int = 2, num_worst: int = 2) -> np.ndarray:
    """Returns the queries to draw, chosen only by average precision.

    Args:
      precisions: Average precision of each query, [Q].
      num_spread: Queries that cut the ranking by average precision into parts of equal size.
      num_worst: Queries of the lowest average precision.

    Returns:
      Numbers of the queries, the best first; of equal precisions the query that comes first is the
      better. A query comes twice where there are too few.
    """
    best_first = np.argsort(-precisions, kind="stable")
    # The ends of the ranking are left out here; the worst come at the end.
    cuts = np.arange(1, num_spread + 1) * len(best_first) // (num_spread + 1)
    return np.concatenate([best_first[cuts], best_first[len(best_first) - num_worst :]])


def _distances(experiment, state):
    """Returns asymmetric distances of all queries to the codes of the database, [Q, N]."""
    splits = experiment.splits
    codec = experiment.method.codec(state.params, state.state)
    codes = evaluate.encode(codec, train.embed(experiment, state, splits.database))
    queries = train.embed(experiment, state, splits.query, queries=True)
    return np.asarray(codec.distances(jnp.asarray(queries), jnp.asarray(codes)))


if __name__ == "__main__":
    main()
