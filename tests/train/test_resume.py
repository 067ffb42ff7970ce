"""A workdir keeps its config: other configs are refused, and the experiment is built from it."""

import json
import types

import jax
import pytest
from ml_collections import config_dict

from quantjax import train
from quantjax.run import parallel
from tests import toy

MESH = parallel.data_mesh(jax.devices()[:1])


def numbered(weight=1e-4, **changes):
    """A toy experiment that says which numbers it was built from."""
    config = {"weight": weight, "data_dir": "here", "nested": {"depth": 1}}
    return toy.experiment(toy.dqn(), num_epochs=1, config={**config, **changes})


def test_a_workdir_is_refused_to_another_config_by_fit_and_restore(tmp_path):
    workdir = tmp_path / "run"
    train.fit(numbered(), workdir=workdir, mesh=MESH)
    for call in (train.fit, train.restore):
        with pytest.raises(ValueError, match=r"weight is 0.0001 there, 0.5 here\); choose"):
            call(numbered(weight=0.5), workdir=workdir, mesh=MESH)
    moved = numbered(data_dir="elsewhere")  # the same experiment
    assert int(train.restore(moved, workdir, mesh=MESH).step) == 4
    assert int(train.fit(moved, workdir=workdir, mesh=MESH).state.step) == 4


def test_a_workdir_of_no_config_is_left_as_it_is(tmp_path):
    train.fit(numbered()._replace(config=None), workdir=tmp_path / "run", mesh=MESH)
    assert int(train.fit(numbered(), workdir=tmp_path / "run", mesh=MESH).state.step) == 4
    assert not (tmp_path / "run" / "config.json").exists()


def small_config():
    config = config_dict.create(weight=0.0, depths=(1, 2), data_dir="", nested={"depth": 0})
    return config.lock()


def small_build(config):
    return numbered(config.weight)._replace(name=f"{config.depths}{config.nested.depth}")


SMALL = types.SimpleNamespace(__name__="small", get_config=small_config, build=small_build)


def test_a_run_is_opened_from_what_its_workdir_keeps(tmp_path):
    config = small_config()
    config.update({"weight": 0.25, "depths": (3, 4), "nested": {"depth": 2}})
    built = small_build(config)._replace(config=json.loads(config.to_json()))
    train.fit(built, workdir=tmp_path, mesh=MESH)
    found = train.open_run(tmp_path, SMALL, places={"data_dir": "moved"})
    assert found.name == "(3, 4)2"
    assert found.config == {**built.config, "data_dir": "moved"}
    assert int(train.restore(found, tmp_path, mesh=MESH).step) == 4


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {}, r"of 'os', which is no file of the package \w+ or experiments; pass the"),
        ({"experiment": "os.path"}, {}, "no file of the package quantjax_experiments or exper"),
        ({"experiment": "configs"}, {}, "of 'configs', which is no file"),  # it builds nothing
        ({"experiment": 3}, {}, "of 3, which is no file"),
        ({"experiment": "dqn"}, {}, "of 'dqn', which is no file"),  # of which data set?
        ({"experiment": "dqn_nonsense"}, {}, "of 'dqn_nonsense', which is no file"),
        ({}, {"module": SMALL, "places": {"weight": 1}}, "has a setting weight that small has not"),
        ({"config": {"wait": 1}}, {"module": SMALL}, "has a setting wait that small has not"),
        ({"config": {"weight": "x"}}, {"module": SMALL}, "keeps settings of the wrong type"),
        ({"config": 3}, {"module": SMALL}, "is no config of an experiment"),
    ],
)
def test_a_run_that_cannot_be_opened_says_why(tmp_path, change, options, message):
    about = {"experiment": "os", "config": {"weight": 1.0}, **change}
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message):
        train.open_run(tmp_path, **options)


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        train.open_run(tmp_path)
