"""Photos of one's own: a folder, through records to codes, by the commands that README gives."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import dqn_photos, pretrained
from experiments.baselines import baselines
from quantjax import cli, index, launch, models
from quantjax.models import efficientnet_lite

PARTS = {"train": 8, "validation": 2, "test": 2}  # photos of each class
CLASSES = "boot", "coat", "hat", "scarf"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Photos of noise about a colour for each class, converted with their parts."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    colours = rng.integers(60, 200, (len(CLASSES), 1, 1, 3))
    for part, count in PARTS.items():
        for name, colour in zip(CLASSES, colours, strict=True):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = colour + rng.integers(-50, 51, (24, 20, 3))
                Image.fromarray(np.uint8(pixels)).save(folder / part / name / f"{number}.png")
    out = tmp_path_factory.mktemp("out") / "records"
    cli.main(["records", str(folder), str(out), f"--parts={','.join(PARTS)}", "--size=16"])
    return out


@pytest.fixture
def small_backbone(monkeypatch):
    """Compiles quickly; tests of `pretrained` have the whole, and its weights."""

    def backbone(shape):
        return models.convnet(
            shape, channels=(8,), kernel_sizes=(3,), hidden=16, dim=efficientnet_lite.FEATURES
        )

    monkeypatch.setattr(models, "efficientnet_lite0", backbone)
    monkeypatch.setattr(efficientnet_lite, "pretrained", lambda *parts: parts)


def run(workdir, records, *arguments):
    small = {"num_epochs": 3, "batch_size": 16, "bits": 8, "num_codewords": 16, "dim": 8}
    small |= {"image_size": 16, "learning_rate": 1e-3, "records": records}
    settings = [f"--config.{key}={value}" for key, value in small.items()]
    argv = ["dqn_photos", f"--workdir={workdir}", *settings, *arguments]
    launch.main(dqn_photos.get_config, dqn_photos.build, baselines, title="dqn", argv=argv)


def test_records_of_a_folder_train_wherever_they_lie(
    records, small_backbone, tmp_path, capsys, monkeypatch
):
    run(tmp_path / "run", records, "--validate_every=1")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())
    found = {(row["name"], row["distance"]): row for row in rows}
    assert found["dqn", "aqd"]["num_queries"] == 8
    assert found["dqn", "aqd"]["protocol"] == "photos"
    assert {"pq on pixels", "untrained network", "class-id code"} < {name for name, _ in found}
    assert index.load(tmp_path / "run").ids.tolist() == list(range(32))  # the part "train"
    moved = tmp_path / "elsewhere"
    shutil.copytree(records, moved)
    capsys.readouterr()
    run(tmp_path / "run", moved, "--validate_every=1")
    assert "step " not in capsys.readouterr().out  # it was done


def built(records, **changes):
    config = dqn_photos.get_config()
    config.update({"batch_size": 16, "records": str(records), **changes})
    return dqn_photos.build(config)


def test_parts_are_those_that_the_config_names(records, small_backbone):
    splits = built(records).splits
    assert [len(rows) for rows in (splits.train, splits.validation, splits.query)] == [32, 8, 8]
    np.testing.assert_array_equal(splits.database, splits.train)
    splits = built(records, validation="", query="validation", database="test").splits
    assert len(splits.validation) == 0
    np.testing.assert_array_equal(splits.query, splits.source.parts["validation"])
    np.testing.assert_array_equal(splits.database, splits.source.parts["test"])


def test_photos_are_moved_by_an_eighth_and_not_where_they_are_embedded(records, small_backbone):
    experiment = built(records)
    image = experiment.splits.source[experiment.splits.train[:16]]["image"]
    moved = np.asarray(experiment.augment(jax.random.key(0), {"image": image})["image"])
    np.testing.assert_array_equal(experiment.preprocess({"image": image})["image"], image)
    for one, other in zip(image, moved, strict=True):
        around = np.pad(one, [(2, 2), (2, 2), (0, 0)], mode="reflect")
        windows = [around[y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
        assert any(
            np.array_equal(other, each) or np.array_equal(other, each[:, ::-1]) for each in windows
        )
    assert (image != moved).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"records": None}, "convert a folder by python -m quantjax.cli records FOLDER OUT"),
        ({"query": "tset"}, "query must be one of the parts of .*, test, train, validation; got"),
        ({"query": "train"}, "query and train must share no row"),
        ({"size": 24}, "size must be 16"),
        ({"views": "two"}, "views must be one of one, flips, ten_crop"),
    ],
)
def test_what_cannot_be_is_said(records, changes, message):
    config = dqn_photos.get_config()
    config.records = str(records)
    config.update(changes)
    with pytest.raises(ValueError, match=message):
        pretrained.photos(config)
