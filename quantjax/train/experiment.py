"""Defines `Experiment`, the input of `fit`, and `TrainState`, the state that training changes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from quantjax import methods
from quantjax.arrays import can_be_seen
from quantjax.batch import Augment, Batch, Preprocess, columns_with_views, first_view
from quantjax.data import embedding
from quantjax.data.batches import Sampler
from quantjax.data.protocols import Splits
from quantjax.errors import InputError
from quantjax.methods.base import Method
from quantjax.run import parallel


def _no_augment(key, batch):
    del key
    return batch


def _no_preprocess(batch):
    return batch


class Experiment(NamedTuple):
    """Input of `fit`: a method, data splits, optimizers and all further objects of a run.

    Attributes:
      name: Name in results and in the default workdir.
      method: See `methods.Method`.
      splits: Data source, and the rows of each split.
      sampler: `(seed, epoch) -> positions in splits.train, [steps, B]`, or [steps, B, V] for V
        views of a row; the number of steps is the same in every epoch.
      optimizers: One optax transformation per entry of params.
      num_epochs: Number of passes over the training set.
      batch_size: B, the rows of a batch on all devices together.
      seed: Seed of all randomness.
      augment: `(key, batch) -> batch` on device, training only, on batches as the source gives
        them; by default nothing is changed.
      preprocess: `batch -> batch` on device, for every batch: in training after `augment`, and for
        embedding, refresh and evaluation. If it makes several views of an image, training uses the
        first view. By default nothing is changed.
      config: The settings that built the experiment (JSON), or None. A workdir keeps the settings,
        and an experiment with other settings raises ValueError there.
      licence: Text of the licence of published weights that the network starts from, or None.
    """

    name: str
    method: Method
    splits: Splits
    sampler: Sampler
    optimizers: dict[str, optax.GradientTransformation]
    num_epochs: int
    batch_size: int
    seed: int
    augment: Augment = _no_augment
    preprocess: Preprocess = _no_preprocess
    config: dict[str, Any] | None = None
    licence: str | None = None

    def __repr__(self) -> str:
        phases = ", ".join(phase.name for phase in self.method.phases)
        return (
            f"<Experiment {self.name!r}: {self.num_epochs} epochs in batches of {self.batch_size}, "
            f"seed {self.seed}, phases {phases}; {self.splits!r}>"
        )


class TrainState(NamedTuple):
    """State of training, as a pytree: everything that a checkpoint holds.

    Attributes:
      step: Steps taken, [] int32.
      epoch: The last epoch that has begun, its refresh included, [] int32: -1 at first, num_epochs
        when the run is complete.
      params: Arrays with a gradient, by entry, such as "net" or "codebooks".
      state: Arrays that change without a gradient, see `methods.Method`.
      opt: Optimizer state of each entry of params.
    """

    step: jax.Array
    epoch: jax.Array
    params: Any
    state: Any
    opt: dict[str, optax.OptState]

    def __repr__(self) -> str:
        sizes = [getattr(leaf, "size", 0) for leaf in jax.tree.leaves(self.params)]
        epoch, step = (getattr(part, "item", lambda: "?") for part in (self.epoch, self.step))
        return f"<TrainState at step {step()}, epoch {epoch()}: {sum(sizes):,} parameters>"


def initialize(experiment: Experiment, mesh: Mesh | None = None) -> TrainState:
    """Returns the train state before the first step, replicated over the mesh.

    Args:
      experiment: The experiment to run.
      mesh: From `run.parallel.data_mesh`; all devices when None.

    Returns:
      The state of step 0.

    Raises:
      ValueError: if the optimizers' names are not those of the params.
    """
    source, rows = experiment.splits.source, experiment.splits.train
    random_key = key(experiment.seed, "init")
    # The arguments are passed one by one: equal parts of two experiments share one program.
    start = _starter(
        experiment.method.init,
        experiment.preprocess,
        tuple(experiment.optimizers.items()),
        embedding.padded_length(len(rows)),
        parallel.data_mesh() if mesh is None else mesh,
        can_be_seen(random_key),
    )
    # `init` needs only shapes and types, and two rows are cheap to read from every source.
    return start(random_key, source[rows[:2]])


@parallel.shared
def _starter(init, preprocess, optimizers, num_rows, mesh, outermost):
    named = dict(optimizers)

    def start(key, batch):
        params, state = init(key, first_view(preprocess(batch)), num_rows)
        if params.keys() != named.keys():
            raise InputError(f"optimizers must be given for {sorted(params)}, got {sorted(named)}")
        opt = {name: named[name].init(part) for name, part in params.items()}
        return TrainState(
            step=jnp.int32(0), epoch=jnp.int32(-1), params=params, state=state, opt=opt
        )

    # Called once. On a CPU few optimizations give the same bits, and compile three times faster.
    # Inside another program, such as that of `jax.eval_shape`, JAX takes no options.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 1} if on_cpu and outermost else None
    return jax.jit(start, out_shardings=parallel.replicated(mesh), compiler_options=options)


def make_prepare(experiment: Experiment) -> parallel.Prepare:
    """Returns the function that prepares each training batch: `augment`, then `preprocess`.

    Args:
      experiment: Gives both functions and the seed.

    Returns:
      `(train_state, batch) -> batch`, for `run.parallel.sharded_step` or `pmapped_step`. Equal
      functions and seeds give the same function, which compiles only once.
    """
    return _prepare(experiment.augment, experiment.preprocess, experiment.seed)


@parallel.shared
def _prepare(augment, preprocess, seed):
    def prepare(train_state: TrainState, batch: Batch) -> Batch:
        augmented = augment(key(seed, "augment", train_state.step), batch)
        prepared = preprocess(augmented)
        # Views of sampler and augment are for the loss, views of preprocess for embedding only.
        return prepared if columns_with_views(augmented) else first_view(prepared)

    return prepare


def embed(
    experiment: Experiment,
    train_state: TrainState,
    rows: np.ndarray,
    *,
    queries: bool = False,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Returns embeddings of rows of the experiment's source, computed in batches on all devices.

    Args:
      experiment: Method, source and preprocessing.
      train_state: Parameters, from `fit`, `restore` or `initialize`.
      rows: Rows of `experiment.splits.source`, [N] int64.
      queries: Whether the query side of the method embeds, and not the database side.
      mesh: From `run.parallel.data_mesh`; all devices when None.

    Returns:
      Embeddings [N, D] on the host, in every process.

    Raises:
      ValueError: if there are no rows.
    """
    method = experiment.method
    return embedding.embed(
        method.embed_query if queries else method.embed,
        train_state.params,
        train_state.state,
        experiment.splits.source,
        rows,
        preprocess=experiment.preprocess,
        mesh=parallel.data_mesh() if mesh is None else mesh,
    )


def left_out(experiment: Experiment) -> list[str]:
    """Returns warnings about phases and refreshes that a run of this length would skip.

    Args:
      experiment: The experiment to run.

    Returns:
      A line for each phase that takes no step, and a line if no refresh comes before the end.

    Raises:
      ValueError: if the run would end without codes because no refresh makes the codebooks, or for
        the reasons of `check`.
    """
    check(experiment)
    method, plan, num_epochs = experiment.method, experiment.method.refresh, experiment.num_epochs
    reached = {method.phase_at(epoch) for epoch in range(num_epochs)}
    lines = [
        f"phase {phase.name!r} takes no step in {num_epochs} epochs"
        for number, phase in enumerate(method.phases)
        if number not in reached
    ]
    if plan is None or any(plan.due(epoch) for epoch in range(num_epochs)):
        return lines
    if plan.at_end:
        line = f"the refresh (codebooks, codes) comes only at the end of {num_epochs} epochs"
        return [*lines, line]
    # The codec alone knows whether it can do without a refresh; one device is enough to ask it.
    start = initialize(experiment, parallel.data_mesh(jax.local_devices()[:1]))
    try:
        method.codec(start.params, start.state)
    except ValueError as error:
        raise InputError(f"a run of {num_epochs} epochs would end without codes: {error}") from None
    return [*lines, f"no refresh comes in {num_epochs} epochs"]


def check(experiment: Experiment) -> None:
    """Raises ValueError if an experiment cannot be trained, before anything is compiled.

    Args:
      experiment: The experiment to run.

    Raises:
      ValueError: if num_epochs or the seed is negative, the refresh has a negative start or an
        interval below 1, there are fewer training rows than it needs, the sampler's batches do not
        have `batch_size` rows, or the method breaks the contract of `methods.check`.
    """
    for name, value in (("num_epochs", experiment.num_epochs), ("seed", experiment.seed)):
        if value < 0:
            raise InputError(f"{name} must be 0 or more, got {value}")
    plan, rows = experiment.method.refresh, len(experiment.splits.train)
    if plan is not None and (plan.start < 0 or (plan.every is not None and plan.every < 1)):
        raise InputError(
            "the method's refresh must start at epoch 0 or later and come every 1 or more, got "
            f"start {plan.start} and every {plan.every}"
        )
    if plan is not None and rows < plan.min_rows:
        raise InputError(
            f"there are fewer training rows than codewords: {rows} rows, at least "
            f"{plan.min_rows} are due; lower num_codewords or add training images"
        )
    # Only the batches of the first epoch: `fit` checks those of later epochs when it draws them.
    positions = experiment.sampler(experiment.seed, 0)
    if positions.ndim < 2 or positions.shape[1] != experiment.batch_size:
        raise InputError(
            f"the sampler must give positions [steps, {experiment.batch_size}], "
            f"got {positions.shape}"
        )
    _checked(
        experiment.method,
        experiment.preprocess,
        make_prepare(experiment),
        _columns(experiment),
        positions.shape[1:],
        embedding.padded_length(rows),
        experiment.num_epochs,
    )


def _columns(experiment):
    """Returns name, shape and dtype of each column of the source, from its first training row."""
    row = experiment.splits.source[experiment.splits.train[:1]]
    return tuple((name, x.shape[1:], x.dtype) for name, x in row.items())


@parallel.shared
def _checked(method, preprocess, prepare, columns, rows, num_rows, num_epochs):
    """Checks a method, once for equal arguments; `rows` is [B], or [B, V] for samplers of views."""

    # Shapes only: a check of the method must not compile or read a batch.
    def raw(*rows):
        return {
            name: jax.ShapeDtypeStruct((*rows, *shape), dtype) for name, shape, dtype in columns
        }

    number: Any = jax.ShapeDtypeStruct((), jnp.int32)
    start = TrainState(step=number, epoch=number, params=None, state=None, opt={})
    indexed = {**raw(*rows), "index": jax.ShapeDtypeStruct(rows, jnp.int32)}
    methods.check(
        method,
        jax.eval_shape(preprocess, raw(rows[0])),
        num_rows,
        num_epochs,
        training_batch=jax.eval_shape(prepare, start, indexed),
    )


def key(seed: int, stream: str, number: Any = 0) -> jax.Array:
    """Returns the random key of a seed, a stream and a number.

    Args:
      seed: The experiment's seed.
      stream: Purpose of the key: "init", "step", "augment" or "refresh".
      number: Number of the step or the epoch.
    """
    streams = ("init", "step", "augment", "refresh")
    # The order of the streams is part of every run's bits: append, never reorder.
    key = jax.random.fold_in(jax.random.key(seed), streams.index(stream))
    return jax.random.fold_in(key, number)
