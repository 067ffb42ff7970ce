"""Builds the optimization step of a phase, and runs the refresh between epochs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from quantjax.batch import Batch, Collectives
from quantjax.data import embedding
from quantjax.errors import NonFiniteError
from quantjax.methods.base import Context, Phase
from quantjax.run import parallel, sealing
from quantjax.train.experiment import Experiment, TrainState, key


def make_step(
    experiment: Experiment, phase: Phase, *, skip_non_finite: bool = False
) -> parallel.Step:
    """Builds the optimization step of a phase, for `run.parallel.sharded_step` or `pmapped_step`.

    Args:
      experiment: Gives optimizers and seed.
      phase: Its loss and the entries it trains.
      skip_non_finite: Whether a step whose loss, gradient, new params or new state are not finite
        changes nothing but the number of the step. Its metric "skipped" is 1, and 0 otherwise.

    Returns:
      `(train_state, batch, *, collectives) -> (train_state, metrics)`; metrics are scalars and
      hold at least "loss", "grad_norm" and "leaf", the number of the first array that is not finite
      among `leaf_names`, or -1. Equal arguments give the same function, which compiles only once.
    """
    optimizers = tuple(experiment.optimizers.items())
    return _step(phase, experiment.method.after_step, optimizers, experiment.seed, skip_non_finite)


@parallel.shared
def _step(phase, after_step, optimizers, seed, skip_non_finite):
    optimizer_of = dict(optimizers)

    def step(train_state: TrainState, batch: Batch, *, collectives: Collectives):
        # Keys depend on the step alone, so that a resumed run draws what the first run would have.
        context = Context(
            key=key(seed, "step", train_state.step),
            step=train_state.step,
            epoch=train_state.epoch,
            gather=collectives.gather,
            mean=collectives.mean,
        )
        params, opt = dict(train_state.params), dict(train_state.opt)

        def loss_of(trained):
            return phase.loss({**params, **trained}, train_state.state, batch, context)

        # Only the entries in `trains` are differentiated: the others stay bit-equal.
        trained = {name: params[name] for name in phase.trains}
        (loss, (state, metrics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained)
        loss, metrics, gradients = collectives.mean((loss, metrics, gradients))
        # One norm for each array: a norm that is not finite names the array at fault.
        squares = [optax.tree.norm(leaf, squared=True) for leaf in jax.tree.leaves(gradients)]
        metrics = {"loss": loss, "grad_norm": jnp.sqrt(sum(squares)), **metrics}
        # Each entry has its own optimizer, because a phase may train one entry and not another.
        for name, gradient in gradients.items():
            updates, opt[name] = optimizer_of[name].update(gradient, opt[name], params[name])
            params[name] = optax.apply_updates(params[name], updates)
        if after_step is not None:
            params, state = after_step(params, state)
        after = train_state._replace(params=params, state=state, opt=opt)
        finite = [jnp.isfinite(square) for square in squares]
        if skip_non_finite:
            finite += finite_leaves((params, state))
            usable = all_finite((loss, metrics["grad_norm"])) & jnp.all(jnp.stack(finite))
            # Selected on device: a branch on the host would wait for every step.
            after = jax.tree.map(lambda new, old: jnp.where(usable, new, old), after, train_state)
            metrics["skipped"] = 1.0 - usable
        # argmin finds the first False. If it is the False appended here, all arrays are finite.
        first = jnp.argmin(jnp.stack([*finite, jnp.array(False)]))
        metrics["leaf"] = jnp.where(first == len(finite), -1, first)
        return after._replace(step=train_state.step + 1), metrics

    return step


def leaf_names(
    train_state: TrainState, phase: Phase, *, skip_non_finite: bool = False
) -> list[str]:
    """Returns the names of the arrays that the metric "leaf" of a phase's step numbers.

    Args:
      train_state: Any state of the run.
      phase: The step's phase.
      skip_non_finite: The option of `make_step`.

    Returns:
      Names such as "the gradient of net/dense/kernel"; with `skip_non_finite` also names of the new
      params and state.
    """
    trained = {name: train_state.params[name] for name in phase.trains}
    names = [f"the gradient of {path}" for path in paths(trained)]
    if skip_non_finite:
        parts = {"params": train_state.params, "state": train_state.state}
        names += [path.replace("/", " ", 1) for path in paths(parts)]  # params net/dense/kernel
    return names


def paths(tree: Any) -> list[str]:
    """Returns the path of every floating array of a pytree, such as "net/dense/kernel"."""
    return [
        name
        for name, leaf in sealing.by_path(tree).items()
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]


def finite_leaves(tree: Any) -> list[jax.Array]:
    """Returns whether each floating array is finite, in the order of `paths`."""
    return [
        jnp.all(jnp.isfinite(leaf))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]


def all_finite(tree: Any) -> jax.Array:
    """Returns whether all numbers of a pytree are finite, [] bool; True for an empty pytree."""
    return jnp.all(jnp.stack([jnp.array(True), *finite_leaves(tree)]))


_all_finite, _finite_leaves = jax.jit(all_finite), jax.jit(finite_leaves)


def check_finite(train_state: TrainState, step: int) -> None:
    """Raises NonFiniteError, naming the first array, if params or state hold NaN or infinity.

    Args:
      train_state: The state to check.
      step: Its step, for the message.
    """
    parts = {"params": train_state.params, "state": train_state.state}
    # One flag for all arrays first: a flag for each array costs many small transfers.
    if _all_finite(parts):
        return
    wrong = [
        path.replace("/", " ", 1)  # params net/dense/kernel
        for path, finite in zip(paths(parts), _finite_leaves(parts), strict=True)
        if not finite
    ]
    others = f" and {len(wrong) - 1} other arrays are" if len(wrong) > 1 else " is"
    raise NonFiniteError(f"{wrong[0]}{others} not finite at step {step}")


def refresh(
    experiment: Experiment, train_state: TrainState, *, epoch: int, mesh: Mesh
) -> TrainState:
    """Runs a method's refresh: collects values of all training rows, then updates params and state.

    Args:
      experiment: Its method must have a `refresh`.
      train_state: The current state.
      epoch: Epoch that begins with this refresh, or num_epochs for the last refresh; it chooses the
        random key.
      mesh: From `run.parallel.data_mesh`.

    Returns:
      The state with params and state updated; rewritten entries have a new optimizer state.
    """
    plan, splits = experiment.method.refresh, experiment.splits
    assert plan is not None
    params, state = train_state.params, train_state.state
    # Computed again for all rows: values kept from training steps belong to older parameters.
    rows = embedding.apply_to_rows(
        plan.collect,
        params,
        state,
        splits.source,
        splits.train,
        preprocess=experiment.preprocess,
        mesh=mesh,
    )
    length = embedding.table_length(len(splits.train), mesh)
    mask = np.arange(length)[parallel.local_rows(mesh, length)] < len(splits.train)
    mask = parallel.put_rows(mesh, {"mask": mask})["mask"]
    refresh_key = key(experiment.seed, "refresh", epoch)
    update = _updater(plan.update, mesh, embedding.padded_length(len(splits.train)))
    params, state = update(refresh_key, params, state, rows, mask)
    opt = dict(train_state.opt)
    # Replaced arrays start without momentum: the old momentum belongs to the old arrays.
    for name in plan.rewrites:
        init = jax.jit(experiment.optimizers[name].init, out_shardings=parallel.replicated(mesh))
        opt[name] = init(params[name])
    return train_state._replace(params=params, state=state, opt=opt)


@parallel.shared
def _updater(update, mesh, num_rows):
    # A compiled update keeps the shardings of its first call.
    of_table = _on_table(update, mesh, num_rows)
    return parallel.keep_shardings(of_table, lambda key, params, state, *_: (params, state))


def _on_table(update, mesh, num_rows):
    """Lets an update take rows that are padded for the mesh, of which it sees `num_rows`."""

    def cut(x):
        # The update is the same on any number of devices. An array whose rows the devices cannot
        # share evenly exists only inside of a program.
        return jax.lax.with_sharding_constraint(x[:num_rows], parallel.by_rows(mesh))

    return lambda key, params, state, *rows: update(key, params, state, *jax.tree.map(cut, rows))
