"""Saves codes with their codec and ids to disk, changes them, and loads them for search."""

from quantjax.index.artefact import Index, load, save
from quantjax.index.changes import append, delete, replace_encoder

__all__ = ["Index", "append", "delete", "load", "replace_encoder", "save"]
