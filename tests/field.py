"""The methods of the field on the toy set of `toy`: a row each, for `methods/test_field.py`."""

import functools
from collections.abc import Callable

import optax

from quantjax import methods, train
from tests import toy

BITS = 8


def binary(build: Callable[..., methods.Method]) -> Callable[..., methods.Method]:
    """A row of a method of binary codes: its options -> the method."""
    return lambda **options: build(toy.network(BITS), **{"bits": BITS, **options})


METHODS: dict[str, Callable[..., methods.Method]] = {
    "csq": binary(methods.csq),
    "dhn": binary(methods.dhn),
    "dpn": binary(methods.dpn),
    "dpsh": binary(methods.dpsh),
    "dtsh": binary(methods.dtsh),
    "greedyhash": binary(methods.greedyhash),
    "hashnet": binary(methods.hashnet),
    "orthohash": binary(methods.orthohash),
}
"""Every method at toy size, by name; a new one is tested by adding a row."""

WEIGHTS: dict[str, tuple[str, ...]] = {
    "csq": ("quantization_weight",),
    "dhn": ("quantization_weight",),
    "dpsh": ("quantization_weight",),
    "dpn": ("margin",),
    "dtsh": ("margin", "quantization_weight"),
    "greedyhash": ("quantization_weight",),
    "hashnet": ("alpha",),
    "orthohash": ("scale", "margin"),
}
"""The weights in the loss of each: at 0 and at 1 they train other parameters."""

UNLABELLED: frozenset[str] = frozenset()
"""Those that learn without labels."""


# The losses differ a hundredfold in scale, which Adam does not see. Without its epsilon the last
# digits of a small gradient would become steps.
_OPTIMIZER = optax.adam(0.02, eps=1e-3)

OPTIMIZERS = {
    # The normalisation makes more of the last digits than any other loss.
    "orthohash": optax.adam(0.02, eps=1e-2),
}
"""Optimizers of those that need another than the rest."""


@functools.cache
def method(name: str) -> methods.Method:
    """The method of a row, made once, so that its programs are compiled once."""
    return METHODS[name]()


def experiment(name: str, **changes) -> train.Experiment:
    """An experiment of a row on the toy set: 4 steps an epoch."""
    entries = {entry for phase in method(name).phases for entry in phase.trains}
    optimizers = dict.fromkeys(entries, OPTIMIZERS.get(name, _OPTIMIZER))
    return toy.experiment(method(name), **{"optimizers": optimizers, **changes})
