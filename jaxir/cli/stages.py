"""Stages of a long road: one whose inputs changed is run, the others are kept."""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Stages", "experiment_text"]


class Stages:
    """Runs a stage whose inputs changed or that never ended, and keeps the others."""

    def __init__(self, folder: Path, total: int) -> None:
        self._file = folder / "stages.json"
        self._done = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._key = ""
        self._total = total
        self._number = 0

    def __call__(
        self, label: str, settings: object, output: Path, work: Callable[[], object]
    ) -> None:
        """Runs ``work`` unless ``output`` was made with these settings and inputs.

        Args:
          label: what a person reads.
          settings: what decides the output besides the stages before.
          output: the file or directory that ``work`` makes.
          work: makes it.
        """
        from jaxir.progress import say

        self._number += 1
        # A stage depends on all stages before it: their keys are part of its own.
        text = json.dumps([self._key, label, settings], sort_keys=True, default=str)
        self._key = hashlib.sha256(text.encode()).hexdigest()
        place = str(output)
        head = f"[{self._number}/{self._total}] {label}"
        if self._done.get(place) == self._key and output.exists():
            say(f"{head}: kept from before")
            return
        started = self._done.get(f"{place}:started") == self._key
        if not started and output.is_dir():
            shutil.rmtree(output)  # made with other settings
        self._remember(f"{place}:started")
        say(head)
        start = time.perf_counter()
        work()
        self._remember(place)
        say(f"    {time.perf_counter() - start:.0f} s")

    def _remember(self, name: str) -> None:
        from jaxir.files import atomic_file

        self._done[name] = self._key
        with atomic_file(self._file) as out:
            json.dump(self._done, out, indent=1)


def experiment_text(file: str) -> str:
    """What a gin file says, with all that it includes: other words, another training.

    Args:
      file: as given, or below jaxir's own ``gin/``.
    """
    from jaxir.files import resource_directory

    place = Path(file) if Path(file).is_file() else resource_directory("gin") / file
    text = place.read_text(encoding="utf-8")
    included = re.findall(r"""^include ['"](.+)['"]""", text, re.MULTILINE)
    return "\n".join([text, *map(experiment_text, included)])
