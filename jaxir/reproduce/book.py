"""What is reproduced: steps, and conditions that read what steps print.

A step is one command, named after the file or folder that it makes.  A condition is a
row of docs/results.md: which measures of which steps it has, and what they were.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from jaxir.errors import InputError
from jaxir.reproduce.numbers import Number, numbers_in

__all__ = ["Book", "Collection", "Condition", "Expected", "Measure", "Step"]

# What parts a word of a command into the names that it may hold.
_BETWEEN = re.compile(r"[\s'\"=,()\[\]:]+")


@dataclass(frozen=True)
class Step:
    """One command, and what it needs.

    Attributes:
      name: of the file or folder that it makes, or of what it prints.
      words: the command; ``{data}`` stands for the folder of collections.
      minutes: what it took on two cores.
      modules: Python packages that it needs besides jaxir's own.
      device: ``cpu``, ``gpu``, or nothing where any will do.
      cores: that it is bound to; 0 for all.
      quiet: whether it measures time, so that other work would spoil it.
      about: what it does, where the command does not tell.
      needs: the steps that it reads.
    """

    name: str
    words: tuple[str, ...]
    minutes: float = 1.0
    modules: tuple[str, ...] = ()
    device: str = ""
    cores: int = 0
    quiet: bool = False
    about: str = ""
    needs: tuple[str, ...] = ()

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name in the command."""
        return frozenset(name for word in self.words for name in _BETWEEN.split(word))

    @property
    def makes(self) -> bool:
        """Whether a file or folder of its name appears; else it only prints."""
        return self.name in self.names

    @property
    def data(self) -> tuple[str, ...]:
        """Collections and other folders of ``{data}`` that it reads."""
        found = re.findall(r"\{data\}/([\w./-]+)", " ".join(self.words))
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Measure:
    """How a measure is compared.

    Attributes:
      column: of docs/results.md that has it; by default the measure's own name.
      tolerance: how far off is well: a difference, or with ``%`` a share.
      better: ``more`` or ``less`` where that is no deviation.
      judged: whether it is compared at all: seconds are another machine's.
    """

    column: str = ""
    tolerance: float | int | str | None = None
    better: str = ""
    judged: bool = True


@dataclass(frozen=True)
class Expected:
    """Measures that stand in one cell of docs/results.md.

    Attributes:
      whats: names of the measures, in the order of the numbers.
      text: as it stands there.
      section: heading above it.
      row: labels of its row; nothing in prose.
      column: head of its column; nothing in prose.
      measures: how each of ``whats`` is compared; none for what is only quoted.
    """

    whats: tuple[str, ...]
    text: str
    section: str
    row: str
    column: str
    measures: tuple[Measure, ...]

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The numbers of the text."""
        return numbers_in(self.text)


@dataclass(frozen=True)
class Condition:
    """A row of docs/results.md.

    Attributes:
      name: what it is called on the command line.
      family: its file's.
      about: what it shows.
      read: the steps whose results it has.
      cases: of a benchmark, in the order of the numbers.
      peer: of a benchmark, where a case has several.
      expected: what was found.
      quoted: texts of the row that were taken from elsewhere.
    """

    name: str
    family: str
    about: str
    read: tuple[str, ...]
    cases: tuple[str, ...]
    peer: str
    expected: tuple[Expected, ...]
    quoted: tuple[Expected, ...] = ()


@dataclass(frozen=True)
class Collection:
    """A collection that the numbers are of.

    Attributes:
      docs: documents.
      judged: judged queries by split.
      about: where it comes from.
    """

    docs: int
    judged: Mapping[str, int]
    about: str = ""


@dataclass
class Book:
    """All that can be reproduced; made by :func:`jaxir.reproduce.load.load_book`."""

    steps: dict[str, Step] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    collections: dict[str, Collection] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    measures: dict[str, Measure] = field(default_factory=dict)

    def steps_of(self, names: Iterable[str]) -> list[Step]:
        """The steps of conditions, each after those that it reads.

        Args:
          names: of conditions.

        Raises:
          InputError: steps that wait for each other.
        """
        done: dict[str, Step] = {}
        waiting: list[str] = []

        def visit(name: str) -> None:
            if name in done:
                return
            if name in waiting:
                circle = " -> ".join([*waiting[waiting.index(name) :], name])
                raise InputError(name, f"steps wait for each other: {circle}")
            waiting.append(name)
            for other in self.steps[name].needs:
                visit(other)
            waiting.pop()
            done[name] = self.steps[name]

        for condition in names:
            for name in self.conditions[condition].read:
                visit(name)
        return list(done.values())
