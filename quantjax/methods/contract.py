"""Checks the arguments and results of a method's functions by shape, before compilation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantjax.batch import Collectives, first_view, over_views
from quantjax.errors import InputError, few
from quantjax.methods.base import Context, Method, Phase, Refresh

TAKEN = ("step", "epoch", "phase", "loss", "grad_norm", "skipped", "leaf")
"""Names in log records that `train.fit` uses itself, so that no metric may have them."""


def check(
    method: Method,
    batch: dict[str, Any],
    num_rows: int,
    num_epochs: int,
    *,
    training_batch: dict[str, Any] | None = None,
) -> None:
    """Raises ValueError if a method's functions do not return what the training loop needs.

    Every function is traced once with `jax.eval_shape`; nothing is computed or compiled. The codec
    alone, which may look at values, is built from arrays of zeros and of ones.

    Args:
      method: The method to check.
      batch: Batch for `init`, `embed` and `collect`, [B, ...] or views [B, V, ...]: arrays, or
        `jax.ShapeDtypeStruct`s.
      num_rows: Training rows padded to a multiple of 1,024, as `init` gets them.
      num_epochs: `phase_at` is called for each.
      training_batch: Batch for a loss, if it differs. A column "index" is added if missing.

    Raises:
      ValueError: if a function returns something else than `Method`, `Phase` and `Refresh` say;
        the message names the function, the phase, and the entry or metric. Errors that a function
        raises itself pass through, with a note that names the function.
    """
    _check_fields(method)
    _check_epochs(method, num_epochs)
    training_batch = batch if training_batch is None else training_batch
    batch, training_batch = (jax.tree.map(_abstract, each) for each in (batch, training_batch))
    # Shapes alone are traced from here on, so that a check of a large network costs no memory.
    size = next(iter(batch.values())).shape[0]
    rows = {"index": jax.ShapeDtypeStruct((size,), jnp.int32)}
    parts = _check_init(method, batch, num_rows)
    batch = {"mask": jax.ShapeDtypeStruct((size,), bool), **batch}
    for phase in method.phases:
        _check_trains(phase, parts[0])
        _check_loss(phase, parts, {**rows, **training_batch})
    if method.after_step is not None:
        _traced("after_step", _keeping("after_step", method.after_step, parts), *parts)
    width = _check_embed(method, parts, batch, size)
    _check_codec(method, parts, jax.ShapeDtypeStruct((size, width), jnp.float32))
    if method.refresh is not None:
        _check_refresh(method.refresh, parts, batch, size, num_rows)


def _check_fields(method):
    # Callables first: the later checks call them, and would fail far from the mistake.
    for name, value in method._asdict().items():
        optional = name == "after_step" and value is None
        if name not in ("phases", "refresh") and not callable(value) and not optional:
            raise InputError(f"the method's {name} must be a function, got {value!r}")
    if method.refresh is not None and not isinstance(method.refresh, Refresh):
        raise InputError(f"the method's refresh must be a Refresh or None, got {method.refresh!r}")
    phases = method.phases
    # A Phase is itself a tuple, so that the common slip of a missing comma needs its own message.
    if isinstance(phases, Phase):
        raise InputError(
            f"phases must be a tuple of Phase, got the phase {phases.name!r} alone; write (phase,)"
        )
    if not isinstance(phases, tuple) or not phases:
        raise InputError(f"phases must be a tuple of one Phase or more, got {phases!r:.80}")
    for number, phase in enumerate(phases):
        if not isinstance(phase, Phase):
            raise InputError(f"phases must be a tuple of Phase, got {phase!r:.80} at {number}")
        if not callable(phase.loss):
            raise InputError(f"phase {phase.name!r}: loss must be a function, got {phase.loss!r}")
    # Records and plots tell phases apart by name.
    names = [phase.name for phase in phases]
    if len({*names}) < len(names):
        raise InputError(f"phases must have names of their own, got {', '.join(map(str, names))}")


def _check_epochs(method, num_epochs):
    # Every epoch is asked now, not when it comes: a long run must not fail in its last epochs.
    count = len(method.phases)
    for epoch in range(num_epochs):
        given = method.phase_at(epoch)
        # A bool is an index too, as in `epoch >= 10`.
        if not (isinstance(given, int | np.integer) and 0 <= given < count):
            raise InputError(
                f"phase_at({epoch}) must be the index of a phase, 0 to {count - 1}, got {given!r}"
            )


def _check_init(method, batch, num_rows):
    """Returns the shapes of (params, state), after checking that params are entries by name."""

    def start(key, batch):
        return _pair("init", method.init(key, first_view(batch), num_rows))

    params, state = _traced("init", start, jax.random.key(0), batch)
    if not isinstance(params, dict) or not all(isinstance(name, str) for name in params):
        raise InputError(
            f"init must return params as a dict of entries by name, got {type(params).__name__}"
        )
    return params, state


def _check_trains(phase, params):
    trains = phase.trains
    if not isinstance(trains, tuple):
        hint = f"; write ({trains!r},)" if isinstance(trains, str) else ""
        raise InputError(
            f"phase {phase.name!r}: trains must be a tuple of entries of params, got "
            f"{trains!r}{hint}"
        )
    unknown = [name for name in trains if name not in params]
    if unknown:
        raise InputError(
            f"phase {phase.name!r}: trains names {few(map(repr, unknown))}, which is no entry "
            f"of params; there are {few(sorted(params), most=10)}"
        )
    # `jax.grad` would raise too, but without the name of the array.
    for path, leaf in _leaves({name: params[name] for name in trains}).items():
        if isinstance(leaf, jax.ShapeDtypeStruct) and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise InputError(
                f"phase {phase.name!r}: trains {path}, which is {shown(leaf)} and has no "
                "gradient; keep it in state"
            )


def _check_loss(phase, parts, batch):
    where = f"phase {phase.name!r}"

    def run(key, step, params, state, batch):
        plain = Collectives()
        context = Context(key=key, step=step, epoch=step, gather=plain.gather, mean=plain.mean)
        result = phase.loss(params, state, batch, context)
        value, rest = _pair(f"{where}: the loss", result, "(scalar, (state, metrics))")
        state, metrics = _pair(f"{where}: the loss", rest, "(scalar, (state, metrics))")
        if not _is_scalar(value) or not jnp.issubdtype(_abstract(value).dtype, jnp.floating):
            raise InputError(
                f"{where}: the loss must be a floating scalar, got {shown(value)}; take the mean"
            )
        # The compiled step takes its own result: a state of another shape would compile anew each
        # step.
        _check_same(f"{where}: the loss", "state", parts[1], state)
        _check_metrics(where, metrics)
        return value

    # The step is traced like in training, so that a loss that branches on it in Python fails here.
    number = jax.ShapeDtypeStruct((), jnp.int32)
    _traced(f"the loss of {where}", run, jax.random.key(0), number, *parts, batch)


def _check_metrics(where, metrics):
    if not isinstance(metrics, dict):
        raise InputError(
            f"{where}: metrics must be a dict of scalars by name, got {shown(metrics)}"
        )
    for name, value in metrics.items():
        # A metric of the same name would overwrite what the loop writes into the record.
        if not isinstance(name, str) or name in TAKEN:
            raise InputError(
                f"{where}: a metric must have a name of its own, a text other than "
                f"{', '.join(TAKEN)}; got {name!r}"
            )
        if not _is_scalar(value):
            raise InputError(f"{where}: metric {name!r} must be a scalar, got {shown(value)}")


def _check_embed(method, parts, batch, size):
    widths = {}
    for name, function in (("embed", method.embed), ("embed_query", method.embed_query)):
        # A symmetric method has one function for both sides: checked once.
        if name == "embed_query" and function is method.embed:
            break

        def run(params, state, batch, name=name, function=function):
            # As the embedding of a split calls it, which folds views and averages them.
            out = over_views(function)(params, state, batch)
            due = _is_array(out) and len(out.shape) == 2 and out.shape[0] == size
            if not due or not jnp.issubdtype(out.dtype, jnp.floating):
                raise InputError(f"{name} must return [{size}, D] floating, got {shown(out)}")
            return out

        widths[name] = _traced(name, run, *parts, batch).shape[1]
    if len({*widths.values()}) > 1:
        raise InputError(
            f"embed and embed_query must be of one width, got {widths['embed']} and "
            f"{widths['embed_query']}"
        )
    return widths["embed"]


def _check_codec(method, parts, x):
    # The codec may look at values: whether codebooks are fitted. Zeros stand for the start of a
    # run, ones for a run whose flags are all true.
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.extended) for leaf in jax.tree.leaves(parts)):
        return  # random keys are not made from zeros
    for value in (0, 1):
        try:
            codec = method.codec(*_filled(parts, value))
        except ValueError:
            continue
        except Exception as error:
            raise InputError(
                f"codec raised {type(error).__name__}: {error}; it must return a codec, or raise "
                "ValueError before its codebooks exist"
            ) from error
        # A codec is a protocol, so anything with these attributes is welcome.
        lacks = [
            name
            for name in ("metric", "bits", "num_bytes", "encode", "decode", "distances")
            if not hasattr(codec, name)
        ]
        if lacks:
            raise InputError(
                f"codec must return a quantizers.Codec, got {shown(codec)} without {few(lacks)}"
            )
        # Shapes alone: a codec of a large network may be large itself.
        try:
            codes = _traced_codes(codec, x)
        except ValueError as error:
            raise InputError(
                f"the codec does not encode what embed returns, {shown(x)}: {error}"
            ) from error
        if codes.shape != (x.shape[0], codec.num_bytes):
            raise InputError(
                f"the codec must encode {shown(x)} to [{x.shape[0]}, {codec.num_bytes}] uint8, "
                f"got {shown(codes)}"
            )


def _traced_codes(codec, x):
    """Returns the shapes of a codec's codes; its arrays are traced, as ones are no rotation."""
    leaves, structure = jax.tree.flatten(codec)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]

    def encode(arrays, x):
        traced = dict(zip(places, arrays, strict=True))
        whole = structure.unflatten([traced.get(i, leaf) for i, leaf in enumerate(leaves)])
        return whole.encode(x)

    return jax.eval_shape(encode, [leaves[i] for i in places], x)


def _filled(tree, value):
    """Fills a tree's arrays with one value, as broadcast views, so that tables take no memory."""
    return jax.tree.map(lambda x: np.broadcast_to(np.array(value, x.dtype), x.shape), tree)


def _check_refresh(plan, parts, batch, size, num_rows):
    """Traces `collect` on a batch, and `update` on all training rows in the shapes of `collect`."""
    unknown = [name for name in plan.rewrites if name not in parts[0]]
    if isinstance(plan.rewrites, str) or unknown:
        raise InputError(
            f"refresh.rewrites must be a tuple of entries of params, got {plan.rewrites!r}; there "
            f"are {few(sorted(parts[0]), most=10)}"
        )

    def collect(params, state, batch):
        rows = over_views(plan.collect)(params, state, batch)
        for path, leaf in _leaves(rows).items():
            if not _is_array(leaf) or not leaf.shape or leaf.shape[0] != size:
                raise InputError(
                    f"refresh.collect must return arrays [{size}, ...], a row for each of the "
                    f"batch, got {path or 'one'} of {shown(leaf)}"
                )
        return rows

    rows = _traced("refresh.collect", collect, *parts, batch)
    # `update` sees all training rows at once, padded, and not a batch.
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_rows, *x.shape[1:]), x.dtype), rows)
    mask, what = jax.ShapeDtypeStruct((num_rows,), bool), "refresh.update"
    _traced(what, _keeping(what, plan.update, parts), jax.random.key(0), *parts, rows, mask)


def _keeping(what, function, parts):
    """Wraps a function in a check that its result has the structure of params and state."""

    def checked(*arguments):
        found = _pair(what, function(*arguments))
        for name, due, got in zip(("params", "state"), parts, found, strict=True):
            _check_same(what, name, due, got)

    return checked


def _check_same(what, name, due, got):
    """Raises ValueError if params or a state lost, gained or changed an entry."""
    there, here = _leaves(due), _leaves(got)
    # Paths are compared before the structures: a message with a path tells where to look.
    lost = [path for path in there if path not in here]
    if lost:
        raise InputError(
            f"{what} returned a {name} without {few(lost)}; return every entry of it, as in "
            f"{{**{name}, ...}}"
        )
    gained = [path for path in here if path not in there]
    if gained:
        raise InputError(f"{what} returned a {name} with {few(gained)}, which init does not make")
    for path, leaf in there.items():
        if shown(leaf) != shown(here[path]):
            raise InputError(
                f"{what} returned {name} {path} as {shown(here[path])}, due is {shown(leaf)}"
            )
    # Equal leaves in another container, such as a tuple in place of a list, are another pytree.
    if jax.tree.structure(due) != jax.tree.structure(got):
        raise InputError(
            f"{what} returned a {name} of another structure: {jax.tree.structure(got)!s:.120}, "
            f"due is {jax.tree.structure(due)!s:.120}"
        )


def _pair(what, result, due="(params, state)"):
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise InputError(f"{what} must return {due}, got {shown(result)}")
    return result


def _traced(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the shapes of a function's result; adds the function's name to its errors."""
    try:
        return jax.eval_shape(function, *arguments)
    except InputError:
        raise
    except Exception as error:
        # The usual mistake: a network's apply without `train` or `key`.
        unexpected = "unexpected keyword argument"
        if isinstance(error, TypeError) and any(
            f"{unexpected} '{name}'" in str(error) for name in ("train", "key")
        ):
            raise InputError(
                f"{what}: a network's apply must be (params, net_state, x, *, train, key=None), "
                f"got one that says: {error}"
            ) from error
        error.add_note(f"raised in {what}, whose shapes were checked before anything is compiled")
        raise


def _leaves(tree):
    """Returns leaves by path; an empty container counts as a leaf, so that its loss is noticed."""
    found = jax.tree.leaves_with_path(
        tree, is_leaf=lambda x: x is None or (isinstance(x, dict | list | tuple) and not x)
    )
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


def _abstract(leaf):
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    dtype = leaf.dtype if isinstance(leaf, jax.Array) else jnp.result_type(leaf)
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype)


def _is_array(leaf):
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic)


def _is_scalar(leaf):
    return (_is_array(leaf) or isinstance(leaf, bool | int | float)) and np.shape(leaf) == ()


def shown(value):
    """Formats a value for a message: float32[64,8] for an array, else its type."""
    if _is_array(value) or isinstance(value, bool | int | float):
        abstract = _abstract(value)
        return f"{abstract.dtype.name}[{','.join(map(str, abstract.shape))}]"
    if isinstance(value, tuple | list) and 0 < len(value) < 5:
        return f"a {type(value).__name__} of {', '.join(map(shown, value))}"
    return f"a {type(value).__name__}" if value is not None else "None"
