"""Fair timing: two functions in one process, by turns, and the ratio pair by pair."""

import importlib.metadata
import os
import statistics
import time
from collections.abc import Callable

from jaxir.mesh import cpu_cores

__all__ = ["alone", "compare", "versions"]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    pairs: int = 7,
    repeat: int = 1,
) -> dict:
    """Times two functions that return only when their work is done.

    Args:
      ours: our way.
      peer: the other.
      pairs: how often each is timed, by turns, after a warm-up of each.
      repeat: calls that are timed together, for work of microseconds.

    Returns:
      ``ours_s`` and ``peer_s``, medians of one call; ``ratio``, the median over pairs
      of the peer's time over ours, above 1 if ours is faster; ``ratio_range``, the
      least and the largest.
    """

    def many(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(repeat):
                work()

        return run

    ours, peer = many(ours), many(peer)
    ours(), peer()
    times = []
    for i in range(pairs):
        # Who comes first alternates too: a busy machine favours neither.
        if i % 2:
            theirs = _seconds(peer)
            times.append((_seconds(ours), theirs))
        else:
            mine = _seconds(ours)
            times.append((mine, _seconds(peer)))
    ratios = [theirs / mine for mine, theirs in times]
    return {
        "ours_s": statistics.median(mine for mine, _ in times) / repeat,
        "peer_s": statistics.median(theirs for _, theirs in times) / repeat,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def alone(ours: Callable[[], object], *, runs: int = 7) -> dict:
    """``compare`` without a peer: the median of ``ours``, the rest None."""
    ours()
    median = statistics.median(_seconds(ours) for _ in range(runs))
    return {"ours_s": median, "peer_s": None, "ratio": None}


def versions(*packages: str) -> dict:
    """Versions of JAX, numpy and the packages named, processors and load."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # not on Windows
    found = {"cpus": cpu_cores(), "load": load}
    for package in ("jax", "numpy", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
