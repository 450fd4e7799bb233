"""Opening and searching indexes of every kind, moved, damaged, and of other models."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_hypencoders import tiny_hypencoder

from jaxir.checkpoints.model_dir import model_from_parts, save_model
from jaxir.data.collection import open_collection
from jaxir.encode import encode_texts
from jaxir.errors import InputError
from jaxir.hyper.graph import GraphSearchConfig, graph_search
from jaxir.hyper.qnet import apply, apply_all
from jaxir.index import BuildOptions, add_neighbors, build_index
from jaxir.manifest import read_manifest
from jaxir.search import open_index, search


@pytest.fixture
def model(make_tiny_model):
    return make_tiny_model()


@pytest.fixture
def dense(model, tiny_collection, tmp_path):
    build_index(model, tiny_collection, tmp_path / "i")
    return tmp_path / "i"


@pytest.fixture
def queries(tiny_collection):
    return open_collection(str(tiny_collection)).queries("test")


def test_dense_equals_brute_force(dense, model, tiny_collection, queries):
    searcher = open_index(dense)
    assert (searcher.kind, searcher.num_docs, len(searcher.doc_ids)) == (
        "dense",
        12,
        12,
    )
    run = searcher.search(queries, k=5)
    collection = open_collection(str(tiny_collection))
    docs = encode_texts(model, collection.docs.texts(range(12)), side="doc")
    for name, text in queries.items():
        scores = docs @ encode_texts(model, [text], side="query")[0]
        order = np.argsort(-scores, kind="stable")[:5]
        assert list(run[name]) == [collection.docs.doc_id(row) for row in order]
        np.testing.assert_allclose(list(run[name].values()), scores[order], atol=1e-5)


def test_bm25_finds_the_topic(tiny_collection, tmp_path, queries):
    build_index("bm25", tiny_collection, tmp_path / "b")
    run = search(tmp_path / "b", queries, k=4)
    for name, found in run.items():
        topic = name.split("-")[1]
        assert all(doc_id.startswith(topic) for doc_id in found)
        assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize("kind", ["dense", "bm25"])
def test_shapes(kind, model, tiny_collection, tmp_path):
    source = model if kind == "dense" else "bm25"
    build_index(source, tiny_collection, tmp_path / "i")
    searcher = open_index(tmp_path / "i")
    texts = ["rivers carry water"] * 130
    found = searcher.search_texts(texts, 20)
    assert found.doc_ids.shape == found.scores.shape == (130, 20)
    assert (found.doc_ids == found.doc_ids[0]).all()
    if kind == "dense":
        assert (found.doc_ids[:, :12] >= 0).all()
        assert (found.doc_ids[:, 12:] == -1).all()
    assert searcher.search_texts([], 3).doc_ids.shape == (0, 3)
    assert searcher.search({}, k=3) == {}
    assert searcher.search({"q": "zzz"}, k=2**40).keys() == {"q"}
    with pytest.raises(InputError, match="k: 0; expected at least 1"):
        searcher.search_texts(["a"], 0)


def test_no_recompilation_over_numbers_of_queries(dense):
    from jaxir.dense.search import _fold_partial

    searcher = open_index(dense)
    for count in (1, 2, 5, 64):  # 1, 4, 16 and 64 rows are compiled
        searcher.search_texts(["sea"] * count, 3)
    before = _fold_partial._cache_size()
    for count in (1, 2, 7, 8, 9, 63, 64, 100):
        searcher.search_texts(["sea"] * count, 3)
    assert _fold_partial._cache_size() == before


TEXTS = ["rivers carry water", "", "an engine burns fuel " * 9, "sea", "bread", "x"]


@pytest.fixture
def hypencoder(tiny_collection, tmp_path):
    """A model and its index, with a graph of three neighbours."""
    model = tiny_hypencoder(tmp_path / "m")
    options = BuildOptions(neighbors=3, shard_rows=5)
    build_index(model, tiny_collection, tmp_path / "h", options=options)
    return model, tmp_path / "h"


def weights_of(model, texts):
    return jax.tree.map(jnp.asarray, encode_texts(model, texts, side="query"))


def vectors_of(index):
    names = read_manifest(index).details["shards"]
    return np.concatenate([np.load(index / name) for name in names])


@pytest.mark.parametrize("mode", ["exhaustive", "graph"])
@pytest.mark.parametrize("k", [4, 20])
def test_hypencoder_equals_its_q_nets_one_by_one(hypencoder, mode, k):
    """The graph search begins with every document here, and says so."""
    model, index = hypencoder
    searcher = open_index(index, mode=mode)
    found = searcher.search_texts(TEXTS * 3, k)
    assert (searcher.mode, searcher.docs_scored) == (mode, 12 * 18)
    docs, weights = jnp.asarray(vectors_of(index)), weights_of(model, TEXTS)
    for row in range(18):
        own = jax.tree.map(lambda x, row=row % 6: x[row], weights)
        scores = np.asarray(apply(model.config.qnet, own, docs))
        order = np.argsort(-scores, kind="stable")[:k]
        assert found.doc_ids[row, :12].tolist() == order.tolist()
        np.testing.assert_allclose(found.scores[row, :12], scores[order], atol=1e-4)
    assert (found.doc_ids[:, 12:] == -1).all()
    assert np.isneginf(found.scores[:, 12:]).all()


def test_graph_search_through_the_index(hypencoder, capsys):
    model, index = hypencoder
    config = GraphSearchConfig(entry_points=2, explore=1, iterations=2, seed=1)
    searcher = open_index(index, mode="graph", graph=config)
    found = searcher.search_texts(TEXTS, 3)
    graph = np.load(index / "graph" / "neighbors.npy")
    arguments = (jnp.asarray(vectors_of(index)), jnp.asarray(graph), 3, config)
    expected = graph_search(model.config.qnet, weights_of(model, TEXTS), *arguments)
    np.testing.assert_array_equal(found.doc_ids, expected.ranking.doc_ids)
    assert searcher.docs_scored == expected.scored.sum() < 12 * len(TEXTS)
    assert "entry points" not in capsys.readouterr().err
    open_index(index, mode="graph")
    said = capsys.readouterr().err
    assert "entry points: all 12 documents, as there are no more" in said


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_both_modes_give_a_document_the_same_score(
    tiny_collection, tmp_path, vectors, dtype
):
    model = tiny_hypencoder(tmp_path / "m", vectors=vectors)
    options = BuildOptions(neighbors=3, dtype=dtype)
    build_index(model, tiny_collection, tmp_path / "h", options=options)
    every = open_index(tmp_path / "h").search_texts(TEXTS, 12)
    docs, weights = jnp.asarray(vectors_of(tmp_path / "h")), weights_of(model, TEXTS)
    expected = np.asarray(apply_all(model.config.qnet, weights, docs.astype("float32")))
    found = np.take_along_axis(expected, every.doc_ids, axis=1)
    np.testing.assert_allclose(every.scores, found, atol=1e-4)
    for config in (None, GraphSearchConfig(2, 2, 3, seed=1)):
        searcher = open_index(tmp_path / "h", mode="graph", graph=config)
        walked = searcher.search_texts(TEXTS, 12)
        for row in range(len(TEXTS)):
            met = walked.doc_ids[row][walked.doc_ids[row] >= 0]
            scores = walked.scores[row, : len(met)]
            np.testing.assert_allclose(scores, expected[row, met], atol=1e-4)
            assert len(met) == 12 if config is None else 2 < len(met) < 12


def test_a_graph_search_that_finds_too_few_says_so(hypencoder, queries, capsys):
    _, index = hypencoder
    few = GraphSearchConfig(entry_points=1, explore=1, iterations=2)
    for k, config, said in (
        (2**40, few, "3 of 3 queries: fewer than 12 documents found along the graph; a "
         "larger explore, more iterations or rule released finds more"),
        (2, few, ""),
        (1000, GraphSearchConfig(explore=1), ""),  # begins with every document
    ):  # fmt: skip
        searcher = open_index(index, mode="graph", graph=config)
        capsys.readouterr()
        run = searcher.search(queries, k=k)
        assert {len(found) for found in run.values()} == {min(k, 2 if said else 12)}
        err = capsys.readouterr().err
        assert said in err
        assert bool(said) == bool(err)
    open_index(index).search(queries, k=2**40)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mode", ["exhaustive", "graph"])
def test_no_recompilation_over_lengths_of_queries(hypencoder, mode):
    """After each size of a batch, of each of the two lengths."""
    _, index = hypencoder
    searcher = open_index(index, mode=mode)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "compile" in name else None
    )
    try:
        for text in ("sea", "sea " * 20):
            for count in (1, 2, 4, 8):
                searcher.search_texts([text] * count, 3)
        assert compiled
        compiled.clear()
        for count in (1, 2, 7, 8, 9, 30, 65):
            for length in (0, 1, 5, 14, 17, 40):
                searcher.search_texts(["sea " * length] * count, 3)
        assert not compiled
    finally:
        jax.monitoring.clear_event_listeners()


def test_a_hypencoder_index_without_a_graph(tiny_collection, tmp_path):
    build_index(tiny_hypencoder(tmp_path / "m"), tiny_collection, tmp_path / "h")
    message = "without a neighbour graph; .*add it: jaxir index --index .* --neighbors"
    with pytest.raises(InputError, match=message):
        open_index(tmp_path / "h", mode="graph")
    add_neighbors(tmp_path / "h", 3)
    found = open_index(tmp_path / "h", mode="graph").search_texts(["sea"], 2)
    assert (found.doc_ids >= 0).all()


def test_a_graph_of_another_corpus(hypencoder, tiny_collection, tmp_path):
    _, index = hypencoder
    options = BuildOptions(neighbors=3)
    other = tiny_hypencoder(tmp_path / "m", seed=1)
    build_index(other, tiny_collection, tmp_path / "o", options=options)
    shutil.rmtree(index / "graph")
    shutil.copytree(tmp_path / "o" / "graph", index / "graph")
    open_index(index)  # of the same sizes
    message = "a graph of 12 vectors with fingerprint .*expected 12 with .*of the index"
    with pytest.raises(InputError, match=message):
        open_index(index, mode="graph")


def damaged(index, change):
    """The first shard after a change that keeps its size."""
    path = index / "vectors" / "vectors-00000.npy"
    stored = np.load(path)
    stored[3] = change
    np.save(path, stored)


@pytest.mark.parametrize("mode", ["exhaustive", "graph"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite(hypencoder, mode, value):
    _, index = hypencoder
    damaged(index, value)
    searcher = open_index(index, mode=mode)
    with pytest.raises(InputError, match="row 3: NaN or infinity; expected finite num"):
        searcher.search_texts(["sea"], 1)


def test_vectors_of_another_width(hypencoder, tmp_path):
    """As a manifest that was put together by hand would have them."""
    _, index = hypencoder
    text = (index / "manifest.json").read_text()
    for path in (index / "vectors").iterdir():
        size = path.stat().st_size
        np.save(path, np.load(path)[:, :8])
        text = text.replace(f'"bytes": {size}', f'"bytes": {path.stat().st_size}')
    (index / "manifest.json").write_text(text)
    for mode in ("exhaustive", "graph"):
        with pytest.raises(InputError, match="vectors of width 8; expected width 16"):
            open_index(index, mode=mode)


def test_a_hypencoder_that_diverged(hypencoder, tiny_collection, tmp_path):
    """Its documents are fine and its q-nets are not."""
    model, _ = hypencoder
    head = jax.tree.map(lambda x: x * np.nan, model.params["head"])
    broken = model_from_parts(
        *model[:2], {**model.params, "head": head}, model.tokenizer
    )
    options = BuildOptions(neighbors=3)
    build_index(broken, tiny_collection, tmp_path / "b", options=options)
    for mode in ("exhaustive", "graph"):
        with pytest.raises(InputError, match="query 0: NaN or infinity"):
            open_index(tmp_path / "b", mode=mode).search_texts(["sea"], 2)


@pytest.mark.parametrize("kind", ["dense", "exhaustive", "graph"])
def test_a_query_that_is_not_finite_has_its_name(
    kind, model, tiny_collection, tmp_path
):
    """Wherever it stands among batches: of documents no word is unknown."""
    if kind != "dense":
        model = tiny_hypencoder(tmp_path / "m")

    def broken(path, leaf):
        unknown = model.tokenizer.encode(["zzz"], 16)[0][1]
        is_words = "word" in jax.tree_util.keystr(path)
        return leaf.at[unknown].set(np.nan) if is_words else leaf

    params = jax.tree_util.tree_map_with_path(
        broken, jax.tree.map(jnp.asarray, model.params)
    )
    model = model_from_parts(*model[:2], params, model.tokenizer)
    options = BuildOptions(neighbors=None if kind == "dense" else 3)
    build_index(model, tiny_collection, tmp_path / "b", options=options)
    searcher = open_index(
        tmp_path / "b", mode="graph" if kind == "graph" else "exhaustive"
    )
    texts = ["sea"] * 70
    assert (searcher.search_texts(texts, 2).doc_ids >= 0).all()
    texts[67] = "zzz"
    with pytest.raises(InputError, match=r"^query 67: NaN or infinity"):
        searcher.search_texts(texts, 2)
    with pytest.raises(InputError, match=r"^query q67: NaN or infinity"):
        searcher.search({f"q{i}": text for i, text in enumerate(texts)}, k=2)


def test_modes(dense, hypencoder, monkeypatch):
    _, index = hypencoder
    with pytest.raises(InputError, match="mode: 'tree'; expected one of exhaustive, g"):
        open_index(index, mode="tree")
    with pytest.raises(InputError, match="of kind 'dense' in mode 'graph'; expected o"):
        open_index(dense, mode="graph")
    config = GraphSearchConfig()
    message = "settings of the graph search in mode 'exhaustive'; expected mode 'graph'"
    for place in (dense, index):
        with pytest.raises(InputError, match=message):
            open_index(place, graph=config)
    monkeypatch.setattr("jaxir.vectors.device_budget", lambda: 100 * jax.device_count())
    with pytest.raises(
        InputError, match=r"0\.0 GB of vectors and neighbours .*at most"
    ):
        open_index(index, mode="graph")


def test_moved(dense, queries, tmp_path):
    expected = open_index(dense).search(queries, k=3)
    dense.rename(tmp_path / "elsewhere")
    assert open_index(tmp_path / "elsewhere").search(queries, k=3) == expected


def test_model_by_path(model, tiny_collection, tmp_path, queries):
    save_model(tmp_path / "m", model)
    options = BuildOptions(self_contained=False)
    build_index(str(tmp_path / "m"), tiny_collection, tmp_path / "i", options=options)
    expected = open_index(tmp_path / "i").search(queries)
    shutil.move(tmp_path / "m", tmp_path / "n")
    with pytest.raises(InputError, match=r"its model is no longer at .*say where"):
        open_index(tmp_path / "i")
    found = open_index(tmp_path / "i", model=str(tmp_path / "n")).search(queries)
    assert found == expected


def test_another_model(dense, make_tiny_model, tiny_collection, tmp_path):
    with pytest.raises(
        InputError, match=r"a model with fingerprint .* encoded the docum"
    ):
        open_index(dense, model=make_tiny_model(1))
    save_model(dense / "model", make_tiny_model(1))
    with pytest.raises(InputError, match="bytes"):
        open_index(dense)
    build_index("bm25", tiny_collection, tmp_path / "b")
    with pytest.raises(InputError, match="given for a BM25 index; expected no model"):
        open_index(tmp_path / "b", model="m")


def test_damaged_and_foreign(dense, tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        open_index(tmp_path / "absent")
    path = dense / "vectors" / "vectors-00000.npy"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"vectors-00000\.npy: of 100 bytes"):
        open_index(dense)


def test_a_kind_of_the_future(dense):
    path = dense / "manifest.json"
    path.write_text(path.read_text().replace('"dense"', '"quantum"', 1))
    with pytest.raises(InputError, match="an index of kind 'quantum'"):
        open_index(dense)


@pytest.mark.shared
@pytest.mark.slow
def test_minilm_finds_a_text_by_its_beginning(minilm_path, shared_data, tmp_path):
    """A query is cut to the query's length; the document it begins comes first."""
    from jaxir.checkpoints.model_dir import load_model

    source = shared_data / "limit-small"
    build_index(load_model(minilm_path), str(source), tmp_path / "i")
    docs = open_collection(str(source)).docs
    found = open_index(tmp_path / "i").search_texts(docs.texts(range(5)), 1)
    assert found.doc_ids[:, 0].tolist() == [0, 1, 2, 3, 4]
