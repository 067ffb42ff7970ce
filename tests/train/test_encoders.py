"""The encoder of an experiment gives the embeddings and codes that a run computes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from quantjax import data, index, methods, models, train
from quantjax.errors import InputError
from quantjax.evaluate.evaluation import encode
from quantjax.methods.adsq import first, second
from tests import toy


def saved(experiment, folder):
    """A train state, and the encoder of it; binary codecs need no training."""
    state = train.initialize(experiment)
    # ADSQ's two networks for images start alike: every entry is scaled by a number of its own.
    names = sorted(state.params)
    scaled = {
        name: jax.tree.map(lambda x, by=1 + place / 4: x * by, state.params[name])
        for place, name in enumerate(names)
    }
    state = state._replace(params=scaled)
    train.save_encoder(experiment, state, folder / "encoder")
    return state, index.load_encoder(folder)


@pytest.fixture(scope="module")
def adsq(tmp_path_factory):
    asymmetric = toy.adsq(query=first, database=second)
    experiment, folder = toy.experiment(asymmetric), tmp_path_factory.mktemp("run")
    return experiment, *saved(experiment, folder), folder / "encoder"


def assert_gives_what_a_run_computes(experiment, state, encoder, column):
    # 128 rows, and so blocks of 128 rows, which is also what each of eight devices embeds.
    rows = experiment.splits.train[:128]
    x = experiment.splits.source[rows][column]
    codec = experiment.method.codec(state.params, state.state)
    embeddings = train.embed(experiment, state, rows)
    np.testing.assert_array_equal(encoder.embed(x), embeddings)
    queries = train.embed(experiment, state, rows, queries=True)
    np.testing.assert_array_equal(encoder.embed_query(x), queries)
    np.testing.assert_array_equal(encoder(x), encode(codec, embeddings))


def test_an_asymmetric_method_has_programs_of_both_sides_that_equal_it_to_the_bit(adsq):
    experiment, state, encoder, folder = adsq
    assert_gives_what_a_run_computes(experiment, state, encoder, "image")
    assert {path.name for path in folder.glob("*.bin")} == {
        f"{side}.{rows}.bin" for side in ("embed", "embed_query") for rows in (1, 16, 128)
    }
    x = experiment.splits.source[np.arange(4)]["image"]
    assert np.abs(encoder.embed(x) - encoder.embed_query(x)).max() > 0.01


def test_codes_of_the_training_set_and_other_networks_are_not_written(adsq):
    *_, folder = adsq
    paths = [name.split("/") for name in load_file(folder / "weights.safetensors")]
    assert {path[0] for path in paths} == {"params"}
    names = {path[1] for path in paths}
    assert "label_net" not in names
    assert len(names) == 2


def test_files_of_photos_of_the_images_size_are_taken_grey(adsq):
    _, _, encoder, _ = adsq
    assert encoder.photos == (8, "L")
    assert (encoder.input, encoder.row_shape) == ("photos", (8, 8, 1))
    assert encoder.classes == toy.splits().source.classes


def of_features(**changes):
    method = methods.triplet_quantization(
        models.mlp((64,), hidden=(), dim=8), bits=8, inputs=methods.features
    )
    return toy.experiment(method, **changes)


def test_a_method_on_features_takes_vectors_although_there_are_images(tmp_path):
    experiment = of_features(licence="MIT")
    state, encoder = saved(experiment, tmp_path)
    assert (encoder.input, encoder.row_shape, encoder.licence) == ("vectors", (64,), "MIT")
    assert encoder.photos is None
    assert_gives_what_a_run_computes(experiment, state, encoder, "feature")


def test_views_of_preprocessing_are_averaged(tmp_path):
    def flips(batch):
        image = toy.normalize(batch)["image"]
        return {**batch, "image": jnp.stack([image, image[:, :, ::-1]], axis=1)}

    experiment = toy.experiment(toy.triplet_quantization(), preprocess=flips)
    state, encoder = saved(experiment, tmp_path)
    assert_gives_what_a_run_computes(experiment, state, encoder, "image")


@pytest.mark.parametrize(
    ("column", "found"), [("feature", "feature, image"), ("label", "image, label")]
)
def test_embeddings_of_two_columns_raise(tmp_path, column, found):
    def mixed(batch):
        batch = toy.normalize(batch)
        return {**batch, "image": batch["image"] + batch[column].mean()}

    match = f"embeds images or features alone, but embeddings depend on {found}"
    with pytest.raises(InputError, match=match):
        saved(toy.experiment(toy.triplet_quantization(), preprocess=mixed), tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_run_without_codebooks_has_no_encoder(tmp_path):
    with pytest.raises(InputError, match="codebooks do not exist"):
        saved(toy.experiment(toy.dqn()), tmp_path)


@pytest.mark.parametrize(
    ("shape", "due"), [((8, 6, 3), (None, "RGB")), ((8, 8, 3), (8, "RGB")), ((8, 8, 4), None)]
)
def test_files_are_prepared_to_the_shape_of_the_images(rng, tmp_path, shape, due):
    image = rng.integers(0, 256, (40, *shape), dtype=np.uint8)
    rows = np.arange(40)
    splits = data.make_splits(
        data.from_arrays(image, rows % 2), train=rows[:30],
        validation=rows[:0], query=rows[30:35], database=rows[35:],
    )  # fmt: skip
    method = methods.triplet_quantization(models.mlp(shape, hidden=(), dim=4), bits=4)
    experiment = toy.experiment(method, splits=splits, sampler=data.shuffled(30, 10), batch_size=10)
    _, encoder = saved(experiment, tmp_path)
    assert encoder.photos == due


SEED = 3


@pytest.mark.data
@pytest.mark.slow
def test_codes_of_10_000_photos_equal_those_of_a_run(tmp_path, data_dir):
    source = data.fashion_mnist(data_dir)
    rows = np.random.default_rng(SEED).permutation(60_000)
    splits = data.make_splits(
        source, train=rows[:2_000], validation=rows[:0], query=rows[2_000:2_100],
        database=np.arange(60_000, 70_000),
    )  # fmt: skip
    network = models.convnet(
        (28, 28, 1), channels=(16, 32, 64), kernel_sizes=(5, 3, 3), hidden=128, dim=48
    )
    experiment = toy.experiment(
        methods.dqn(network, dim=48, num_codebooks=4, num_codewords=256),
        splits=splits, sampler=data.shuffled(2_000, 64), num_epochs=2,
        # At the toy's rate the embedding saturates, and its codewords are ties.
        optimizers={"net": optax.adam(1e-3)},
    )  # fmt: skip
    state = train.fit(experiment, progress=False).state
    train.save_encoder(experiment, state, tmp_path / "encoder")
    encoder, x = index.load_encoder(tmp_path), source[splits.database]["image"]
    codec = experiment.method.codec(state.params, state.state)
    due = encode(codec, train.embed(experiment, state, splits.database))
    np.testing.assert_array_equal(encoder(x), due)
    for rows_of_block in (16, 1):
        parts = [encoder(x[i : i + 4 * rows_of_block]) for i in range(0, 10_000, 4 * rows_of_block)]
        differing = np.sum(np.any(np.concatenate(parts) != due, axis=1))
        assert differing <= 1, f"{differing} codes differ in blocks of {rows_of_block}"
