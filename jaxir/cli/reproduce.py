"""Make the numbers of docs/results.md again, and compare.

  jaxir reproduce --list [WORD …]
  jaxir reproduce bm25-vaswani --data data --output reproduced
  jaxir reproduce 'jpq-*' --dry_run
  jaxir reproduce medquad-tuned --display_commands
  jaxir reproduce --all

A condition is a row of that page: the commands that lead to it, what they need, and
what was found.  Commands that several conditions share run once; a finished one is
kept, and what was interrupted goes on when the same command is given again.  Exit code
0: everything is as expected; 3: something deviates; 1: a command failed; 2: something
that is needed is missing, or a mistake, told in a line before anything runs.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxir.reproduce.book import Book, Condition, Expected, Step
    from jaxir.reproduce.judge import Finding
    from jaxir.reproduce.runner import Workshop

__all__ = ["DEVIATES", "add_arguments", "run"]

DEVIATES = 3
"""Exit code where a number is not what was expected."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "names",
        nargs="*",
        metavar="NAME",
        help="conditions: a name, a pattern such as 'jpq-*', or a family",
    )
    add("--all", action="store_true", help="every condition")
    add(
        "--list",
        "--list_conditions",
        action="store_true",
        help="list the conditions, or those that every NAME is a word of",
    )
    add("--dry_run", action="store_true", help="say what would run and what is missing")
    add(
        "--display_commands",
        action="store_true",
        help="print the commands as a shell script, and run none",
    )
    add("--data", default="data", help="the folder of collections (data)")
    add("--output", default="reproduced", help="where everything goes (reproduced)")
    add("--again", action="store_true", help="run what is finished again, too")
    add("--any_load", action="store_true", help="take times on a busy machine, too")
    add("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    from jaxir.errors import InputError
    from jaxir.reproduce.load import load_book
    from jaxir.reproduce.runner import Workshop, script

    book = load_book()
    if args.list or not (args.names or args.all):
        _list(book, _about(book, args.names), args.json)
        return 0
    if args.all and args.names:
        raise InputError(args.names[0], "given with --all", "one of the two")
    chosen = list(book.conditions.values()) if args.all else _named(book, args.names)
    # Times first, before anything else has warmed the machine.
    chosen.sort(key=lambda c: not any(book.steps[name].quiet for name in c.read))
    steps = book.steps_of(condition.name for condition in chosen)
    if args.display_commands:
        print(script(steps, str(Path(args.data).absolute()), args.output))
        return 0
    workshop = Workshop(book, Path(args.output), Path(args.data))
    workshop.check()
    return _make(args, book, chosen, steps, workshop)


def _make(
    args: argparse.Namespace,
    book: "Book",
    chosen: list["Condition"],
    steps: list["Step"],
    workshop: "Workshop",
) -> int:
    from jaxir.errors import InputError
    from jaxir.reproduce.needs import missing_needs

    wanted = {name for condition in chosen for name in condition.read}
    left = workshop.left(steps, wanted, again=args.again)
    lines = missing_needs(book, left, Path(args.data), any_load=args.any_load)
    if args.dry_run:
        _plan(steps, left, lines, args.json)
        return 2 if lines else 0
    if lines:
        others = f" (and {len(lines) - 1} more: --dry_run)" if lines[1:] else ""
        where, _, rest = lines[0].partition(": ")
        raise InputError(where, rest + others)
    failed = {}
    with workshop.open():
        failed = _run_steps(workshop, left, args.quiet or args.json)
    found, broken = _findings(book, chosen, workshop, failed)
    _tell(chosen, found, broken, args.json)
    if broken:
        return 1
    return DEVIATES if any(item.verdict == "deviates" for item in found) else 0


def _named(book: "Book", names: Sequence[str]) -> list["Condition"]:
    """The conditions of names, patterns and families, in the book's order."""
    import difflib
    from fnmatch import fnmatchcase

    from jaxir.errors import InputError

    chosen: dict[str, None] = {}
    for name in names:
        own = [
            c.name
            for c in book.conditions.values()
            if c.name == name or fnmatchcase(c.name, name)
        ]
        own = own or [c.name for c in book.conditions.values() if c.family == name]
        if not own:
            near = difflib.get_close_matches(name, book.conditions, 3, 0.4)
            expected = " or ".join(near) if near else "one of --list"
            raise InputError(name, "no such condition", expected)
        chosen |= dict.fromkeys(own)
    return [book.conditions[name] for name in chosen]


def _about(book: "Book", words: Sequence[str]) -> list["Condition"]:
    """The conditions in whose name, family or subject every word occurs."""

    def text(condition: "Condition") -> str:
        data = " ".join(_data(book, condition))
        return f"{condition.name} {condition.family} {condition.about} {data}".lower()

    return [
        condition
        for condition in book.conditions.values()
        if all(word.lower() in text(condition) for word in words)
    ]


def _data(book: "Book", condition: "Condition") -> list[str]:
    steps = book.steps_of([condition.name])
    return list(dict.fromkeys(name for step in steps for name in step.data))


def _needs(book: "Book", condition: "Condition") -> list[str]:
    steps = book.steps_of([condition.name])
    found = _data(book, condition)
    found += dict.fromkeys(name for step in steps for name in step.modules)
    found += sorted({step.device for step in steps} - {"", "cpu"})
    return found + ["a quiet machine"] * any(step.quiet for step in steps)


def _list(book: "Book", conditions: list["Condition"], as_json: bool) -> None:
    rows, told = [], []
    for condition in conditions:
        steps = book.steps_of([condition.name])
        minutes = sum(step.minutes for step in steps)
        expected = [
            {
                "measures": list(item.whats), "text": " ".join(item.text.split()),
                "tolerance": _tolerances(item),
            }
            for item in condition.expected
        ]  # fmt: skip
        needs = _needs(book, condition)
        rows.append(
            [
                condition.name, f"{minutes:.0f}" if minutes >= 1 else "<1",
                ", ".join(needs), condition.about,
            ]
        )  # fmt: skip
        told.append(
            {
                "name": condition.name, "family": condition.family,
                "about": condition.about, "minutes": round(minutes, 1), "needs": needs,
                "steps": [step.name for step in steps], "expected": expected,
            }
        )  # fmt: skip
    if as_json:
        print(json.dumps(told))
        return
    print(_aligned([["condition", "minutes", "needs", "about"], *rows]))
    noun = "condition" if len(rows) == 1 else "conditions"
    print(f"\n{len(rows)} {noun}; minutes are of two cores, with nothing done before")


def _taking(minutes: float) -> str:
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes:.0f} minute{'' if round(minutes) == 1 else 's'}"


def _tolerances(item: "Expected") -> list[str]:
    """How far off each measure may be, nothing for one that is not compared."""
    from jaxir.reproduce.judge import allowance

    return [
        allowance(what, measure, number)[1] if measure.judged else ""
        for what, measure, number in zip(
            item.whats, item.measures, item.numbers, strict=False
        )
    ]


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _plan(
    steps: list["Step"], left: list["Step"], lines: list[str], as_json: bool
) -> None:
    minutes = sum(step.minutes for step in left)
    if as_json:
        plan = [
            {"step": s.name, "minutes": s.minutes, "done": s not in left} for s in steps
        ]
        print(json.dumps({"steps": plan, "minutes": minutes, "missing": lines}))
        return
    rows = [
        [s.name, f"{s.minutes:g} min" if s in left else "done", " ".join(s.words)]
        for s in steps
    ]
    print(_aligned(rows) if rows else "no steps")
    print(f"\n{len(left)} of {len(steps)} steps to run, {_taking(minutes)}")
    for line in lines:
        print(f"missing: {line}")


def _run_steps(workshop: "Workshop", left: list["Step"], quiet: bool) -> dict[str, str]:
    """Runs what is left; a step that fails takes along those that read it."""
    from jaxir.errors import InputError
    from jaxir.progress import say

    failed: dict[str, str] = {}
    for number, step in enumerate(left, start=1):
        head = f"[{number}/{len(left)}] {step.name}"
        broken = [name for name in step.needs if name in failed]
        if broken:
            failed[step.name] = failed[broken[0]]
            say(f"{head}: left out, for it reads {broken[0]}")
            continue
        say(f"{head}, about {step.minutes:g} min")
        try:
            workshop.run(step, quiet=quiet)
        except InputError as error:
            failed[step.name] = str(error)
            say(f"    {error}")
    return failed


def _findings(
    book: "Book",
    chosen: list["Condition"],
    workshop: "Workshop",
    failed: dict[str, str],
) -> tuple[list["Finding"], dict[str, str]]:
    """What was found, and why some conditions have nothing."""
    from jaxir.errors import InputError
    from jaxir.reproduce.judge import findings

    found: list[Finding] = []
    broken = {}
    for condition in chosen:
        why = [failed[name] for name in condition.read if name in failed]
        if why:
            broken[condition.name] = why[0]
            continue
        printed = {name: workshop.printed(name) for name in condition.read}
        try:
            found += findings(condition, printed)
        except InputError as error:
            broken[condition.name] = str(error)
    return found, broken


def _tell(
    chosen: list["Condition"],
    found: list["Finding"],
    broken: dict[str, str],
    as_json: bool,
) -> None:
    if as_json:
        told = [
            {
                "condition": c.name, "about": c.about, "failed": broken.get(c.name),
                "measures": [
                    {
                        "measure": item.measure, "expected": item.values[0],
                        "found": item.values[1],
                        "difference": item.values[1] - item.values[0],
                        "tolerance": item.tolerance, "verdict": item.verdict,
                    }
                    for item in found if item.condition == c.name
                ],
            }
            for c in chosen
        ]  # fmt: skip
        deviating = sum(item.verdict == "deviates" for item in found)
        print(json.dumps({"conditions": told, "deviating": deviating}))
        return
    rows = [["condition", "measure", "expected", "found", "difference", "within", ""]]
    rows += [list(item[:7]) for item in found]
    if found:
        print(_aligned(rows))
    for name, why in broken.items():
        print(f"{name}: not measured: {why}")
    counts = [
        (sum(item.verdict == "OK" for item in found), "OK"),
        (sum(item.verdict == "deviates" for item in found), "deviating"),
        (sum(item.verdict == "-" for item in found), "not compared"),
        (len(broken), "conditions not measured"),
    ]
    print("\n" + ", ".join(f"{count} {what}" for count, what in counts if count))
