"""Recipes: how quantjax makes codes where the user names no method, with labels and without."""

from quantjax.recipes.codes import CODECS, METRICS, itq, opq, pq, rq, sample, vector_embedding
from quantjax.recipes.folders import find_photos
from quantjax.recipes.labelled import experiment
from quantjax.recipes.learned import (
    Learned,
    learn_classes,
    learn_neighbours,
    of_features,
    of_photos,
    trained,
)
from quantjax.recipes.unlabelled import Choice, better_of_opq_and_itq

__all__ = [
    "CODECS", "METRICS", "Choice", "Learned", "better_of_opq_and_itq", "experiment", "find_photos",
    "itq", "learn_classes", "learn_neighbours", "of_features", "of_photos", "opq", "pq", "rq",
    "sample", "trained", "vector_embedding",
]  # fmt: skip
