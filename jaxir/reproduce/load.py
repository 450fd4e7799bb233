"""Reading ``conditions/*.toml``; ``measures.toml`` begins with how they are written."""

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxir.errors import InputError
from jaxir.reproduce.book import (
    Book,
    Collection,
    Condition,
    Expected,
    Measure,
    Step,
)

__all__ = ["load_book"]

_NAME = re.compile(r"\w[\w.-]*")  # of a file in the folder, and of its stamp
_STEP = {
    "run", "each", "about", "minutes", "modules", "device", "cores", "quiet",
}  # fmt: skip
_CONDITION = {
    "each", "about", "section", "row", "column", "rows", "columns", "prose",
    "evaluate", "qrels", "against", "read", "case", "peer", "expect", "says",
    "tolerance",
}  # fmt: skip
_FILE = {
    "family", "section", "defaults", "steps", "conditions", "collections", "modules",
    "measures",
}  # fmt: skip


def load_book(folder: Path | None = None) -> Book:
    """Reads the files of a folder, jaxir's own by default.

    Raises:
      InputError: a file that is not TOML, a key or a step that is not known, a name
        given twice, or an expected text whose numbers are not those of its measures.

    Example::

      >>> book = load_book()
      >>> [step.name for step in book.steps_of(["bm25-vaswani"])]
      ['vaswani.bm25.index', 'vaswani.test.bm25.trec', 'bm25-vaswani.measures']
    """
    folder = Path(__file__).parent / "conditions" if folder is None else folder
    book = Book()
    files = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            files[path] = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise InputError(path, str(error), "TOML") from error
        _known(path, files[path], _FILE)
    for path, data in files.items():
        for name, entry in data.get("collections", {}).items():
            book.collections[name] = _made(path, name, Collection, entry)
        for name, entry in data.get("measures", {}).items():
            book.measures[name] = _made(path, name, Measure, entry)
        book.modules |= data.get("modules", {})
    for path, data in files.items():
        _read_steps(path, data, book)
    for path, data in files.items():
        _read_conditions(path, data, book)
    for name, step in book.steps.items():
        others = (step.names & book.steps.keys()) - {name}
        needs = tuple(other for other in book.steps if other in others)
        book.steps[name] = replace(step, needs=needs)
    return book


def _known(where: object, entry: Mapping, names: Iterable[str]) -> None:
    for name in entry:
        if name not in names:
            raise InputError(where, f"unknown key {name!r}", f"one of {sorted(names)}")


def _made(path: Path, name: str, kind: Any, entry: Mapping) -> Any:
    _known(f"{path}: {name}", entry, kind.__dataclass_fields__)
    return kind(**entry)


def _read_steps(path: Path, data: Mapping, book: Book) -> None:
    for name, entry in data.get("steps", {}).items():
        _known(f"{path}: {name}", entry, _STEP)
        for own, values in _expanded(path, name, entry):
            where = f"{path}: {own}"
            if own in book.steps:
                raise InputError(where, "a step of this name is there")
            if not _NAME.fullmatch(own):
                raise InputError(where, "a name for a file", "letters, digits, . _ -")
            words = tuple(shlex.split(_wanted(where, values, "run")))
            if words[:1] not in (("jaxir",), ("python",)):
                raise InputError(
                    where, f"runs {' '.join(words[:1])!r}", "jaxir, python"
                )
            unknown = re.findall(r"\{(?!data\})\w+\}", " ".join(words))
            if unknown:
                raise InputError(where, f"unknown variable {unknown[0]}", "each")
            del values["run"]
            values["minutes"] = float(values.get("minutes", 1))  # a variable is a text
            values["modules"] = tuple(values.get("modules", ()))
            book.steps[own] = Step(own, words, **values)


def _read_conditions(path: Path, data: Mapping, book: Book) -> None:
    family = data.get("family", path.stem)
    for name, entry in data.get("conditions", {}).items():
        whole = {"section": data.get("section", "")} | data.get("defaults", {}) | entry
        _known(f"{path}: {name}", whole, _CONDITION)
        for own, values in _expanded(path, name, whole):
            where = f"{path}: {own}"
            if own in book.conditions:
                raise InputError(where, "a condition of this name is there")
            book.conditions[own] = _condition(where, own, family, values, book)


def _wanted(where: str, values: Mapping[str, Any], key: str) -> Any:
    if key not in values:
        raise InputError(where, f"without {key!r}", "it")
    return values[key]


def _expanded(path: Path, name: str, entry: Mapping) -> Iterable[tuple[str, dict]]:
    """An entry for each value of its variables; the lists of ``each`` go together."""
    values = dict(entry)
    each = values.pop("each", {})
    sizes = {len(items) for items in each.values()}
    if len(sizes) > 1:
        raise InputError(f"{path}: {name}", "lists of each differ in length")
    for i in range(sizes.pop() if sizes else 1):
        own = {variable: items[i] for variable, items in each.items()}
        made = {}
        for key, value in values.items():
            if key in ("expect", "says"):  # a text for all, or a list of texts
                texts = {
                    what: text[i] if isinstance(text, list) else text
                    for what, text in value.items()
                }
                value = {what: text for what, text in texts.items() if text}
            made[key] = _filled(value, own)
        yield _filled(name, own), made


def _filled(value: Any, own: Mapping[str, Any]) -> Any:
    """A text, or what holds texts, with the variables filled in."""
    if isinstance(value, str):
        for variable, text in own.items():
            value = value.replace(f"{{{variable}}}", str(text))
        return value
    if isinstance(value, list):
        return [_filled(item, own) for item in value]
    if isinstance(value, dict):
        return {_filled(k, own): _filled(v, own) for k, v in value.items()}
    return value


def _listed(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _condition(
    where: str, name: str, family: str, values: dict[str, Any], book: Book
) -> Condition:
    cases = _listed(values.get("case", []))
    expected = [
        _expected(where, what, text, values, book)
        for what, text in _wanted(where, values, "expect").items()
    ]
    for item in expected:
        count = len(item.whats) * max(1, len(cases))
        if len(item.numbers) not in (1, count) or len(item.numbers) < len(item.whats):
            found = f"{len(item.numbers)} numbers in {item.text!r}"
            raise InputError(where, found, f"{count}, of {', '.join(item.whats)}")
    quoted = [
        Expected((), text, values["section"], values.get("row", ""), column, ())
        for column, text in values.get("says", {}).items()
    ]
    read = [*_listed(values.get("read", []))]
    runs = [*_listed(values.get("evaluate", [])), *_listed(values.get("against", []))]
    for step in [*read, *runs]:
        if step not in book.steps:
            raise InputError(where, f"reads {step!r}", "what a step makes")
    if "evaluate" in values:
        qrels = _wanted(where, values, "qrels")
        read.append(_add_evaluation(name, runs, qrels, expected, book))
    subject = re.split("[,:]", values["section"])[0]
    about = values.get("about") or f"{subject}: {values.get('row', '')}"
    return Condition(
        name, family, about.rstrip(": "), tuple(read), cases, values.get("peer", ""),
        tuple(expected), tuple(quoted),
    )  # fmt: skip


def _add_evaluation(
    condition: str, runs: list[str], qrels: str, expected: list[Expected], book: Book
) -> str:
    """Makes the step that measures a run, against a second one if there is one."""
    whats = [what for item in expected for what in item.whats]
    metrics = dict.fromkeys(w.split()[0] for w in whats if w not in book.measures)
    words = ["jaxir", "evaluate", "--qrels", qrels, "--runs", *runs]
    words += ["--metrics", *metrics]
    if runs[1:]:
        words += ["--baseline", runs[1].removesuffix(".trec")]
    name = f"{condition}.measures"
    book.steps[name] = Step(name, (*words, "--json"), minutes=0.1)
    return name


def _expected(
    where: str, what: str, text: str, values: Mapping[str, Any], book: Book
) -> Expected:
    whats = tuple(part.strip() for part in what.split(","))
    measures = tuple(_measure(part, values.get("tolerance"), book) for part in whats)
    row, column = values.get("row", ""), values.get("column") or measures[0].column
    row = values.get("rows", {}).get(what, row)
    column = values.get("columns", {}).get(what, column or whats[0])
    if values.get("prose"):
        row = column = ""
    return Expected(whats, text, values["section"], row, column, measures)


def _measure(what: str, tolerance: Any, book: Book) -> Measure:
    """How a measure is compared: what its condition says, then its kind."""
    last = what.split()[-1]
    kind = book.measures.get(what, book.measures.get(last, Measure()))
    if isinstance(tolerance, Mapping):
        tolerance = tolerance.get(what, tolerance.get("", kind.tolerance))
    elif kind.tolerance is not None or tolerance is None:
        tolerance = kind.tolerance
    return Measure(kind.column, tolerance or 0.0, kind.better, kind.judged)
