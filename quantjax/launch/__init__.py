"""Runs an experiment file from the command line: trains, evaluates, saves codes and results."""

from quantjax.launch.checkpoints import Earlier
from quantjax.launch.measuring import Baselines
from quantjax.launch.running import BASELINE_FAILED, TRY_AGAIN, run
from quantjax.launch.starting import main

__all__ = ["BASELINE_FAILED", "TRY_AGAIN", "Baselines", "Earlier", "main", "run"]
