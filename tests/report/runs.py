"""Workdirs of finished runs, small ones, as the launcher leaves them."""

from quantjax import evaluate, index, launch, report, train
from tests import toy


def finished(workdir, made=None, **changes):
    """Trains a toy experiment, measures it and keeps all that its report shows."""
    made = toy.experiment(toy.dqn(), **{"num_epochs": 1, **changes}) if made is None else made
    return kept(workdir, *measured(workdir, made))


def measured(workdir, made):
    """Trains an experiment; returns it, its last state and what was measured."""
    state = train.fit(made, workdir=workdir, progress=False, log_every=1).state
    return made, state, evaluate.evaluate_method(made, state, name="toy")


def kept(workdir, made, state, retrieval):
    """Keeps all that a report shows in the workdir."""
    index.save(workdir, retrieval.codec, retrieval.codes, ids=made.splits.database)
    evaluate.write_results(workdir, retrieval.results, {"protocol": made.splits.name})
    report.keep(workdir, made, state, retrieval)
    return workdir


def launched(workdir, module, **changes):
    """Runs an experiment file in short, through the launcher."""
    config = module.get_config()
    config.update(changes)
    launch.run(config, module.build, lambda *_: {}, title="dqn", workdir=workdir, validate_every=1)
    return workdir
