"""The verbs index and search, as a user types them."""

import json

import pytest

from jaxir.checkpoints.model_dir import save_model
from jaxir.cli.main import main
from jaxir.data.formats import read_run


@pytest.fixture
def model_dir(make_tiny_model, tmp_path):
    save_model(tmp_path / "model", make_tiny_model())
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def _cores_as_they_are(monkeypatch):
    monkeypatch.setattr("jaxir.mesh.use_cpu_cores", lambda: 1)


def call(*words):
    return main([str(word) for word in words])


@pytest.mark.parametrize("kind", ["dense", "bm25"])
def test_round_trip(kind, model_dir, tiny_collection, tmp_path, capsys):
    model = model_dir if kind == "dense" else "bm25"
    index, out = tmp_path / "i", tmp_path / "run.trec"
    build = ("index", "--model", model, "--collection", tiny_collection)
    assert call(*build, "--index", index, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["docs"]) == (kind, 12)
    assert told["bytes"] > 0
    find = ("search", "--index", index, "--queries", f"{tiny_collection}:test")
    assert call(*find, "--output", out, "--k", 4, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    run = read_run(out)
    assert told["queries"] == len(run) == 3
    assert told["results"] == sum(map(len, run.values())) <= 12
    assert out.read_text().splitlines()[0].endswith(kind)


def test_query_file_and_options(tiny_collection, tmp_path, capsys):
    index, out = tmp_path / "i", tmp_path / "run.trec"
    build = ("index", "--model", "bm25", "--collection", tiny_collection)
    more = ("--k1", 1.2, "--b", 0.75, "--stemmer", "none", "--stop-words", "none")
    assert call(*build, "--index", index, *more) == 0
    assert "bm25 index of 12 documents" in capsys.readouterr().err
    (tmp_path / "q.tsv").write_text("1\tbread\n2\tunknownword\n")
    find = ("search", "--index", index, "--queries", tmp_path / "q.tsv")
    assert call(*find, "--output", out, "--tag", "mine") == 0
    assert "results of 2 queries" in capsys.readouterr().err
    assert {line.split()[-1] for line in out.read_text().splitlines()} == {"mine"}


def test_mistakes_are_one_line_and_exit_2(model_dir, tiny_collection, tmp_path, capsys):
    index, out = tmp_path / "i", tmp_path / "run.trec"
    build = ("index", "--model", model_dir, "--collection", tiny_collection)
    cases = [
        ((*build, "--index", tiny_collection), "not an index stands here"),
        ((*build, "--index", index, "--dtype", "int3"), "expected float32 or float16"),
        ((*build, "--index", index, "--max-length", 99), "expected 3 to 64"),
        (
            ("index", "--model", tmp_path, "--collection", tiny_collection,
             "--index", index),
            "no model here",
        ),
        (
            ("search", "--index", index, "--queries", f"{tiny_collection}:test",
             "--output", out),
            "no such directory",
        ),
        (
            ("search", "--index", index, "--queries", f"{tiny_collection}:dev",
             "--output", out),
            "dev",
        ),
    ]  # fmt: skip
    for words, message in cases:
        assert call(*words) == 2
        said = capsys.readouterr().err.strip()
        assert message in said
        assert "\n" not in said
        assert not index.exists()
        assert not out.exists()
