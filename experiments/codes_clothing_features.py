"""Measures PQ, OPQ, ITQ, LSH and class-id codes of features of the clothing photos.

    python -m experiments.ledger run codes_clothing_features

docs/results.md has its numbers.
"""

from ml_collections import ConfigDict

from experiments import feature_codes, pretrained


def get_config() -> ConfigDict:
    """Returns the config of the codes."""
    return feature_codes.get_config(
        **pretrained.numbers(),
    )


def measure(config: ConfigDict) -> feature_codes.Measured:
    """Fits PQ, OPQ, ITQ, LSH and class-id codes and measures their retrieval.

    Args:
      config: From `get_config`.
    """
    return feature_codes.measure(config, pretrained.clothing(config))
