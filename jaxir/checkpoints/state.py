"""Train state on disk: asynchronous, atomic, exact.

A checkpoint holds a pytree of arrays and a *record*, a JSON dictionary with everything
else that a run needs to continue (position in the data, best metric so far).  Both
appear together or not at all.  Orbax writes in the background while training goes on.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxir.errors import InputError
from jaxir.files import disk_errors

__all__ = ["Restored", "StateStore"]

_MAX_LINES = 20  # of a tree difference


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
      state: the pytree, on the devices.
      record: the JSON dictionary.
    """

    state: Any
    record: dict[str, Any]


class _Retention:
    """Orbax's preservation policy: the last ``keep`` checkpoints and the best one."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.best_step: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        kept = {*sorted(c.step for c in checkpoints)[-self.keep :], self.best_step}
        return [c.step in kept for c in checkpoints]


def _flatten(state: Any) -> dict[str, Any]:
    """Leaves by path: on disk a flat dictionary, whatever optax's tuples are."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


@contextmanager
def _save_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Orbax and tensorstore wrap the system's error in types of their own.
        full = ("No space left", "RESOURCE_EXHAUSTED", "quota exceeded")
        if any(text in str(error) for text in full):
            raise InputError(
                directory,
                "no space left on the device",
                remedy="free space and run the same command to continue from the "
                "last whole checkpoint",
            ) from error
        raise


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Drops what Orbax's threads log: pages of traceback for an error raised anyway."""
    return "/orbax/" not in record.pathname.replace("\\", "/")


class StateStore:
    """Checkpoints of one run: ``directory/<step>/``.

    Args:
      directory: made if absent; remains of killed saves are removed.
      keep: how many of the latest checkpoints stay; the best one stays besides.

    Example::

      >>> import tempfile, jax.numpy as jnp
      >>> with StateStore(tempfile.mkdtemp()) as store:
      ...     store.save(3, {"w": jnp.ones(2)}, {"position": 7})
      ...     store.wait()
      ...     restored = store.restore(3, {"w": jnp.zeros(2)})
      >>> restored.state["w"].tolist(), restored.record
      ([1.0, 1.0], {'position': 7})
    """

    def __init__(self, directory: str | Path, *, keep: int = 2) -> None:
        if keep < 1:
            raise InputError("keep", str(keep), "1 or more checkpoints")
        from orbax.checkpoint import v1 as ocp

        self.directory = Path(directory).absolute()
        self._retention = _Retention(keep)
        self._last: int | None = None  # begun to be saved
        with disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        logging.getLogger("absl").addFilter(_not_from_orbax)
        with _save_errors(self.directory):
            # Orbax's own clean-up runs in the background, beside the first saves.
            if jax.process_index() == 0:
                for torn in self.directory.glob("*.orbax-checkpoint-tmp"):
                    shutil.rmtree(torn, ignore_errors=True)
            self._checkpointer = ocp.training.Checkpointer(
                self.directory,
                preservation_policy=self._retention,
            )

    def __enter__(self) -> "StateStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def path(self, step: int) -> Path:
        """The directory of one checkpoint."""
        return self.directory / str(step)

    def steps(self) -> list[int]:
        """Steps that have a whole checkpoint, ascending."""
        return sorted(info.step for info in self._checkpointer.checkpoints)

    def latest(self) -> int | None:
        """The last step that has a whole checkpoint, or None."""
        return max(self.steps(), default=None)

    def save(
        self,
        step: int,
        state: Any,
        record: dict[str, Any],
        *,
        best_step: int | None = None,
    ) -> None:
        """Begins to save; returns as soon as the arrays may be changed or donated.

        A save still under way is waited for, and its failure raised here.  A step that
        is already there is left as it is.

        Args:
          step: the number of updates done.
          state: pytree of arrays; random keys as their ``key_data``.
          record: JSON values only.
          best_step: the checkpoint to keep whatever its age.

        Raises:
          InputError: the disk is full, or the record is not JSON.
        """
        if step == self._last:
            return
        try:
            # A copy: the caller may go on changing what the record is made of.
            record = json.loads(json.dumps(record))
        except TypeError as error:
            raise InputError(
                "record", str(error), "JSON values", "give plain Python values"
            ) from error
        with _save_errors(self.directory):
            self._checkpointer.wait()
            self._last = step
            if step in self.steps():
                return
            self._retention.best_step = best_step
            # force: by default Orbax skips saves it thinks come too early.
            self._checkpointer.save_checkpointables_async(
                step,
                {"state": _flatten(state)},
                force=True,
                custom_metadata={"record": record},
            )

    def wait(self) -> None:
        """Until the last save is on disk.

        Raises:
          InputError: the disk is full.
        """
        with _save_errors(self.directory):
            self._checkpointer.wait()

    def record(self, step: int) -> dict[str, Any]:
        """The record of a checkpoint.

        Raises:
          InputError: there is no such checkpoint, or it is not one of ours.
        """
        return self._read(step)[0]

    def restore(self, step: int, like: Any) -> Restored:
        """Reads a checkpoint.

        Args:
          step: one of :meth:`steps`.
          like: the expected pytree: arrays or ``jax.ShapeDtypeStruct`` with shardings,
            on which the restored arrays will lie.

        Raises:
          InputError: no such checkpoint, or its tree is another one: says which leaves
            are missing (-), unexpected (+) or of another shape or type (≠).
        """
        record, shapes = self._read(step)
        expected = {
            name: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
            )
            for name, leaf in _flatten(like).items()
        }
        have = {name: (tuple(x.shape), str(x.dtype)) for name, x in shapes.items()}
        want = {name: (x.shape, str(x.dtype)) for name, x in expected.items()}
        lines = [f"- {name}" for name in sorted(want.keys() - have.keys())]
        lines += [f"+ {name}" for name in sorted(have.keys() - want.keys())]
        lines += [
            f"≠ {name} {_show(have[name])} for {_show(want[name])}"
            for name in sorted(want.keys() & have.keys())
            if want[name] != have[name]
        ]
        if lines:
            more = len(lines) - _MAX_LINES
            lines = lines[:_MAX_LINES] + ([f"... {more} more"] if more > 0 else [])
            raise InputError(
                self.path(step),
                "the checkpoint is of another model or optimizer: " + ", ".join(lines),
                "the tree of this run (- missing, + unexpected, ≠ shape)",
                "give the configuration it was begun with, or an empty directory",
            )
        loaded = self._checkpointer.load_checkpointables(step, {"state": expected})
        values = [loaded["state"][name] for name in expected]
        return Restored(jax.tree.unflatten(jax.tree.structure(like), values), record)

    def close(self) -> None:
        """Waits for the last save and lets go of the directory."""
        try:
            with _save_errors(self.directory):
                self._checkpointer.close()
        finally:
            logging.getLogger("absl").removeFilter(_not_from_orbax)

    def _read(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Record and array metadata of a checkpoint."""
        if step not in self.steps():
            found = ", ".join(map(str, self.steps())) or "none"
            raise InputError(
                self.directory, f"no checkpoint of step {step}", f"one of: {found}"
            )
        metadata = self._checkpointer.checkpointables_metadata(step)
        record = (metadata.custom_metadata or {}).get("record")
        if record is None or "state" not in metadata.metadata:
            raise InputError(
                self.path(step),
                "not a checkpoint of a training run",
                remedy="choose another directory",
            )
        return record, metadata.metadata["state"]


def _show(leaf: tuple[tuple[int, ...], str]) -> str:
    return f"{leaf[1]}{list(leaf[0])}"
