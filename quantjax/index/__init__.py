"""Saves codes with their codec and ids, and encoders; changes and loads them for search."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantjax.index.artefact import Index, load, save
    from quantjax.index.changes import append, delete, replace_encoder
    from quantjax.index.encoder import Encoder, load_encoder
    from quantjax.index.exporting import save_encoder
    from quantjax.index.preparation import Preparation

_MODULES = {
    "Encoder": "encoder",
    "Index": "artefact",
    "Preparation": "preparation",
    "append": "changes",
    "delete": "changes",
    "load": "artefact",
    "load_encoder": "encoder",
    "replace_encoder": "changes",
    "save": "artefact",
    "save_encoder": "exporting",
}
__all__ = [
    "Encoder", "Index", "Preparation", "append", "delete", "load", "load_encoder",
    "replace_encoder", "save", "save_encoder",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'quantjax.index' has no attribute {name!r}")
    return vars(importlib.import_module(f"quantjax.index.{_MODULES[name]}"))[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
