"""Recipes: how quantjax makes codes where the user names no method, with labels and without."""

from quantjax.recipes.codes import (
    CODECS,
    METRICS,
    itq,
    neural_rq,
    opq,
    pq,
    rq,
    sample,
    vector_embedding,
)
from quantjax.recipes.finetuned import START_EPOCHS, finetuned, finetuned_extractor, refitted
from quantjax.recipes.folders import find_photos
from quantjax.recipes.labelled import experiment
from quantjax.recipes.learned import (
    Learned,
    learn_classes,
    learn_neighbours,
    measured,
    of_features,
    of_photos,
    one_device,
    trained,
)
from quantjax.recipes.planning import choose, front, plan
from quantjax.recipes.trials import Setting, Trial
from quantjax.recipes.unlabelled import Choice, better_of_opq_and_itq

__all__ = [
    "CODECS", "METRICS", "START_EPOCHS", "Choice", "Learned", "Setting", "Trial",
    "better_of_opq_and_itq", "choose", "experiment", "find_photos", "finetuned",
    "finetuned_extractor", "front", "itq", "learn_classes", "learn_neighbours", "measured",
    "neural_rq", "of_features", "of_photos", "one_device", "opq", "plan", "pq", "refitted", "rq",
    "sample", "trained", "vector_embedding",
]  # fmt: skip
