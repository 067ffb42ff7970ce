"""Codes on disk and the search over them."""

from quantjax.index.artefact import Artefact, load, save

__all__ = ["Artefact", "load", "save"]
