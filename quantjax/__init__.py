"""Learns compact image codes in JAX, measures them exactly, hands them over to search."""

from quantjax import labels, losses, metrics, quantizers

__version__ = "0.1.0.dev0"

__all__ = ["labels", "losses", "metrics", "quantizers"]
