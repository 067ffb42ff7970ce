"""A paper more is two new files: its method and its experiment. Nothing else knows its name."""

import ast
import importlib
import json
import pathlib
import sys

import pytest

from experiments import entries, ledger
from quantjax import methods

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
        due = batch["label"].astype(jnp.float32) @ state["centres"]
        total = jnp.mean(jax.nn.softplus(-x * due))
        return total, ({**state, "nets": {"net": net}}, {"centre_loss": total})

    def embed(params, state, batch):
        return network.apply(params["net"], state["nets"]["net"], batch["image"], train=False)[0]

    phase = Phase("joint", loss, ("net",))
    return Method(
        init, (phase,), lambda epoch: 0, embed, embed, lambda params, state: BinaryCodec(bits)
    )
'''

EXPERIMENT = '''
"""CSQ-like codes of the toy set."""

import centred
from ml_collections import config_dict

from tests import toy


def get_config():
    return config_dict.create(seed=0, bits=16, num_epochs=12)


def build(config):
    method = centred.centred(toy.network(config.bits), bits=config.bits)
    return toy.experiment(method, num_epochs=config.num_epochs, seed=config.seed)
'''


def test_a_fifth_method_runs_through_launcher_and_ledger(tmp_path, monkeypatch):
    (tmp_path / "centred.py").write_text(METHOD)
    (tmp_path / "centred_toy.py").write_text(EXPERIMENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(entries, "names", lambda: ["centred_toy"])
    module = importlib.import_module("centred_toy")
    monkeypatch.setitem(sys.modules, "experiments.centred_toy", module)
    options = {"workdir": tmp_path / "runs", "results": tmp_path / "results", "settings": {}}
    ledger.run("centred_toy", [16], [0], **options)
    found = json.loads((tmp_path / "results" / "centred_toy.json").read_text())
    values = {row["name"]: row["value"] for row in found["runs"][0]["rows"]}
    assert values["codes"] > found["runs"][0]["rows"][0]["chance"] + 0.3


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
