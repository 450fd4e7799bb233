"""The verbs index and search on posting lists, as a user types them."""

import json

import pytest
from tiny_pq import many_documents
from tiny_sparse import tiny_sparse

from jaxir.checkpoints.model_dir import save_model
from jaxir.cli.main import main
from jaxir.data.formats import read_run


@pytest.fixture(autouse=True)
def _cores_as_they_are(monkeypatch):
    monkeypatch.setattr("jaxir.mesh.use_cpu_cores", lambda: 1)


@pytest.fixture
def model_dir(tmp_path):
    save_model(tmp_path / "model", tiny_sparse(tmp_path / "words"))
    return tmp_path / "model"


@pytest.fixture
def collection(tmp_path):
    return many_documents(tmp_path / "many", 40)


def call(*words):
    return main([str(word) for word in words])


@pytest.fixture
def index(model_dir, collection, tmp_path, capsys):
    build = ("index", "--model", model_dir, "--collection", collection)
    assert call(*build, "--index", tmp_path / "i") == 0
    assert "sparse index of 40 documents, " in (said := capsys.readouterr().err)
    assert " tokens each, " in said
    assert " added for each in the text; postings 0.0 MB, in all 0.0 MB" in said
    return tmp_path / "i"


def test_built_searched_changed(index, model_dir, collection, tmp_path, capsys):
    out = tmp_path / "run.trec"
    build = ("index", "--model", model_dir, "--collection", collection)
    small = ("--dtype", "uint8", "--prune_ratio", 0.3, "--index", tmp_path / "j")
    assert call(*build, *small, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["docs"], told["empty_docs"]) == ("sparse", 40, 0)
    assert told["tokens_per_doc"] == told["postings"] / 40
    assert told["expansion_rate"] > 0
    parts = [told[f"{part}_bytes"] for part in ("postings", "ids", "query", "model")]
    assert told["bytes"] == sum(parts)
    assert parts[2] > parts[3] == 0

    find = ("search", "--queries", f"{collection}:test", "--output", out, "--k", 5)
    runs = {}
    for method in ("", "exhaustive", "block_max", "two_phase"):
        chosen = ("--method", method) if method else ()
        assert call(*find, "--index", index, *chosen, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["queries"] == 2
        assert 0 < told["docs_scored"] <= 40
        assert told["query_tokens"] > told["flops"] > 0
        runs[method] = read_run(out)
    assert runs[""] == runs["exhaustive"] == runs["block_max"]
    assert call(*find, "--index", index) == 0
    said = capsys.readouterr().err.splitlines()
    assert " tokens a query, " in said[-2]
    assert said[-2].endswith(" products a query and a document (FLOPS)")
    assert said[-1].startswith("scored ")
    wide = ("--prune_type", "none", "--prune_ratio", 0, "--expansion_rate", 2)
    wide += ("--max_window_size", 60)
    assert call(*find, "--index", index, "--method", "two_phase", *wide) == 0
    assert read_run(out) == runs[""]

    more = many_documents(tmp_path / "more", 3, prefix="e", seed=1)
    assert call("index", "--index", index, "--add", more, "--json") == 0
    assert json.loads(capsys.readouterr().out)["docs"] == 43
    (tmp_path / "ids.txt").write_text("d0\ne1\n")
    cut = ("index", "--index", index, "--delete", tmp_path / "ids.txt")
    assert call(*cut) == 0
    assert "sparse index of 41 documents, " in capsys.readouterr().err
    model_dir.rename(tmp_path / "moved")
    again = many_documents(tmp_path / "again", 2, prefix="f", seed=2)
    grow = ("index", "--index", index, "--add", again)
    assert call(*grow) == 2
    assert "its model is no longer at " in capsys.readouterr().err
    assert call(*grow, "--model", tmp_path / "moved") == 0
    assert "sparse index of 43 documents, " in capsys.readouterr().err


def test_explained(index, collection, tmp_path, capsys):
    out = tmp_path / "run.trec"
    find = ("search", "--index", index, "--queries", f"{collection}:test")
    find += ("--output", out, "--k", 4)
    assert call(*find, "--explain", "--json") == 0
    told = json.loads(capsys.readouterr().out)["explained"]
    run = read_run(out)
    assert list(told) == list(run)
    for name, results in told.items():
        assert [result["doc"] for result in results] == list(run[name])[:3]
        for result in results:
            tokens = result["tokens"]
            assert sum(one["score"] for one in tokens) == pytest.approx(result["score"])
            assert {"token", "query_weight", "doc_weight", "score"} == set(tokens[0])
    assert call(*find, "--explain", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    first, (name, results) = told["q0"][0], next(iter(told.items()))
    assert lines[0].startswith(f"{name}: ")
    assert lines[1] == f"  {first['doc']}  {first['score']:.4f}"
    best = first["tokens"][0]
    assert lines[2].split() == [
        best["token"], f"{best['query_weight']:.4f}", "x", f"{best['doc_weight']:.4f}",
        "=", f"{best['score']:.4f}",
    ]  # fmt: skip
    shown = [line for line in lines if line.startswith("  ") and line[2] != " "]
    assert len(shown) == len(told)
    assert len(results) == 3
    longest = max(len(one[0]["tokens"]) for one in told.values())
    assert any(line.strip().startswith(f"{longest - 5} more") for line in lines)


def test_bm25_over_tokens(model_dir, collection, tmp_path, capsys):
    build = ("index", "--model", "bm25", "--tokenizer", model_dir, "--k1", 1.2)
    build += ("--collection", collection, "--index", tmp_path / "i")
    assert call(*build, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["expansion_rate"]) == ("sparse", 0)
    find = ("search", "--index", tmp_path / "i", "--queries", f"{collection}:test")
    assert call(*find, "--output", tmp_path / "run.trec") == 0
    found = read_run(tmp_path / "run.trec")
    assert [next(iter(scored)) for scored in found.values()] == ["d0", "d1"]


def test_mistakes(index, model_dir, collection, tiny_model, tmp_path, capsys):
    out, other = tmp_path / "run.trec", tmp_path / "bm25"
    lexical = ("index", "--model", "bm25", "--collection", collection)
    assert call(*lexical, "--index", other) == 0
    capsys.readouterr()
    find = ("search", "--queries", f"{collection}:test", "--output", out, "--index")
    build = ("index", "--collection", collection, "--index", tmp_path / "j", "--model")
    both = "two_phase"
    for words, message in [
        ((*find, other, "--explain"), "--explain: given for an index of kind 'bm25'"),
        ((*find, other, "--method", "scan"), "kind 'bm25' with method 'scan'; expecte"),
        ((*find, index, "--explain", 0), "--explain: 0; expected at least 1"),
        ((*find, index, "--method", "best"), "method: 'best'; expected one of exhaus"),
        ((*find, index, "--prune_ratio", 1), "--prune_ratio: given with --method None"),
        (
            (*find, index, "--method", "block_max", "--expansion_rate", 2),
            "--expansion_rate: given with --method block_max; expected --method two_",
        ),
        (
            (*find, index, "--method", both, "--prune_type", "best"),
            "prune_type: 'best'; expected one of",
        ),
        ((*find, index, "--model", model_dir), "model: given for an index whose quer"),
        ((*find, index, "--mode", "graph"), "kind 'sparse' in mode 'graph'"),
        ((*find, index, "--backend", "faiss"), "kind 'sparse' with backend 'faiss'"),
        ((*build, tiny_model, "--prune_ratio", 0.1), "prune_ratio: given for an inde"),
        ((*build, tiny_model, "--dtype", "uint8"), "dtype 'uint8': given for an inde"),
        ((*build, model_dir, "--tokenizer", model_dir), "tokenizer: given with a mod"),
        ((*build, model_dir, "--prune_ratio", 1), "prune_ratio: 1.0; expected from 0"),
        ((*build, model_dir, "--without_model"), "leave --without_model out: queries"),
        ((*build, "bm25", "--tokenizer", tmp_path / "no"), "no: no such directory"),
    ]:
        assert call(*words) == 2
        said = capsys.readouterr().err.strip()
        assert message in said
        assert "\n" not in said
        assert not out.exists()
        assert not (tmp_path / "j").exists()
