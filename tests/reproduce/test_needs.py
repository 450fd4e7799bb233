"""What is missing is told in a line each, before anything runs."""

import pytest
from small_books import make_book

from jaxir.reproduce import needs
from jaxir.reproduce.needs import missing_needs

TEXT = """
[collections.tiny]
docs = 12
judged = { test = 3 }
about = "three topics"

[modules]
no_such_package = "pip install nothing"

[steps.a]
run = "jaxir index --collection {data}/tiny --index a"

[steps.words]
run = "jaxir index --tokenizer {data}/tokenizers/x --index words"
"""


@pytest.fixture
def lines(tiny_collection, tmp_path):
    """``lines(change, steps=…)``: what is missing with other words in the file."""

    def missing(old="", new="", *, extra="", names=("a",), data=None, **options):
        book = make_book(tmp_path / "book", (TEXT + extra).replace(old, new))
        steps = [book.steps[name] for name in names]
        data = tiny_collection.parent if data is None else data
        return missing_needs(book, steps, data, **options)

    return missing


def test_nothing_is_missing(lines):
    assert lines() == []


def test_no_folder_of_collections(lines, tmp_path):
    (line,) = lines(data=tmp_path / "nowhere", names=("a", "words"))
    assert line.startswith("--data: no folder ")
    assert line.endswith("expected one with tiny, tokenizers/x")


def test_collections(lines, tiny_collection):
    (line,) = lines("docs = 12", "docs = 13")
    assert "tiny: 12 documents; expected 13; the numbers are of another" in line
    (line,) = lines("test = 3", "test = 4")
    assert "3 judged queries in split 'test'; expected 4" in line
    (line,) = lines("test = 3", "dev = 3")
    assert "no split 'dev'; expected one of: test, train" in line
    (tiny_collection / "corpus.jsonl").rename(tiny_collection / "other.jsonl")
    (line,) = lines()
    assert "tiny: no corpus.jsonl; expected three topics, a BEIR folder" in line
    (line,) = lines("tiny", "huge")
    assert "huge: no such folder; expected three topics" in line


def test_other_folders(lines, tiny_collection):
    (line,) = lines(names=("words",))
    assert "tokenizers/x: not there; expected what a step reads" in line
    (tiny_collection.parent / "tokenizers" / "x").mkdir(parents=True)
    assert lines(names=("words",)) == []


def test_packages(lines):
    (line,) = lines(extra="[steps.m]\nrun = 'jaxir x'\nmodules = ['no_such_package']",
                    names=("m",))  # fmt: skip
    assert line == (
        "no_such_package: this package is not installed; expected it; "
        "pip install nothing"
    )


def test_the_machine(lines, monkeypatch):
    extra = (
        "[steps.m]\nrun = 'jaxir x'\ncores = 9999\nquiet = true\n"
        "[steps.g]\nrun = 'jaxir x'\ndevice = 'gpu'\n"
    )
    monkeypatch.setattr(needs, "_load", lambda: 3.21)
    cores, load = lines(extra=extra, names=("m",))
    assert cores.endswith("expected 9999 to measure time on")
    assert load == (
        "load: 3.2 processes at work beside us; expected at most 1; wait, or take the "
        "times as they are with --any_load"
    )
    assert len(lines(extra=extra, names=("m",), any_load=True)) == 1
    monkeypatch.setattr(needs, "_load", lambda: 0.5)
    assert len(lines(extra=extra, names=("m",))) == 1
    (line,) = lines(extra=extra, names=("g",))
    assert line == "JAX: runs on 'cpu' here; expected 'gpu'"
