"""Methods: each paper as a NamedTuple of pure functions."""

from quantjax.methods.base import Batch, Collectives, Context, Method, Phase, Refresh
from quantjax.methods.dqn import dqn, dqn_ste

__all__ = ["Batch", "Collectives", "Context", "Method", "Phase", "Refresh", "dqn", "dqn_ste"]
