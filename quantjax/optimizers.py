"""Builds the papers' optimizers: learning rates by parameter path, and SGD with momentum."""

import re
from collections.abc import Sequence

import jax
import optax

from quantjax.errors import InputError


def scale_by_path(factors: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Multiplies each parameter's update by a factor that depends on the parameter's path.

    Caffe's per-layer rates: `(("bottleneck/.*", 10.0), (".*bias", 2.0))` gives the new layer ten
    times the rate, every bias twice, the new layer's bias twenty times. Put it last in a chain:
    ahead of Adam, its normalisation would cancel the factors.

    Args:
      factors: Pairs of a regular expression for the whole path, keys joined by "/", and a factor;
        the factors of all matching expressions are multiplied.

    Returns:
      The transformation. Its `init` raises ValueError when an expression matches no path.
    """

    def init(params):
        # An expression without a match is most likely a typing error.
        paths = [_path(keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern, _ in factors:
            if not any(re.fullmatch(pattern, path) for path in paths):
                raise InputError(f"no parameter matches {pattern!r}; there are {', '.join(paths)}")
        return optax.EmptyState()

    def update(updates, state, params=None):
        del params
        return jax.tree_util.tree_map_with_path(_scale, updates), state

    def _scale(keys, update):
        # All that match, so that a bias of the new layer gets both factors.
        for pattern, factor in factors:
            if re.fullmatch(pattern, _path(keys)):
                update = update * factor
        return update

    return optax.GradientTransformation(init, update)


def momentum_sgd(
    schedule: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    factors: Sequence[tuple[str, float]] = (),
) -> optax.GradientTransformation:
    """Builds SGD with momentum whose learning rate scales the velocity, not the gradient.

    v <- momentum v + g + weight_decay w, w <- w - rate factor v, as the authors' TensorFlow code of
    DQN has it. Caffe scales the gradient before it enters the velocity, which differs when the rate
    changes.

    Args:
      schedule: Learning rate, or step -> rate.
      momentum: Share of the last update that is kept.
      nesterov: Whether the momentum looks one step ahead.
      weight_decay: Factor of the L2 penalty's gradient.
      factors: Rates by path, see `scale_by_path`.

    Returns:
      The transformation.
    """
    # The decay comes first, so that the velocity carries it; the factors scale the final update.
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=momentum, nesterov=nesterov),
        scale_by_path(factors),
    )


def _path(keys) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")
