"""Defines `Method`, a NamedTuple of pure functions, the training loop's only view of a paper."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from quantjax.batch import Batch
from quantjax.errors import InputError
from quantjax.models.base import Network
from quantjax.quantizers import packing, product


class Inputs(Protocol):
    """Function that selects the network's input from a batch: `images`, `features`, or custom."""

    def __call__(self, batch: Batch, /) -> Any:
        """Returns the input, [B, ...], or a pytree of such arrays.

        Args:
          batch: See `Batch`, after preprocessing.
        """
        ...


def images(batch: Batch) -> jax.Array:
    """Returns the batch's images, [B, H, W, C]; raises ValueError if the batch has no images."""
    return _column(batch, "image")


def features(batch: Batch) -> jax.Array:
    """Returns the batch's column "feature", [B, F]; raises ValueError if the column is missing."""
    return _column(batch, "feature")


def known_labels(batch: Batch) -> jax.Array:
    """Returns the batch's labels, [B, L]; raises ValueError if its source has none.

    A loss that calls it raises when it is traced, which `methods.check` does before training.
    """
    # A source without labels gives a column of no width.
    if "label" not in batch or batch["label"].shape[1] == 0:
        raise InputError(
            "the batch has no labels, and this method learns from labels; take a labelled source, "
            "or a method that needs none, such as methods.deepquan"
        )
    return batch["label"]


def _column(batch, name):
    # A KeyError inside a traced network would name neither the batch nor the choice of inputs.
    if name not in batch:
        raise InputError(
            f"the batch has no {name}, its columns are {', '.join(batch)}; a method takes "
            "inputs=methods.images, inputs=methods.features, or a function of the batch"
        )
    return batch[name]


class Context(NamedTuple):
    """Context of a loss beyond its batch: random key, step, epoch and communication functions.

    Attributes:
      key: Random key of this step, the same on every device.
      step: Steps taken so far, [] int32.
      epoch: Epoch this step belongs to, [] int32.
      gather: See `Collectives`.
      mean: See `Collectives`.
    """

    key: jax.Array
    step: jax.Array
    epoch: jax.Array
    gather: Callable[[jax.Array], jax.Array]
    mean: Callable[[Any], Any]


class Loss(Protocol):
    """Loss function of a phase: runs the networks and returns a scalar for the batch."""

    def __call__(
        self, params: Any, state: Any, batch: Batch, context: Context, /
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Returns `(scalar, (state, metrics))`.

        The scalar is the mean over the rows of this device: `train.fit` averages it, its gradient
        and the metrics over the devices. The returned state has every entry of `state`, with the
        net states that the networks returned; a net state holds, for example, the statistics of
        batch normalisation. The metrics are scalars by name.

        Args:
          params: Every entry of params; those that the phase trains are differentiated.
          state: Arrays without gradient: {"nets": {name: net_state}} and further entries of the
            method.
          batch: See `Batch`; it has "index".
          context: See `Context`.
        """
        ...


class Phase(NamedTuple):
    """Phase of training: a loss and the entries of params that it trains.

    Attributes:
      name: Name in metrics and messages.
      loss: `(params, state, batch, context) -> (scalar, (state, metrics))`, see `Loss`. It returns
        new net states of the networks it trains, and runs the others with train=False.
      trains: Entries of params that are differentiated and updated; the others stay bit-equal.
    """

    name: str
    loss: Loss
    trains: tuple[str, ...]


class Refresh(NamedTuple):
    """Plan of refreshes: passes over the training set that update arrays without gradient.

    Attributes:
      collect: `(params, state, batch) -> pytree of [B, ...]`. Batches are not augmented, and the
        networks run with train=False.
      update: `(key, params, state, rows, mask) -> (params, state)`. `rows` is what `collect` gave
        for all training rows, [num_rows, ...]; row i has "index" i. `mask` is False on padding.
      every: Epochs between two refreshes; None means a single refresh, at `start`.
      start: First epoch that begins with a refresh.
      at_end: Whether a refresh follows the last epoch, so that the codec is up to date.
      rewrites: Entries of params that `update` replaces; their optimizer state starts anew.
      min_rows: Fewest training rows that `update` can work with.
    """

    collect: Callable[..., Any]
    update: Callable[..., tuple[Any, Any]]
    every: int | None
    start: int
    at_end: bool
    rewrites: tuple[str, ...] = ()
    min_rows: int = 1

    def due(self, epoch: int) -> bool:
        """Returns whether an epoch begins with a refresh."""
        if self.every is None:
            return epoch == self.start
        return epoch >= self.start and (epoch - self.start) % self.every == 0

    def check_fitted(self, fitted: jax.Array) -> None:
        """Raises ValueError if no refresh has made the codebooks yet.

        Codebooks begin as zeros, and a codec of zeros would hide that training was too short.

        Args:
          fitted: Whether `update` has run, [] bool.
        """
        if not fitted:
            end = " or the end of training" if self.at_end else ""
            raise InputError(
                f"codebooks do not exist before epoch {self.start}{end}; train longer or refresh "
                "first"
            )


def codebooks_shape(
    dim: int, num_codebooks: int, num_codewords: int, metric: str
) -> tuple[int, int, int]:
    """Returns the shape (M, K, d) of a method's codebooks, after checking its sizes.

    Args:
      dim: D, the embedding's width.
      num_codebooks: M; it must divide dim.
      num_codewords: K, a power of two up to 256.
      metric: "ip", "l2" or "cosine", the codec's distance.

    Raises:
      ValueError: if M does not divide dim, or K or the metric is not allowed.
    """
    # Checked when the method is built: the codebooks may be used hours later for the first time.
    product.check_metric(metric)
    packing.bits_per_codeword(num_codewords)
    if num_codebooks < 1 or dim % num_codebooks:
        raise InputError(
            f"dim must be a multiple of num_codebooks, got dim = {dim} and {num_codebooks} "
            "codebooks"
        )
    return num_codebooks, num_codewords, dim // num_codebooks


def check_network(network: Any) -> None:
    """Raises ValueError if an object is not a `models.Network`."""
    # The usual mistake is a module of flax or another library as it is.
    if not isinstance(network, Network):
        raise InputError(
            f"network must be a models.Network, got a {type(network).__name__}; models.from_nnx, "
            "from_linen, from_equinox and from_haiku make one"
        )


def of_bits(
    network: Network, bits: int, activation: Callable[[jax.Array], jax.Array] = lambda x: x
) -> Network:
    """Returns a network for codes of signs: its output is checked, then an activation applied.

    Args:
      network: Inputs -> [B, bits].
      bits: Length of a code.
      activation: Function of the output that keeps the signs, such as tanh.

    Raises:
      ValueError: if bits is below 1; and when the network first runs, if its output has another
        width.
    """
    check_network(network)
    if bits < 1:
        raise InputError(f"bits must be 1 or more, got {bits}")

    def apply(params, net_state, x, **options):
        y, net_state = network.apply(params, net_state, x, **options)
        if y.shape[1:] != (bits,):
            raise InputError(f"the network must return [B, {bits}], got {y.shape}")
        return activation(y), net_state

    return Network(network.init, apply)


def first_phase(epoch: int) -> int:
    """Returns 0, the index of the first phase, for every epoch."""
    del epoch
    return 0


# A NamedTuple cannot define `__new__`, so `Method` inherits its fields and defines it.
class _MethodFields(NamedTuple):
    init: Callable[..., tuple[Any, Any]]
    phases: tuple[Phase, ...]
    phase_at: Callable[[int], int]
    embed: Callable[..., jax.Array]
    embed_query: Callable[..., jax.Array]
    codec: Callable[..., Any]
    refresh: Refresh | None
    after_step: Callable[..., tuple[Any, Any]] | None


class Method(_MethodFields):
    """Method of a paper: initialization, losses by phase, embedding functions and codec.

    All fields are given by keyword.

    Attributes:
      init: `(key, batch, num_rows) -> (params, state)`. `params` is a dict; each of its entries
        belongs to one network or holds other trained arrays. `state` is {"nets": {name: net_state}}
        and further entries of the method. `num_rows` counts the training rows padded to a multiple
        of 1,024.
      phases: The phases of training.
      phase_at: Epoch -> index of its phase; by default all epochs belong to the first phase.
      embed: `(params, state, batch) -> [B, D]`, embeddings of the database.
      embed_query: The same for queries; by default `embed`, for a symmetric paper.
      codec: `(params, state) -> codec`, such as a `quantizers.ProductCodec`; it raises ValueError
        while the codebooks do not exist yet.
      refresh: See `Refresh`.
      after_step: `(params, state) -> (params, state)` after every step, or None.
    """

    __slots__ = ()

    def __new__(
        cls,
        *,
        init: Callable[..., tuple[Any, Any]],
        phases: tuple[Phase, ...],
        embed: Callable[..., jax.Array],
        codec: Callable[..., Any],
        phase_at: Callable[[int], int] = first_phase,
        embed_query: Callable[..., jax.Array] | None = None,
        refresh: Refresh | None = None,
        after_step: Callable[..., tuple[Any, Any]] | None = None,
    ):
        """Builds the method from keywords; `embed_query` defaults to `embed`. See the class."""
        # The function itself: JAX shares compiled programs only between identical functions.
        query = embed if embed_query is None else embed_query
        return super().__new__(
            cls, init, phases, phase_at, embed, query, codec, refresh, after_step
        )

    def __getnewargs_ex__(self):
        # For copy and pickle: `__new__` takes keywords only.
        return (), self._asdict()
