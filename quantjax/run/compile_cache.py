"""Caches compiled programs on disk, so that a later process does not compile them again."""

import os
import tempfile
import warnings

import jax

from quantjax.errors import InputError
from quantjax.run.paths import user_path

_SECONDS, _DEFAULT = 0.1, 1.0
"""Seconds: programs that compile faster are not kept. Ours, and JAX's, which keeps few of them."""


def keep_programs() -> None:
    """Turns on JAX's cache of compiled programs in `~/.cache/quantjax`.

    In memory JAX finds a program by the identity of its functions, so an experiment built again
    from the same config would compile again. On disk JAX finds a program by its content. The
    user's settings are kept: JAX_COMPILATION_CACHE_DIR or `jax_compilation_cache_dir` (empty for no
    cache), JAX_ENABLE_COMPILATION_CACHE, and JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS. A folder
    that cannot be written, or no home folder, causes a warning, and programs are not kept.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    try:
        folder = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "quantjax"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # can it be written?
    except (OSError, InputError) as error:
        # JAX would warn of each program.
        warnings.warn(
            f"compiled programs are not kept ({error}); set XDG_CACHE_HOME or "
            "JAX_COMPILATION_CACHE_DIR to a folder that can be written",
            stacklevel=2,
        )
        # Empty for no cache, so that the next call warns no more.
        jax.config.update("jax_compilation_cache_dir", "")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    name = "jax_persistent_cache_min_compile_time_secs"
    if name.upper() not in os.environ and getattr(jax.config, name, None) == _DEFAULT:
        jax.config.update(name, _SECONDS)
