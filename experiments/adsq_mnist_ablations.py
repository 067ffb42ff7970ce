"""What each part of ADSQ, reconstructed, is worth on the digits of `adsq_mnist`.

    python -m experiments.adsq_mnist_ablations

Mean average precision at commit 976a27b, seed 0, whole database: all parts .9742, without LabelNet
.9629, shared weights .9742, without balance .9676, without quantization .9578, likelihood alone
.9710, difference alone .9586. Of the whole, the first network alone gave .9694, asking the second
.9728, asking both .9727. One seed, and 95 % intervals over queries of .01 to either side. Shared
weights train their one network for twice the epochs.
"""

import functools
from typing import Any, NamedTuple

from experiments import adsq_mnist
from quantjax import console, evaluate, methods, parallel, train
from quantjax.methods.adsq import first, second


class Variant(NamedTuple):
    """What an ablation changes.

    Attributes:
      config: Numbers of `adsq_mnist.get_config`.
      arguments: Arguments of `methods.adsq` that are no numbers.
    """

    config: dict[str, Any]
    arguments: dict[str, Any]


ABLATIONS = {
    "adsq": Variant({}, {}),
    "no labelnet": Variant({"label_epochs": 0, "label_code_weight": 0.0}, {"guide": second}),
    "shared weights": Variant({}, {"streams": ("first", "first")}),
    "no balance": Variant({"balance_weight": 0.0}, {}),
    "no quantization": Variant({"quantization_weight": 0.0}, {}),
    "likelihood alone": Variant({"difference_weight": 0.0}, {}),
    "difference alone": Variant({"likelihood_weight": 0.0}, {}),
}
"""Each is trained."""

SIDES = {
    "adsq": Variant({}, {}),
    "adsq, first network": Variant({}, {"query": first, "database": first}),
    "adsq, first asks second": Variant({}, {"query": first, "database": second}),
    "adsq, first asks both": Variant({}, {"query": first}),
}
"""Ways to search with one training."""


def build(variant: Variant) -> train.Experiment:
    """Wires a variant of `adsq_mnist`.

    Args:
      variant: What it changes.

    Returns:
      What `train.fit` runs.
    """
    config = adsq_mnist.get_config()
    config.update(variant.config)
    return adsq_mnist.build(config, functools.partial(methods.adsq, **variant.arguments))


def main() -> None:
    """Trains every variant and prints its mean average precision by Hamming distance."""
    mesh = parallel.data_mesh()
    results = []
    for name, variant in ABLATIONS.items():
        state = train.fit(build(variant), mesh=mesh).state
        for side, searched in SIDES.items() if name == "adsq" else [(name, variant)]:
            experiment = build(searched)
            found = evaluate.evaluate_method(
                experiment.method,
                state.params,
                state.state,
                experiment.splits,
                preprocess=experiment.preprocess,
                mesh=mesh,
                name=side,
            )
            results += [result for result in found.results if result.distance == "hamming"]
            console.say(f"{side}: {found.results[0].value:.4f}")
    console.table(results)


if __name__ == "__main__":
    main()
