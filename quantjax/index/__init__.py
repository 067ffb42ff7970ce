"""Saves codes with their codec and ids, and encoders; changes, searches and loads them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantjax.index.artefact import Index, load, save
    from quantjax.index.build import build_lists, list_index
    from quantjax.index.changes import append, delete, replace_encoder
    from quantjax.index.classes import class_mask
    from quantjax.index.encoder import Encoder, load_encoder
    from quantjax.index.encoding import encode, encode_part, make_job
    from quantjax.index.engines.faiss import to_faiss
    from quantjax.index.engines.from_faiss import from_faiss
    from quantjax.index.exporting import save_encoder
    from quantjax.index.lists import InvertedLists
    from quantjax.index.neighbours import true_neighbours
    from quantjax.index.parts import merge
    from quantjax.index.preparation import Preparation
    from quantjax.index.searching import SearchResult, search

_MODULES = {
    "Encoder": "encoder",
    "Index": "artefact",
    "InvertedLists": "lists",
    "Preparation": "preparation",
    "SearchResult": "searching",
    "append": "changes",
    "build_lists": "build",
    "class_mask": "classes",
    "delete": "changes",
    "encode": "encoding",
    "encode_part": "encoding",
    "from_faiss": "engines.from_faiss",
    "list_index": "build",
    "load": "artefact",
    "load_encoder": "encoder",
    "make_job": "encoding",
    "merge": "parts",
    "replace_encoder": "changes",
    "save": "artefact",
    "save_encoder": "exporting",
    "search": "searching",
    "to_faiss": "engines.faiss",
    "true_neighbours": "neighbours",
}
__all__ = [
    "Encoder", "Index", "InvertedLists", "Preparation", "SearchResult", "append", "build_lists",
    "class_mask", "delete", "encode", "encode_part", "from_faiss", "list_index", "load",
    "load_encoder", "make_job", "merge", "replace_encoder", "save", "save_encoder", "search",
    "to_faiss", "true_neighbours",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'quantjax.index' has no attribute {name!r}")
    return vars(importlib.import_module(f"quantjax.index.{_MODULES[name]}"))[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
