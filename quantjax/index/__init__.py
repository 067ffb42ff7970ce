"""Saves codes with their codec and ids to disk, and loads them for search."""

from quantjax.index.artefact import Artefact, load, save

__all__ = ["Artefact", "load", "save"]
