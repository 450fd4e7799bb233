"""Where metrics go: JSON lines, TensorBoard, the bar on the terminal.

A writer is told of every set of values with its step and kind (``"train"`` or
``"eval"``).  ``resume(step)`` forgets what was written after that step, so that a
resumed run leaves the file an uninterrupted one leaves.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, Protocol

from jaxir import progress
from jaxir.files import atomic_file, disk_errors

__all__ = [
    "JsonlWriter",
    "ProgressWriter",
    "TensorBoardWriter",
    "Writer",
    "read_metrics",
]


class Writer(Protocol):
    """What the loop needs of a place for metrics."""

    def resume(self, step: int) -> None:
        """Forgets what came after ``step``; called once before the first write."""

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Takes the values of one moment."""

    def close(self) -> None:
        """Finishes; called once, also after a failure."""


class JsonlWriter:
    """One JSON object a line: ``{"step": 10, "kind": "train", "loss": 0.7, ...}``.

    Args:
      path: the file, usually ``metrics.jsonl`` in the run's directory.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._there: set[tuple[int, str]] = set()

    def resume(self, step: int) -> None:
        """Drops lines after ``step`` and a last line that was cut off."""
        if not self.path.exists():
            return
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        # The evaluation of the last step may be done again: it says the same.
        self._there = {(row["step"], row.get("kind", "")) for row in kept}
        with atomic_file(self.path) as out:
            out.writelines(json.dumps(row) + "\n" for row in kept)

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Appends a line with one system call, so that no reader sees half of it."""
        if (step, kind) in self._there:
            return
        # JSON has no infinity and no NaN.
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = json.dumps({"step": step, "kind": kind, **finite}) + "\n"
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            handle = os.open(self.path, flags, 0o666)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)

    def close(self) -> None:
        """Nothing is open between lines."""


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; one cut off by a crash is left out.

    Example::

      >>> import tempfile
      >>> writer = JsonlWriter(tempfile.mkdtemp() + "/metrics.jsonl")
      >>> writer.write(10, "train", {"loss": 0.5})
      >>> read_metrics(writer.path)
      [{'step': 10, 'kind': 'train', 'loss': 0.5}]
    """
    rows = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
    return rows


class TensorBoardWriter:
    """Scalars ``train/loss``, ``eval/nDCG@10`` and so on, for ``tensorboard --logdir``.

    Args:
      directory: where the event files go.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self._directory = str(directory)
        self._writer: Any = None
        self._purge: int | None = None

    def resume(self, step: int) -> None:
        """Tells TensorBoard to discard events after ``step``."""
        self._purge = step + 1

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Adds a scalar for each value."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(self._directory, purge_step=self._purge)
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes the events."""
        if self._writer is not None:
            self._writer.close()


class ProgressWriter:
    """A bar over the steps with loss, examples a second and time left.

    Evaluations appear as a line above the bar.

    Args:
      total_steps: steps of the whole run.
    """

    def __init__(self, total_steps: int) -> None:
        self._total = total_steps
        self._bar: Any = None

    def resume(self, step: int) -> None:
        """Begins the bar at ``step``."""
        self._bar = progress.progress_bar(
            total=self._total, label="train", unit="step", initial=step
        )

    def advance(self) -> None:
        """One more step is done."""
        self._bar.update(1)

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Shows the loss, or says the evaluation."""
        if kind == "train":
            shown = {"loss": f"{values['loss']:.4f}"}
            if "examples_per_second" in values:
                shown["ex/s"] = f"{values['examples_per_second']:.1f}"
            self._bar.set_postfix(shown)
        else:
            text = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            progress.say(f"step {step}  {text}")

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
