"""Selects the items of a class, for searches among these alone."""

import numpy as np

from quantjax.errors import InputError, few
from quantjax.index.artefact import Index


def class_mask(index: Index, name: str) -> np.ndarray:
    """Returns whether each item is of a class, [N] bool; pass it as `allowed` of `search`.

    Args:
      index: Index with labels.
      name: Name of the class, in the index's manifest.

    Raises:
      ValueError: if the index has no labels, or no such class.
    """
    classes = list(index.manifest.get("classes", ()))
    if index.labels is None or not classes:
        raise InputError("the index has no classes; encode a folder of class folders")
    if name not in classes:
        raise InputError(f"the index has no class {name!r:.60}; it has {few(classes, 10)}")
    return np.asarray(index.labels) == classes.index(name)
