"""Indexes of kind sparse: built, searched without a model, explained, changed."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from tiny_pq import many_documents
from tiny_sparse import tiny_sparse

from jaxir import index_job, sparse_change, sparse_corpus, sparse_query
from jaxir.bm25 import Bm25Config
from jaxir.checkpoints.model_dir import save_model
from jaxir.data.collection import open_collection
from jaxir.encode import encode_texts
from jaxir.errors import InputError
from jaxir.index import BuildOptions, build_index
from jaxir.index_job import SparseOptions
from jaxir.manifest import verify
from jaxir.pq_change import add_documents, delete_documents
from jaxir.search import open_index
from jaxir.sparse.postings import Postings, build_postings, open_postings
from jaxir.sparse.search import TwoPhase
from jaxir.sparse_change import PostingRows
from jaxir.sparse_query import default_method
from jaxir.text import load_tokenizer

QUERIES = {
    "one": "rivers carry water past banks of clay",
    "two": "yeast yeast and bread",  # a token twice counts once
    "three": "an engine of steel",
    "empty": "",
    "unknown": "§",
}


@pytest.fixture
def model(tmp_path):
    return tiny_sparse(tmp_path / "words")


@pytest.fixture
def collection(tmp_path):
    return many_documents(tmp_path / "many", 40)


@pytest.fixture
def index(model, collection, tmp_path):
    build_index(model, collection, tmp_path / "i")
    return tmp_path / "i"


def stored(index):
    """The weights of an index as a matrix."""
    postings = open_postings(index, verify(index, deep=True).counts["docs"])
    out = np.zeros((postings.num_docs, postings.vocab_size), np.float32)
    for token in range(postings.vocab_size):
        part = slice(*postings.offsets[token : token + 2])
        scale = 1 if postings.scales is None else postings.scales[token]
        out[postings.docs[part], token] = postings.weights[part] * scale
    return out


def bits(index):
    """Every file of the postings."""
    return {path.name: path.read_bytes() for path in (index / "postings").iterdir()}


def ranked(scores, k):
    order = np.lexsort((np.arange(len(scores)), -scores))[:k]
    return [(int(row), float(scores[row])) for row in order if scores[row] > 0]


def check_search(searcher, weights, queries, k=10):
    """Results are those of all products, ties by the lower row."""
    found = searcher.search_texts(list(QUERIES.values()), k)
    for i, query in enumerate(queries):
        expected = ranked(weights @ query, k)
        rows = found.doc_ids[i].tolist()
        assert rows == [row for row, _ in expected] + [-1] * (k - len(expected))
        scores = found.scores[i, : len(expected)]
        np.testing.assert_allclose(scores, [x for _, x in expected], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("query", ["idf", "binary"])
def test_searched_without_a_model(collection, tmp_path, query, dtype):
    model = tiny_sparse(tmp_path / "words", query=query, query_template="about {text}")
    options = BuildOptions(dtype=dtype, shard_rows=16)
    manifest = build_index(model, collection, tmp_path / "i", options=options)
    assert manifest == verify(tmp_path / "i", deep=True)
    assert manifest.kind == "sparse"
    assert not any(name.startswith("model/") for name in manifest.files)
    assert not (tmp_path / "i.partial").exists()
    texts = open_collection(str(collection)).docs.texts(range(40))
    docs = encode_texts(model, list(texts), side="doc")
    weights = stored(tmp_path / "i")
    close = {"float32": 1e-5, "float16": 2e-3, "uint8": docs.max() / 255}[dtype]
    np.testing.assert_allclose(weights, docs, atol=close)
    queries = encode_texts(model, list(QUERIES.values()), side="query")
    for method in ("exhaustive", "block_max"):
        searcher = open_index(tmp_path / "i", method=method)
        check_search(searcher, weights, queries)
    one = open_index(tmp_path / "i", method="scan")
    check_search(one, weights, queries)
    assert one.docs_scored == 5 * 40
    details, above = manifest.details, docs > 0
    assert details["dtype"] == dtype
    assert details["postings"] == above.sum()
    assert details["tokens_per_doc"] == round(above.sum() / 40, 3)
    asked = queries > 0
    assert searcher.query_tokens == asked.sum()
    expected = (asked.mean(0) * above.mean(0)).sum()
    assert searcher.flops == pytest.approx(expected)
    assert 0 < searcher.docs_scored <= 5 * 40


def test_a_query_encoder(collection, tmp_path):
    model = tiny_sparse(tmp_path / "words", query="encoder")
    build_index(model, collection, tmp_path / "i")
    assert not (tmp_path / "i" / "query").exists()
    queries = encode_texts(model, list(QUERIES.values()), side="query")
    queries[3:] = 0  # texts without a word
    weights = stored(tmp_path / "i")
    check_search(open_index(tmp_path / "i"), weights, queries)
    # the model may stay where it is
    save_model(tmp_path / "m", model)
    from jaxir.checkpoints.model_dir import load_model

    outside = BuildOptions(self_contained=False)
    build_index(load_model(tmp_path / "m"), collection, tmp_path / "j", options=outside)
    check_search(open_index(tmp_path / "j"), weights, queries)
    other = tiny_sparse(tmp_path / "words", seed=1, query="encoder")
    with pytest.raises(InputError, match="a model with fingerprint"):
        open_index(tmp_path / "j", model=other)


def test_jax_is_not_imported(index, collection, tmp_path):
    """Search, explanations included: a cold start takes no second."""
    words = ["search", "--index", index, "--queries", f"{collection}:test"]
    words += ["--output", tmp_path / "run.trec", "--explain", "--json"]
    code = f"""
import sys
from jaxir.cli.main import main
assert main({list(map(str, words))}) == 0
print(sorted({{"jax", "flax", "orbax", "transformers", "torch"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told, imported = done.stdout.splitlines()
    assert json.loads(told)["results"] > 0
    assert imported == "[]"


@pytest.mark.parametrize(
    ("platforms", "plugin", "backend", "method"),
    [
        ("cpu", True, "gpu", "block_max"),
        ("", False, "gpu", "block_max"),
        ("", True, "cpu", "block_max"),
        ("", True, "gpu", "scan"),
        ("cuda,cpu", True, "gpu", "scan"),
    ],
)
def test_default_method(monkeypatch, platforms, plugin, backend, method):
    """JAX is asked only where it may have an accelerator."""
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: plugin or None)
    monkeypatch.setattr("jax.default_backend", lambda: backend)
    assert default_method() == method


def test_two_phases(index, model):
    """Both phases over a window of everything find what an exact search does."""
    exact = open_index(index).search(QUERIES, k=10)
    wide = TwoPhase(prune_type="max_ratio", prune_ratio=0.4, expansion_rate=100.0)
    searcher = open_index(index, method="two_phase", two_phase=wide)
    found = searcher.search(QUERIES, k=10)
    queries = encode_texts(model, list(QUERIES.values()), side="query")
    weights = stored(index)
    for i, name in enumerate(QUERIES):
        high = np.where(queries[i] >= np.float32(0.4) * queries[i].max(), queries[i], 0)
        chosen = np.flatnonzero(weights @ high > 0)
        expected = [f"d{row}" for row, _ in ranked(weights @ queries[i], 40)]
        expected = [name for name in expected if int(name[1:]) in chosen][:10]
        assert list(found[name]) == expected
        for doc_id, score in found[name].items():
            assert exact[name].get(doc_id, score) == pytest.approx(score)
    assert list(open_index(index, method="two_phase").search(QUERIES, k=3)) == list(
        QUERIES
    )
    narrow = TwoPhase(max_window_size=50)
    searcher = open_index(index, method="two_phase", two_phase=narrow)
    with pytest.raises(InputError, match="a window of 55 documents; expected at most"):
        searcher.search(QUERIES, k=11)


def test_explained(index, model):
    """Products add up to the score, what adds most first, each token by its name."""
    searcher = open_index(index)
    queries = encode_texts(model, list(QUERIES.values()), side="query")
    weights, seen = stored(index), 0
    for i, (name, found) in enumerate(searcher.search(QUERIES, k=3).items()):
        for doc_id, score in found.items():
            matches = searcher.explain(QUERIES[name], doc_id)
            assert sum(match.score for match in matches) == pytest.approx(score)
            assert matches == sorted(matches, key=lambda match: -match.score)
            for match in matches:
                token = model.tokenizer.token_to_id(match.token)
                assert match.query_weight == pytest.approx(queries[i, token])
                assert match.doc_weight == weights[int(doc_id[1:]), token]
                seen += 1
    assert seen > 5
    assert searcher.explain("", "d3") == []
    with pytest.raises(InputError, match="no document 'd40'; expected an id of the in"):
        searcher.explain("rivers", "d40")


def test_a_dense_index_is_not_explained(make_tiny_model, tiny_collection, tmp_path):
    build_index(make_tiny_model(), tiny_collection, tmp_path / "dense")
    with pytest.raises(InputError, match="kind 'dense' to explain; expected one of"):
        open_index(tmp_path / "dense").explain("rivers", "river0")
    for given in ({"method": "block_max"}, {"method": "two_phase"}):
        with pytest.raises(InputError, match="an index of kind 'dense' with method"):
            open_index(tmp_path / "dense", **given)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_deleted_as_built_without(model, collection, tmp_path, dtype):
    """Bit for bit; also read in many stretches, and of 8 bits within a step."""
    options = BuildOptions(dtype=dtype)
    index, gone = tmp_path / "i", [0, 3, 4, 21, 39]
    build_index(model, collection, index, options=options)
    before = open_postings(index, 40)
    whole, kept = stored(index), np.ones(40, bool)
    kept[gone] = False
    rows = list(PostingRows(before, stretch=100))
    assert len(rows) > 3
    (tmp_path / "fresh").mkdir()
    fresh = [
        part._replace(
            offsets=np.concatenate([[0], np.cumsum(np.diff(part.offsets)[where])]),
            tokens=part.tokens[np.repeat(where, np.diff(part.offsets))],
            weights=part.weights[np.repeat(where, np.diff(part.offsets))],
        )
        for part, where in split(rows, kept)
    ]
    build_postings(fresh, 40, tmp_path / "fresh", dtype=dtype)
    manifest = delete_documents(index, [f"d{row}" for row in gone])
    assert bits(index) == bits(tmp_path / "fresh")
    after = stored(index)
    step = whole.max() / 255 if dtype == "uint8" else 0
    np.testing.assert_allclose(after, whole[kept], atol=step)
    assert manifest.counts == {"docs": 35}
    assert manifest.details["postings"] == (after > 0).sum()
    assert list(open_index(index).doc_ids) == [f"d{i}" for i in np.flatnonzero(kept)]


def split(rows, kept):
    start = 0
    for part in rows:
        stop = start + len(part.offsets) - 1
        yield part, kept[start:stop]
        start = stop


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_added_as_built_with(model, tmp_path, dtype):
    """An index that grew is the one that was built of everything, bit for bit."""
    whole = many_documents(tmp_path / "whole", 40)
    lines = (whole / "corpus.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("a", lines[:25]), ("b", lines[25:])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.jsonl").write_text("".join(part))
        (tmp_path / name / "queries.jsonl").write_text("")
    # batches of one document: no shape can round differently
    options = BuildOptions(
        dtype=dtype, batch_tokens=1, sparse=SparseOptions(prune_ratio=0.2)
    )
    first = build_index(model, tmp_path / "a", tmp_path / "i", options=options)
    fresh = build_index(model, whole, tmp_path / "fresh", options=options)
    added = add_documents(tmp_path / "i", tmp_path / "b", batch_tokens=1, model=model)
    assert bits(tmp_path / "i") == bits(tmp_path / "fresh")
    for name in ("postings", "tokens_per_doc", "expansion_rate", "text_tokens"):
        assert added.details[name] == fresh.details[name] != first.details[name]
    assert added.details["changes"][0]["docs"] == 15
    assert list(open_index(tmp_path / "i").doc_ids) == [f"d{i}" for i in range(40)]
    assert not (tmp_path / ".i.add").exists()
    delete_documents(tmp_path / "i", [f"d{i}" for i in range(25, 40)])
    again = build_index(model, tmp_path / "a", tmp_path / "j", options=options)
    assert bits(tmp_path / "i") == bits(tmp_path / "j")
    assert again.details["postings"] == first.details["postings"]


def test_where_its_model_is(model, collection, tmp_path, monkeypatch):
    """An id stays one, so that documents can be added from anywhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for given, noted in {
        "hf:who/what": "hf:who/what",
        "package:words/model": "package:words/model",
        "hf:here": str(tmp_path / "here"),
        "here": str(tmp_path / "here"),
        "": "",
    }.items():
        manifest = build_index(model._replace(path=given), collection, tmp_path / "i")
        assert manifest.details["model_path"] == noted


def test_added_by_whom(index, collection, tmp_path):
    """The model is not in the index: it must be named where it is not remembered."""
    more = many_documents(tmp_path / "more", 3, prefix="e")
    with pytest.raises(InputError, match="its model is no longer at any path; say wh"):
        add_documents(index, more)
    other = tiny_sparse(tmp_path / "words", seed=1)
    with pytest.raises(InputError, match="a model with fingerprint"):
        add_documents(index, more, model=other)
    same = tiny_sparse(tmp_path / "words")
    assert add_documents(index, more, model=same).counts == {"docs": 43}
    with pytest.raises(InputError, match="documents that the index has: 'e0', 'e1'"):
        add_documents(index, more, model=same)


def with_other_words(model, folder):
    """The model with two words of its tokenizer exchanged."""
    model.tokenizer.save(folder)
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    words = data["model"]["vocab"]
    words["river"], words["yeast"] = words["yeast"], words["river"]
    path.write_text(json.dumps(data))
    return model._replace(tokenizer=load_tokenizer(folder))


def test_another_tokenizer_than_the_documents(index, model, collection, tmp_path):
    """The parameters are the same: nothing else tells that tokens mean others."""
    more = many_documents(tmp_path / "more", 3, prefix="e")
    message = "a tokenizer that did not read the documents of the index; expected the d"
    with pytest.raises(InputError, match=message):
        add_documents(index, more, model=with_other_words(model, tmp_path / "other"))
    assert open_index(index).num_docs == 40
    splade = tiny_sparse(tmp_path / "splade-words", query="encoder")
    options = BuildOptions(self_contained=False)
    build_index(splade, collection, tmp_path / "s", options=options)
    assert open_index(tmp_path / "s", model=splade).num_docs == 40
    with pytest.raises(InputError, match=message):
        open_index(tmp_path / "s", model=with_other_words(splade, tmp_path / "others"))


@pytest.mark.parametrize("broken", ["build_postings", "write_index", "_write_shard"])
def test_a_change_that_fails(model, index, tmp_path, monkeypatch, broken):
    """The old index stays as it was, and the next call goes on."""
    more = many_documents(tmp_path / "more", 3, prefix="e")
    before = verify(index, deep=True)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    place = {
        "build_postings": sparse_change, "write_index": index_job,
        "_write_shard": sparse_corpus,
    }[broken]  # fmt: skip
    changes = [lambda: add_documents(index, more, model=model)]
    if broken != "_write_shard":
        changes.append(lambda: delete_documents(index, ["d1"]))
    for change in changes:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, broken, interrupted)
            change()
        assert verify(index, deep=True) == before
    assert changes[0]().counts == {"docs": 43}
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"words", "many", "more", "i"}


def test_exchanged_while_it_is_opened(index, monkeypatch):
    """Files of two indexes seem damaged: nobody shall build a good one again."""
    real, was = sparse_query.open_queries, []

    def meanwhile(*args):
        if not was:
            was.append(delete_documents(index, ["d0", "d7"]))
        return real(*args)

    monkeypatch.setattr(sparse_query, "open_queries", meanwhile)
    with pytest.raises(InputError, match="i: changed while it was opened; try again"):
        open_index(index)
    assert open_index(index).num_docs == 38
    (index / "ids.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"ids\.bin: of 0 bytes"):
        open_index(index)


def test_pruned_and_told(model, collection, tmp_path, capsys):
    options = BuildOptions(sparse=SparseOptions(prune_ratio=0.5))
    pruned = build_index(model, collection, tmp_path / "i", options=options)
    whole = build_index(model, collection, tmp_path / "j")
    assert pruned.details["prune_ratio"] == 0.5
    assert 0 < pruned.details["postings"] < whole.details["postings"]
    assert pruned.details["expansion_rate"] < whole.details["expansion_rate"]


def test_goes_on(model, collection, tmp_path, monkeypatch):
    real, calls = sparse_corpus._write_shard, []

    def interrupted(path, *args):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, *args)

    monkeypatch.setattr(sparse_corpus, "_write_shard", interrupted)
    options = BuildOptions(shard_rows=16)
    with pytest.raises(KeyboardInterrupt):
        build_index(model, collection, tmp_path / "i", options=options)
    assert not (tmp_path / "i").exists()
    build_index(model, collection, tmp_path / "i", options=options)
    assert calls == [f"rows-0000{i}.npz" for i in (0, 1, 1, 2)]
    assert not (tmp_path / "i.partial").exists()


def test_damaged(index, tmp_path):
    """A file of another index, of the same size: one line each."""
    query = index / "query"

    def refused(message, path, content):
        old = path.read_bytes()
        path.write_bytes(content + b"\n" * (len(old) - len(content)))
        whole = read_sizes(index, path)
        with pytest.raises(InputError, match=message):
            open_index(index)
        path.write_bytes(old)
        whole()

    settings = (query / "query.json").read_bytes()
    refused("not settings of queries", query / "query.json", b"{")
    refused("not settings of queries", query / "query.json", b"{}")
    wrong = settings.replace(b"101", b"990").replace(b"  0", b" 90")
    if wrong != settings:
        refused("special_ids", query / "query.json", wrong)
    table = np.load(query / "idf.npy")

    def as_bytes(array):
        np.save(tmp_path / "array.npy", array)
        return (tmp_path / "array.npy").read_bytes()

    refused("not a numpy file", query / "idf.npy", b"nothing")
    for array, message in (
        (table[:-1], "expected float32 weights of 40 tokens, the index's"),
        (table.astype(np.float64), r"float64 \[40\]; expected float32 weights of"),
        (-table, "negative or not finite; expected weights from 0"),
        (np.full_like(table, np.nan), "negative or not finite"),
    ):
        refused(message, query / "idf.npy", as_bytes(array))
    docs = np.load(index / "postings" / "docs.npy")
    refused("row 40 at posting", index / "postings" / "docs.npy", as_bytes(docs + 1))
    (words,) = (path for path in (query / "tokenizer").glob("*.json") if "config" not in
                path.name)  # fmt: skip
    other = words.read_bytes().replace(b'"rivers"', b'"RIVERS"')
    refused("a tokenizer of 40 tokens that did not read the documents", words, other)
    (query / "idf.npy").unlink()
    with pytest.raises(InputError, match="missing"):
        open_index(index)


def read_sizes(index, path):
    """Makes the manifest agree with a file's size; gives what undoes it."""
    manifest = index / "manifest.json"
    old = manifest.read_text()
    content = json.loads(old)
    content["files"][path.relative_to(index).as_posix()]["bytes"] = path.stat().st_size
    manifest.write_text(json.dumps(content))
    return lambda: manifest.write_text(old)


def test_mistakes(model, index, collection, make_tiny_model, tmp_path):
    def refused(message, model=model, kind=None, **changes):
        with pytest.raises(InputError, match=message):
            build_index(
                model, collection, tmp_path / "j", kind=kind,
                options=BuildOptions(**changes),
            )  # fmt: skip
        assert not (tmp_path / "j").exists()
        assert not (tmp_path / "j.partial").exists()

    refused("leave --without_model out: queries need none", self_contained=False)
    refused(
        "kind: 'dense' with a model of kind 'sparse'; expected sparse", kind="dense"
    )
    pruned, over = SparseOptions(prune_ratio=0.1), SparseOptions(tokenizer="x")
    dense = make_tiny_model()
    refused("prune_ratio: given for an index of kind 'dense'", dense, sparse=pruned)
    refused("'uint8': given for an index of kind 'dense'", dense, dtype="uint8")
    refused("tokenizer: given with a model, which has one", sparse=over)
    refused("tokenizer: given for an index of kind 'dense'", dense, sparse=over)
    refused("prune_ratio: given for an index of kind 'bm25'", "bm25", sparse=pruned)
    both = SparseOptions(prune_ratio=0.1, tokenizer="x")
    refused("prune_ratio: given with bm25; expected to be left", "bm25", sparse=both)
    refused("x: no such directory", "bm25", sparse=over)
    with pytest.raises(InputError, match=r"prune_ratio: 1\.5; expected from 0 to less"):
        SparseOptions(prune_ratio=1.5)
    with pytest.raises(
        InputError, match="model: given for an index whose queries need"
    ):
        open_index(index, model=model)
    with pytest.raises(InputError, match="method: 'best'; expected one of exhaustive"):
        open_index(index, method="best")
    with pytest.raises(InputError, match="parameters with method 'block_max'; exp"):
        open_index(index, method="block_max", two_phase=TwoPhase())
    with pytest.raises(InputError, match="k: 0; expected at least 1"):
        open_index(index).search_texts(["rivers"], 0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bm25_over_tokens(model, collection, tmp_path, dtype):
    """What bm25s gives for the same tokens, of queries that have each once."""
    import bm25s

    save_model(tmp_path / "m", model)
    config = Bm25Config(k1=1.2, b=0.7)
    options = BuildOptions(
        bm25=config, dtype=dtype, sparse=SparseOptions(tokenizer=tmp_path / "m")
    )
    manifest = build_index("bm25", collection, tmp_path / "i", options=options)
    assert manifest.kind == "sparse"
    assert manifest.details["bm25"] == {"k1": 1.2, "b": 0.7}
    assert manifest.details["expansion_rate"] == 0
    texts = list(open_collection(str(collection)).docs.texts(range(40)))
    special = set(model.config.special_ids)
    ids = [
        [int(token) for token in found if token not in special]
        for found in model.tokenizer.pieces(texts)
    ]
    retriever = bm25s.BM25(k1=1.2, b=0.7, method="lucene")
    retriever.index(
        (ids, {str(i): i for i in range(40)}), show_progress=False,
        create_empty_token=False,
    )  # fmt: skip
    searcher = open_index(tmp_path / "i")
    queries = ["rivers carry water", "an engine", "flour and yeast", "sea"]
    found = searcher.search_texts(queries, 10)
    for i, text in enumerate(queries):
        asked = model.tokenizer.pieces([text])[0].tolist()
        expected = retriever.get_scores_from_ids(asked)
        close = {"rtol": 1e-5 if dtype == "float32" else 2e-3}
        kept = found.doc_ids[i] >= 0
        np.testing.assert_allclose(
            found.scores[i][kept], np.sort(expected)[::-1][:10][kept], **close
        )
    matches = searcher.explain("sea", searcher.doc_ids[int(found.doc_ids[3, 0])])
    assert [match.token for match in matches] == ["sea"]
    # A query may be a whole document: none is cut.
    found = searcher.search_texts(["yeast " * 600 + "sea", "yeast sea"], 10)
    np.testing.assert_array_equal(found.scores[0], found.scores[1])
    for change in (
        lambda: delete_documents(tmp_path / "i", ["d1"]),
        lambda: add_documents(tmp_path / "i", collection),
    ):
        with pytest.raises(InputError, match="weights of BM25, which are of the whole"):
            change()


def test_bm25_mistakes(model, collection, tmp_path):
    save_model(tmp_path / "m", model)
    mine = BuildOptions(sparse=SparseOptions(tokenizer=tmp_path / "m"))
    words = dataclasses.replace(mine, bm25=Bm25Config(stop_words="none"))
    for message, options in {
        "stop_words: given with --tokenizer, whose tokens": words,
        "leave --without_model out": dataclasses.replace(mine, self_contained=False),
        "max_length: given for BM25": dataclasses.replace(mine, max_length=3),
        "batch_tokens: given for BM25": dataclasses.replace(mine, batch_tokens=64),
    }.items():
        with pytest.raises(InputError, match=message):
            build_index("bm25", collection, tmp_path / "i", options=options)
    (tmp_path / "i.partial").mkdir()  # what somebody else's encoding left
    lines = ['{"_id": "a", "text": "§ §"}\n', '{"_id": "b", "text": "†"}\n']
    (collection / "corpus.jsonl").write_text("".join(lines))
    with pytest.raises(InputError, match="no document has a token; expected words"):
        build_index("bm25", collection, tmp_path / "i", options=mine)
    assert (tmp_path / "i.partial").exists()
    assert not (tmp_path / ".i.counts").exists()


def test_ids_to_rows(index):
    ids = open_index(index).doc_ids
    assert [ids.index(f"d{row}") for row in range(40)] == list(range(40))
    assert ids.index("d7", 3, 9) == 7
    for absent in ("", "d", "d40", "e1", "d-1"):
        with pytest.raises(ValueError, match="no document"):
            ids.index(absent)
    with pytest.raises(ValueError, match="no document 'd7'"):
        ids.index("d7", 8)


def test_postings_of_no_scale():
    """A fresh index of nothing but empty rows has nothing to read back."""
    none = Postings(
        np.zeros(3, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), None,
        np.zeros(3, np.int64), np.zeros(0, np.uint16), np.zeros(0, np.float32), 4, 64,
        np.zeros(0, np.int32),
    )  # fmt: skip
    (rows,) = PostingRows(none, np.array([True, False, True, True]))
    assert (rows.offsets.tolist(), len(rows.tokens)) == ([0, 0, 0, 0], 0)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("name", ["nfcorpus", "cacm", "vaswani"])
def test_real_collections(shared_data, tmp_path, name, dtype):
    """On every query the best sums of all products; both ways the same, bit for bit."""
    words = shared_data / "tokenizers" / "bert-base-uncased"
    collection = open_collection(str(shared_data / name))
    options = BuildOptions(dtype=dtype, sparse=SparseOptions(tokenizer=words))
    build_index("bm25", collection, tmp_path / "i", options=options)
    searchers = [
        open_index(tmp_path / "i", method=method)
        for method in ("exhaustive", "block_max")
    ]
    texts = list(collection.queries(collection.splits[-1]).values())
    found = [searcher.search_texts(texts, 100) for searcher in searchers]
    postings = open_postings(tmp_path / "i", len(collection.docs))
    queries = searchers[0]._rank.ask(texts, texts)
    scales = np.ones(postings.vocab_size, np.float32)
    scales = scales if postings.scales is None else postings.scales
    for i in range(len(texts)):
        own = slice(*queries.offsets[i : i + 2])
        scores = np.zeros(postings.num_docs)
        for token, weight in zip(
            queries.tokens[own], queries.weights[own], strict=True
        ):
            part = slice(*postings.offsets[token : token + 2])
            factor = np.float64(weight) * scales[token]
            scores[postings.docs[part]] += factor * postings.weights[part]
        best = np.sort(scores[scores > 0])[::-1][:100]
        kept = found[0].doc_ids[i] >= 0
        np.testing.assert_allclose(found[0].scores[i][kept], best, rtol=1e-5)
        np.testing.assert_allclose(scores[found[0].doc_ids[i][kept]], best, rtol=1e-5)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(texts) > 50
    assert 0 < searchers[1].docs_scored <= searchers[0].docs_scored
    assert searchers[0].flops > 0.5
