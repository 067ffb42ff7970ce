"""A restored train state equals the saved state, or an error or warning says why not."""

import gc
import json
import logging
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from quantjax import data, errors, train
from quantjax.run import checkpoint, checkpoint_files, parallel, sealing
from tests import toy
from tests.programs import steps_in

# Orbax leaves reads behind that it began, once one of them has failed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True, scope="module")
def collect():
    yield
    gc.collect()


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def experiment():
    return toy.experiment(toy.dqn_ste(), num_epochs=4)


@pytest.fixture(scope="module")
def trained(experiment, mesh, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    result = train.fit(experiment, workdir=workdir, mesh=mesh, checkpoint_every=4)
    return result.state, workdir


@pytest.fixture
def copied(trained, tmp_path):
    shutil.copytree(trained[1], tmp_path / "run")
    return tmp_path / "run"


def array_files(folder, step):
    """Files of a step's arrays, the largest first."""
    files = [path for path in (folder / "checkpoints" / str(step)).rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def assert_equal_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_flipped_byte_anywhere_is_seen_and_the_step_before_taken(
    trained, copied, experiment, mesh
):
    path = array_files(copied, 16)[0]
    flip(path, path.stat().st_size // 2)
    with pytest.warns(UserWarning, match="checkpoint 16 is damaged and was put into .*damaged; "):
        again = train.fit(experiment, workdir=copied, mesh=mesh)
    assert_equal_bits(again.state, trained[0])
    assert [path.name for path in (copied / "damaged").iterdir()] == ["16"]
    assert steps_in(copied) == [8, 12, 16]
    whole = train.fit(experiment, workdir=copied, mesh=mesh)  # no warning: 16 was saved anew
    assert_equal_bits(whole.state, trained[0])


def test_every_byte_counts(trained, copied, experiment, mesh):
    """One byte of each of many places; what is restored all the same is bit-equal."""
    like = train.initialize(experiment, mesh)
    rng = np.random.default_rng(0)
    about = train.about_run(experiment)
    seen = 0
    for path in array_files(copied, 16):
        before = path.read_bytes()
        for place in rng.integers(0, len(before), size=3) if before else ():
            flip(path, place)
            with checkpoint.opened(copied / "checkpoints", about, read_only=True) as store:
                try:
                    restored = store.restore(like, 16)
                except (errors.DamagedError, ValueError):
                    seen += 1
                else:
                    assert_equal_bits(restored, trained[0])
            path.write_bytes(before)
    assert seen >= 10


def test_every_file_counts(trained, copied, experiment, mesh):
    """What is restored although a file is missing is bit-equal."""
    like, about, seen = train.initialize(experiment, mesh), train.about_run(experiment), []
    for path in array_files(copied, 16):
        path.rename(copied / "away")
        with checkpoint.opened(copied / "checkpoints", about, read_only=True) as store:
            try:
                restored = store.restore(like, 16)
            except errors.DamagedError:
                seen.append(path.name)
            else:
                assert_equal_bits(restored, trained[0])
        (copied / "away").rename(path)
    assert len(seen) >= 4


def test_a_checkpoint_that_says_nothing_of_its_digest_is_read(trained, copied, experiment, mesh):
    path = copied / "checkpoints" / "16" / "about" / "metadata"
    about = json.loads(path.read_text())
    del about["digest"]
    about["value"] = None  # as it was then
    path.write_text(json.dumps(about))
    assert_equal_bits(train.restore(experiment, copied, mesh=mesh), trained[0])


@pytest.mark.parametrize("place", ["checksums", "leaves", "run", "seed", "digest"])
def test_what_a_checkpoint_says_of_itself_counts_too(trained, copied, experiment, mesh, place):
    path = copied / "checkpoints" / "16" / "about" / "metadata"
    flip(path, path.read_bytes().index(f'"{place}"'.encode()) + 3)
    with pytest.warns(UserWarning, match="checkpoint 16 is damaged .* going on from step 12"):
        again = train.fit(experiment, workdir=copied, mesh=mesh)
    assert_equal_bits(again.state, trained[0])


def test_a_missing_file_is_seen(trained, copied, experiment, mesh):
    for path in array_files(copied, 16)[:1]:
        path.unlink()
    with pytest.warns(UserWarning, match="going on from step 12"):
        again = train.fit(experiment, workdir=copied, mesh=mesh)
    assert_equal_bits(again.state, trained[0])


def test_a_second_damage_of_a_step_is_put_beside_the_first(copied, experiment, mesh):
    for _ in range(2):
        array_files(copied, 16)[0].write_bytes(b"")
        with pytest.warns(UserWarning, match="going on from step 12"):
            train.fit(experiment, workdir=copied, mesh=mesh)
    assert sorted(path.name for path in (copied / "damaged").iterdir()) == ["16", "16.1"]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_from_zero(copied, experiment, mesh):
    for step in steps_in(copied):
        array_files(copied, step)[0].write_bytes(b"no")
    before = (copied / "metrics.jsonl").read_text()
    with pytest.raises(errors.DamagedError, match=r"no checkpoint in .* can be read; step 16"):
        train.fit(experiment, workdir=copied, mesh=mesh)
    assert steps_in(copied) == [8, 12, 16]
    assert (copied / "metrics.jsonl").read_text() == before


def test_another_network_is_another_run_not_a_damage(copied, experiment, mesh):
    wider = toy.experiment(toy.dqn_ste(num_codewords=32), num_epochs=4)
    with pytest.raises(ValueError, match=r"belongs to another run: .*\[2, 16, 4\].*\[2, 32, 4\]"):
        train.fit(wider, workdir=copied, mesh=mesh)
    assert steps_in(copied) == [8, 12, 16]


def test_a_run_that_lost_its_records_says_what_it_cannot_know(copied, experiment, mesh):
    (copied / "metrics.jsonl").unlink()
    with pytest.warns(UserWarning, match="metrics.jsonl is gone: which checkpoint was the best"):
        train.fit(experiment._replace(num_epochs=5), workdir=copied, mesh=mesh)


def test_checksums_tell_every_type_apart_and_do_not_depend_on_the_mesh(mesh):
    leaves = {
        "float": np.arange(64, dtype=np.float32).reshape(16, 4),
        "half": np.arange(32).astype(jnp.bfloat16),
        "bytes": np.arange(16, dtype=np.uint8),
        "bool": np.arange(16) % 3 == 0,
        "one": np.array(7, np.int32),
        "none": np.zeros((0, 3), np.float32),
    }
    before = sealing.checksums(leaves)
    for name, leaf in leaves.items():
        if leaf.size:
            last, changed = (-1,) * leaf.ndim, leaf.copy()
            changed[last] = ~leaf[last] if leaf.dtype == bool else leaf[last] + 1
            assert sealing.checksums({**leaves, name: changed})[name] != before[name]
    swapped = leaves["float"].copy()
    swapped[0, 1:3] = 2.0, 1.0
    assert sealing.checksums({"float": swapped})["float"] != before["float"]
    eight = parallel.data_mesh()
    rows = {"float": jax.device_put(leaves["float"], parallel.by_rows(eight))}
    assert sealing.checksums(rows)["float"] == before["float"]


def test_reading_leaves_everything_as_it_is(trained, copied, experiment, mesh, tmp_path):
    unfinished = copied / "checkpoints" / "24.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = sorted(path for path in copied.rglob("*"))
    assert_equal_bits(train.restore(experiment, copied, mesh=mesh), trained[0])
    assert sorted(path for path in copied.rglob("*")) == before
    with pytest.raises(FileNotFoundError, match="has no checkpoint with a validation"):
        train.restore(experiment, copied, best=True, mesh=mesh)
    with pytest.raises(FileNotFoundError, match="elsewhere has no checkpoints"):
        train.restore(experiment, tmp_path / "elsewhere", mesh=mesh)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "belongs to another run: seed 0, not 1"),
        ({"batch_size": 32, "sampler": data.shuffled(256, 32)}, "batch_size 64, not 32"),
        ({"num_epochs": 2}, "is 4 epochs along, more than num_epochs, 2"),
    ],
)
def test_a_state_of_another_experiment_is_refused(copied, experiment, mesh, changes, message):
    with pytest.raises(ValueError, match=message):
        train.fit(experiment._replace(**changes), workdir=copied, mesh=mesh)
    assert steps_in(copied) == [8, 12, 16]


def test_a_disk_that_fails_today_is_no_damage(copied, experiment, mesh, monkeypatch):
    def failing(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint_files, "_about", failing)
    with pytest.raises(PermissionError):
        train.fit(experiment, workdir=copied, mesh=mesh)
    assert steps_in(copied) == [8, 12, 16]
    assert not (copied / "damaged").exists()


def test_an_array_that_cannot_be_opened_today_is_no_damage(copied, experiment, mesh):
    (file, *_) = array_files(copied, 16)
    kept = file.rename(file.with_name("kept"))
    file.symlink_to(file)  # what root too cannot open
    with pytest.raises(OSError, match=r"Too many levels of symbolic links.*checkpoints/16"):
        train.fit(experiment, workdir=copied, mesh=mesh)
    assert steps_in(copied) == [8, 12, 16]
    assert not (copied / "damaged").exists()
    kept.replace(file)
    assert int(train.fit(experiment, workdir=copied, mesh=mesh).state.step) == 16


def test_a_run_that_lost_its_checkpoints_says_that_it_starts_again(copied, experiment, mesh):
    shutil.rmtree(copied / "checkpoints")
    with pytest.warns(UserWarning, match="holds no checkpoint: starting at step 0 again"):
        train.fit(experiment._replace(num_epochs=1), workdir=copied, mesh=mesh)


def test_a_disk_that_is_full_is_said_and_what_is_there_stays(copied, experiment, mesh, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    longer = experiment._replace(num_epochs=6)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(
            OSError, match=r"No space left on device; .* not be written.*checkpoints"
        ):
            train.fit(longer, workdir=copied, mesh=mesh)
    assert steps_in(copied) == [8, 12, 16]
    assert int(train.fit(longer, workdir=copied, mesh=mesh).state.step) == 24


def test_a_disk_that_fills_while_a_checkpoint_is_written_is_said(copied, experiment, mesh):
    """A limit on the size of files stands for the disk."""
    longer = experiment._replace(num_epochs=6)
    train.fit(longer, mesh=mesh)  # compiles what it takes
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large; .* not be written.*checkpoints"):
            train.fit(longer, workdir=copied, mesh=mesh)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in (copied / "checkpoints").iterdir()} >= {"8", "12", "16"}
    assert int(train.fit(longer, workdir=copied, mesh=mesh).state.step) == 24
    assert steps_in(copied) == [12, 16, 24]


def test_reading_a_checkpoint_logs_nothing(copied, experiment, mesh, caplog):
    with caplog.at_level(logging.WARNING):
        train.restore(experiment, copied, mesh=mesh)
    assert [record.getMessage() for record in caplog.records] == []


def test_logs_of_others_are_as_before_while_checkpoints_are_written(tmp_path, caplog):
    logger = logging.getLogger("absl")
    before = logger.level, [*logger.filters]
    with checkpoint.opened(tmp_path / "checkpoints", {}) as store, caplog.at_level(0, "absl"):
        store.save(1, {"x": np.zeros(2)})
        store.wait()
        logger.warning("of the user's own program")
    assert [record.getMessage() for record in caplog.records] == ["of the user's own program"]
    assert (logger.level, logger.filters) == before
