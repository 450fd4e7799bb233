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

    silent = _quiet or bool(os.environ.get("JAXIR_QUIET")) or not sys.stderr.isatty()
    return tqdm(
        iterable, total=total, desc=label, unit=f" {unit}", initial=initial,
        disable=silent, dynamic_ncols=True, smoothing=0.1, file=sys.stderr,
    )  # fmt: skip


def say(text: str) -> None:
    """One line for a person on standard error, unless quiet."""
    if not (_quiet or os.environ.get("JAXIR_QUIET")):
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
