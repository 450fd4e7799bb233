"""The verbs index and search, as a user types them."""

import json

import pytest
from tiny_hypencoders import tiny_hypencoder
from tiny_pq import many_documents, trained

from jaxir.checkpoints.model_dir import load_model, save_model
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


@pytest.fixture
def hypencoder_dir(tmp_path):
    save_model(tmp_path / "hypencoder", tiny_hypencoder(tmp_path / "words"))
    return tmp_path / "hypencoder"


def test_hypencoder(hypencoder_dir, tiny_collection, tmp_path, capsys):
    """Indexed, searched, given a graph, searched along it; from flags and from gin."""
    index, out = tmp_path / "i", tmp_path / "run.trec"
    build = ("index", "--model", hypencoder_dir, "--collection", tiny_collection)
    assert call(*build, "--index", index) == 0
    assert "hypencoder index of 12 documents, " in capsys.readouterr().err
    find = ("search", "--index", index, "--queries", f"{tiny_collection}:test")
    find += ("--output", out, "--k", 4)
    assert call(*find) == 0
    said = capsys.readouterr().err.splitlines()
    assert "12 results of 3 queries, " in said[-2]
    assert said[-1] == "scored 12 of 12 documents a query (100.0 %)"
    exhaustive = read_run(out)

    assert call("index", "--index", index, "--neighbors", 3, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["docs"], told["neighbors"]) == (12, 3)
    graph = (*find, "--mode", "graph")
    assert call(*graph) == 0
    said = capsys.readouterr().err
    assert "entry points: all 12 documents, as there are no more" in said
    found = read_run(out)
    assert {name: list(scored) for name, scored in found.items()} == {
        name: list(scored) for name, scored in exhaustive.items()
    }
    few = ("--entry-points", 2, "--explore", 1, "--iterations", 2, "--graph-seed", 1)
    told = {}
    for name, more in {
        "flags": few,
        "gin": (
            "--gin_file", "search/hyper_efficient1.gin", "--gin.ENTRY_POINTS=2",
            "--gin.EXPLORE=1", "--gin.ITERATIONS=2", "--gin.SEED=1",
        ),
        "both": (
            "--gin_file", "search/hyper_efficient2.gin", "--gin.ENTRY_POINTS=5", *few
        ),
        "released": (*few, "--rule", "released", "--no-early-stop"),
    }.items():  # fmt: skip
        assert call(*graph, *more, "--json") == 0
        told[name] = json.loads(capsys.readouterr().out)
        assert told[name]["mode"] == "graph"
        assert told[name]["docs"] == 12
        assert 2 <= told[name]["docs_scored"] < 12
    for more in (
        (),
        ("--rule", "paper"),
        ("--gin_file", "search/hyper_efficient1.gin"),
    ):
        assert call(*graph, *more, "--no-early-stop") == 2
        said = capsys.readouterr().err.strip()
        assert "--no_early_stop: given with rule 'paper', which it does not ch" in said
        assert said.endswith("expected --rule released")
    scored = {name: one["docs_scored"] for name, one in told.items()}
    assert scored["flags"] == scored["gin"] == scored["both"]
    # a graph of its own from the beginning, and of more than there are
    more = ("--neighbors", 30, "--graph-backend", "faiss")
    assert call(*build, "--index", tmp_path / "j", *more) == 0
    assert "of 12 documents with 11 neighbors each" in capsys.readouterr().err
    assert call(*graph[:2], tmp_path / "j", *graph[3:]) == 0


def test_codes(model_dir, tmp_path, capsys):
    """Those of a bi-encoder, taken by a trained model; documents come and go."""
    many = many_documents(tmp_path / "many", 40)
    more = many_documents(tmp_path / "more", 3, prefix="e", seed=1)
    index, trained_index, out = (tmp_path / name for name in ("i", "j", "run.trec"))
    build = ("index", "--kind", "pq", "--model", model_dir, "--collection", many)
    shape = ("--subvectors", 4, "--bits", 4, "--rotation", "none")
    assert call(*build, *shape, "--train_size", 30, "--seed", 1, "--index", index) == 0
    said = capsys.readouterr().err
    assert "pq index of 40 documents, 2 bytes each, 32 times smaller than vecto" in said
    assert "; codes 0.0 MB, ids 0.0 MB, with the model 0." in said
    assert "codes of 4 x 4 bits: relative error 0.0" in said
    save_model(tmp_path / "trained", trained(load_model(index / "model")))
    take = ("index", "--model", tmp_path / "trained", "--codes", index)
    assert call(*take, "--index", trained_index, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["docs"], told["doc_bytes"]) == ("pq", 40, 2)
    assert (told["compression"], told["neighbors"]) == (32.0, None)
    assert 0 < told["relative_error"] < 0.5
    assert told["codes_bytes"] == 80 + 128  # of .npy
    parts = [told[f"{part}_bytes"] for part in ("codes", "ids", "model")]
    assert told["bytes"] == sum(parts) > told["model_bytes"] > 0
    assert call("index", "--index", trained_index, "--add", more, "--json") == 0
    assert json.loads(capsys.readouterr().out)["docs"] == 43
    (tmp_path / "ids.txt").write_text("d0\ne1\n")
    cut = ("index", "--index", trained_index, "--delete", tmp_path / "ids.txt")
    assert call(*cut) == 0
    assert "pq index of 41 documents, 2 bytes each" in capsys.readouterr().err
    find = ("search", "--index", trained_index, "--queries", f"{many}:test")
    assert call(*find, "--output", out, "--k", 50, "--json") == 0
    assert json.loads(capsys.readouterr().out)["queries"] == 2
    found = {doc_id for scored in read_run(out).values() for doc_id in scored}
    assert found == {f"d{i}" for i in range(1, 40)} | {"e0", "e2"}


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
