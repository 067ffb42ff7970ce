"""Searches on the devices of all processes; a test starts `python -m tests.searching`."""

import argparse
import os
import pathlib

import jax
import numpy as np

from quantjax import index
from quantjax.run import connection, parallel


def found(folder, mesh):
    """What searches of an index and of its vectors find, on the devices of a mesh."""
    artefact, queries = index.load(folder), np.load(folder / "queries.npy")
    vectors = np.asarray(artefact.vectors, np.float32)
    parts = {"neighbours": index.true_neighbours(vectors, queries, 3, mesh=mesh)}
    for top_k in (1, 1 + len(vectors) * 3 // 5):  # the second is more than a process holds
        result = index.search(artefact, queries, top_k=top_k, mesh=mesh, engine="own")
        parts |= {f"{name}_{top_k}": np.asarray(x) for name, x in result._asdict().items()}
    return parts


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    options = vars(parser.parse_args())
    workdir = options.pop("workdir")
    jax.config.update("jax_num_cpu_devices", int(os.environ["TOY_DEVICES"]))
    connection.start(**options)
    np.savez(workdir / f"found{jax.process_index()}.npz", **found(workdir, parallel.data_mesh()))
