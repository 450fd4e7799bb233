"""Every mistake a person can make: one line, exit code 2, nothing half-written.

The line names the file, its line where it has lines, and what to do.  The folder is
listed before and after, hidden files included: no output, no temporary, no lock.
"""

import contextlib
import errno
import gc
import gzip
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from tiny_hypencoders import tiny_hypencoder
from tiny_pq import many_documents, trained
from tiny_rerankers import tiny_reranker, tiny_t5

from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.cli.main import main
from jaxir.data.formats import write_run


def listing(folder):
    """Every path below a folder, and the size of the files."""
    return {
        str(path.relative_to(folder)): path.stat().st_size if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def refused(tmp_path, capfd):
    """``refused(words, *parts) -> line``: checks all that the issue asks for.

    ``kept`` is a pattern of paths that may stay, being whole and gone on from.
    """

    def check(words, *parts, kept=None):
        before = listing(tmp_path)
        capfd.readouterr()
        code = main([*map(str, words), "--quiet"])
        out, err = capfd.readouterr()
        assert code == 2, f"exit code {code}: {err[-500:]}"
        assert err.count("\n") == 1, err[-1000:]
        assert err.startswith(f"jaxir {words[0]}"), err
        for part in parts:
            assert str(part).lower() in err.lower()
        assert out == ""
        after = listing(tmp_path)
        changed = sorted(before.items() ^ after.items(), key=str)
        changed = [pair for pair in changed if not re.search(kept or "$.", pair[0])]
        assert not changed, f"left behind after {err}"
        return err

    return check


def put_line(path, number, text):
    """Puts ``text`` in the place of a line, counted from one."""
    lines = path.read_text().split("\n")
    lines[number - 1] = text
    path.write_text("\n".join(lines))


# Collections ------------------------------------------------------------------

BROKEN_LINES = [
    ("corpus.jsonl", 3, '{"_id": "river2", "text": ', "broken JSON"),
    ("corpus.jsonl", 3, '{"title": "t", "text": "words"}', "_id"),
    ("corpus.jsonl", 3, '{"_id": "river2", "title": "t"}', "text"),
    ("corpus.jsonl", 3, '{"_id": "river1", "text": "words"}', "river1"),
    ("corpus.jsonl", 3, '{"_id": "river2", "title": "", "text": " "}', "empty"),
    ("corpus.jsonl", 3, '["river2", "text"]', "JSON object"),
    ("queries.jsonl", 2, '{"_id": "q-river-test", "text": "x"', "broken JSON"),
    ("queries.jsonl", 2, '{"_id": "q-river-test"}', "text"),
    ("queries.jsonl", 2, '{"text": "words"}', "_id"),
    ("queries.jsonl", 2, '{"_id": "q-river-train", "text": "x"}', "q-river-train"),
    ("queries.jsonl", 2, '{"_id": "q-river-test", "text": ""}', "empty"),
    ("qrels/test.tsv", 4, "q-river-test\triver2\tone", "'one'"),
    ("qrels/test.tsv", 4, "q-river-test\triver2\t0.5", "'0.5'"),
    ("qrels/test.tsv", 4, "q-river-test\triver2", "column"),
    ("qrels/test.tsv", 4, "q-river-test\triver1\t0", "river1"),
]


@pytest.mark.parametrize(("name", "number", "text", "said"), BROKEN_LINES)
def test_collection_lines(refused, tiny_collection, tmp_path, name, number, text, said):
    put_line(tiny_collection / name, number, text)
    place = f"{tiny_collection / name}:{number}: "
    refused(["data", "beir", tiny_collection], place, said)
    refused(
        ["data", "beir", tiny_collection, "--output", tmp_path / "copy"], place, said
    )
    if name == "corpus.jsonl":
        words = ["index", "--model", "bm25", "--collection", tiny_collection]
        refused([*words, "--index", tmp_path / "index"], place, said)
    if name == "queries.jsonl":
        refused(
            ["search", "--index", tmp_path / "index", "--output", tmp_path / "run.trec",
             "--queries", tiny_collection / name],
            place, said,
        )  # fmt: skip
    if name == "qrels/test.tsv":
        words = ["evaluate", "--qrels", tiny_collection / name, "--runs", "no.trec"]
        refused(words, place, said)


def test_collection_bytes(refused, tiny_collection):
    path = tiny_collection / "corpus.jsonl"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"clay", b"cl\xe4y", 1))
    refused(["data", "beir", tiny_collection], f"{path}:1: ", "UTF-8")
    path.unlink()
    packed = tiny_collection / "corpus.jsonl.gz"
    packed.write_bytes(gzip.compress(good)[:-20])
    refused(["data", "beir", tiny_collection], packed, "gzip")


def test_collection_that_is_none(refused, tiny_collection, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "absent"):
        refused(["data", "beir", place], place)
        words = ["index", "--model", "bm25", "--collection", place]
        refused([*words, "--index", tmp_path / "index"], place)
    (tiny_collection / "corpus.jsonl").write_text("")
    refused(
        ["data", "beir", tiny_collection],
        tiny_collection,
        "corpus.jsonl: the file is empty",
    )


def test_absent_judged_documents_are_told_once(tiny_collection, tmp_path, capfd):
    with (tiny_collection / "qrels" / "test.tsv").open("a") as out:
        out.write("q-river-test\tgone1\t1\nq-bread-test\tgone2\t1\nq-none\triver1\t1\n")
    assert main(["data", "beir", str(tiny_collection)]) == 0
    out, err = capfd.readouterr()
    assert "2 documents and 1 queries that the collection does not have" in out
    assert err.count("\n") == 2
    assert err.count("name 2 documents that the collection does not have") == 1
    assert err.count("name 1 queries that the collection does not have") == 1
    index, run = tmp_path / "index", tmp_path / "run.trec"
    words = ["index", "--model", "bm25", "--collection", str(tiny_collection)]
    assert main([*words, "--index", str(index), "--quiet"]) == 0
    words = ["search", "--index", str(index), "--queries", f"{tiny_collection}:test"]
    assert main([*words, "--output", str(run), "--k", "5"]) == 0
    capfd.readouterr()
    words = ["evaluate", "--qrels", f"{tiny_collection}:test", "--runs", str(run)]
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert "nDCG@10" in out
    assert err.count("2 documents") == 1


# Runs, judgments, options of evaluate, fuse and search ------------------------

GOOD = "q-river-test Q0 river0 1 2.0 a\nq-river-test Q0 river1 2 1.0 a\n"
BROKEN_RUNS = [
    (GOOD + "q-bread-test Q0 bread1 1 nan a\n", 3, "finite"),
    (GOOD + "q-bread-test Q0 bread1 1 inf a\n", 3, "finite"),
    (GOOD + "q-bread-test Q0 bread1 1 high a\n", 3, "'high'"),
    (GOOD + "q-bread-test Q0 bread1 1\n", 3, "column"),
    (GOOD + "q-river-test Q0 river1 3 0.5 a\n", 3, "river1"),
]


@pytest.mark.parametrize(("text", "number", "said"), BROKEN_RUNS)
def test_run_lines(refused, tiny_collection, tmp_path, text, number, said):
    run = tmp_path / "run.trec"
    run.write_text(text)
    report = ["--report", tmp_path / "r.html", "--per-query", tmp_path / "q.csv"]
    words = ["evaluate", "--qrels", f"{tiny_collection}:test", "--runs", run]
    refused([*words, *report], f"{run}:{number}: ", said)
    words = ["fuse", "--runs", run, run, "--output", tmp_path / "fused.trec"]
    refused(words, f"{run}:{number}: ", said)


def test_evaluate_options(refused, tiny_collection, tmp_path):
    run, other = tmp_path / "run.trec", tmp_path / "other.trec"
    run.write_text(GOOD)
    write_run(other, {"another-query": {"river0": 1.0}})
    (tmp_path / "empty.trec").write_text("")
    report = ["--report", tmp_path / "r.html", "--per-query", tmp_path / "q.csv"]

    def words(*runs, qrels=f"{tiny_collection}:test"):
        return ["evaluate", "--qrels", qrels, "--runs", *runs, *report]

    refused(words(run, other), "other", "queries")
    refused(words(run, tmp_path / "empty.trec"), "empty", "queries")
    refused(words(run, tmp_path / "absent.trec"), "absent.trec", "no such file")
    refused([*words(run), "--metrics", "nonsense"], "nonsense")
    refused([*words(run), "--metrics", "nDCG@ten"], "nDCG@ten")
    refused([*words(run, other), "--baseline", "bm25"], "--baseline", "one of run")
    against = [*words(run), "--baseline", "run"]
    refused([*against, "--tests", "anova"], "anova")
    refused([*against, "--alpha", "2"], "alpha")
    refused([*against, "--correction", "some"], "some")
    refused([*words(run), "--alpha", "0.1"], "--alpha", "--baseline")
    refused([*words(run), "--names", "a", "b"], "--names")
    refused([*words(run), "--curves", "a"], "--curves")
    refused([*words(run), "--curves", f"a={tmp_path / 'no.jsonl'}"], "no.jsonl")
    refused(words(run, qrels=f"{tiny_collection}:dev"), "dev", "test")
    refused(words(run, qrels=tiny_collection), "--qrels")
    refused(words(run, qrels=tmp_path / "absent.tsv"), "absent.tsv")
    refused(words(run, qrels=f"{tmp_path / 'absent'}:test"), "absent")
    refused(["evaluate", "--runs", run], "--qrels")


def test_fuse_options(refused, tmp_path):
    run = tmp_path / "run.trec"
    run.write_text(GOOD)
    words = ["fuse", "--runs", run, run, "--output", tmp_path / "fused.trec"]
    refused([*words, "--method", "mean"], "mean", "rrf")
    refused([*words, "--weights", "1"], "weights")
    refused([*words, "--depth", "0"], "depth")
    refused([*words, "--rrf.k", "-1"], "rrf")
    refused([*words, "--method", "combsum", "--normalization", "soft"], "soft")
    refused([*words, "--normalization", "min-max"], "--normalization", "rrf")
    refused([*words[:3], tmp_path / "no.trec", *words[3:]], "no.trec", "no such file")


# Indexes ----------------------------------------------------------------------


@pytest.fixture
def bm25_index(tiny_collection, tmp_path):
    words = ["index", "--model", "bm25", "--collection", str(tiny_collection)]
    assert main([*words, "--index", str(tmp_path / "bm25"), "--quiet"]) == 0
    return tmp_path / "bm25"


@pytest.fixture
def dense_index(tiny_collection, tiny_model, tmp_path):
    words = ["index", "--model", str(tiny_model), "--collection", str(tiny_collection)]
    assert main([*words, "--index", str(tmp_path / "dense"), "--quiet"]) == 0
    return tmp_path / "dense"


def searching(index, tiny_collection, tmp_path, *more):
    return [
        "search", "--index", index, "--queries", f"{tiny_collection}:test",
        "--output", tmp_path / "run.trec", *more,
    ]  # fmt: skip


def test_search_learns_of_its_output_first(refused, tiny_collection, tmp_path):
    words = searching(tmp_path / "no index", tiny_collection, tmp_path)
    (tmp_path / "run.trec").mkdir()
    refused(words, tmp_path / "run.trec", "a folder")


@pytest.mark.parametrize("kind", ["bm25_index", "dense_index"])
def test_damaged_index(kind, request, refused, tiny_collection, tmp_path):
    index = request.getfixturevalue(kind)
    words = searching(index, tiny_collection, tmp_path)
    refused([*words, "--k", "0"], "k", "at least 1")
    manifest = json.loads((index / "manifest.json").read_text())
    for name in manifest["files"]:
        if manifest["files"][name]["bytes"] < 2:
            continue
        whole = (index / name).read_bytes()
        (index / name).write_bytes(whole[:-1])
        refused(words, index / name, "jaxir index")
        (index / name).unlink()
        refused(words, index / name, "missing", "jaxir index")
        (index / name).write_bytes(whole)
    for change, said in (
        ({"format_version": 99}, "at most"),
        ({"kind": "pictures"}, "'pictures'"),
        ({"kind": 3, "files": 7}, "manifest"),
    ):
        (index / "manifest.json").write_text(json.dumps(manifest | change))
        refused(words, index, said)
    (index / "manifest.json").write_text('{"kind": ')
    refused(words, index / "manifest.json", "jaxir index")
    (index / "manifest.json").unlink()
    refused(words, index, "no manifest.json here", "jaxir index")
    mine = ["mine", "--index", index, "--collection", f"{tiny_collection}:train"]
    refused([*mine, "--output", tmp_path / "lists.jsonl"], index, "jaxir index")


def test_index_of_something_else(refused, bm25_index, tiny_collection, tmp_path):
    words = searching(bm25_index, tiny_collection, tmp_path)
    refused([*words, "--model", tmp_path], "model", "BM25")
    refused(searching(tmp_path / "no", tiny_collection, tmp_path), "no such directory")
    words = [*words[:3], "--queries", f"{tiny_collection}:dev", *words[5:]]
    refused(words, "dev", "test, train")
    words = ["index", "--model", "bm25", "--collection", tiny_collection, "--index"]
    refused([*words, tiny_collection], tiny_collection, "not an index")
    refused([*words, tiny_collection / "corpus.jsonl"], "a file stands here")
    refused([*words, tmp_path / "x", "--stemmer", "klingon"], "klingon")
    refused([*words, tmp_path / "x", "--k1", "-1"], "k1")
    refused([*words, tmp_path / "x", "--kind", "dense"], "dense", "bm25")


def test_index_moved_from_its_model(refused, tiny_collection, tiny_model, tmp_path):
    words = ["index", "--model", tiny_model, "--collection", tiny_collection]
    words += ["--index", tmp_path / "dense", "--without-model", "--quiet"]
    assert main(list(map(str, words))) == 0
    tiny_model.rename(tmp_path / "moved")
    words = searching(tmp_path / "dense", tiny_collection, tmp_path)
    refused(words, tmp_path / "dense", "--model")


# Hypencoders ------------------------------------------------------------------


@pytest.fixture
def hypencoder_index(tiny_collection, tmp_path):
    """Without a graph; its model stands beside it."""
    save_model(tmp_path / "hypencoder", tiny_hypencoder(tmp_path / "words"))
    words = ["index", "--model", str(tmp_path / "hypencoder")]
    words += ["--collection", str(tiny_collection), "--index", str(tmp_path / "hyper")]
    assert main([*words, "--quiet"]) == 0
    return tmp_path / "hyper"


GRAPH_FLAGS = [
    ("--entry_points", 5), ("--explore", 5), ("--iterations", 5), ("--rule", "paper"),
    ("--no_early_stop",), ("--graph_seed", 0), ("--gin.EXPLORE=3",),
    ("--gin_file", "search/hyper_efficient1.gin"),
]  # fmt: skip


def test_modes_of_search(
    refused, hypencoder_index, bm25_index, dense_index, tiny_collection, tmp_path
):
    words = searching(hypencoder_index, tiny_collection, tmp_path)
    graph = [*words, "--mode", "graph"]
    add = f"jaxir index --index {hypencoder_index} --neighbors"
    refused(graph, hypencoder_index, "without a neighbour graph", add)
    refused([*words, "--mode", "tree"], "'tree'", "one of exhaustive, graph")
    for index in (bm25_index, dense_index):
        other = searching(index, tiny_collection, tmp_path)
        refused([*other, "--mode", "graph"], index, "in mode 'graph'", "'hypencoder'")
        refused([*other, "--explore", "5"], "--explore", "expected --mode graph")
    for flag in GRAPH_FLAGS:
        name = flag[0].partition("=")[0]
        refused([*words, *flag], name, "given with --mode exhaustive")
    refused([*graph, "--entry_points", "0"], "entry_points", "at least 1")
    refused([*graph, "--explore", "-1"], "explore", "at least 1")
    refused([*graph, "--iterations", "many"], "--iterations", "'many'")
    refused([*graph, "--rule", "mine"], "'mine'", "paper or released")
    for more, said in (
        (["search/absent.gin"], "no such gin file"),
        (["models/bert_base.gin"], "nothing about GraphSearchConfig"),
        (["search/hyper_efficient1.gin", "--gin.DEPTH=3"], "no such macro"),
        (["search/hyper_efficient1.gin", "--gin.EXPLORE='a'"], "expected int"),
        (["search/hyper_efficient1.gin", "--gin.EXPLORE=0"], "at least 1"),
    ):
        refused([*graph, "--gin_file", *more], more[-1].partition("=")[0][6:], said)


def test_graphs_of_an_index(
    refused, hypencoder_index, bm25_index, tiny_collection, tmp_path
):
    add = ["index", "--index", hypencoder_index, "--neighbors"]
    refused([*add, "0"], "neighbors", "a positive number")
    refused([*add, "3", "--graph_backend", "annoy"], "'annoy'", "jax or faiss")
    for name, *value in (
        ("--dtype", "float16"), ("--k1", "1"), ("--without_model",), ("--kind", "dense")
    ):  # fmt: skip
        refused([*add, "3", name, *value], name, "where only neighbors are added")
    refused([*add[:2], tmp_path / "no", *add[3:], "3"], "no such directory")
    refused([*add[:2], bm25_index, *add[3:], "3"], "kind 'bm25'", "kind 'hypencoder'")
    build = ["index", "--model", tmp_path / "hypencoder", "--collection"]
    build += [tiny_collection, "--index", tmp_path / "new"]
    refused([*build, "--graph_backend", "faiss"], "without --neighbors")
    refused([*build, "--k1", "1"], "--k1", "--model bm25")
    refused([*build, "--kind", "dense"], "'dense' with a model of kind 'hypencoder'")
    bm25 = ["index", "--model", "bm25", *build[3:], "--neighbors", "3"]
    refused(bm25, "neighbour graph for kind 'bm25'")
    refused(["index", "--index", hypencoder_index], "--model: not given")
    refused(["index", "--index", tmp_path / "new", "--model", "bm25"], "--collection")


# Indexes of codes -------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    """A collection of 30 documents."""
    return many_documents(tmp_path / "many", 30)


@pytest.fixture
def pq_index(many, tiny_model, tmp_path):
    """The words that build one of its documents, and where it stands."""
    words = ["index", "--kind", "pq", "--model", tiny_model, "--collection", many]
    words += ["--subvectors", 4, "--bits", 4, "--index", tmp_path / "pq"]
    assert main([*map(str, words), "--quiet"]) == 0
    return words[:-1], tmp_path / "pq"


def test_codes_that_cannot_be_built(
    refused, pq_index, many, tiny_model, bm25_index, tiny_collection, tmp_path
):
    build, _ = pq_index
    new, dense = tmp_path / "new", tmp_path / "dense"
    other = many_documents(tmp_path / "other", 30, seed=1)
    refused([*build, new, "--subvectors", 5], "5 parts", "width 16", "a divisor of 16")
    refused([*build, new, "--subvectors", 0], "subvectors", "a positive number")
    refused([*build, new, "--bits", 8], "30 training vectors for 256", "--bits 4")
    refused([*build, new, "--train_size", 9], "9 training vectors", "--train_size")
    refused([*build, new, "--bits", 5], "bits: 5", "8 or 4")
    refused([*build, new, "--rotation", "pca"], "pca", "opq or none")
    refused([*build, new, "--seed", -1], "seed", "0 or more")
    refused([*build, new, "--without_model"], "--without_model", "only the index has")
    refused([*build, new, "--neighbors", 3], "kind 'pq'", "'hypencoder'")
    refused(["index", "--model", tiny_model, "--collection", many, "--index", new,
             "--bits", 4], "bits", "kind 'dense'", "--kind pq")  # fmt: skip
    refused(["index", "--model", "bm25", "--collection", many, "--index", new,
             "--kind", "pq"], "'pq' with a model of kind 'bm25'")  # fmt: skip
    few = [tiny_collection if word == many else word for word in build]
    refused([*few, new], "12 training vectors for 16 centroids")
    # vectors of a dense index
    words = ["index", "--model", tiny_model, "--collection", many, "--index", dense]
    assert main([*map(str, words), "--quiet"]) == 0
    taken = [*build, new, "--vectors"]
    refused([*taken, bm25_index], bm25_index, "kind 'bm25'", "kind 'dense'")
    words = [other if word == many else word for word in taken]
    refused([*words, dense], dense, "another collection", "'many'", "'other'")
    refused([*taken, dense, "--dtype", "float16"], "--dtype", "nothing is encoded")
    path = dense / "vectors" / "vectors-00000.npy"
    vectors = np.load(path)
    vectors[3, 0] = np.inf
    np.save(path, vectors)
    refused([*taken, dense], f"{path.name}, row 3", "NaN or infinity", "encode")
    model = load_model(str(tiny_model))
    kernel = model.params["shared"]["backbone"]["embeddings"]["norm"]["scale"]
    kernel[:] = np.nan
    save_model(tmp_path / "nan", model)
    words = [tmp_path / "nan" if word == tiny_model else word for word in build]
    refused([*words, new], "not finite", "diverged")


def test_codes_that_cannot_be_taken(
    refused, pq_index, bm25_index, tiny_model, tiny_collection, tmp_path
):
    _, index = pq_index
    model = load_model(str(index / "model"))
    save_model(tmp_path / "ok", trained(model))
    save_model(tmp_path / "turned", trained(model, "codec/rotation"))
    save_model(tmp_path / "moved", trained(model, "codec/assignment"))
    words = ["index", "--index", tmp_path / "new", "--codes", index, "--model"]
    refused([*words, tmp_path / "turned"], index, "another rotation", "--codes out")
    refused([*words, tmp_path / "moved"], index, "another assignment")
    refused([*words, tiny_model], "codes", "kind 'dense'", "--kind pq")
    refused([*words, tiny_model, "--kind", "pq"], "kind 'dense'", "kind 'jpq'")
    mine = [*words, tmp_path / "ok"]
    refused([*mine, "--collection", tiny_collection], "another collection", "'many'")
    refused([*mine, "--max_length", 9], "--max_length", "nothing is encoded")
    refused([*mine, "--bits", 4], "bits", "with codes")
    words[4] = bm25_index
    refused([*words, tmp_path / "ok"], bm25_index, "kind 'bm25'", "kind 'pq'")


def test_documents_that_cannot_come_or_go(
    refused, pq_index, many, bm25_index, tiny_collection, tiny_model, tmp_path
):
    _, index = pq_index
    ids = tmp_path / "ids.txt"
    add = ["index", "--index", index, "--add", many]
    delete = ["index", "--index", index, "--delete", ids]
    refused(delete, ids, "no such file")
    ids.write_text("d1\nd99\n")
    refused(delete, index, "no documents 'd99'")
    ids.write_text("\n")
    refused(delete, ids, "no ids")
    ids.write_text("".join(f"d{i}\n" for i in range(30)))
    refused(delete, index, "every document")
    refused(add, many, "'d0', 'd1', 'd2' and 27 more", "--delete")
    refused([*add[:4], tmp_path / "none"], tmp_path / "none")
    for words in (add, delete):
        done = words[3].removeprefix("--")
        other = [*words[:2], bm25_index, *words[3:]]
        refused(other, bm25_index, "kind 'bm25'", "the only ones that documents are")
        for more in (("--kind", "pq"), ("--bits", 4), ("--neighbors", 3),
                     ("--without_model",), ("--k1", 1)):  # fmt: skip
            refused([*words, *more], more[0], "given where documents are", done[:5])
    refused([*delete, "--model", tiny_model], "--model", "documents are deleted")
    refused([*add, *delete[3:]], "--delete", "documents are added")
    refused([*delete, "--batch_tokens", 9], "--batch_tokens", "documents are deleted")


def test_graph_of_another_corpus(refused, hypencoder_index, tiny_collection, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_collection, other / "collection")
    words = (other / "collection" / "corpus.jsonl").read_text().replace("sea", "steel")
    (other / "collection" / "corpus.jsonl").write_text(words)
    build = ["index", "--model", tmp_path / "hypencoder", "--collection"]
    build += [other / "collection", "--index", other / "index", "--neighbors", "3"]
    assert main([*map(str, build), "--quiet"]) == 0
    add = ["index", "--index", str(hypencoder_index), "--neighbors", "3", "--quiet"]
    assert main(add) == 0
    words = searching(hypencoder_index, tiny_collection, tmp_path, "--mode", "graph")
    mine, theirs = hypencoder_index / "graph", other / "index" / "graph"
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    refused(words, mine, "a graph of 12 vectors with fingerprint", "those of the index")
    (mine / "neighbors.npy").unlink()
    refused(words, mine / "neighbors.npy", "missing", "jaxir index")


@pytest.mark.parametrize("mode", ["exhaustive", "graph"])
def test_vectors_of_a_hypencoder(
    refused, hypencoder_index, tiny_collection, tmp_path, mode
):
    add = ["index", "--index", str(hypencoder_index), "--neighbors", "3", "--quiet"]
    assert main(add) == 0
    words = searching(hypencoder_index, tiny_collection, tmp_path, "--mode", mode)
    path = hypencoder_index / "vectors" / "vectors-00000.npy"
    stored = np.load(path)
    stored[4, 2] = np.nan
    np.save(path, stored)
    refused(words, "row 4", "NaN")
    np.save(path, stored[:, :8])
    refused(words, path, "bytes")  # and where the manifest fits, tests/test_search.py
    save_model(tmp_path / "other", tiny_hypencoder(tmp_path / "words", seed=1))
    np.save(path, stored)
    refused([*words, "--model", tmp_path / "other"], "fingerprint")


# Models -----------------------------------------------------------------------


def test_model_of_another_kind(refused, tiny_model, tiny_collection, tmp_path):
    path = tiny_model / "model.json"
    good = json.loads(path.read_text())
    words = ["index", "--model", tiny_model, "--collection", tiny_collection]
    words += ["--index", tmp_path / "index"]
    for change, said in (
        ({"kind": "oracle"}, "'oracle'"),
        ({"kind": 5}, "5"),
        ({"format_version": 99}, "upgrade jaxir"),
        ({"format_version": "new"}, "format_version"),
        ({"architecture": {}}, "backbone"),
        ({"architecture": good["architecture"] | {"colour": 1}}, "colour"),
        ({"architecture": good["architecture"] | {"pooling": "sum"}}, "sum"),
    ):
        path.write_text(json.dumps(good | change))
        refused(words, tiny_model, said)
    path.write_text('{"kind": "dense",')
    refused(words, f"{path}:1")
    path.write_text('{"kind": "dense"}')
    refused(words, path)
    path.unlink()
    refused(words, tiny_model, "no model here")


def test_damaged_model(refused, tiny_model, tiny_collection, tmp_path):
    words = ["index", "--model", tiny_model, "--collection", tiny_collection]
    words += ["--index", tmp_path / "index"]
    for name in ("params", "tokenizer"):
        away = tmp_path / "away"
        (tiny_model / name).rename(away)
        refused(words, tiny_model, name)
        away.rename(tiny_model / name)
    for path in sorted(tiny_model.rglob("tokenizer/tokenizer.json")):
        whole = path.read_bytes()
        path.write_bytes(whole[:100])
        refused(words, tiny_model)
        path.write_bytes(whole)
    largest = max(
        (p for p in (tiny_model / "params").rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    refused(words, tiny_model)


def test_model_that_is_not_there(refused, tiny_collection, dense_index, tmp_path):
    absent = tmp_path / "absent"
    index = ["--collection", tiny_collection, "--index", tmp_path / "index"]
    refused(["index", "--model", absent, *index], absent, "no such directory", "hf:ID")
    refused(["index", "--model", "hf:no/such-model", *index], "hf:no/such-model")
    refused(["index", "--model", "package:nothing_here/x", *index], "pip install")
    refused(["index", "--model", "dpr:one", *index], "dpr:QUESTION,CONTEXT")
    convert = ["convert", absent, f"jaxir:{tmp_path / 'new'}"]
    refused(convert, absent, "no such directory")
    refused(["convert", absent, tmp_path / "new"], "TO")
    words = searching(dense_index, tiny_collection, tmp_path, "--model", absent)
    refused(words, absent)
    lists = tmp_path / "lists.jsonl"
    lists.write_text('{"query_id": "q-river-train", "items": '
                     '[{"doc_id": "river0", "label": 1}]}\n')  # fmt: skip
    label = ["label", "--lists", lists, "--collection", tiny_collection]
    label += ["--output", tmp_path / "out.jsonl"]
    refused([*label, "--teachers", absent], absent)
    words = ["demo", "--collection", tiny_collection, "--model", absent]
    refused([*words, "--output", tmp_path / "demo"], absent)


def test_convert_changes(refused, tiny_model, tmp_path):
    words = ["convert", tiny_model, f"jaxir:{tmp_path / 'new'}", "--set"]
    refused([*words, "pooling=sum"], "sum")
    refused([*words, "colour=red"], "colour")
    refused([*words, "pooling"], "KEY=VALUE")
    refused(["convert", tiny_model, f"jaxir:{tmp_path}"], tmp_path, "nothing was")


# Training and its lists -------------------------------------------------------


@pytest.fixture
def training(tiny_collection, tiny_model, tmp_path):
    """``training(*more, file=...) -> words`` of two tiny steps."""

    def words(*more, file="dense_medquad_small"):
        return [
            "train", "--gin_file", f"experiments/{file}.gin",
            f"--gin.COLLECTION={str(tiny_collection)!r}",
            f"--gin.MODEL_PATH={str(tiny_model)!r}",
            "--gin.DEV_SPLIT='test'", "--gin.CANDIDATES=None", "--gin.LIST_SIZE=1",
            "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=8",
            "--gin.QUERY_LENGTH=16", "--gin.DOC_LENGTH=16",
            "--model_dir", tmp_path / "made", *more,
        ]  # fmt: skip

    return words


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--gin.TRIAN_STEPS=3", "--gin.TRIAN_STEPS: no such macro"),
        ("--gin.fit.fit.colour=3", "colour"),
        ("--gin.nobody.knows=3", "nobody"),
        ("--gin.TRAIN_STEPS", "--gin.NAME=VALUE"),
        ("--gin.MODEL_PATH=unquoted/words", "--gin.MODEL_PATH: 'unquoted'"),
        ("--gin.TRAIN_STEPS=many", "--gin.TRAIN_STEPS: 'many'"),
        ("--gin.TRAIN_STEPS='many'", "--gin.TRAIN_STEPS: 'many'; expected int"),
        ("--gin.TRAIN_STEPS=-1", "-1"),
        ("--gin.BATCH_SIZE=0", "0"),
        ("--gin.BATCH_SIZE='x'", "--gin.BATCH_SIZE: 'x'; expected int"),
        ("--gin.BATCH_SIZE=8.0", "expected int"),
        ("--gin.BATCH_SIZE=13", "at most 12"),
        ("--gin.pipeline.PipelineConfig.window=None", "PipelineConfig.window"),
        ("--gin.LEARNING_RATE='fast'", "--gin.LEARNING_RATE: 'fast'; expected float"),
        ("--gin.DEV_SPLIT='nowhere'", "nowhere"),
        ("--gin.COLLECTION='absent'", "absent"),
        ("--gin.MODEL_PATH='absent'", "absent"),
        ("--gin.DOC_LENGTH=9999", "9999"),
        ("--gin.TOWERS='many'", "many"),
    ],
)
def test_gin_values(refused, training, flag, said):
    refused(training(flag), said)


def test_gin_files(refused, training, tmp_path):
    words = ["train", "--gin_file", "experiments/dense_medquad_small.gin"]
    words += ["--model_dir", tmp_path / "made", "--gin.CANDIDATES=None"]
    refused(words, "COLLECTION has no value; give --gin.COLLECTION=VALUE")
    refused([*words[:2], "no.gin", *words[3:]], "no.gin", "no such gin file")
    path = tmp_path / "mine.gin"
    path.write_text("include 'experiments/dense_medquad_small.gin'\nBATCH_SIZE = \n")
    refused(training("--gin_file", path), f"{path}:")
    path.write_text("include 'nowhere.gin'\n")
    refused(training("--gin_file", path), "nowhere.gin")
    path.write_text("nobody.knows = 3\n")
    refused(training("--gin_file", path), f"{path}:1", "nobody")


def list_line(query, *docs, **more):
    items = [
        {"doc_id": doc, "label": float(i == 0), "score": 1.0 - i}
        for i, doc in enumerate(docs)
    ]
    return json.dumps({"query_id": query, "items": items} | more) + "\n"


GOOD_LIST = list_line("q-river-train", "river0", "bread1", "engine2")
BROKEN_LISTS = [
    (GOOD_LIST + '{"query_id": \n', 2, "broken JSON"),
    (GOOD_LIST + '{"items": []}\n', 2, "query_id"),
    (GOOD_LIST + '{"query_id": "q-river-train"}\n', 2, "items"),
    (GOOD_LIST + list_line("q-bread-train", "bread0", "bread0"), 2, "bread0"),
    (GOOD_LIST + list_line("q-bread-train", "bread0", "gone"), 2, "gone"),
    (GOOD_LIST + list_line("nobody", "bread0", "river1"), 2, "nobody"),
    (GOOD_LIST.replace("1.0,", "0.0,", 1), None, "no positive in any of 1 training"),
    ("", None, "no "),
]


@pytest.mark.parametrize(("text", "number", "said"), BROKEN_LISTS)
def test_lists(
    refused, training, tiny_model, tiny_collection, tmp_path, text, number, said
):
    path = tmp_path / "lists.jsonl"
    path.write_text(text)
    place = path if number is None else f"{path}:{number}: "
    out = ["--output", tmp_path / "out"]
    label = ["label", "--teachers", tiny_model, "--lists", path, *out]
    scorable = "no positive" in said  # a teacher can still speak
    if not scorable:
        refused([*label, "--collection", tiny_collection], place, said)
    tfds = ["data", "tfds", "--lists", path, *out]
    if said == "gone":  # left out, and told
        return
    if not scorable:
        refused([*tfds, "--collection", f"{tiny_collection}:train"], place, said)
    words = training(f"--gin.LISTS={str(path)!r}", file="be_base_small")
    refused(words, place, said)


def test_lists_without_scores(refused, training, tmp_path):
    path = tmp_path / "lists.jsonl"
    record = json.loads(GOOD_LIST)
    for item in record["items"]:
        del item["score"]
    path.write_text((json.dumps(record) + "\n") * 8)
    words = training(f"--gin.LISTS={str(path)!r}", file="be_base_small")
    refused(words, "teacher", "jaxir label")


def test_mine_and_label_options(
    refused, bm25_index, tiny_model, tiny_collection, tmp_path
):
    path = tmp_path / "lists.jsonl"
    path.write_text(GOOD_LIST)
    mine = ["mine", "--index", bm25_index, "--collection", f"{tiny_collection}:train"]
    mine += ["--output", tmp_path / "mined.jsonl"]
    refused([*mine, "--num_negatives", "0"], "num_negatives")
    refused([*mine, "--sampling_strategy", "best"], "best")
    refused([*mine, "--per", "page"], "page")
    refused([*mine, "--rescore", tmp_path / "absent"], "absent")
    refused([*mine, "--collection", f"{tiny_collection}:dev"], "dev")
    (tmp_path / "folder").mkdir()
    folder = ["--output", tmp_path / "folder"]
    refused([*mine, *folder], "folder: a folder", "the name of a file")
    label = ["label", "--teachers", tiny_model, "--lists", path]
    label += ["--collection", tiny_collection]
    refused([*label, "--output", path], path)
    refused([*label, *folder], "folder: a folder", "the name of a file")
    label += ["--output", tmp_path / "out.jsonl"]
    refused([*label, "--weights", "1", "2"], "weights")
    refused([*label, "--normalization", "soft"], "soft")
    refused([*label, "--batch_size", "0"], "batch_size")
    other = tmp_path / "other"
    shutil.copytree(tiny_collection, other)
    lines = (other / "corpus.jsonl").read_text().splitlines(keepends=True)
    (other / "corpus.jsonl").write_text("".join(lines[4:]))  # without the rivers
    refused([*label, "--collection", other], f"{path}:1", "river0")


def test_rerank_options(refused, tiny_collection, tiny_model, tmp_path):
    run, t5 = tmp_path / "run.trec", tmp_path / "t5"
    run.write_text(GOOD)
    save_model(t5, tiny_t5(tmp_path / "words"))
    save_model(tmp_path / "bert", tiny_reranker("bert", tmp_path / "pieces"))

    def words(*more, model=t5, run=run, collection=tiny_collection):
        given = ["--model", model, "--run", run, "--collection", collection]
        return ["rerank", *given, "--output", tmp_path / "out.trec", *more]

    for text, said in (
        ("", "no results"),
        (GOOD + "q-river-test Q0 gone 3 0.5 a\n", "'gone'"),
        (GOOD + "q-none Q0 river0 1 2.0 a\n", "'q-none'"),
        (GOOD + "q-bread-test Q0 river0 1 2.0 a\n" + GOOD, "sort"),
        *((text, said) for text, _, said in BROKEN_RUNS),
    ):
        other = tmp_path / "other.trec"
        other.write_text(text)
        refused(words(run=other), other, said)
    refused(words(run=tmp_path / "no.trec"), "no.trec", "no such file")
    refused(words(model=tmp_path / "absent"), "absent")
    refused(words(collection=tmp_path / "absent"), "absent")
    refused(words(collection=f"{tiny_collection}:dev"), "dev", "test, train")
    refused(words("--queries", tmp_path / "absent.tsv"), "absent.tsv")
    refused(words("--k", "0"), "k", "at least 1")
    refused(words("--tag", "two words"), "tag")
    refused(words("--max_length", "2"), "max_length")
    refused(words("--target_token", "<extra_id_99>"), "<extra_id_99>", "vocabulary")
    refused(words("--contrast_token", "false"), "write '▁false'")
    refused(words("--head", "enc"), "head", "jaxir train")
    refused(words("--head", "all"), "--head")
    refused(words("--head", "enc", model=tiny_model), "head", "dense")
    refused(words("--batch_tokens", "0"), "batch_tokens", "at least 1")
    refused(words("--tag", ""), "tag", "one word")
    refused(words("--tokenizer", tmp_path / "pieces"), "pieces", "a T5's, with </s>")
    for kind, more, said in (
        ("encdec", ("--head", "enc"), "no score_head"),
        ("enc", ("--head", "encdec"), "'enc' network cannot become 'encdec'"),
        ("enc", ("--target_token", "▁true"), "head 'enc', which reads no vocabulary"),
    ):
        save_model(tmp_path / kind, tiny_reranker(kind, tmp_path / "words"))
        refused(words(*more, model=tmp_path / kind), said)
    (tmp_path / "folder").mkdir()
    refused([*words()[:-1], tmp_path / "folder"], "folder", "the name of a file")
    refused(words("--target_token", "sea", model=tmp_path / "bert"), "rank_bert")
    refused([*words()[:-2], "--output", run], run, "another name")
    description = json.loads((t5 / "model.json").read_text())
    (t5 / "model.json").write_text(json.dumps(description | {"kind": "oracle"}))
    refused(words(), t5, "'oracle'")


@pytest.fixture
def ranking(tiny_collection, tmp_path):
    """``ranking(*more, file=...) -> words`` of two tiny steps of a RankT5."""
    save_model(tmp_path / "t5", tiny_t5(tmp_path / "words"))
    scores = {doc: float(-i) for i, doc in enumerate(("river0", "engine0", "bread0"))}
    for split in ("train", "test"):
        names = [f"q-{topic}-{split}" for topic in ("river", "engine", "bread")]
        write_run(tmp_path / f"{split}.trec", dict.fromkeys(names, scores))

    def words(*more, task="encdec_softmax"):
        return [
            "train", "--gin_file", "experiments/rankt5_small.gin",
            "--gin_file", f"tasks/rank/{task}.gin",
            f"--gin.COLLECTION={str(tiny_collection)!r}",
            f"--gin.MODEL_PATH={str(tmp_path / 't5')!r}",
            f"--gin.CANDIDATES={str(tmp_path / 'train.trec')!r}",
            "--gin.TRAIN_STEPS=2", "--gin.WARMUP=0", "--gin.BATCH_SIZE=8",
            "--gin.LIST_SIZE=2", "--gin.MAX_LENGTH=24",
            "--model_dir", tmp_path / "made", *more,
        ]  # fmt: skip

    return words


def test_ranking_options(refused, ranking, tmp_path):
    refused(ranking("--gin.TARGET_TOKN='x'"), "TARGET_TOKN: no such macro")
    refused(ranking("--gin.EMB_DIM=4"), "EMB_DIM", "nothing of this run reads it")
    refused(ranking("--gin.TARGET_TOKEN='<extra_id_77>'"), "<extra_id_77>", "vocabul")
    refused(ranking("--gin.TARGET_TOKEN='▁sea'", task="enc_pair"), "reads no vocabul")
    refused(ranking("--gin.POOLING='mean'"), "pooling", "the head 'enc'")
    refused(ranking("--gin.EPSILON=2.0"), "EPSILON: no such macro")
    refused(ranking("--gin.LAMBDA_WEIGHTS='x'", task="enc_pair"), "lambda_weights")
    refused(ranking("--gin.CHUNK_SIZE=5"), "chunk_size", "a divisor")
    refused(ranking("--gin.TEMPLATE='{query}'"), "template", "then {document}")
    refused(ranking("--gin.MAX_LENGTH=1"), "1")
    refused(ranking("--gin.DEV_SPLIT='test'"), "candidates", "jaxir search")
    for split, said in (("test", "no candidates for queries"), ("no", "no such file")):
        path = tmp_path / f"{split}.trec"
        refused(ranking(f"--gin.CANDIDATES={str(path)!r}"), path, said)
    refused(ranking("--gin.LISTS='lists.jsonl'"), "one of them", "CANDIDATES")
    dense = ("--gin_file", "tasks/dense/contrastive.gin")
    refused(ranking(*dense), "DenseLoss", "expected RankLoss")


def test_ranking_begun_with_other_lists(refused, ranking, tmp_path):
    assert main([*map(str, ranking()), "--quiet"]) == 0
    assert main([*map(str, ranking()), "--quiet"]) == 0  # nothing left to do
    for flag, said in (
        ("--gin.fit.ListSource.depth=7", "another depth"),
        (f"--gin.CANDIDATES={str(tmp_path / 'test.trec')!r}", "content of candidates"),
        ("--gin.CANDIDATES='gone.trec'", "another candidates"),
    ):
        refused(ranking(flag), tmp_path / "made" / "lists.json", said)
    (tmp_path / "train.trec").unlink()  # no longer needed: the lists are there
    assert main([*map(str, ranking()), "--quiet"]) == 0


def test_another_architecture(refused, tmp_path):
    save_model(tmp_path / "t5", tiny_t5(tmp_path / "words"))
    folder = tmp_path / "hf"
    assert main(["convert", str(tmp_path / "t5"), f"hf:{folder}", "--quiet"]) == 0
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_layers": 4, "d_ff": 8, "feed_forward_proj": "gated-gelu"}
    (folder / "config.json").write_text(json.dumps(config))
    refused(
        ["convert", f"hf:{folder}", f"jaxir:{tmp_path / 'made'}"],
        f"{folder}: weights do not fit: - ",
        "- encoder.block.{0-3}.layer.1.DenseReluDense.wi_0.weight (for "
        "encoder/layers_{0-3}/mlp/wi_0/kernel)",
        "- encoder.block.{1-3}.layer.0.SelfAttention.k.weight",
        "+ encoder.block.0.layer.1.DenseReluDense.wi.weight [16, 8]",
        "≠ encoder.block.0.layer.1.DenseReluDense.wo.weight gives [16, 8], not [8, 8]",
    )


# Places that cannot be written ------------------------------------------------


@pytest.fixture
def writers(bm25_index, tiny_collection, tiny_model, training, tmp_path):
    """Every command that writes, by name, with its output below ``PLACE``."""
    run, lists = tmp_path / "run.trec", tmp_path / "lists.jsonl"
    run.write_text(GOOD)
    lists.write_text(GOOD_LIST)
    index = ["index", "--collection", tiny_collection, "--index", "PLACE/x"]
    evaluate = ["evaluate", "--qrels", f"{tiny_collection}:test", "--runs", run]
    return {
        "data": ["data", "beir", tiny_collection, "--output", "PLACE/x"],
        "pydocs": ["data", "pydocs", "--packages", "json", "email",
                   "--output", "PLACE/x"],
        "tfds": ["data", "tfds", "--lists", lists, "--output", "PLACE/x",
                 "--collection", f"{tiny_collection}:train"],
        "bm25": [*index, "--model", "bm25"],
        "dense": [*index, "--model", tiny_model],
        "pq": ["index", "--kind", "pq", "--model", tiny_model, "--collection",
               many_documents(tmp_path / "many", 20), "--subvectors", 4, "--bits", 4,
               "--index", "PLACE/x"],
        "search": ["search", "--index", bm25_index, "--output", "PLACE/x",
                   "--queries", f"{tiny_collection}:test"],
        "fuse": ["fuse", "--runs", run, run, "--output", "PLACE/x"],
        "report": [*evaluate, "--report", "PLACE/x"],
        "per query": [*evaluate, "--per-query", "PLACE/x"],
        "markdown": [*evaluate, "--markdown", "PLACE/x"],
        "rerank": ["rerank", "--model", tiny_model, "--run", run, "--output",
                   "PLACE/x", "--collection", tiny_collection],
        "mine": ["mine", "--index", bm25_index, "--output", "PLACE/x",
                 "--collection", f"{tiny_collection}:train"],
        "label": ["label", "--teachers", tiny_model, "--lists", lists,
                  "--collection", tiny_collection, "--output", "PLACE/x"],
        "convert": ["convert", tiny_model, "jaxir:PLACE/x"],
        "export": ["convert", tiny_model, "hf:PLACE/x"],
        "train": training("--model_dir", "PLACE/x"),
        "demo": ["demo", "--collection", tiny_collection, "--model", tiny_model,
                 "--output", "PLACE/x"],
    }  # fmt: skip


WRITERS = [
    "data", "pydocs", "tfds", "bm25", "dense", "pq", "search", "fuse", "report",
    "per query", "markdown", "rerank", "mine", "label", "convert", "export", "train",
    "demo",
]  # fmt: skip


# Resumable work is kept: finished groups of lines, and the demo's finished stages.
LINES = r"x\.partial$|(new|deep)$"
KEPT = {"rerank": LINES, "mine": LINES, "label": LINES, "demo": r"(new|disk)(/|$)"}


def placed(words, place):
    return [str(word).replace("PLACE", str(place)) for word in words]


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_stands_in_the_way(name, writers, refused, tmp_path):
    (tmp_path / "file").write_text("a file")
    refused(placed(writers[name], tmp_path / "file"), tmp_path / "file")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_no_space(name, call, writers, refused, tmp_path, monkeypatch):
    """The disk is full when a file is flushed, or when it is put in its place."""
    real = getattr(os, call)

    def full(first, *more):
        inside = str(tmp_path / "new")
        path = os.readlink(f"/proc/self/fd/{first}") if call == "fsync" else more[0]
        if str(path).startswith(inside):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(first, *more)

    if call == "fsync" and not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc")
    monkeypatch.setattr(os, call, full)
    refused(placed(writers[name], tmp_path / "new" / "deep"), "new/deep", "no space",
            kept=KEPT.get(name))  # fmt: skip


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    yield place
    gc.collect()  # libraries leave files open in cycles
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_really_no_space(name, writers, refused, small_disk):
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", 0) as out:
        while out.write(b"x" * 4096):
            pass
    refused(placed(writers[name], small_disk), small_disk, "no space",
            kept=KEPT.get(name))  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_read_only_disk(name, writers, refused, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(placed(writers[name], small_disk), small_disk, "choose")
