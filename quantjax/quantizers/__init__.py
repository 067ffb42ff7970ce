"""Quantizers: from embeddings to codes and back, and what trains in between."""
