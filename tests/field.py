"""The methods of the field on the toy set of `toy`: a row each, for `methods/test_field.py`."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from quantjax import methods, models, train
from tests import toy

BITS = 8


def binary(build: Callable[..., methods.Method]) -> Callable[..., methods.Method]:
    """A row of a method of binary codes: its options -> the method."""
    return lambda **options: build(toy.network(BITS), **{"bits": BITS, **options})


def product(build: Callable[..., methods.Method]) -> Callable[..., methods.Method]:
    """A row of a method of codebooks."""
    sizes = {"dim": 8, "num_codebooks": 2, "num_codewords": 16}
    return lambda **options: build(toy.network(), **{**sizes, **options})


def noisy(key: jax.Array, batch: methods.Batch) -> methods.Batch:
    """A view: features with as much noise again as the toy set gave them."""
    x = batch["feature"]
    return {**batch, "feature": x + jax.random.normal(key, x.shape, x.dtype)}


def of_views(build: Callable[..., methods.Method], **sizes) -> Callable[..., methods.Method]:
    """A row of a method that learns from views of features, without labels."""
    of_features = models.mlp((64,), hidden=(32,), dim=BITS)
    given = {"view": noisy, "inputs": methods.features, **sizes}
    return lambda **options: build(of_features, **{**given, **options})


def of_known_features(**options) -> methods.Method:
    """BiHalf with the classes as features: those of the toy set are too noisy to follow."""
    known = {"features": lambda batch: jnp.float32(batch["label"]), "pull": 1.0}
    return binary(methods.bihalf)(**{**known, **options})


METHODS: dict[str, Callable[..., methods.Method]] = {
    "bihalf": of_known_features,
    "bihalf_supervised": binary(methods.bihalf_supervised),
    "cibhash": of_views(methods.cibhash, bits=BITS),
    "csq": binary(methods.csq),
    "dch": binary(methods.dch),
    "dhn": binary(methods.dhn),
    "dpn": binary(methods.dpn),
    "dpsh": binary(methods.dpsh),
    "dsh": binary(methods.dsh),
    "dtq": product(functools.partial(methods.dtq, margin=4.0)),
    "dtsh": binary(methods.dtsh),
    "greedyhash": binary(methods.greedyhash),
    "hashnet": binary(methods.hashnet),
    "orthohash": binary(methods.orthohash),
    "pqnet": product(methods.pqnet),
    "saturated_softmax": binary(methods.saturated_softmax),
    "saturated_softmax_product": product(methods.saturated_softmax_product),
    "spq": of_views(methods.spq, dim=8, num_codebooks=2),
}
"""Every method at toy size, by name; a new one is tested by adding a row."""

WEIGHTS: dict[str, tuple[str, ...]] = {
    "bihalf": ("pull",),
    "bihalf_supervised": ("pull",),
    "cibhash": ("divergence_weight",),
    "csq": ("quantization_weight",),
    "dch": ("quantization_weight",),
    "dhn": ("quantization_weight",),
    "dpn": ("margin",),
    "dpsh": ("quantization_weight",),
    "dsh": ("quantization_weight",),
    "dtq": ("quantization_weight",),
    "dtsh": ("margin", "quantization_weight"),
    "greedyhash": ("quantization_weight",),
    "hashnet": ("alpha",),
    "orthohash": ("scale", "margin"),
}
"""The weights in the loss of each: at 0 and at 1 they train other parameters."""

UNLABELLED = frozenset({"bihalf", "cibhash", "spq"})
"""Those that learn without labels."""


# The losses differ a hundredfold in scale, which Adam does not see. Without its epsilon the last
# digits of a small gradient would become steps.
_OPTIMIZER = optax.adam(0.02, eps=1e-3)

_GENTLE = optax.adam(0.02, eps=1e-2)
OPTIMIZERS = {
    **dict.fromkeys(("orthohash", "saturated_softmax_product"), _GENTLE),
    "pqnet": optax.adam(0.015, eps=1e-2),
}
"""Optimizers of those that divide by a length or a deviation, and so make more of last digits."""


@functools.cache
def method(name: str) -> methods.Method:
    """The method of a row, made once, so that its programs are compiled once."""
    return METHODS[name]()


def experiment(name: str, **changes) -> train.Experiment:
    """An experiment of a row on the toy set: 4 steps an epoch."""
    entries = {entry for phase in method(name).phases for entry in phase.trains}
    optimizers = dict.fromkeys(entries, OPTIMIZERS.get(name, _OPTIMIZER))
    return toy.experiment(method(name), **{"optimizers": optimizers, **changes})
