"""Draws README's picture: digits, and the images nearest to them by 32-bit codes.

    python -m experiments.pictures

It trains `dqn_mnist`, on digits that need no download, and writes docs/pictures/neighbours.png.
Every query searches the whole database by asymmetric distance. The rows are chosen by rule and not
by eye: of all queries, ranked by average precision, two that cut the ranking into thirds, and then
the two of the lowest average precision. Misses are thus shown far more often than they happen.
"""

import argparse
import pathlib
from typing import cast

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments import dqn_mnist
from quantjax import embedding, evaluate, labels, metrics, parallel, plots, train

_OUT = pathlib.Path("docs/pictures/neighbours.png")
_DPI = 200


def main() -> None:
    """Trains, and writes the picture."""
    parser = argparse.ArgumentParser(description="Draw README's picture.")
    parser.add_argument("--out", type=pathlib.Path, default=_OUT, help="where the picture goes")
    out = parser.parse_args().out
    experiment = dqn_mnist.build(dqn_mnist.get_config())
    figure = neighbours(experiment, train.fit(experiment).state)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=_DPI)


def neighbours(
    experiment: train.Experiment,
    state: train.TrainState,
    *,
    num_neighbours: int = 11,
    figsize: tuple[float, float] = (7.0, 2.5),
) -> Figure:
    """Draws four queries of a trained experiment with the images nearest to them.

    Args:
      experiment: Gives split, method and preprocessing; its source has images.
      state: What `train.fit` ended with.
      num_neighbours: Nearest images of each query; those of equal distance are in the order of
        storage.
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
    found = np.argsort(distances[queries], axis=1, kind="stable")[:, :num_neighbours]
    images = splits.source[splits.database[found.ravel()]]["image"]
    figure = plots.neighbours(
        splits.source[splits.query[queries]]["image"],
        images.reshape(*found.shape, *images.shape[1:]),
        np.take_along_axis(relevant[queries], found, axis=1),
        titles=[f"AP {precisions[query]:.2f}" for query in queries],
        figsize=figsize,
    )
    return cast(Figure, figure)  # axes are returned only where axes are handed in


def choose(precisions: np.ndarray, *, num_spread: int = 2, num_worst: int = 2) -> np.ndarray:
    """Chooses queries by average precision alone.

    Args:
      precisions: Average precision of each query, [Q].
      num_spread: Queries that cut the ranking by average precision into parts of equal size.
      num_worst: Queries of the lowest average precision.

    Returns:
      Numbers of the queries, the best first; of equal precisions the query that comes first is the
      better. A query comes twice where there are too few.
    """
    best_first = np.argsort(-precisions, kind="stable")
    cuts = np.arange(1, num_spread + 1) * len(best_first) // (num_spread + 1)
    return np.concatenate([best_first[cuts], best_first[len(best_first) - num_worst :]])


def _distances(experiment, state):
    """Returns asymmetric distances of all queries to the codes of the database, [Q, N]."""
    splits, method = experiment.splits, experiment.method

    def embedded(side, rows):
        return embedding.embed(
            side,
            state.params,
            state.state,
            splits.source,
            rows,
            preprocess=experiment.preprocess,
            mesh=parallel.data_mesh(),
        )

    codec = method.codec(state.params, state.state)
    codes = evaluate.encode(codec, embedded(method.embed, splits.database))
    queries = embedded(method.embed_query, splits.query)
    return np.asarray(codec.distances(jnp.asarray(queries), jnp.asarray(codes)))


if __name__ == "__main__":
    main()
