"""Precomputed features as the only content of a source: trained, embedded, measured, launched."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from experiments import codes, dqn
from experiments.baselines import baselines
from experiments.tasks import task
from quantjax import data, evaluate, index, launch, methods, models, train
from quantjax.batch import first_view, over_views
from quantjax.data import augment, embedding
from quantjax.methods.deepquan import flat_images
from quantjax.models import features
from quantjax.run import parallel
from tests import toy

pytestmark = pytest.mark.usefixtures("no_page", "no_encoder")

CONFIG = {"bits": 8, "num_codewords": 16, "seed": 0}


def mesh():
    return parallel.data_mesh(jax.devices()[:1])


def splits(label=True):
    """The toy set as rows of numbers: a network can separate them and k-means cannot."""
    full = toy.splits()
    x = (full.source.columns["image"].reshape(-1, 64).astype(np.float32) - 128) / 64
    source = data.from_features(x, full.source.labels if label else None)
    return full._replace(source=source)


def experiment(splits, **changes):
    """DQN on features, wired by hand as in a notebook."""
    method = methods.dqn(
        models.mlp((64,), hidden=(32,), dim=8),
        dim=8,
        num_codebooks=2,
        num_codewords=16,
        inputs=methods.features,
    )
    return toy.experiment(
        method, splits=splits, augment=lambda key, batch: batch, preprocess=lambda batch: batch
    )._replace(**changes)


@pytest.fixture(scope="module")
def trained():
    made = experiment(splits(), num_epochs=6)
    return made, train.fit(made, mesh=mesh()).state


def measured(made, state):
    return evaluate.evaluate_method(made, state, mesh=mesh(), name="dqn")


def test_dqn_trains_on_features_and_beats_those_features(trained):
    made, state = trained
    retrieval = measured(made, state)
    found = {(each.name, each.distance): each for each in retrieval.results}
    assert set(found) == {
        ("dqn", "aqd"), ("dqn", "sqd"), ("dqn float", "float"), ("dqn validation", "aqd")
    }  # fmt: skip
    pq, dim = codes.pq(
        config_dict.create(**CONFIG), made.splits.source[made.splits.train]["feature"]
    )
    x = {name: made.splits.source[getattr(made.splits, name)] for name in ("query", "database")}
    plain = codes.of_codec(
        made.splits,
        "pq",
        pq,
        *(codes.padded(part["feature"], dim) for part in x.values()),
    )
    assert found["dqn", "aqd"].value > plain.value + 0.4
    assert retrieval.audit.shared_images["query in database"] == 0


def test_pixels_are_left_out_of_the_baselines_and_that_is_said(trained, capsys):
    made, state = trained
    found = baselines(made, mesh(), state)
    assert [measure().name for measure in found.values()] == ["untrained network", "class-id code"]
    assert "pq on pixels: left out, the source has no images" in capsys.readouterr().out


def test_all_devices_embed_features_as_one_does(trained):
    made, state = trained
    params, inner = jax.device_get((state.params, state.state))
    one, all_of_them = (
        embedding.embed(
            made.method.embed,
            params,
            inner,
            made.splits.source,
            made.splits.query,
            preprocess=made.preprocess,
            mesh=each,
        )
        for each in (mesh(), parallel.data_mesh())
    )
    np.testing.assert_allclose(all_of_them, one, atol=1e-6)


def get_config():
    return config_dict.create(**CONFIG, num_epochs=1)


def launched(workdir, *arguments, build):
    argv = ["toy", f"--workdir={workdir}", *arguments]
    launch.main(get_config, build, baselines, title="dqn", argv=argv)


def test_features_run_from_the_command_line(tmp_path):
    launched(tmp_path / "run", build=lambda config: experiment(splits(), num_epochs=1))
    rows = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["name"] for row in rows][-2:] == ["untrained network", "class-id code"]
    assert len(index.load(tmp_path / "run").codes) == 80


def test_a_task_takes_its_features_from_a_source_of_features():
    given = splits()
    x = given.source.columns["feature"]
    found = task.on_features(given, x, hidden=(8,))
    config = dqn.get_config("mnist")
    config.update({**CONFIG, "num_epochs": 1, "batch_size": 16, "dim": 8})
    made = dqn.on_task(config, "toy", found)
    assert set(made.splits.source.columns) == {"feature", "label"}
    start = train.initialize(made, mesh())
    assert made.method.embed(start.params, start.state, made.splits.source[[0, 1]]).shape == (2, 8)


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        (methods.images, "image"),
        (flat_images, "image"),
        (augment.on_images(augment.random_flip()), "image"),
        (augment.normalize(mean=(0.5,), std=(0.5,)), "image"),
        (augment.flips(), "image"),
        (augment.ten_crop((1, 1)), "image"),
        (methods.features, "feature"),
    ],
)
def test_a_batch_without_what_is_asked_for_is_refused(function, missing):
    other = {"image": "feature", "feature": "image"}[missing]
    batch = {other: jnp.zeros((2, 3)), "label": jnp.zeros((2, 0))}
    arguments = [batch] if "on_images" not in function.__qualname__ else [None, batch]
    with pytest.raises(ValueError, match=f"the batch has no {missing}, its columns are {other}, l"):
        function(*arguments)


def test_an_experiment_on_images_says_that_there_are_none():
    made = experiment(splits())._replace(method=toy.dqn())
    with pytest.raises(ValueError, match=r"the batch has no image, .* inputs=methods\.features"):
        train.fit(made, mesh=mesh())


def test_extraction_says_that_there_are_no_images(tmp_path):
    extractor = features.Extractor({}, lambda weights, images: images, "none")
    with pytest.raises(ValueError, match="the batch has no image, its columns are feature, label"):
        features.extract(splits().source, extractor, path=tmp_path / "f", mesh=mesh())


VIEWED = {"feature": np.arange(24.0).reshape(2, 3, 4), "label": np.array([[1, 0], [0, 1]])}


def test_views_of_features_are_averaged():
    def embed(params, state, batch):
        assert batch["feature"].shape == (6, 4)
        return batch["feature"] ** 2, batch["label"]

    squares, label = over_views(embed)(None, None, jax.tree.map(jnp.asarray, VIEWED))
    np.testing.assert_allclose(squares, np.mean(VIEWED["feature"] ** 2, axis=1))
    np.testing.assert_array_equal(label, VIEWED["label"])


def test_an_init_sees_the_first_view_of_every_column():
    found = first_view({**VIEWED, "image": np.arange(2 * 3).reshape(2, 3, 1, 1, 1)})
    np.testing.assert_array_equal(found["feature"], VIEWED["feature"][:, 0])
    np.testing.assert_array_equal(found["image"].ravel(), [0, 3])
    np.testing.assert_array_equal(found["label"], VIEWED["label"])
    assert first_view({"label": VIEWED["label"]}).keys() == {"label"}


def test_features_beside_views_of_images_are_repeated():
    batch = {"image": jnp.zeros((2, 3, 1, 1, 1)), "feature": jnp.array([[1.0], [5.0]])}
    out = over_views(lambda params, state, batch: batch["feature"])(None, None, batch)
    np.testing.assert_array_equal(out, [[1.0], [5.0]])


def test_other_numbers_of_views_are_refused():
    batch = {"image": np.zeros((2, 3, 1, 1, 1)), "feature": np.zeros((2, 4, 1))}
    with pytest.raises(ValueError, match=r"as many views each, got image \(2, 3.*feature \(2, 4"):
        first_view(batch)
