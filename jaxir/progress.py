"""Progress of long work: a bar on a terminal, silence everywhere else."""

import os
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["progress_bar", "say", "set_quiet"]

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Silences (or restores) bars and messages of this process."""
    global _quiet
    _quiet = quiet


def progress_bar(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    label: str = "",
    unit: str = "it",
    initial: int = 0,
) -> Any:
    """A tqdm bar on standard error with rate and time left.

    Silent when standard error is not a terminal, after ``set_quiet(True)``, or under
    the environment variable ``JAXIR_QUIET``.

    Args:
      iterable: what to walk over; without it the caller calls ``.update(n)``.
      total: number of units in all, where ``len(iterable)`` does not tell.
      label: what the work is.
      unit: what one step is, as in ``doc`` or ``query``.
      initial: units already done, when resuming.
    """
    from tqdm import tqdm

    # A terminal that says it has no columns or rows (inside `script` or a container)
    # would get no bar at all.
    columns, rows = (None, None) if _has_size() else (80, 24)
    silent = _quiet or bool(os.environ.get("JAXIR_QUIET")) or not sys.stderr.isatty()
    return tqdm(
        iterable, total=total, desc=label, unit=f" {unit}", initial=initial,
        disable=silent, ncols=columns, nrows=rows, dynamic_ncols=columns is None,
        leave=None,  # a bar within another goes when it is done
        smoothing=0.1, file=sys.stderr,
    )  # fmt: skip


def _has_size() -> bool:
    """Whether the terminal behind standard error knows its columns and rows."""
    try:
        return all(os.get_terminal_size(sys.stderr.fileno()))
    except (OSError, ValueError):
        return False


def say(text: str) -> None:
    """One line for a person on standard error, unless quiet."""
    if not (_quiet or os.environ.get("JAXIR_QUIET")):
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
