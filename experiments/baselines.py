"""What a trained method has to beat, computed on the same split with codes of the same length."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.classifier import fit_classifier
from quantjax import console, embedding, evaluate, train
from quantjax.data import class_counts
from quantjax.quantizers import ClassCodec, ProductCodec, packing, product


def baselines(
    experiment: train.Experiment, config: ConfigDict, mesh: Mesh, trained: train.TrainState
) -> list[evaluate.Results]:
    """Measures product quantization of pixels and of the untrained network, and the class-id code.

    The last is left out, saying so, where training images have no label or several.

    Args:
      experiment: Gives split, method and preprocessing.
      config: Its `bits`, `num_codewords` and `seed`.
      mesh: From `parallel.data_mesh`.
      trained: What `train.fit` ended with.

    Returns:
      Three results, asymmetric distance, or two.
    """
    found = [pixels(experiment, config), untrained(experiment, mesh)]
    splits = experiment.splits
    if (class_counts.num_labels(splits.source.labels[splits.train]) == 1).all():
        return [*found, class_id_code(experiment, mesh, trained)]
    console.say("class-id code: left out, it is of training images with one label each")
    return found


def pixels(experiment: train.Experiment, config: ConfigDict) -> evaluate.Results:
    """Measures product quantization of raw pixels, codebooks from the training images.

    Args:
      experiment: Gives the split.
      config: Its `bits`, `num_codewords` and `seed`.

    Returns:
      One result: squared Euclid, asymmetric.
    """
    splits = experiment.splits
    num_codebooks = packing.num_codebooks(config.bits, config.num_codewords)

    def flat(rows):
        x = splits.source[rows]["image"].reshape(len(rows), -1) / np.float32(255)
        return np.pad(x, ((0, 0), (0, -x.shape[1] % num_codebooks)))

    codebooks = jax.jit(product.fit_codebooks, static_argnames=("num_codebooks", "num_codewords"))(
        jax.random.key(config.seed),
        jnp.asarray(flat(splits.train)),
        num_codebooks=num_codebooks,
        num_codewords=config.num_codewords,
    )
    codec = ProductCodec(codebooks, metric="l2")
    labels = splits.source.labels
    return evaluate.evaluate(
        codec,
        flat(splits.query),
        evaluate.encode(codec, flat(splits.database)),
        labels[splits.query],
        labels[splits.database],
        name="pq on pixels",
        distance="aqd",
        task=evaluate.task_of(splits),
    )


def untrained(experiment: train.Experiment, mesh: Mesh) -> evaluate.Results:
    """Measures the method as it was initialised, its refresh run once if it has one.

    Args:
      experiment: Its network is initialised from its seed.
      mesh: From `parallel.data_mesh`.

    Returns:
      One result: the method's own metric, asymmetric, or the Hamming distance of its codes.
    """
    method, splits = experiment.method, experiment.splits
    fitted = train.initialize(experiment, mesh)
    if method.refresh is not None:
        fitted = train.refresh(experiment, fitted, epoch=0, mesh=mesh)
    codec = method.codec(fitted.params, fitted.state)
    return evaluate.evaluate(
        codec,
        _embedded(experiment, mesh, fitted, method.embed_query, splits.query),
        evaluate.encode(codec, _embedded(experiment, mesh, fitted, method.embed, splits.database)),
        splits.source.labels[splits.query],
        splits.source.labels[splits.database],
        name="untrained network",
        distance="hamming" if codec.metric == "hamming" else "aqd",
        task=evaluate.task_of(splits),
    )


def class_id_code(
    experiment: train.Experiment, mesh: Mesh, trained: train.TrainState
) -> evaluate.Results:
    """Measures the code that is a class number: what a classifier says of the trained embedding.

    Logistic regression on the embeddings of the training images knows the C classes that these
    have, so the code has ceil(log2 C) bits. A query ranks the classes by how likely each is. Where
    the database is of those classes a hash has to beat this code to be worth its bits; where it is
    of others, this is what a classifier in disguise would get.

    Args:
      experiment: Gives split, method and preprocessing; training images have one label each.
      mesh: From `parallel.data_mesh`.
      trained: What `train.fit` ended with.

    Returns:
      One result: -log of the class's probability, asymmetric.

    Reference:
      Sablayrolles et al., How Should We Evaluate Supervised Hashing?, ICASSP 2017, arXiv
      1609.06753.
    """
    method, splits = experiment.method, experiment.splits
    labels = splits.source.labels
    known, class_ids = np.unique(class_counts.class_ids(labels[splits.train]), return_inverse=True)
    classifier = fit_classifier(
        _embedded(experiment, mesh, trained, method.embed, splits.train),
        class_ids,
        num_classes=len(known),
    )

    def scores(side, rows):
        x = _embedded(experiment, mesh, trained, side, rows)
        return np.asarray(classifier.scores(jnp.asarray(x)))

    codec = ClassCodec(len(known))
    return evaluate.evaluate(
        codec,
        scores(method.embed_query, splits.query),
        evaluate.encode(codec, scores(method.embed, splits.database)),
        labels[splits.query],
        labels[splits.database],
        name="class-id code",
        distance="aqd",
        task=evaluate.task_of(splits),
    )


def _embedded(experiment, mesh, state, side, rows):
    return embedding.embed(
        side,
        state.params,
        state.state,
        experiment.splits.source,
        rows,
        preprocess=experiment.preprocess,
        mesh=mesh,
    )
