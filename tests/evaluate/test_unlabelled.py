"""Queries and items without labels are embedded and coded; what cannot be measured is said."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from experiments.baselines import baselines
from quantjax import data, evaluate, index, launch, train
from quantjax.evaluate.method import measure_validation, unmeasured
from quantjax.run import parallel
from tests import toy

pytestmark = pytest.mark.usefixtures("no_page", "no_encoder")


def mesh():
    return parallel.data_mesh(jax.devices()[:1])


def splits(*unlabelled):
    """The toy set, the rows of some lists without their labels."""
    full = toy.splits()
    label = full.source.labels.copy()
    for name in unlabelled:
        label[getattr(full, name)] = 0
    columns = {**full.source.columns, "label": label}
    return full._replace(source=data.from_arrays(**columns))


def without_labels():
    columns = {name: each for name, each in toy.splits().source.columns.items() if name != "label"}
    return toy.splits()._replace(source=data.from_arrays(**columns))


@pytest.fixture(scope="module")
def trained():
    made = toy.experiment(toy.deepquan(), num_epochs=2, preprocess=lambda batch: batch)
    return made._replace(augment=lambda key, batch: batch)


def test_a_method_without_labels_trains_and_codes_what_has_none(trained):
    # On eight devices, over which the labels of a batch are split even if there are none.
    labelled, bare = trained, trained._replace(splits=without_labels())
    states = [train.fit(made).state for made in (labelled, bare)]
    due, found = (
        evaluate.evaluate_method(made, state, name="deepquan")
        for made, state in zip((labelled, bare), states, strict=True)
    )
    assert int(states[1].step) == 8
    np.testing.assert_array_equal(found.codes, due.codes)
    assert (found.results, due.unmeasured) == ([], ())
    assert found.unmeasured == (
        "nothing is measured: none of the 32 query rows has a label",
        "nothing is measured: none of the 16 validation rows has a label",
    )
    watched = evaluate.watch(bare, states[1])
    assert set(watched) == {"codebook_perplexity", "dead_codewords"}


def test_a_pmapped_step_takes_a_batch_without_labels():
    def step(train_state, batch, *, collectives):
        return train_state + collectives.mean(jnp.sum(batch["feature"])), batch["label"].shape[0]

    batch = {"feature": jnp.ones((16, 2)), "label": jnp.zeros((16, 0))}
    run = parallel.pmapped_step(step, parallel.data_mesh())
    assert jax.tree.map(float, run(0.0, batch)) == (4, 2)


@pytest.mark.parametrize(
    ("lists", "asked", "line"),
    [
        ((), "query", None),
        ((), "validation", None),
        (("query",), "query", "none of the 32 query rows has a label"),
        (("query",), "validation", None),
        (("database",), "query", "none of the 80 database rows has a label"),
        (("database",), "validation", "none of the 80 validation_database rows has a label"),
        (("validation",), "query", None),
        (("validation",), "validation", "none of the 16 validation rows has a label"),
        (("train",), "query", None),
    ],
)
def test_what_cannot_be_measured_is_said(lists, asked, line):
    found = unmeasured(splits(*lists), asked)
    assert found == (line if line is None else f"nothing is measured: {line}")


@pytest.mark.parametrize("side", ["query_labels", "database_labels"])
def test_labels_of_no_class_are_refused_in_words(side):
    labels = {"query_labels": np.eye(3)[:2], "database_labels": np.eye(3)}
    labels[side] = labels[side][:, :0]
    message = rf"{side} \(\d, 0\) hold no classes: without labels nothing is measured; emb"
    with pytest.raises(ValueError, match=message):
        evaluate.relevance(**labels)


def test_one_label_on_each_side_can_be_measured():
    made = splits("query", "database")
    label = made.source.labels.copy()
    label[[made.query[3], made.database[5]], 0] = 1
    columns = {**made.source.columns, "label": label}
    assert unmeasured(made._replace(source=data.from_arrays(**columns))) is None


def test_a_source_of_one_class_cannot_be_measured():
    image = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    rows = {"train": [0, 1], "validation": [], "query": [2, 3], "database": [4, 5, 6, 7]}
    made = data.make_splits(data.from_arrays(image, np.zeros(8, int)), **rows)
    assert unmeasured(made) == (
        "nothing is measured: there is one class, so every item is relevant to every query"
    )


def test_validation_without_labels_is_refused_where_it_is_asked_for(trained):
    start = train.initialize(trained, mesh())
    with pytest.raises(ValueError, match="none of the 16 validation rows has a label"):
        measure_validation(trained._replace(splits=splits("validation")), start, mesh=mesh())


def get_config():
    return config_dict.create(seed=0, bits=8, num_codewords=16, num_epochs=1)


def run(workdir, *arguments, build, baselines=lambda *_: {}):
    argv = ["toy", f"--workdir={workdir}", *arguments]
    launch.main(get_config, build, baselines, title="supervised", argv=argv)


def test_a_run_on_an_unlabelled_database_leaves_its_codes(tmp_path, capsys):
    def build(config):
        return toy.experiment(toy.supervised(), num_epochs=1, splits=splits("query", "database"))

    run(tmp_path / "run", "--validate_every=1", build=build, baselines=baselines)
    said = " ".join(capsys.readouterr().out.split())
    assert "note: 32 of 32 query rows have no label: 68, 69, 70, 71, 72, and 27 more" in said
    assert "nothing is measured: none of the 32 query rows has a label" in said
    assert "nothing is measured: none of the 80 validation_database rows has a label" in said
    assert "baselines: left out, nothing is measured" in said
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == []
    assert len(index.load(tmp_path / "run").codes) == 80
    assert evaluate.read_results(tmp_path / "run") == []


def test_queries_equal_to_items_need_a_flag_and_are_listed(tmp_path, capsys):
    def build(config):
        full = toy.splits()
        columns = dict(full.source.columns)
        columns["image"] = columns["image"].copy()
        columns["image"][full.query[:2]] = columns["image"][full.database[:2]]
        source = data.from_arrays(**columns)
        return toy.experiment(toy.supervised(), num_epochs=0, splits=full._replace(source=source))

    listing = tmp_path / "run" / "equal_images.txt"
    with pytest.raises(SystemExit):
        run(tmp_path / "run", build=build)
    said = capsys.readouterr().err
    assert "2 of 32 queries have an equal image of another row number in database" in said
    assert f"all are listed in {listing}" in said
    assert listing.read_text().split("\n\n")[1:] == [
        "query\t68\ndatabase\t76",
        "query\t69\ndatabase\t77\n",
    ]
    run(tmp_path / "run", "--max_equal_images=1", build=build)
    assert "equal images are listed in" in capsys.readouterr().out
    rows = json.loads((tmp_path / "run" / "results.json").read_text())
    assert rows[0]["audit"]["shared_images"]["query in database"] == 2
