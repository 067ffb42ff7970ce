"""Provides a data source whose labels are class ids, as those of In-shop are."""

import dataclasses

import numpy as np

from quantjax import data


@dataclasses.dataclass(frozen=True)
class ClassIdSource:
    """Shows class ids [N] of a source with one label a row; its batches are multi-hot.

    Attributes:
      source: A source with one label a row.
    """

    source: data.ArraySource

    @property
    def labels(self) -> np.ndarray:
        return self.source.labels.argmax(axis=1)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return self.source[rows]
