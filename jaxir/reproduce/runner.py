"""Runs steps in a folder, each once: a finished one leaves a stamp and is kept.

Below the folder, ``steps/NAME.json`` is the stamp of a step and ``steps/NAME.out`` what
it printed.  A stamp holds a key of the command, of the stamps of the steps that it
read, of the collections' files and of jaxir's version: where one of them changes, the
step runs again.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import jaxir
from jaxir.errors import InputError
from jaxir.files import atomic_file, claimed, disk_errors
from jaxir.progress import say
from jaxir.reproduce.book import Book, Step

__all__ = ["Workshop", "command_line", "script"]

_STAMPS = "steps"
# What a shell reads as it stands.
_PLAIN = re.compile(r"[\w@%+=:,./{}-]+")


def _quoted(word: str) -> str:
    """A word for a shell, in double quotes where it has single ones inside."""
    if _PLAIN.fullmatch(word):
        return word
    if any(sign in word for sign in '"$`\\!'):
        return shlex.quote(word)
    flag, equals, value = word.partition("=")
    if equals and _PLAIN.fullmatch(flag):
        return f'{flag}="{value}"'
    return f'"{word}"'


def command_line(step: Step, data: str, *, width: int = 110) -> str:
    """The command as one types it, broken before options where it is long.

    Args:
      step: whose.
      data: the folder of collections, as it shall be written.
      width: columns of a line.

    Example::

      >>> step = Step("run.trec", ("jaxir", "fuse", "--gin.C='{data}/c'"))
      >>> print(command_line(step, "my/data"))
      jaxir fuse --gin.C="'my/data/c'"
    """
    lines = [""]
    for word in step.words:
        text = _quoted(word.replace("{data}", data))
        if len(lines[-1]) + len(text) > width - 2 and word.startswith("--"):
            lines.append("   ")
        lines[-1] += f" {text}" if lines[-1] else text
    return " \\\n".join(lines)


def _environment(step: Step) -> dict[str, str]:
    """What a step's surroundings have beside those of this process."""
    return {"JAX_PLATFORMS": "cpu"} if step.device == "cpu" else {}


def script(steps: Sequence[Step], data: str, output: str) -> str:
    """The steps as a shell script, in the order in which they would run."""
    lines = [f"mkdir -p {_quoted(output)} && cd {_quoted(output)}"]
    for step in steps:
        about = f"; {step.about}" if step.about else ""
        lines.append(f"\n# {step.name}: {step.minutes:g} min{about}")
        words = [f"{name}={value}" for name, value in _environment(step).items()]
        if step.cores:
            words.append(f"taskset --cpu-list 0-{step.cores - 1}")
        lines.append(" ".join([*words, command_line(step, data)]))
    return "\n".join(lines)


class Workshop:
    """A folder in which steps run."""

    def __init__(self, book: Book, folder: Path, data: Path) -> None:
        self._book, self._folder, self._data = book, folder, data.absolute()
        self._keys: dict[str, str] = {}

    def key(self, step: Step) -> str:
        """What decides a result: version, command, what it reads, the data."""
        if step.name not in self._keys:
            read = [self.key(self._book.steps[name]) for name in step.needs]
            files = [_sizes(self._data / name) for name in step.data]
            text = json.dumps(
                [jaxir.__version__, step.words, read, files, _environment(step)]
            )
            self._keys[step.name] = hashlib.sha256(text.encode()).hexdigest()
        return self._keys[step.name]

    def is_done(self, step: Step) -> bool:
        """Whether a step has run to its end with all that it reads as it is now."""
        if step.makes and not (self._folder / step.name).exists():
            return False
        return self._stamp(step).get("done") == self.key(step)

    def left(
        self, steps: Sequence[Step], wanted: Iterable[str], *, again: bool = False
    ) -> list[Step]:
        """Those that have to run, in order.

        What only finished steps have read is not made again, if it is gone.

        Args:
          steps: each after those that it reads.
          wanted: names of those whose results are read.
          again: run all of them, whatever stands there.
        """
        needed, left = set(wanted), []
        for step in reversed(steps):
            if step.name in needed and (again or not self.is_done(step)):
                left.append(step)
                needed |= set(step.needs)
        return left[::-1]

    def check(self) -> None:
        """Refuses a folder that holds something else.

        Raises:
          InputError: the folder is not empty and not of this verb.
        """
        folder = self._folder
        if (folder / _STAMPS).is_dir() or not folder.exists():
            return
        if not folder.is_dir() or any(folder.iterdir()):
            raise InputError(
                folder, "holds something else", "a new or an empty folder",
                "choose another with --output",
            )  # fmt: skip

    @contextmanager
    def open(self) -> Iterator[None]:
        """Holds the folder for this process.

        Raises:
          InputError: another process works in it, or it cannot be written.
        """
        with disk_errors(self._folder):
            (self._folder / _STAMPS).mkdir(parents=True, exist_ok=True)
        with claimed(self._folder / _STAMPS), _told_to_end():
            yield

    def run(self, step: Step, *, quiet: bool = False) -> None:
        """Runs one step; an interrupted one goes on where its command can.

        Raises:
          InputError: the command failed, or something stands in the step's place.
        """
        place, key = self._folder / step.name, self.key(step)
        stamp = self._stamp(step)
        if step.makes and os.path.lexists(place):
            if not stamp:
                raise InputError(
                    place, "was not made by this verb", "nothing there",
                    "remove it, or choose another --output",
                )  # fmt: skip
            # Of other inputs, or to be made again: nothing of it may be kept.
            if stamp.get("started") != key or "done" in stamp:
                _remove(place)
        self._write(step, {"started": key})
        start = time.perf_counter()
        code, told = self._call(step, quiet)
        seconds = round(time.perf_counter() - start, 1)
        if code:
            what = f"exit code {code}{f': {told}' if told else ''}"
            raise InputError(
                f"step {step.name}", what, "0",
                f"in {self._folder}: {' '.join(step.words)}",
            )  # fmt: skip
        if step.makes and not place.exists():
            raise InputError(f"step {step.name}", "has made nothing", str(place))
        command = [word.replace("{data}", str(self._data)) for word in step.words]
        self._write(
            step,
            {
                "started": key, "done": key, "command": command, "seconds": seconds,
                "jaxir": jaxir.__version__, "ended": time.strftime("%F %T"),
            },
        )  # fmt: skip

    def printed(self, step: str) -> list[dict]:
        """The JSON objects that a step printed, one a line."""
        text = self._place(step, "out").read_text(encoding="utf-8")
        lines = text.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def _place(self, step: str, kind: str) -> Path:
        return self._folder / _STAMPS / f"{step}.{kind}"

    def _stamp(self, step: Step) -> dict:
        place = self._place(step.name, "json")
        return json.loads(place.read_text()) if place.is_file() else {}

    def _write(self, step: Step, stamp: dict) -> None:
        with atomic_file(self._place(step.name, "json")) as out:
            json.dump(stamp, out, indent=1)

    def _call(self, step: Step, quiet: bool) -> tuple[int, str]:
        """Exit code, and the last line of an error that no terminal has shown."""
        words = [word.replace("{data}", str(self._data)) for word in step.words]
        program = {"jaxir": ["-m", "jaxir"], "python": []}[words[0]]
        # -P: what is called as a package in the folder is not that package
        words = [sys.executable, "-P", *program, *words[1:]]
        home = str(Path(jaxir.__file__).parent.parent)
        paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        surroundings = {**os.environ, **_environment(step), "PYTHONPATH": paths}
        silent = quiet or not sys.stderr.isatty()
        errors = self._place(step.name, "err")
        with (
            open(self._place(step.name, "out"), "w", encoding="utf-8") as out,
            open(errors, "w", encoding="utf-8") as err,
            _bound(step.cores),
            subprocess.Popen(
                words, cwd=self._folder, env=surroundings, stdout=out,
                stderr=err if silent else None,
            ) as process,
        ):  # fmt: skip
            try:
                code = process.wait()
            finally:  # it does not outlive us; the next run goes on from what it did
                process.terminate()
        told = errors.read_text(encoding="utf-8", errors="replace").split("\n")
        return code, next((line for line in reversed(told) if line.strip()), "")


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()
    say(f"{place.name}: made of other inputs, made anew")


@contextmanager
def _told_to_end() -> Iterator[None]:
    """SIGTERM ends the step that runs, too."""

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may choose what a signal does
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _bound(cores: int) -> Iterator[None]:
    """Lets this process, and one that it starts, run on so many cores only."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _sizes(place: Path) -> list[tuple[str, int]]:
    """Files of a folder of data, with their sizes."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return [(str(path.relative_to(place)), path.stat().st_size) for path in files]
