"""Saves codes with their codec and ids to disk, and loads them for search."""

from quantjax.index.artefact import Index, load, save

__all__ = ["Index", "load", "save"]
