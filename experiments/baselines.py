"""What a trained method has to beat, computed on the same split with codes of the same length."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from quantjax import embedding, evaluate, train
from quantjax.quantizers import ProductCodec, packing, product


def baselines(
    experiment: train.Experiment, config: ConfigDict, mesh: Mesh
) -> list[evaluate.Results]:
    """Measures k-means product quantization of raw pixels, and of the untrained network.

    Args:
      experiment: Gives split, method and preprocessing.
      config: Its `bits`, `num_codewords` and `seed`.
      mesh: From `parallel.data_mesh`.

    Returns:
      Two results, asymmetric distance.
    """
    return [pixels(experiment, config), untrained(experiment, mesh)]


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
    )


def untrained(experiment: train.Experiment, mesh: Mesh) -> evaluate.Results:
    """Measures the method as it was initialised, its codebooks fitted by k-means.

    Args:
      experiment: Its network is initialised from its seed.
      mesh: From `parallel.data_mesh`.

    Returns:
      One result: the method's own metric, asymmetric.
    """
    start = train.initialize(experiment, mesh)
    fitted = train.refresh(experiment, start, epoch=0, mesh=mesh)
    method, splits = experiment.method, experiment.splits
    codec = method.codec(fitted.params, fitted.state)

    def embedded(side, rows):
        return embedding.embed(
            side,
            fitted.params,
            fitted.state,
            splits.source,
            rows,
            preprocess=experiment.preprocess,
            mesh=mesh,
        )

    return evaluate.evaluate(
        codec,
        embedded(method.embed_query, splits.query),
        evaluate.encode(codec, embedded(method.embed, splits.database)),
        splits.source.labels[splits.query],
        splits.source.labels[splits.database],
        name="untrained network",
        distance="aqd",
    )
