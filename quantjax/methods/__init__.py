"""Methods: each paper as a NamedTuple of pure functions."""

from quantjax.methods.base import Collectives, Context, Method, Phase, Refresh
from quantjax.methods.dqn import dqn, dqn_ste

__all__ = ["Collectives", "Context", "Method", "Phase", "Refresh", "dqn", "dqn_ste"]
