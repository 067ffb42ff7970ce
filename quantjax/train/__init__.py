"""Training: the `Experiment`, its optimization step, and the loop `fit` that runs any method.

Randomness is a function of (seed, step) and batches of (seed, epoch, step), so only the train
state must be saved: a run that is killed and started again ends with the same bits.
"""

from quantjax.batch import Augment, Preprocess
from quantjax.run.compile_cache import keep_programs
from quantjax.train.checkpoints import (
    Checkpoints,
    describe_checkpoint,
    find_step,
    list_checkpoints,
    restore,
    warm_start,
)
from quantjax.train.encoders import save_encoder
from quantjax.train.experiment import (
    Experiment,
    TrainState,
    embed,
    initialize,
    left_out,
    make_prepare,
)
from quantjax.train.loop import AfterEpoch, AtStart, Callback, FitResult, fit
from quantjax.train.resume import about_run, about_workdir, open_run
from quantjax.train.step import make_step, refresh

__all__ = [
    "AfterEpoch",
    "AtStart",
    "Augment",
    "Callback",
    "Checkpoints",
    "Experiment",
    "FitResult",
    "Preprocess",
    "TrainState",
    "about_run",
    "about_workdir",
    "describe_checkpoint",
    "embed",
    "find_step",
    "fit",
    "initialize",
    "keep_programs",
    "left_out",
    "list_checkpoints",
    "make_prepare",
    "make_step",
    "open_run",
    "refresh",
    "restore",
    "save_encoder",
    "warm_start",
]
