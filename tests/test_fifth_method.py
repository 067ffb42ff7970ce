"""A paper more is two new files: its method and its experiment. Nothing else knows its name."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

from experiments.ledger import __main__ as command
from experiments.ledger import entries
from quantjax import methods, train
from tests import programs

pytestmark = pytest.mark.usefixtures("no_page", "no_encoder")

ROOT = pathlib.Path(__file__).parents[1]

METHOD = '''
"""Hash centres of classes, as CSQ: every image's signs are pulled to its class's random signs."""

import jax
import jax.numpy as jnp

from quantjax.methods import Method, Phase
from quantjax.quantizers import BinaryCodec


def centred(network, *, bits):
    def init(key, batch, num_rows):
        params, net_state = network.init(key, batch["image"])
        shape = (batch["label"].shape[1], bits)
        centres = jax.random.rademacher(jax.random.key(1), shape, jnp.float32)
        return {"net": params}, {"nets": {"net": net_state}, "centres": centres}

    def loss(params, state, batch, context):
        nets = state["nets"]
        x, net = network.apply(params["net"], nets["net"], batch["image"], train=True)
        targets = batch["label"].astype(jnp.float32) @ state["centres"]
        total = jnp.mean(jax.nn.softplus(-x * targets))
        return total, ({**state, "nets": {"net": net}}, {"centre_loss": total})

    def embed(params, state, batch):
        return network.apply(params["net"], state["nets"]["net"], batch["image"], train=False)[0]

    return Method(
        init=init,
        phases=(Phase(name="joint", loss=loss, trains=("net",)),),
        embed=embed,
        codec=lambda params, state: BinaryCodec(bits),
    )
'''

EXPERIMENT = '''
"""CSQ-like codes of the toy set."""

import centred
from ml_collections import config_dict

from experiments.baselines import baselines
from quantjax import launch
from tests import toy

ABLATIONS = {"short": {"num_epochs": 1}}


def get_config():
    return config_dict.create(seed=0, bits=16, num_epochs=12)


def build(config):
    method = centred.centred(toy.network(config.bits), bits=config.bits)
    return toy.experiment(method, num_epochs=config.num_epochs, seed=config.seed)


if __name__ == "__main__":
    launch.main(get_config, build, baselines, title="centred")
'''


@pytest.fixture
def centred_file(tmp_path):
    """The path of the experiment file, in a folder that no package knows."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "centred.py").write_text(METHOD)
    path = tmp_path / "code" / "centred_toy.py"
    path.write_text(EXPERIMENT)
    before = [*sys.path]
    yield path
    sys.path[:] = before
    for name in ("centred", "centred_toy"):
        sys.modules.pop(name, None)


def test_a_fifth_method_runs_through_the_launcher(centred_file, tmp_path):
    arguments = f"--workdir={tmp_path / 'run'}", "--nodraw_report"
    command = [sys.executable, str(centred_file), *arguments]
    environment = {**programs.environment(), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    found = {row["name"]: row for row in json.loads((tmp_path / "run/results.json").read_text())}
    assert found["centred"]["value"] > found["centred"]["chance"] + 0.3
    assert {name: row["bits"] for name, row in found.items()} == {
        "centred": 16, "centred float": 512, "centred validation": 16, "pq on pixels": 16,
        "untrained network": 16, "class-id code": 2,
    }  # fmt: skip


def test_a_fifth_method_runs_through_the_ledger(centred_file, tmp_path, capsys):
    results = tmp_path / "results"
    for name in (str(centred_file), f"{centred_file}.short"):
        command.main(
            ["run", name, "--bits", "16", f"--results={results}", f"--workdir={tmp_path / 'runs'}"]
        )
    found = json.loads((results / "centred_toy.json").read_text())
    values = {row["name"]: row["value"] for row in found["runs"][0]["rows"]}
    assert values["codes"] > found["runs"][0]["rows"][0]["chance"] + 0.3
    capsys.readouterr()
    command.main(["table", f"--results={results}"])
    table = capsys.readouterr().out
    assert f"| centred toy | {values['codes']:.3f} |" in table
    assert "| centred toy: short |" in table
    assert "hypothesis" not in table  # those are of other experiments
    experiment = train.open_run(next((tmp_path / "runs").glob("centred_toy-*")), centred_toy())
    assert experiment.config == {"seed": 0, "bits": 16, "num_epochs": 12}


def centred_toy():
    return sys.modules["centred_toy"]


SEVERAL = '''
"""The experiment on two data sets: images as they are, and fewer epochs of them."""

import centred_toy

DATA_SETS = {"toy": {}, "toy_short": {"num_epochs": 1}}
ABLATIONS = {"8_bits": {"bits": 8}}


def get_config(data_set):
    config = centred_toy.get_config()
    config.update(DATA_SETS[data_set])
    return config


def build(config, data_set):
    return centred_toy.build(config)._replace(name=f"centred_on_{data_set}")
'''


def test_a_fifth_method_may_have_several_data_sets(centred_file, tmp_path):
    (centred_file.parent / "centred_on.py").write_text(SEVERAL)
    name = str(centred_file.parent / "centred_on.py")
    try:
        entry = entries.entry(f"{name}.toy_short.8_bits")
        assert (entry.name, entry.data_set) == ("centred_on_toy_short.8_bits", ("toy_short",))
        config = entries.configure(entry, {})
        assert (config.bits, config.num_epochs) == (8, 1)
        about = {"experiment": "centred_on_toy_short", "config": config.to_dict()}
        (tmp_path / "config.json").write_text(json.dumps(about))
        with pytest.raises(ValueError, match="of 'centred_on_toy_short', which is no file of"):
            train.open_run(tmp_path)
        opened = train.open_run(tmp_path, entry.module)
        assert (opened.name, opened.num_epochs) == ("centred_on_toy_short", 1)
        with pytest.raises(ValueError, match="has no data set toys; there are toy, toy_short"):
            entries.entry(f"{name}.toys")
    finally:
        sys.modules.pop("centred_on", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/toy.py", "no experiment file nowhere/toy.py"),
        ("json.py", "json.py has the name of another module, json; rename the file"),
        ("empty_toy.py", "empty_toy.py must have get_config and build"),
        ("centred_toy.py.long", "centred_toy has no ablation long; there are short"),
    ],
)
def test_a_path_that_is_no_experiment_is_refused(
    centred_file, tmp_path, monkeypatch, name, message
):
    monkeypatch.chdir(centred_file.parent)
    for other in ("json.py", "empty_toy.py"):
        pathlib.Path(other).write_text("")
    with pytest.raises(ValueError, match=message):
        entries.entry(name)


def words(path):
    """Yields names and texts of a file, docstrings aside."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((ROOT / "quantjax").rglob("*.py")) if path.parent.name != "methods"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_other_file_knows_a_method_by_name(path):
    # "triplet_quantization" is also the name of a loss, which the losses may say.
    names = {name for name in methods.__all__ if name in ("dqn", "dqn_ste", "adsq", "deepquan")}
    assert len(names) == 4
    assert not names & set(words(path))
