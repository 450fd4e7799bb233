"""docs/results.md and the conditions of `jaxir reproduce` say the same, both ways."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxir.reproduce.load import load_book
from jaxir.reproduce.numbers import numbers_in

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
BOOK = load_book()
# Columns that say what was measured; so does the first of a table.
LABELS = {"benchmark", "case", "peer", "measure"}


class Row(NamedTuple):
    head: list[str]
    cells: list[str]


class Section(NamedTuple):
    rows: list[Row]
    prose: str


def plain(text):
    return " ".join(text.split())


def split_cells(line):
    return [plain(cell) for cell in line.strip().strip("|").split("|")]


def printed_table(lines):
    """Rows of a table as `jaxir evaluate` prints it: cells are two spaces apart."""
    joined = [re.sub(r"\s+\[", " [", line.strip()) for line in lines]
    return [re.split(r"\s{2,}", line) for line in joined]


def sections():
    """The page by heading: the rows of its tables, and what stands around them."""
    found: dict[str, Section] = {}
    heading, prose, head = "", "", []
    lines = PAGE.read_text().splitlines()
    for i, line in enumerate(lines):
        if line.startswith("#"):
            found[heading] = Section(found.get(heading, Section([], "")).rows, prose)
            heading, prose, head = line.lstrip("# "), "", []
            found[heading] = Section([], "")
        elif line.startswith("|"):
            if not lines[i - 1].startswith("|"):
                head = split_cells(line)
            elif not set(line) <= set("|-: "):
                found[heading].rows.append(Row(head, split_cells(line)))
        elif line.startswith("    system  "):
            end = next(j for j in range(i, len(lines)) if not lines[j].strip())
            first, *rest = printed_table(lines[i:end])
            found[heading].rows.extend(Row(first, cells) for cells in rest)
        else:
            prose += f" {line}"
    found[heading] = Section(found[heading].rows, prose)
    return {name: Section(s.rows, plain(s.prose)) for name, s in found.items()}


SECTIONS = sections()


def as_number(text):
    """The text as a pattern that is not a part of a longer number."""
    return rf"(?<![\d.]){re.escape(plain(text))}(?![\d])"


def row_of(item):
    """The one row of an expected text, and the place of its cell."""
    labels = item.row.split(" | ")
    chosen = [
        row
        for row in SECTIONS[item.section].rows
        if row.cells[: len(labels)] == labels and item.column in row.head
    ]
    assert len(chosen) == 1, f"{len(chosen)} rows {item.row!r} with {item.column!r}"
    return chosen[0], chosen[0].head.index(item.column)


CLAIMS = [
    pytest.param(item, id=f"{condition.name} {item.column or 'prose'}")
    for condition in BOOK.conditions.values()
    for item in (*condition.expected, *condition.quoted)
]


@pytest.mark.parametrize("item", CLAIMS)
def test_what_is_expected_stands_on_the_page(item):
    assert item.section in SECTIONS, f"no heading {item.section!r}"
    if item.column:
        row, place = row_of(item)
        text = row.cells[place]
    else:
        text = SECTIONS[item.section].prose
    assert re.search(as_number(item.text), text), f"{item.text!r} is not in {text!r}"


def test_every_number_of_a_table_is_expected():
    left = {
        (name, i, j): cell
        for name, section in SECTIONS.items()
        for i, row in enumerate(section.rows)
        for j, cell in enumerate(row.cells)
        if j and row.head[j] not in LABELS
    }
    assert len(left) > 300, "the page was not read"
    for condition in BOOK.conditions.values():
        for item in (*condition.expected, *condition.quoted):
            if not item.column:
                continue
            row, place = row_of(item)
            key = (item.section, SECTIONS[item.section].rows.index(row), place)
            if key in left:
                left[key] = re.sub(as_number(item.text), "", left[key], count=1)
    missing = {
        f"{name}: {' | '.join(SECTIONS[name].rows[i].cells)}": cell
        for (name, i, _), cell in left.items()
        if re.search(r"\d", cell)
    }
    assert not missing, "rows without a condition; see jaxir/reproduce/conditions"


def page_commands():
    text = re.sub(r"^ {4}", "", PAGE.read_text(), flags=re.M)
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(r"(jaxir|python) [^`]*$", line):
            yield pytest.param(shlex.split(line, comments=True), id=line[:70])


def without_place(words):
    """A step's command as one types it where the collections are."""
    return [word.replace("{data}/", "") for word in words if word != "--json"]


@pytest.mark.parametrize("words", list(page_commands()))
def test_commands_of_the_page_are_steps(words):
    steps = [without_place(step.words) for step in BOOK.steps.values()]
    if words[:2] != ["jaxir", "evaluate"]:
        assert sorted(words) in [sorted(step) for step in steps]
        return
    runs = words[words.index("--runs") + 1 :]
    for run in runs[: next(i for i, w in enumerate(runs) if w.startswith("--"))]:
        assert run in BOOK.steps, f"no step makes {run}"


def test_numbers_of_the_readme_are_those_of_the_page():
    readme = (PAGE.parent.parent / "README.md").read_text()
    rows = SECTIONS["The demo"].rows
    assert len(rows) == 10
    for row in rows:
        assert any(
            [row.cells] == printed_table([line]) for line in readme.splitlines()
        ), row.cells


def test_measures_have_as_many_numbers_as_cases():
    for condition in BOOK.conditions.values():
        for item in condition.expected:
            count = len(item.whats) * max(1, len(condition.cases))
            assert len(item.numbers) in (1, count), f"{condition.name}: {item.text}"
            assert numbers_in(item.text) == item.numbers
