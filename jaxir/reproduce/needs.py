"""What steps need: looked at before anything runs, told in a line each."""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

from jaxir.errors import InputError
from jaxir.reproduce.book import Book, Collection, Step

__all__ = ["QUIET_LOAD", "missing_needs"]

QUIET_LOAD = 1.0
"""Processes that wait for a core, at most, for a machine to count as quiet."""


def missing_needs(
    book: Book, steps: Iterable[Step], data: Path, *, any_load: bool = False
) -> list[str]:
    """A line for everything that the steps need and that is not as it should be.

    Args:
      book: knows the collections.
      steps: those that will run.
      data: the folder of collections.
      any_load: do not look at the machine's load.
    """
    steps = list(steps)
    lines = []
    names = dict.fromkeys(name for step in steps for name in step.data)
    if names and not data.is_dir():
        listed = ", ".join(names)
        lines.append(_line("--data", f"no folder {data}", f"one with {listed}"))
    else:
        for name in names:
            try:
                _check_data(data / name, book.collections.get(name))
            except InputError as error:
                lines.append(str(error))
    for module in dict.fromkeys(name for step in steps for name in step.modules):
        if importlib.util.find_spec(module) is None:
            remedy = book.modules.get(module, "install it")
            lines.append(_line(module, "this package is not installed", "it", remedy))
    lines += _machine(steps, any_load)
    return lines


def _line(*parts: str) -> str:
    return str(InputError(*parts))


def _check_data(place: Path, expected: Collection | None) -> None:
    from jaxir.data.collection import open_collection
    from jaxir.files import open_text

    if expected is None:  # a tokenizer, or another folder
        if not place.exists():
            raise InputError(place, "not there", "what a step reads")
        return
    corpus = place / "corpus.jsonl"
    if not corpus.is_file():
        corpus = place / "corpus.jsonl.gz"
    if not corpus.is_file():
        found = "no corpus.jsonl" if place.is_dir() else "no such folder"
        raise InputError(place, found, f"{expected.about}, a BEIR folder")
    with open_text(corpus) as stream:
        docs = sum(bool(line.strip()) for line in stream)
    if docs != expected.docs:
        raise _other_version(place, f"{docs:,} documents", f"{expected.docs:,}")
    collection = open_collection(str(place))
    for split, queries in expected.judged.items():
        judged = len(collection.qrels(split))
        if judged != queries:
            told = f"{judged:,} judged queries in split {split!r}"
            raise _other_version(place, told, f"{queries:,}")


def _other_version(place: Path, found: str, expected: str) -> InputError:
    remedy = "the numbers are of another version of this collection"
    return InputError(place, found, expected, remedy)


def _machine(steps: list[Step], any_load: bool) -> list[str]:
    from jaxir.mesh import cpu_cores

    lines = []
    cores, wanted = cpu_cores(), max((step.cores for step in steps), default=0)
    if cores < wanted:
        lines.append(_line("cores", f"{cores} here", f"{wanted} to measure time on"))
    devices = {step.device for step in steps} - {"", "cpu"}
    if devices:
        import jax

        found = jax.default_backend()
        lines += [
            _line("JAX", f"runs on {found!r} here", repr(device))
            for device in sorted(devices - {found})
        ]
    if any(step.quiet for step in steps) and not any_load and _load() > QUIET_LOAD:
        found = f"{_load():.1f} processes at work beside us"
        remedy = "wait, or take the times as they are with --any_load"
        lines.append(_line("load", found, f"at most {QUIET_LOAD:g}", remedy))
    return lines


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
