"""Several processes search as one."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import index
from quantjax.quantizers import ProductCodec
from tests import programs, searching


@pytest.mark.slow
@pytest.mark.parametrize("count", [501, 3])  # some devices have no rows of 3
def test_two_processes_find_what_one_finds(count, rng, tmp_path):
    x = np.float16(rng.normal(size=(count, 16)))
    x[count // 2 :] = x[: count - count // 2]  # equal distances on both processes
    codec = ProductCodec(jnp.asarray(rng.normal(size=(4, 16, 4)), jnp.float32))
    codes = np.asarray(codec.encode(jnp.asarray(x, jnp.float32)))
    index.save(tmp_path, codec, codes, ids=2**40 + np.arange(count), vectors=x)
    np.save(tmp_path / "queries.npy", np.float32(rng.normal(size=(11, 16))))
    due = searching.found(tmp_path, None)
    programs.run(tmp_path, program="searching", processes=2, devices=2)
    for process in range(2):
        found = np.load(tmp_path / f"found{process}.npz")
        assert found.keys() == due.keys()
        for name in due:
            np.testing.assert_array_equal(found[name], due[name], err_msg=name)
