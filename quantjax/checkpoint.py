"""Checkpoints of the train state: asynchronous, atomic, restored onto the present mesh."""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Generator
from typing import Any

import jax
import orbax.checkpoint as ocp


@dataclasses.dataclass(frozen=True)
class Store:
    """A folder of checkpoints of one run; without a folder, every method does nothing.

    Attributes:
      folder: Where they are, or None.
      about: What the run is (JSON); a checkpoint of anything else is refused.
      manager: Orbax's manager of the folder, or None.
    """

    folder: pathlib.Path | None
    about: dict[str, Any]
    manager: ocp.CheckpointManager | None

    def latest(self) -> int | None:
        """Returns the number of the latest step that is saved whole, or None."""
        return None if self.manager is None else self.manager.latest_step()

    def save(self, step: int, train_state: Any) -> None:
        """Begins to save a train state; a step that is there already is left alone."""
        if self.manager is None or step in self.manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_by_path(train_state)),
            about=ocp.args.JsonSave(self.about),
        )
        self.manager.save(step, args=items)

    def restore(self, step: int, like: Any) -> Any:
        """Restores a step onto the shardings of a train state of the same structure.

        Args:
          step: Which one.
          like: A train state on the mesh that is wanted.

        Returns:
          The train state.

        Raises:
          ValueError: if the checkpoint belongs to another experiment or split.
        """
        assert self.manager is not None
        about = self.manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))[
            "about"
        ]
        if about != self.about:
            differing = sorted(
                k for k in {**about, **self.about} if about.get(k) != self.about.get(k)
            )
            raise ValueError(
                f"checkpoint {step} in {self.folder} belongs to another run: "
                + ", ".join(f"{k} {about.get(k)!r}, not {self.about.get(k)!r}" for k in differing)
                + "; choose another workdir"
            )
        abstract = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for name, leaf in _by_path(like).items()
        }
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        restored = self.manager.restore(step, args=items)["state"]
        return jax.tree_util.tree_map_with_path(lambda path, _: restored[_name(path)], like)


@contextlib.contextmanager
def opened(
    folder: pathlib.Path | None, about: dict[str, Any], *, max_to_keep: int = 3
) -> Generator[Store]:
    """Opens a folder of checkpoints, clearing what a killed process left half written.

    Args:
      folder: Made if it is not there; None for a store that keeps nothing.
      about: What the run is (JSON).
      max_to_keep: Older checkpoints are deleted.

    Yields:
      The store; on leaving, saves under way are waited for.
    """
    if folder is None:
        yield Store(None, about, None)
        return
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every save at INFO
    options = ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep, create=True, cleanup_tmp_directories=True
    )
    with ocp.CheckpointManager(folder.resolve(), options=options) as manager:
        yield Store(folder, about, manager)
        manager.wait_until_finished()


def _by_path(train_state):
    # Leaves by path in one flat dict: no library's container types end up on disk.
    leaves = jax.tree_util.tree_leaves_with_path(train_state)
    return {_name(path): leaf for path, leaf in leaves}


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")
