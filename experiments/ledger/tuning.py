"""Chooses an experiment's settings by its validation queries only."""

import json
import pathlib
from typing import Any

import numpy as np

from quantjax import data, evaluate, train
from quantjax.errors import InputError, NonFiniteError
from quantjax.report.revision import commit
from quantjax.run import console, files, parallel

from . import hypotheses
from .entries import Entry, configure, entry, refuse_overwritten


def tune(name: str, *, settings: dict[str, Any], results: pathlib.Path, bits: int = 32) -> None:
    """Trains an entry with each of its settings, and writes the best by validation queries.

    The split used here contains no test queries.

    Args:
      name: Key of `hypotheses.SETTINGS`, or an entry whose module has `trials`.
      settings: Settings such as the paths of data.
      results: Folder of the ledger's files.
      bits: Code length.

    Raises:
      ValueError: if the entry is unknown, has no settings to try, or tries one of `settings`.
    """
    found = entry(name)
    refuse_overwritten(settings, ("bits", "seed"), "give --bits; seed 0 tunes")
    if hasattr(found.module, "trials"):
        settings_to_try = found.module.trials(*found.data_set)
    elif name in hypotheses.SETTINGS:
        settings_to_try = hypotheses.SETTINGS[name]
    else:
        raise InputError(f"{name} has no settings to try in experiments.ledger.hypotheses.SETTINGS")
    tried_keys = {key for tried in settings_to_try for key in tried}
    refuse_overwritten(settings, tried_keys, "tuning tries its values")
    trials = []
    for number, tried in enumerate(settings_to_try):
        config = configure(found, {**settings, **tried, "bits": bits, "seed": 0})
        value = _validated(found.module.build(config, *found.data_set))
        trials.append({"settings": tried, "validation": value})
        console.say(f"{name}, setting {number + 1}: {tried} {value:.4f}")
    best = max(trials, key=lambda trial: trial["validation"])
    folder = results / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    about = {"name": name, "bits": bits, "seed": 0, "commit": commit()}
    text = json.dumps({**about, "chosen": best["settings"], "trials": trials}, indent=1)
    files.write_text(folder / f"{name}.json", text + "\n")


def chosen(results: pathlib.Path, found: Entry) -> dict[str, Any]:
    """Returns the settings that tuning chose; an untuned ablation takes the whole method's.

    Args:
      results: Folder of the ledger's files.
      found: The entry.
    """
    for name in (found.name, found.name.partition(".")[0]):
        path = results / "tuning" / f"{name}.json"
        if path.exists():
            best = json.loads(path.read_text(encoding="utf-8"))["chosen"]
            own = name == found.name
            # What an ablation changes must stay as the ablation has it.
            return {key: best[key] for key in best if own or key not in found.overrides}
    return {}


def validation_only(splits: data.Splits) -> data.Splits:
    """Returns splits with the validation set as queries, and without the test queries.

    Args:
      splits: Splits with a validation set.

    Raises:
      ValueError: if the validation set is empty.
    """
    if not len(splits.validation):
        raise InputError(f"{splits.name} has no validation rows to choose by")
    return data.make_splits(
        splits.source,
        train=splits.train,
        validation=np.array([], np.int64),
        query=splits.validation,
        # What they search in the split itself: the database, or rows of their own classes.
        database=splits.validation_database,
        name=f"{splits.name} validation",
    )


def _validated(experiment: train.Experiment) -> float:
    """Returns the mAP of the validation queries after training; 0 if the loss is not finite."""
    experiment = experiment._replace(splits=validation_only(experiment.splits))
    mesh = parallel.data_mesh()
    try:
        with console.progress(experiment) as report:
            state = train.fit(experiment, mesh=mesh, callbacks=[report]).state
    except NonFiniteError as error:
        console.say(str(error))
        return 0.0  # a setting that diverges loses, and the others are still tried
    found = evaluate.evaluate_method(experiment, state, mesh=mesh, name="validation")
    return found.results[0].value
