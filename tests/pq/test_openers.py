"""Opening indexes of codes and searching them with texts, by either backend."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_pq import many_documents, trained

from jaxir.checkpoints.model_dir import load_model
from jaxir.cli.main import main
from jaxir.data.collection import open_collection
from jaxir.data.formats import read_run
from jaxir.encode import TextEncoder, encode_texts
from jaxir.errors import InputError
from jaxir.index import BuildOptions, build_index
from jaxir.index_job import PqOptions
from jaxir.manifest import read_manifest, write_doc_ids, write_index
from jaxir.openers import BACKENDS
from jaxir.pq.codec import lookup, unpack
from jaxir.search import open_index

TEXTS = ["rivers carry water", "", "an engine burns fuel " * 9, "sea", "bread", "x"]


@pytest.fixture
def collection(tmp_path):
    return many_documents(tmp_path / "many", 60)


@pytest.fixture
def index(make_tiny_model, collection, tmp_path):
    options = BuildOptions(pq=PqOptions(subvectors=4, bits=4))
    build_index(
        make_tiny_model(), collection, tmp_path / "i", kind="pq", options=options
    )
    return tmp_path / "i"


def scores_of(index, texts):
    """Of all documents by the model's own functions."""
    queries = encode_texts(load_model(index / "model"), texts, side="query")
    codes = unpack(np.load(index / "codes.npy"))
    return np.asarray(lookup(jnp.asarray(queries), jnp.asarray(codes)))


@pytest.mark.parametrize(("backend", "rescore"), [("jax", 0), ("faiss", 1)])
def test_rankings_are_the_model_s_own(index, backend, rescore):
    searcher = open_index(index, backend=backend, rescore=rescore)
    assert (searcher.kind, searcher.num_docs, searcher.mode) == ("pq", 60, "exhaustive")
    for texts in (TEXTS, TEXTS[:1], TEXTS * 12):
        found = searcher.search_texts(texts, 100)
        scores = scores_of(index, texts)
        best = -np.sort(-scores, axis=1)
        np.testing.assert_allclose(found.scores[:, :60], best, rtol=1e-4, atol=1e-4)
        own = np.take_along_axis(scores, found.doc_ids[:, :60], axis=1)
        np.testing.assert_allclose(own, best, rtol=1e-4, atol=1e-4)
        assert (np.sort(found.doc_ids[:, :60], axis=1) == np.arange(60)).all()
        assert (found.doc_ids[:, 60:] == -1).all()
        assert np.isneginf(found.scores[:, 60:]).all()
    assert searcher.docs_scored == (6 + 1 + 72) * 60
    assert searcher.search_texts([], 3).doc_ids.shape == (0, 3)


def test_backends_agree(index, collection):
    queries = open_collection(str(collection)).queries("test")
    ours, exact, rounded = (
        open_index(index, backend=backend, rescore=rescore).search(queries, k=50)
        for backend, rescore in (("jax", 0), ("faiss", 2), ("faiss", 0))
    )
    for query in queries:
        assert ours[query] == pytest.approx(exact[query], rel=1e-4, abs=1e-4)
        both = ours[query].keys() & rounded[query].keys()
        assert len(both) > 45
        spread = max(ours[query].values()) - min(ours[query].values())
        for doc in both:
            assert abs(ours[query][doc] - rounded[query][doc]) < 0.1 * spread


def test_one_model_for_documents_and_queries(index, tmp_path):
    """Trained centroids score; the index refuses a model that is not its own."""
    other = trained(load_model(index / "model"))
    with pytest.raises(InputError, match="model: a model with fingerprint"):
        open_index(index, model=other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_query_that_is_not_finite_is_named(index, monkeypatch, backend):
    searcher = open_index(index, backend=backend)
    encode = TextEncoder.__call__

    def broken(self, texts):
        vectors = np.array(encode(self, texts))
        vectors[[text == "sea" for text in texts]] = np.nan
        return vectors

    monkeypatch.setattr(TextEncoder, "__call__", broken)
    searcher.search({"a": "bread"}, k=3)
    with pytest.raises(InputError, match="query q7: NaN or infinity; expected finite"):
        searcher.search({"a": "bread", "q7": "sea"}, k=3)


def test_no_recompilation_over_numbers_of_queries(index):
    from jaxir.pq.search import _from_vectors

    searcher = open_index(index)
    for count in (1, 4, 16, 64):
        searcher.search_texts(["sea"] * count, 3)
    before = _from_vectors._cache_size()
    for count in (1, 2, 7, 20, 63, 64, 100):
        searcher.search_texts(["sea"] * count, 3)
    assert _from_vectors._cache_size() == before


def test_codes_that_are_not_those_of_the_index(index, tmp_path):
    manifest = read_manifest(index)
    for name, codes, expected in (
        ("a", np.zeros((2, 59), np.uint8), r"uint8 \[2, 59\]; expected uint8 codes of"),
        (
            "b",
            np.zeros((2, 60), np.int8),
            r"int8 \[2, 60\]; expected uint8 codes of 60",
        ),
        (
            "c",
            np.zeros((3, 60), np.uint8),
            "codes: 3 rows of bytes; expected 2, the co",
        ),
    ):
        with write_index(
            tmp_path / name, kind="pq", counts=manifest.counts,
            model_fingerprint=manifest.model_fingerprint, details=manifest.details,
        ) as folder:  # fmt: skip
            write_doc_ids(folder, map(str, range(60)))
            np.save(folder / "codes.npy", codes)
        with pytest.raises(InputError, match=expected):
            open_index(tmp_path / name, model=str(index / "model"))


def test_backends_of_other_kinds(index, collection, tmp_path):
    with pytest.raises(InputError, match="backend: 'torch'; expected jax or faiss"):
        open_index(index, backend="torch")
    build_index("bm25", collection, tmp_path / "b")
    open_index(tmp_path / "b", backend="jax")
    expected = "an index of kind 'bm25' with backend 'faiss'; expected one of kind 'pq'"
    with pytest.raises(InputError, match=expected):
        open_index(tmp_path / "b", backend="faiss")
    with pytest.raises(InputError, match="rescore: given with backend 'jax'; expected"):
        open_index(tmp_path / "b", rescore=2)


def test_search_as_a_user_types_it(index, collection, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxir.mesh.use_cpu_cores", lambda: 1)
    find = ["search", "--index", str(index), "--queries", f"{collection}:test"]
    runs = []
    for backend in BACKENDS:
        out = tmp_path / f"{backend}.trec"
        words = [*find, "--output", str(out), "--k", "9", "--backend", backend]
        words += ["--rescore", "7"] * (backend == "faiss")
        assert main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["docs_scored"] == 60
        assert out.read_text().splitlines()[0].endswith("pq")
        runs.append(read_run(out))
    for query, found in runs[0].items():
        assert len(found) == 9
        best = sorted(runs[1][query].values(), reverse=True)
        np.testing.assert_allclose(list(found.values()), best, rtol=1e-4, atol=1e-4)
    out = tmp_path / "x.trec"
    assert main([*find, "--output", str(out), "--backend", "torch"]) == 2
    assert "backend: 'torch'; expected jax or faiss" in capsys.readouterr().err
    assert not out.exists()
