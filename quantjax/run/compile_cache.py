"""Caches compiled programs on disk, so that a later process does not compile them again."""

import os
import pathlib

import jax

_SECONDS, _DEFAULT = 0.1, 1.0
"""Seconds: programs that compile faster are not kept. Ours, and JAX's, which keeps few of them."""


def keep_programs() -> None:
    """Turns on JAX's cache of compiled programs in `~/.cache/quantjax`.

    In memory JAX finds a program by the identity of its functions, so an experiment built again
    from the same config would compile again. On disk JAX finds a program by its content. The
    user's settings are kept: JAX_COMPILATION_CACHE_DIR or `jax_compilation_cache_dir` (empty for no
    cache), JAX_ENABLE_COMPILATION_CACHE, and JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "quantjax"))
    name = "jax_persistent_cache_min_compile_time_secs"
    if name.upper() not in os.environ and getattr(jax.config, name, None) == _DEFAULT:
        jax.config.update(name, _SECONDS)
