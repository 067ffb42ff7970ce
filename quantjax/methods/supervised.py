"""Builds a method from one network, one loss and one codec.

`supervised` covers losses that need only the network's output and the batch: losses on classes,
pairs or triplets. `supervised_with_arrays` covers losses that also keep arrays, such as trained
class proxies or a table of all training embeddings. A method with several networks, several
phases, or codebooks inside its loss is written by hand as a `Method`, see `methods.dqn`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from quantjax.batch import Batch
from quantjax.errors import InputError
from quantjax.methods.base import Context, Inputs, Method, Phase, Refresh, check_network, images
from quantjax.methods.contract import shown
from quantjax.models.base import Network
from quantjax.quantizers import Codec


class EmbeddingLoss(Protocol):
    """Loss function of the network's output."""

    def __call__(
        self, x: jax.Array, batch: Batch, context: Context, /
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns `(scalar, metrics)`: a mean over the rows of `x`, and scalars by name.

        Args:
          x: The network's output, [B, D]: the rows of this device.
          batch: See `Batch`; it has "index".
          context: `context.gather` gives the rows of all devices, for pairs and triplets:
            `context.gather(x)` and `context.gather(batch["label"])`.
        """
        ...


class ArraysLoss(Protocol):
    """Loss function of the network's output and of arrays that the loss keeps."""

    def __call__(
        self, x: jax.Array, batch: Batch, context: Context, params: Any, state: Any, /
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Returns `(scalar, (state, metrics))`: as `EmbeddingLoss`, and the new state.

        Args:
          x: The network's output, [B, D]: the rows of this device.
          batch: See `Batch`; `batch["index"]` are the rows' positions among the training rows.
          context: The new state must be the same on every device: write what `context.gather` or
            `context.mean` returned.
          params: Trained along with the network, such as class proxies.
          state: Arrays without gradient, such as a table [num_rows, D].
        """
        ...


class InitLoss(Protocol):
    """Function that makes the initial arrays of an `ArraysLoss`."""

    def __call__(self, key: jax.Array, batch: Batch, num_rows: int, /) -> tuple[Any, Any]:
        """Returns `(params, state)`, pytrees of arrays; {} for an empty part.

        Args:
          key: Random key, consumed.
          batch: A few training rows, for their shapes: `batch["label"].shape[1]` classes.
          num_rows: Training rows, padded to a multiple of 1,024.
        """
        ...


class FitCodec(Protocol):
    """Function that fits a codec to the embeddings of the training set."""

    def __call__(self, key: jax.Array, x: jax.Array, mask: jax.Array, /) -> Codec:
        """Returns the fitted codec; the function runs under `jit`.

        Args:
          key: Random key, consumed.
          x: Embeddings of the training set, [N, D], and rows of padding.
          mask: Whether each row is real, [N] bool.
        """
        ...


class TrainedCodec(NamedTuple):
    """Codec that an `ArraysLoss` trains, such as one of codebooks among its params.

    Attributes:
      build: `(params, state) -> codec`, of the arrays that the loss keeps.
    """

    build: Callable[[Any, Any], Codec]


def supervised(
    network: Network,
    loss: EmbeddingLoss,
    codec: Codec | FitCodec,
    *,
    inputs: Inputs = images,
    refit_every: int = 1,
    min_rows: int = 1,
) -> Method:
    """Builds a method that trains a network by a loss on its output.

    Central Similarity Quantization, for example, with the centres of ten classes on 32 bits:

        centres = losses.hadamard_centres(10, 32)

        def loss(x, batch, context):
            targets = losses.class_centres(jax.random.key(0), batch["label"], centres)
            return jnp.mean(losses.central_similarity(x, targets)), {}

        method = methods.supervised(network, loss, quantizers.BinaryCodec(32))

    A codec with codebooks is fitted to the training set's embeddings:

        def fit(key, x, mask):
            books = product.fit_codebooks(key, x, num_codebooks=4, num_codewords=256, mask=mask)
            return quantizers.ProductCodec(books)

        method = methods.supervised(network, loss, fit, min_rows=256)

    The loss sees the network's output as it is, and the same output is encoded: an activation that
    changes more than the scale belongs to the network. Losses with trained weights or a table of
    their own take `supervised_with_arrays`.

    Args:
      network: Inputs -> [B, D].
      loss: `(x, batch, context) -> (scalar, metrics)`, see `EmbeddingLoss`.
      codec: A codec, or a function `(key, x, mask) -> Codec` that fits one, see `FitCodec`.
      inputs: Selects the network's input: `images`, `features` or a function of the batch.
      refit_every: Epochs between two fits of a fitted codec. It is also fitted after the last
        epoch. The loss never sees the codec, so fits before the end only serve validation.
      min_rows: Fewest training rows that the codec can be fitted to, such as K codewords.

    Returns:
      The method; params {"net"}, state {"nets"}, and with a fitted codec "codec" and "fitted".

    Raises:
      ValueError: if the network or the codec is of another type; when traced, if the loss or the
        codec's function returns something else than it must.
    """

    def with_no_arrays(x, batch, context, params, state):
        del params
        value, metrics = _pair("(scalar, metrics)", loss(x, batch, context))
        return value, (state, metrics)

    return _method(network, with_no_arrays, codec, None, inputs, refit_every, min_rows)


def supervised_with_arrays(
    network: Network,
    init_loss: InitLoss,
    loss: ArraysLoss,
    codec: Codec | FitCodec | TrainedCodec,
    *,
    inputs: Inputs = images,
    refit_every: int = 1,
    min_rows: int = 1,
) -> Method:
    """Builds a method like `supervised`, for a loss with trained weights or tables.

    GreedyHash, for example, trains a classifier of the signs; its optimizers are
    `{"net": ..., "loss": ...}`:

        def init_loss(key, batch, num_rows):
            return jax.random.normal(key, (batch["label"].shape[1], 32)), {}

        def loss(x, batch, context, weights, state):
            value = jnp.mean(losses.greedy_hash(x, batch["label"], weights))
            return value, (state, {})

    DPSH compares a batch with a table of the latest outputs of all training rows, which it writes
    at `batch["index"]`:

        def init_loss(key, batch, num_rows):
            return {}, {"x": jnp.zeros((num_rows, 32)), "label": jnp.zeros((num_rows, 10))}

        def loss(x, batch, context, params, table):
            rows = context.gather(batch["index"])
            new = {"x": jax.lax.stop_gradient(x), "label": batch["label"]}
            table = {name: table[name].at[rows].set(context.gather(new[name])) for name in new}
            similar = labels.share_label(batch["label"], table["label"])
            return jnp.mean(losses.pairwise_likelihood(x, table["x"], similar)), (table, {})

    Args:
      network: Inputs -> [B, D].
      init_loss: `(key, batch, num_rows) -> (params, state)`, see `InitLoss`.
      loss: `(x, batch, context, params, state) -> (scalar, (state, metrics))`, see `ArraysLoss`.
      codec: See `supervised`; or a `TrainedCodec` of the loss's own arrays.
      inputs: See `supervised`.
      refit_every: See `supervised`.
      min_rows: See `supervised`.

    Returns:
      The method; params {"net", "loss"}, state {"nets", "loss"}, and with a fitted codec "codec"
      and "fitted".

    Raises:
      ValueError: see `supervised`.
    """
    due = "(scalar, (state, metrics))"

    def checked(*arguments):
        value, rest = _pair(due, loss(*arguments))
        return value, _pair(due, rest)

    return _method(network, checked, codec, init_loss, inputs, refit_every, min_rows)


def without_weights(method: Method) -> Method:
    """Removes the entry "loss" of params from a method of `supervised_with_arrays`.

    A loss that keeps arrays and trains none of them then needs no optimizer for them; it gets None
    in place of its params.
    """

    def init(key, batch, num_rows):
        params, state = method.init(key, batch, num_rows)
        # An optimizer is due for each entry of params, also for an empty one.
        return {"net": params["net"]}, state

    (phase,) = method.phases
    return method._replace(init=init, phases=(phase._replace(trains=("net",)),))


def _method(network, loss, codec, init_loss, inputs, refit_every, min_rows):
    _check(network, codec, refit_every)
    fit = codec if callable(codec) else None
    forward = functools.partial(_forward, network, inputs)
    embed = functools.partial(_embed, forward)
    # Without arrays there is no entry "loss", and so no optimizer to ask of the user.
    trains = ("net",) if init_loss is None else ("net", "loss")
    init = functools.partial(_init, network, inputs, embed, init_loss, fit)
    phases = (Phase(name="joint", loss=functools.partial(_loss, forward, loss), trains=trains),)
    # A fixed codec needs no refresh, and exists before training.
    if fit is None:
        return Method(
            init=init, phases=phases, embed=embed, codec=functools.partial(_unfitted_codec, codec)
        )
    plan = Refresh(
        collect=embed,
        update=functools.partial(_update, fit),
        every=refit_every,
        start=refit_every,
        at_end=True,
        min_rows=min_rows,
    )
    return Method(
        init=init,
        phases=phases,
        embed=embed,
        codec=functools.partial(_fitted_codec, plan),
        refresh=plan,
    )


def _forward(network, inputs, params, state, batch, **options):
    x, net_state = network.apply(params["net"], state["nets"]["net"], inputs(batch), **options)
    if x.ndim != 2:
        raise InputError(f"the network must return [B, D], got {shown(x)}")
    return x, {"net": net_state}


def _embed(forward, params, state, batch):
    return forward(params, state, batch, train=False)[0]


def _init(network, inputs, embed, init_loss, fit, key, batch, num_rows):
    net_params, net_state = network.init(key, inputs(batch))
    params: dict[str, Any] = {"net": net_params}
    state: dict[str, Any] = {"nets": {"net": net_state}}
    if init_loss is not None:
        # Folded in, not split: the network starts alike with and without a loss with arrays.
        loss_key = jax.random.fold_in(key, 1)
        params["loss"], state["loss"] = init_loss(loss_key, batch, num_rows)
    if fit is not None:
        # The state's shapes must not change later, so it holds an empty codec from the start.
        width = jax.eval_shape(embed, params, state, batch).shape[1]
        state["codec"], state["fitted"] = _empty(fit, num_rows, width), jnp.asarray(False)
    return params, state


def _loss(forward, loss, params, state, batch, context):
    x, nets = forward(params, state, batch, train=True, key=context.key)
    own = params.get("loss"), state.get("loss")
    # Losses without arrays ignore both, so that a single phase serves either kind.
    value, (new, metrics) = loss(x, batch, context, *own)
    state = {**state, "nets": nets}
    return value, ({**state, "loss": new} if "loss" in state else state, metrics)


def _update(fit, key, params, state, rows, mask):
    return params, {**state, "codec": fit(key, rows, mask), "fitted": jnp.asarray(True)}


def _unfitted_codec(codec, params, state):
    trained = isinstance(codec, TrainedCodec)
    return codec.build(params.get("loss"), state.get("loss")) if trained else codec


def _fitted_codec(plan, params, state):
    del params
    plan.check_fitted(state["fitted"])
    return state["codec"]


def _check(network, codec, refit_every):
    check_network(network)
    # A codec class in place of a codec is callable too, and would be taken for a function.
    known = callable(codec) or hasattr(codec, "num_bytes") or isinstance(codec, TrainedCodec)
    if isinstance(codec, type) or not known:
        raise InputError(
            "codec must be a codec, such as quantizers.BinaryCodec(32), or a function (key, x, "
            f"mask) -> codec, got {codec!r:.80}"
        )
    if refit_every < 1:
        raise InputError(f"refit_every must be 1 or more, got {refit_every}")


def _empty(fit, num_rows, width):
    """Returns a codec of zeros in the shapes of a fitted codec."""
    x = jax.ShapeDtypeStruct((num_rows, width), jnp.float32)
    mask = jax.ShapeDtypeStruct((num_rows,), bool)
    # Traced without values, so that nothing is fitted for the sake of shapes.
    found = jax.eval_shape(fit, jax.random.key(0), x, mask)
    if not hasattr(found, "num_bytes"):
        raise InputError(
            f"the codec's function must return a codec, got {shown(found)}; write such as "
            "quantizers.ProductCodec(codebooks)"
        )
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)


def _pair(due, result):
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise InputError(f"the loss must return {due}, got {shown(result)}")
    return result
