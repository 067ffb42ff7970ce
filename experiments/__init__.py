"""Runnable experiment files: `python -m experiments.NAME`."""
