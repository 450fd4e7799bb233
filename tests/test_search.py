"""Opening and searching indexes of every kind, moved, damaged, and of other models."""

import shutil

import numpy as np
import pytest

from jaxir.checkpoints.model_dir import save_model
from jaxir.data.collection import open_collection
from jaxir.encode import encode_texts
from jaxir.errors import InputError
from jaxir.index import BuildOptions, build_index
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
    assert searcher.search({"q": "zzz"}, k=3).keys() == {"q"}
    with pytest.raises(InputError, match="k: 0; expected at least 1"):
        searcher.search_texts(["a"], 0)


def test_no_recompilation_over_numbers_of_queries(dense):
    from jaxir.dense.search import _fold_partial

    searcher = open_index(dense)
    for count in (1, 5, 64):
        searcher.search_texts(["sea"] * count, 3)
    before = _fold_partial._cache_size()
    for count in (1, 2, 7, 8, 9, 63, 64, 100):
        searcher.search_texts(["sea"] * count, 3)
    assert _fold_partial._cache_size() == before


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
