"""``jaxir search --query``: one question asked, as a user types it."""

import json

import pytest

from jaxir.cli.answers import answers, format_answers
from jaxir.cli.main import main
from jaxir.data.collection import open_collection
from jaxir.errors import InputError


@pytest.fixture
def index(tiny_collection, tmp_path, capsys):
    words = ("--collection", str(tiny_collection), "--index", str(tmp_path / "i"))
    assert main(["index", "--model", "bm25", *words]) == 0
    capsys.readouterr()
    return str(tmp_path / "i")


def test_results_are_printed_with_their_texts(index, tiny_collection, capsys):
    ask = ["search", "--index", index, "--query", "yeast and flour", "--k", "2"]
    assert main(ask) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert all("bread" in line for line in lines)
    assert main([*ask, "--texts", str(tiny_collection)]) == 0
    shown = capsys.readouterr().out
    assert "  bread\n" in shown
    assert "bakers knead dough" in " ".join(shown.split())
    assert main([*ask, "--texts", str(tiny_collection), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["query"], len(told["hits"])) == ("yeast and flour", 2)
    best = told["hits"][0]
    doc = open_collection(tiny_collection).docs
    assert doc[doc.row(best["doc_id"])] == (best["doc_id"], best["title"], best["text"])
    assert best["rank"] == 1
    assert best["score"] >= told["hits"][1]["score"]


def test_nothing_found_and_ten_by_default(index, capsys):
    assert main(["search", "--index", index, "--query", "xylophone"]) == 0
    assert capsys.readouterr().out == "nothing found\n"
    every = "rivers engine bread"
    assert main(["search", "--index", index, "--query", every, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["hits"]) == 10


def test_lines_fit(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    hit = {"rank": 12, "doc_id": "d" * 30, "score": 1.0, "title": "t" * 40}
    shown = format_answers([hit | {"text": "word " * 100}, {**hit, "text": ""}])
    lines = shown.splitlines()
    assert len(lines) == 4  # two of text at most, none where there is none
    assert max(map(len, lines)) <= 60
    assert lines[2].endswith(" …")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--query", " "], "--query: no words; expected a question"),
        (["--query", "caf\udce9"], r"--query: not UTF-8: 'caf\udce9'; expected UTF-8"),
        (["--query", "x", "--output", "o"], "--output: given with --query"),
        (["--query", "x", "--queries", "q"], "--queries: given with --query"),
        (
            ["--queries", "q"],
            "--output: not given; expected --queries and --output, or",
        ),
        ([], "--queries: not given; expected --queries and --output, or --query TEXT"),
        (["--queries", "q", "--output", "o", "--texts", "c"], "given without --query"),
        (["--query", "x", "--explain"], "--explain: given for an index of kind 'bm25'"),
    ],
)
def test_mistakes(index, words, message, capsys):
    assert main(["search", "--index", index, *words]) == 2
    assert message in capsys.readouterr().err


def test_texts_of_another_collection(tiny_collection):
    docs = open_collection(tiny_collection).docs
    with pytest.raises(
        InputError, match=r"no document 'ghost'; expected the collectio"
    ):
        answers({"ghost": 1.0}, docs)
