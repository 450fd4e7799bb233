"""Building indexes: whole or absent, resumed, and mistakes named before writing."""

import numpy as np
import pytest
from tiny_hypencoders import tiny_hypencoder
from tiny_rerankers import tiny_reranker

from jaxir import encode, index_job
from jaxir.bm25 import Bm25Config
from jaxir.checkpoints.model_dir import load_model
from jaxir.data.collection import open_collection
from jaxir.errors import InputError
from jaxir.hyper import neighbors
from jaxir.index import BuildOptions, add_neighbors, build_index
from jaxir.manifest import DocIdFile, verify


def test_dense(make_tiny_model, tiny_collection, tmp_path):
    model = make_tiny_model()
    manifest = build_index(model, tiny_collection, tmp_path / "i")
    assert manifest == verify(tmp_path / "i", deep=True)
    assert manifest.kind == "dense"
    assert manifest.counts == {"docs": 12}
    assert manifest.model_fingerprint == model.fingerprint
    collection = open_collection(str(tiny_collection))
    assert manifest.details["collection_fingerprint"] == collection.docs.fingerprint
    assert list(DocIdFile(tmp_path / "i")) == list(collection.docs.doc_ids())
    stored = np.load(tmp_path / "i" / manifest.details["shards"][0])
    texts = collection.docs.texts(range(12))
    expected = encode.encode_texts(model, texts, side="doc")
    np.testing.assert_allclose(stored, expected, atol=1e-5)
    assert load_model(tmp_path / "i" / "model").fingerprint == model.fingerprint
    assert not (tmp_path / "i.partial").exists()


@pytest.mark.parametrize("vectors", [1, 2])
def test_hypencoder(tiny_collection, tmp_path, vectors):
    model = tiny_hypencoder(tmp_path / "m", vectors=vectors)
    options = BuildOptions(neighbors=3, shard_rows=5)
    manifest = build_index(model, tiny_collection, tmp_path / "i", options=options)
    assert manifest == verify(tmp_path / "i", deep=True)
    details = manifest.details
    assert (manifest.kind, details["model_kind"]) == ("hypencoder", "hypencoder")
    assert (details["width"], details["num_vectors"]) == (16 * vectors, vectors)
    assert details["neighbors"] == 3
    shards = [np.load(tmp_path / "i" / name) for name in details["shards"]]
    texts = open_collection(str(tiny_collection)).docs.texts(range(12))
    expected = encode.encode_texts(model, texts, side="doc")
    np.testing.assert_allclose(np.concatenate(shards), expected, atol=1e-5)
    whole = np.concatenate(shards).astype(np.float64)
    distances = ((whole[:, None] - whole[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    graph = np.load(tmp_path / "i" / "graph" / "neighbors.npy")
    found = np.take_along_axis(distances, graph, axis=1)
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :3], atol=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"m", "i", "tiny"}


def test_a_graph_is_added_and_replaced(tiny_collection, tmp_path):
    index = tmp_path / "i"
    model = tiny_hypencoder(tmp_path / "m")
    without = build_index(model, tiny_collection, index)
    with_graph = add_neighbors(index, 3)
    assert with_graph == verify(index, deep=True)
    assert with_graph.details == without.details | {"neighbors": 3}
    added = {name: with_graph.files[name] for name in without.files}
    assert added == without.files
    graph = ["graph/neighbors.json", "graph/neighbors.npy"]
    assert sorted(set(with_graph.files) - set(without.files)) == graph
    replaced = add_neighbors(index, 10**12, backend="faiss")  # more than there are
    assert replaced.details["neighbors"] == 11
    assert np.load(index / graph[1]).shape == (12, 11)
    assert load_model(index / "model").fingerprint == model.fingerprint
    whole = build_index(
        model, tiny_collection, tmp_path / "j", options=BuildOptions(neighbors=20)
    )
    assert whole.details | {"shards": 0} == replaced.details | {"shards": 0}
    assert {p.name for p in tmp_path.iterdir()} == {"m", "i", "j", "tiny"}


def test_a_graph_harms_no_other_folder(tiny_collection, tmp_path):
    model = tiny_hypencoder(tmp_path / "m")
    build_index(model, tiny_collection, tmp_path / "warm")
    others = [tmp_path / f"warm{end}" for end in (".graph", ".graph.partial")]
    built = [build_index(model, tiny_collection, place) for place in others]
    add_neighbors(tmp_path / "warm", 3)
    assert [verify(place, deep=True) for place in others] == built
    before = {path.name for path in tmp_path.iterdir()}
    hidden = tmp_path / ".warm.graph"
    hidden.mkdir()
    (hidden / "note").write_text("mine")
    with pytest.raises(InputError, match="that is not a neighbour graph stands here"):
        add_neighbors(tmp_path / "warm", 5)
    assert (hidden / "note").read_text() == "mine"
    assert verify(tmp_path / "warm", deep=True).details["neighbors"] == 3
    assert {path.name for path in tmp_path.iterdir()} == before | {".warm.graph"}


@pytest.mark.parametrize("broken", ["_join", "write_index"])
@pytest.mark.parametrize("adding", [True, False])
def test_an_interrupted_graph(tiny_collection, tmp_path, monkeypatch, adding, broken):
    """An index stays as it was; the next call goes on and leaves nothing behind."""
    index, model = tmp_path / "i", tiny_hypencoder(tmp_path / "m")
    before = build_index(model, tiny_collection, index)

    def build():
        if adding:
            return add_neighbors(index, 3)
        options = BuildOptions(neighbors=3)
        return build_index(model, tiny_collection, index, options=options)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    place = neighbors if broken == "_join" else index_job
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, broken, interrupted)
        build()
    assert verify(index, deep=True) == before
    monkeypatch.setattr(neighbors, "_rows", interrupted)  # all are found already
    assert build().details["neighbors"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {"m", "i", "tiny"}


def test_graphs_of_other_kinds(make_tiny_model, tiny_collection, tmp_path):
    message = "a neighbour graph for kind 'dense'; expected kind 'hypencoder'"
    options = BuildOptions(neighbors=3)
    with pytest.raises(InputError, match=message):
        build_index(make_tiny_model(), tiny_collection, tmp_path / "i", options=options)
    build_index(make_tiny_model(), tiny_collection, tmp_path / "i")
    with pytest.raises(InputError, match=message):
        add_neighbors(tmp_path / "i", 3)
    with pytest.raises(InputError, match="no such directory"):
        add_neighbors(tmp_path / "absent", 3)
    with pytest.raises(InputError, match="neighbors: 0; expected a positive number"):
        add_neighbors(tmp_path / "i", 0)
    with pytest.raises(InputError, match="graph_backend: 'annoy'; expected jax or fai"):
        add_neighbors(tmp_path / "i", 3, backend="annoy")
    assert not (tmp_path / ".absent.lock").exists()


def test_without_a_copy_of_the_model(make_tiny_model, tiny_collection, tmp_path):
    options = BuildOptions(self_contained=False, dtype="float16", shard_rows=5)
    manifest = build_index(
        make_tiny_model(), tiny_collection, tmp_path / "i", options=options
    )
    assert not (tmp_path / "i" / "model").exists()
    assert len(manifest.details["shards"]) == 3
    assert manifest.details["dtype"] == "float16"


def test_the_folder_that_one_stands_in(tiny_collection, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert build_index("bm25", tiny_collection, ".").kind == "bm25"
    assert [path.name for path in tmp_path.glob("*here*")] == ["here"]


def test_where_its_model_is(tiny_model, tiny_collection, tmp_path, monkeypatch):
    """An id stays one, and so do several folders."""
    monkeypatch.chdir(tmp_path)
    model = load_model(str(tiny_model))
    for given, noted in {
        "hf:who/what": "hf:who/what",
        "dpr:question,context": "dpr:question,context",
        "here": str(tmp_path / "here"),
    }.items():
        named = model._replace(path=given)
        manifest = build_index(named, tiny_collection, tmp_path / "i")
        assert manifest.details["model_path"] == noted


def test_bm25(tiny_collection, tmp_path):
    options = BuildOptions(bm25=Bm25Config(k1=1.2))
    manifest = build_index("bm25", tiny_collection, tmp_path / "i", options=options)
    assert manifest.kind == "bm25"
    assert manifest.details["k1"] == 1.2
    assert manifest.model_fingerprint == ""
    assert verify(tmp_path / "i", deep=True) == manifest


def test_an_index_replaces_an_index(make_tiny_model, tiny_collection, tmp_path):
    build_index("bm25", tiny_collection, tmp_path / "i")
    build_index(make_tiny_model(), tiny_collection, tmp_path / "i")
    assert verify(tmp_path / "i").kind == "dense"
    assert not (tmp_path / "i" / "bm25").exists()


def test_interrupted(make_tiny_model, tiny_collection, tmp_path, monkeypatch):
    real, calls = encode._write_shard, []

    def interrupted(path, *args):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, *args)

    monkeypatch.setattr(encode, "_write_shard", interrupted)
    job = (make_tiny_model(), tiny_collection, tmp_path / "i")
    options = BuildOptions(shard_rows=6)
    with pytest.raises(KeyboardInterrupt):
        build_index(*job, options=options)
    assert not (tmp_path / "i").exists()
    build_index(*job, options=options)
    assert calls == ["vectors-00000.npy", "vectors-00001.npy", "vectors-00001.npy"]


def test_mistakes(make_tiny_model, tiny_collection, tmp_path):
    model = make_tiny_model()
    with pytest.raises(InputError, match="kind: 'tree'; expected one of bm25, dense"):
        build_index(model, tiny_collection, tmp_path / "i", kind="tree")
    for given, told in {
        "max_length": "given for BM25, which cuts and encodes nothing",
        "batch_tokens": "given for BM25, which cuts and encodes nothing",
    }.items():
        with pytest.raises(InputError, match=f"{given}: {told}"):
            build_index(
                "bm25", tiny_collection, tmp_path / "i",
                options=BuildOptions(**{given: 8}),
            )  # fmt: skip
    with pytest.raises(InputError, match="self_contained: False for an index that no"):
        build_index(
            "bm25", tiny_collection, tmp_path / "i",
            options=BuildOptions(self_contained=False),
        )  # fmt: skip
    with pytest.raises(InputError, match="dtype: 'float16' for BM25"):
        build_index(
            "bm25", tiny_collection, tmp_path / "i",
            options=BuildOptions(dtype="float16"),
        )  # fmt: skip
    with pytest.raises(InputError, match="kind: 'bm25' with a model of kind 'dense'"):
        build_index(model, tiny_collection, tmp_path / "i", kind="bm25")
    cross = tiny_reranker("bert", tmp_path / "cross")
    with pytest.raises(InputError, match="kind 'rank_bert', which gives no vectors"):
        build_index(cross, tiny_collection, tmp_path / "i")
    with pytest.raises(InputError, match="not an index stands here"):
        build_index(model, tiny_collection, tiny_collection)
    with pytest.raises(InputError, match="dtype: 'int3'; expected float32 or float16"):
        BuildOptions(dtype="int3")
    with pytest.raises(InputError, match="batch_tokens: 0; expected a positive number"):
        BuildOptions(batch_tokens=0)
    assert not (tmp_path / "i").exists()
