"""Ranking metrics, exact in ties."""
