"""Memory that work takes, watched in a process of its own."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["grown", "printed", "surroundings"]


def resident() -> int:
    """Bytes of this process that lie in memory (Linux)."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def grown(work: Callable[[], object]) -> int:
    """By how many bytes this process is larger, at most, while it works."""
    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak - before


def printed(program: str, *words: object) -> int:
    """The number that a Python program prints, as ``print(grown(work))``."""
    run = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True, text=True, check=True, env=surroundings(),
    )  # fmt: skip
    return int(run.stdout.split()[-1])


def surroundings() -> dict[str, str]:
    """Those of a process that imports jaxir and these files."""
    folder = os.fspath(Path(__file__).parent)
    paths = os.pathsep.join([folder, *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": paths}
