"""Writes the encoder of a trained experiment, which encodes without the experiment and its data."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from quantjax import index
from quantjax.batch import over_views
from quantjax.errors import InputError
from quantjax.index.exporting import used_leaves
from quantjax.train.experiment import Experiment, TrainState


def save_encoder(
    experiment: Experiment, train_state: TrainState, folder: str | pathlib.Path
) -> pathlib.Path:
    """Writes an encoder of both sides of the method, from images or features to codes.

    Args:
      experiment: Method, preprocessing and source. Photo files will be prepared to the size of the
        source's images.
      train_state: A train state of the experiment, with codebooks.
      folder: See `index.save_encoder`.

    Returns:
      Path of the manifest.

    Raises:
      ValueError: if the codebooks do not exist yet, an embedding depends on other columns than one
        of images or of features, or as `index.save_encoder`.
    """
    method, splits = experiment.method, experiment.splits
    weights = {"params": train_state.params, "state": train_state.state}
    row = splits.source[splits.database[:1]]
    columns = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in row.items()}

    def side(function):
        # As embedding a split calls it: views are averaged, and no row is padding.
        def embed(weights, batch):
            mask = jnp.ones(len(next(iter(batch.values()))), bool)
            batch = experiment.preprocess({**batch, "mask": mask})
            return over_views(function)(weights["params"], weights["state"], batch)

        return embed

    sides = [side(method.embed)]
    if method.embed_query is not method.embed:
        sides.append(side(method.embed_query))
    column = _column(sides, weights, columns)

    def of_column(embed):
        # Columns that no embedding depends on may still be looked at, by `preprocess`.
        def of_inputs(weights, x):
            others = {name: jnp.zeros((len(x), *y.shape), y.dtype) for name, y in columns.items()}
            return embed(weights, {**others, column: x})

        return of_inputs

    embed, *embed_query = map(of_column, sides)
    return index.save_encoder(
        folder,
        embed=embed,
        embed_query=embed_query[0] if embed_query else None,
        weights=weights,
        codec=method.codec(train_state.params, train_state.state),
        example=columns[column],
        classes=splits.source.classes,
        photos=_preparation(columns[column].shape) if column == "image" else None,
        licence=experiment.licence,
        about={"experiment": experiment.name, "split": splits.digest},
    )


def _column(sides, weights, columns):
    """Returns the name of the only column that embeddings depend on."""
    batch: Any = {name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for name, x in columns.items()}
    used = set()
    for embed in sides:
        marks = used_leaves(
            lambda batch, weights, embed=embed: embed(weights, batch), batch, weights
        )
        used |= {name for name, mark in marks.items() if mark}
    if len(used) != 1 or not used <= {"image", "feature"}:
        raise InputError(
            "an encoder embeds images or features alone, but embeddings depend on "
            f"{', '.join(sorted(used)) or 'no column'}"
        )
    return used.pop()


def _preparation(shape):
    """Returns how a photo file becomes an image of this shape; None if no photo does."""
    height, width, channels = shape
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        return None
    # A square photo of this very size is left as it is, whatever the source did to others.
    return index.Preparation(height if height == width else None, modes[channels])
