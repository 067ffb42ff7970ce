"""Measures PQ, OPQ, ITQ, LSH and class-id codes of the pixels of Fashion-MNIST, protocol i.

    python -m experiments.ledger run codes_fashion_mnist

docs/results.md has its numbers.
"""

from ml_collections import ConfigDict, config_dict

from experiments import fashion_mnist, feature_codes


def get_config() -> ConfigDict:
    """Returns the config of the codes."""
    return feature_codes.get_config(
        data_dir=config_dict.placeholder(str),
    )


def measure(config: ConfigDict) -> feature_codes.Measured:
    """Fits PQ, OPQ, ITQ, LSH and class-id codes and measures their retrieval.

    Args:
      config: From `get_config`.
    """
    return feature_codes.measure(config, fashion_mnist.pixels(config))
