"""Converts Haiku functions into networks."""

import inspect
from typing import Any

from quantjax.errors import InputError, MissingPackageError
from quantjax.models.base import Network, checked_init
from quantjax.models.call_options import training_options


def from_haiku(transformed: Any) -> Network:
    """Converts a transformed Haiku function into a `Network`.

    The net state changes in training and stays as it is in evaluation.

    Args:
      transformed: From `haiku.transform` or `haiku.transform_with_state`, of a function of x. If
        that function has an argument `is_training`, `train`, `training` or `deterministic`, the
        argument tells it whether it runs in training. `haiku.next_rng_key` draws from the step's
        key.

    Returns:
      The network. Its `init` raises ValueError when the function does not take the example.

    Raises:
      ValueError: if `transformed` is not a transformed function.
      ModuleNotFoundError: if Haiku is not installed.
    """
    try:
        import haiku
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "from_haiku needs Haiku, which is not installed: pip install dm-haiku"
        ) from error
    if not isinstance(transformed, haiku.Transformed | haiku.TransformedWithState):
        raise InputError(
            f"from_haiku takes a transformed function, got {transformed!r:.80}; write "
            "from_haiku(haiku.transform_with_state(function))"
        )
    has_state = isinstance(transformed, haiku.TransformedWithState)

    def init(key, example):
        # Haiku makes the running averages of BatchNorm in training only.
        found = transformed.init(key, example, **training_options(transformed.init, train=True))
        params, net_state = found if has_state else (found, {})
        as_dict = haiku.data_structures.to_mutable_dict
        return as_dict(params), as_dict(net_state)

    def apply(params, net_state, x, *, train, key=None):
        arguments = (params, net_state) if has_state else (params,)
        # `haiku.without_apply_rng` takes the argument away.
        rng = (key,) if "rng" in inspect.signature(transformed.apply).parameters else ()
        options = training_options(transformed.apply, train=train)
        found = transformed.apply(*arguments, *rng, x, **options)
        y, changed = found if has_state else (found, {})
        return y, changed if train else net_state

    name = getattr(transformed.apply, "_original_fn", transformed.apply)
    return checked_init(getattr(name, "__name__", "the function"), Network(init, apply))
