"""The types of callbacks document their arguments, and any function with these arguments fits."""

import collections.abc
import inspect
import pydoc
import typing

import pytest

from quantjax import data, launch, methods, train
from quantjax.data import augment
from quantjax.run import parallel

PARAMETERS = {
    train.AfterEpoch: ("train_state", "epoch"),
    train.Augment: ("key", "batch"),
    train.Callback: ("record",),
    train.Preprocess: ("batch",),
    data.Sampler: ("seed", "epoch"),
    augment.Transform: ("key", "images"),
    launch.Baselines: ("experiment", "mesh", "trained"),
    methods.ArraysLoss: ("x", "batch", "context", "params", "state"),
    methods.EmbeddingLoss: ("x", "batch", "context"),
    methods.FitCodec: ("key", "x", "mask"),
    methods.InitLoss: ("key", "batch", "num_rows"),
    methods.Inputs: ("batch",),
    methods.Loss: ("params", "state", "batch", "context"),
    parallel.Prepare: ("train_state", "batch"),
    parallel.Step: ("train_state", "batch", "collectives"),
}
every_type = pytest.mark.parametrize(
    ("type_", "names"), PARAMETERS.items(), ids=[type_.__name__ for type_ in PARAMETERS]
)


@every_type
def test_help_names_every_parameter_and_the_result(type_, names):
    shown = pydoc.plain(pydoc.render_doc(type_))
    arguments = shown.split("Args:")[1]
    for name in names:
        assert f"  {name}: " in arguments
    assert "Returns " in shown or "Receives " in shown


@every_type
def test_a_function_may_name_its_parameters_as_it_likes(type_, names):
    (_, *parameters) = inspect.signature(type_.__call__).parameters.values()
    assert tuple(parameter.name for parameter in parameters) == names
    # The loop passes `collectives` by name; everything else by position.
    assert all(
        parameter.kind is inspect.Parameter.POSITIONAL_ONLY or parameter.name == "collectives"
        for parameter in parameters
    )


def test_help_tells_the_columns_of_a_batch():
    shown = pydoc.plain(pydoc.render_doc(methods.Batch))
    for line in ("image: Images [B, H, W, C]", "label: Multi-hot labels [B, L]", "mask: Whether"):
        assert line in shown
    assert "Users may add columns" in " ".join(shown.replace("|", "").split())


@pytest.mark.parametrize("module", [data, launch, methods, parallel, train])
def test_no_public_name_is_a_bare_callable(module):
    for name in getattr(module, "__all__", vars(module)):
        assert typing.get_origin(getattr(module, name)) is not collections.abc.Callable, name
