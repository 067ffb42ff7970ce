"""Pickles read without running anything in them: data files of arrays, files of weights."""
