"""The bench of the field: every method is built alike, and one training serves four searches."""

import json

import numpy as np
import pytest

from experiments import codes, field
from experiments.ledger import entries, runs
from quantjax import methods
from quantjax.errors import InputError

SEARCHES = ("seen_in_seen", "unseen_in_unseen", "unseen_in_both", "seen_in_both")


@pytest.mark.parametrize("method", field.METHODS)
def test_every_method_is_built_with_six_settings_to_try(method):
    entry = entries.entry(f"field_{method}_mnist")
    config = entries.configure(entry, {"bits": 16, "num_codewords": 16})
    experiment = field.build(config, f"{method}_mnist")
    rows = experiment.splits.train[: config.batch_size]
    batch = experiment.preprocess(experiment.splits.source[rows])
    batch = {**batch, "index": np.arange(len(rows), dtype=np.int32)}
    methods.check(experiment.method, batch, len(experiment.splits.train), 1)
    assert experiment.optimizers.keys() >= set(experiment.method.phases[0].trains)
    settings = field.trials(f"{method}_mnist")
    assert len({tuple(each.values()) for each in settings}) == 6
    for each in settings:
        entries.configure(entry, each)


@pytest.fixture(scope="module")
def measured():
    config = entries.configure(
        entries.entry("field_saturated_softmax_mnist"), {"bits": 16, "num_epochs": 10}
    )
    return field.measure(config, "saturated_softmax_mnist")


def test_one_training_is_measured_by_four_searches(measured):
    names = [result.name for each in measured for result in each.results]
    own = [name for name in names if not name.endswith(("float", "code"))]
    assert own == [*SEARCHES]
    assert [name for name in names if name.endswith("class-id code")] == [
        "seen_in_seen class-id code",
        "seen_in_both class-id code",
    ]
    assert len({each.splits.digest for each in measured}) == 4


def test_seen_classes_are_found_better_than_by_chance(measured):
    value = {result.name: result.value for each in measured for result in each.results}
    # Chance is 1 / 7, the share of a class.
    assert value["seen_in_seen"] > 0.5
    assert value["seen_in_both"] < value["seen_in_seen"]


def test_a_batch_has_equally_many_images_of_each_class():
    config = field.get_config("dpsh_mnist")
    config.images_per_class = 64
    experiment = field.build(config, "dpsh_mnist")
    (first, *_) = experiment.sampler(0, 0)
    labels = experiment.splits.source.labels[experiment.splits.train[first]]
    assert sorted(labels.sum(axis=0)) == [0] * 8 + [64, 64]


def test_a_batch_of_no_whole_class_is_told_in_a_line():
    config = field.get_config("dpsh_mnist")
    config.images_per_class = 1000
    with pytest.raises(InputError) as told:
        field.build(config, "dpsh_mnist")
    assert "\n" not in str(told.value)


def test_codes_without_training_are_kept_of_all_searches(monkeypatch, tmp_path):
    monkeypatch.setattr(codes, "CODES", {"lsh": codes.lsh})
    runs.run("codes_field_mnist", [16], [0], workdir=tmp_path, settings={}, results=tmp_path)
    (kept,) = json.loads((tmp_path / "codes_field_mnist.json").read_text())["runs"]
    assert kept["protocol"] == ", ".join(SEARCHES)
    assert len(set(kept["split"])) == len(kept["audit"]) == 4
    names = {row["name"] for row in kept["rows"]}
    assert names == {
        *(f"lsh, {search}" for search in SEARCHES),
        "class-id code, seen_in_seen",
        "class-id code, seen_in_both",
    }
