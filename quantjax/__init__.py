"""Learns compact image codes in JAX, measures them exactly, hands them over to search."""

__version__ = "0.1.0.dev0"
