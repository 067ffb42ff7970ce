"""Photos of the user: from a folder to records to codes, by the commands of docs/data.md."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import dqn
from experiments.baselines import baselines
from experiments.tasks import photos
from quantjax import cli, data, index, launch, models, train
from quantjax.evaluate.method import task_of
from quantjax.models import efficientnet_lite

pytestmark = pytest.mark.usefixtures("no_page", "no_encoder")

PARTS = {"train": 8, "validation": 2, "test": 2}  # photos of each class
CLASSES = "boot", "coat", "hat", "scarf"


def convert(folder, seed):
    """Photos of noise about a colour for each class, converted with their parts."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(60, 200, (len(CLASSES), 1, 1, 3))
    for part, count in PARTS.items():
        for name, colour in zip(CLASSES, colours, strict=True):
            (folder / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = colour + rng.integers(-50, 51, (24, 20, 3))
                path = folder / "photos" / part / name / f"{number}.png"
                Image.fromarray(np.uint8(pixels)).save(path)
    out = folder / "records"
    parts = f"--parts={','.join(PARTS)}"
    cli.main(["records", str(folder / "photos"), str(out), parts, "--size=16"])
    return out


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return convert(tmp_path_factory.mktemp("one"), seed=0)


@pytest.fixture
def small_backbone(monkeypatch):
    """Compiles quickly; tests of `efficientnet` have the whole, and its weights."""

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
    place = [] if workdir is None else [f"--workdir={workdir}"]
    argv = ["dqn", "photos", *place, *settings, *arguments]
    launch.main(
        dqn.get_config, dqn.build, baselines, title="dqn", data_sets=dqn.DATA_SETS, argv=argv
    )


@pytest.mark.slow
def test_records_of_a_folder_train_wherever_they_lie(records, small_backbone, tmp_path, capsys):
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
    assert "no step was run" in capsys.readouterr().out


def built(records, **changes):
    config = dqn.get_config("photos")
    config.update({"batch_size": 16, "records": str(records), **changes})
    return dqn.build(config, "photos")


@pytest.mark.slow
def test_other_photos_of_equal_numbers_are_another_run(
    records, small_backbone, tmp_path, capsys, monkeypatch
):
    others = convert(tmp_path / "two", seed=1)
    one, two = (built(folder) for folder in (records, others))
    assert one.splits.digest == two.splits.digest
    assert train.about_run(one) != train.about_run(two)
    assert task_of(one.splits) != task_of(two.splits)
    run(tmp_path / "run", records, "--config.num_epochs=0")
    with pytest.raises(SystemExit):
        run(tmp_path / "run", others, "--config.num_epochs=0")
    assert "holds a run of another config (source is" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    run(None, records, "--config.num_epochs=0")
    run(None, others, "--config.num_epochs=0")
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_parts_are_those_that_the_config_names(records, small_backbone):
    splits = built(records).splits
    assert [len(rows) for rows in (splits.train, splits.validation, splits.query)] == [32, 8, 8]
    np.testing.assert_array_equal(splits.database, splits.train)
    splits = built(records, validation="", query="validation", database="test").splits
    assert len(splits.validation) == 0
    np.testing.assert_array_equal(splits.query, splits.source.parts["validation"])
    np.testing.assert_array_equal(splits.database, splits.source.parts["test"])
    splits = built(records, final=True).splits
    assert (len(splits.train), len(splits.validation)) == (40, 0)


def test_records_without_parts_name_both_ways_to_have_some(tmp_path, small_backbone):
    for name in ("coat", "hat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "photos" / name / "1.png")
    cli.main(["records", str(tmp_path / "photos"), str(tmp_path / "records")])
    ways = "--parts=train,validation,test, or --split=80,10,10 where FOLDER has no parts"
    with pytest.raises(ValueError, match=f"has none, convert again with {ways}; got 'train'"):
        built(tmp_path / "records")
    with pytest.raises(ValueError, match=f"no photos are given: .* {ways}, then say --config.rec"):
        photos.finetuned(dqn.get_config("photos"))


def test_queries_that_are_searched_are_refused_unless_allowed(records, small_backbone):
    splits = built(records, database="test").splits
    with pytest.raises(ValueError, match="8 of 8 query rows are in database too"):
        data.audit(splits)
    assert data.audit(splits, allow_query_overlap=True).shared_rows


def test_photos_are_moved_by_an_eighth_and_not_where_they_are_embedded(records, small_backbone):
    experiment = built(records)
    image = experiment.splits.source[experiment.splits.train[:16]]["image"]
    moved = np.asarray(experiment.augment(jax.random.key(0), {"image": image})["image"])
    np.testing.assert_array_equal(experiment.preprocess({"image": image})["image"], image)
    places = {place for pair in zip(image, moved, strict=True) for place in moves(*pair)}
    assert {abs(step) for place in places for step in place} == {0, 1, 2}


def moves(image, moved):
    """By how many rows and columns an image was moved: none if it is no move of it."""
    around = np.pad(image, [(2, 2), (2, 2), (0, 0)], mode="reflect")
    found = [
        (y - 2, x - 2)
        for y, x in itertools.product(range(5), repeat=2)
        for window in [around[y : y + 16, x : x + 16]]
        if np.array_equal(moved, window) or np.array_equal(moved, window[:, ::-1])
    ]
    assert len(found) == 1
    return found


def test_ten_crops_are_moves_by_an_eighth(records, small_backbone):
    experiment = built(records, views="ten_crop")
    image = experiment.splits.source[experiment.splits.train[:2]]["image"]
    ten = np.asarray(experiment.preprocess({"image": image})["image"])
    assert ten.shape == (2, 10, 16, 16, 3)
    np.testing.assert_array_equal(ten[:, 0], image)  # what training takes
    np.testing.assert_array_equal(ten[:, 1, 2:, 2:], image[:, :14, :14])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"records": None}, "convert a folder by quantjax records FOLDER OUT"),
        ({"query": "tset"}, "query must be one of the parts of .*, test, train, validation; got"),
        ({"size": 24}, "size must be 16"),
        ({"views": "two"}, "views must be one of one, flips, ten_crop"),
    ],
)
def test_what_cannot_be_is_said(records, changes, message):
    config = dqn.get_config("photos")
    config.records = str(records)
    config.update(changes)
    with pytest.raises(ValueError, match=message):
        photos.finetuned(config)
