"""docs/reproduce.md: its options, collections, commands and example are the verb's."""

import re
from pathlib import Path

from small_books import make_book
from test_readme import blocks

from jaxir.cli.main import main, make_parser
from jaxir.reproduce.load import load_book
from jaxir.reproduce.needs import QUIET_LOAD

GUIDE = Path(__file__).parent.parent / "docs" / "reproduce.md"
TEXT = GUIDE.read_text()


def test_every_option_is_told():
    options = make_parser("reproduce")._option_string_actions
    told = set(re.findall(r"(--[a-z_]+)", TEXT.partition("## Adding a row")[0]))
    assert told <= set(options)
    silent = {"--help", "--quiet", "--list_conditions"}
    assert {name for name in options if name.startswith("--")} - silent <= told
    assert f"where the load is above {QUIET_LOAD:g} this is refused" in TEXT


def test_collections_are_those_of_the_book():
    row = re.compile(r"^\| `([\w-]+)` \| ([\d,]+) \| ([^|]+) \|", re.M)
    told = {}
    for name, docs, judged in row.findall(TEXT):
        splits = re.findall(r"(\w+) ([\d,]+)", judged)
        counts = {split: int(count.replace(",", "")) for split, count in splits}
        told[name] = int(docs.replace(",", "")), counts
    book = load_book()
    assert told == {n: (c.docs, dict(c.judged)) for n, c in book.collections.items()}


def test_time_of_everything():
    book = load_book()
    minutes = sum(step.minutes for step in book.steps_of(book.conditions))
    told = re.search(r"`--all` takes about (\d+) hours", TEXT)
    assert abs(int(told[1]) - minutes / 60) < 1


def test_what_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = re.findall(
        r"^    jaxir (reproduce .*(?:--list|commands)[^#\n]*)", TEXT, re.M
    )
    assert len(lines) == 3
    for line in lines:
        assert main(line.split()) == 0
        assert len(capsys.readouterr().out.splitlines()) > 4


def test_the_example_is_a_condition(tmp_path):
    ((_, example),) = blocks(GUIDE, "toml")
    book = make_book(tmp_path, example)
    steps = book.steps_of(["bm25-scifact"])
    assert [step.name for step in steps][1:] == [
        "scifact.bm25.trec",
        "bm25-scifact.measures",
    ]
    assert steps[0].data == ("scifact",)
