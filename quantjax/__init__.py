"""Learns compact image codes in JAX, measures their retrieval and saves them for search.

Importing quantjax imports nothing else: each part is loaded on first use, so that
`quantjax.losses.pairwise_cosine` brings no training framework along, and `quantjax.train` works.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantjax import (
        data,
        evaluate,
        index,
        labels,
        losses,
        methods,
        metrics,
        models,
        optimizers,
        plots,
        quantizers,
        recipes,
        report,
        run,
        serve,
        train,
    )

__version__ = "0.1.0"

__all__ = [
    "data",
    "evaluate",
    "index",
    "labels",
    "losses",
    "methods",
    "metrics",
    "models",
    "optimizers",
    "plots",
    "quantizers",
    "recipes",
    "report",
    "run",
    "serve",
    "train",
]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'quantjax' has no attribute {name!r}")
    return importlib.import_module(f"quantjax.{name}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
