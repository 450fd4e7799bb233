"""Scorers of texts: every kind by its own oracle, and kinds that cannot score."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_hypencoders import tiny_hypencoder
from tiny_jpq import tiny_jpq_index
from tiny_pq import trained
from tiny_rerankers import bert_tokenizer, tiny_reranker
from tiny_sparse import tiny_sparse

from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.cli.main import main
from jaxir.data.collection import open_collection
from jaxir.data.formats import read_run
from jaxir.encode import as_bi_encoder, encode_texts
from jaxir.errors import InputError
from jaxir.hyper.qnet import apply
from jaxir.index import BuildOptions, build_index
from jaxir.index_job import PqOptions
from jaxir.label import label, make_teacher
from jaxir.pq.codec import quantize, reconstruct
from jaxir.pq.model import assigning_codec, searching_codec
from jaxir.rank.score import PairScorer
from jaxir.reranker import Reranker, load_scoring_model
from jaxir.scorers import (
    SCORERS,
    bi_encoder_scorer,
    make_scorer,
    scores_identity,
    sparse_scorer,
)

QUERIES = ["rivers to the sea", "yeast"]
DOCS = [["banks of clay", "bread", "wheels of steel"], ["bread"]]


@pytest.fixture
def dense(make_tiny_model):
    return make_tiny_model()


def products(model):
    vectors = encode_texts(model, QUERIES, side="query")
    return [
        encode_texts(model, docs, side="doc") @ vector
        for vector, docs in zip(vectors, DOCS, strict=True)
    ]


@pytest.mark.parametrize("keep", [1, 2, 50])
def test_bi_encoder_is_the_product_of_its_vectors(dense, keep):
    scorer = bi_encoder_scorer(dense, keep=keep)
    for _ in range(2):
        for found, expected in zip(scorer(QUERIES, DOCS), products(dense), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [len(scores) for scores in scorer(QUERIES, [[], ["bread"]])] == [0, 1]


@pytest.mark.parametrize("num_vectors", [1, 2])
def test_hypencoder_is_its_q_net(tmp_path, num_vectors):
    model = tiny_hypencoder(tmp_path, vectors=num_vectors)
    scorer = make_scorer(model, role="teacher")
    weights = encode_texts(model, QUERIES, side="query")
    for row, (docs, found) in enumerate(zip(DOCS, scorer(QUERIES, DOCS), strict=True)):
        own = jax.tree.map(lambda x, row=row: jnp.asarray(x[row]), weights)
        vectors = jnp.asarray(encode_texts(model, docs, side="doc"))
        expected = apply(model.config.qnet, own, vectors)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    many = scorer(QUERIES * 10, [["bread"]] * 20)  # more than go through together
    np.testing.assert_allclose(np.ravel(many), np.ravel(many[:2] * 10), atol=1e-5)
    assert [len(scores) for scores in scorer(QUERIES, [[], []])] == [0, 0]


@pytest.mark.parametrize("kind", ["idf", "binary", "encoder"])
@pytest.mark.parametrize("keep", [2, 50])
def test_sparse_encoder_is_the_product_of_its_weights(kind, keep, tmp_path):
    model = tiny_sparse(tmp_path, query=kind)
    scorer = sparse_scorer(model, keep=keep)
    for _ in range(2):
        found = zip(scorer(QUERIES, DOCS), products(model), strict=True)
        for scores, expected in found:
            assert np.all(expected >= 0)
            np.testing.assert_allclose(scores, expected, rtol=1e-5)
    many = scorer(QUERIES * 40, DOCS * 40)  # more than are encoded together
    assert np.any(np.concatenate(many))
    for scores, expected in zip(many, products(model) * 40, strict=True):
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert [len(scores) for scores in scorer(QUERIES, [[], ["bread"]])] == [0, 1]


def test_a_sparse_encoder_keeps_what_is_not_zero(tmp_path, monkeypatch):
    from jaxir import scorers

    model, kept = tiny_sparse(tmp_path), []
    remember = scorers._remember

    def seen(store, *others):
        known = remember(store, *others)
        kept.extend(known.values())
        return known

    monkeypatch.setattr(scorers, "_remember", seen)
    make_scorer(model)(QUERIES, DOCS)
    dense = encode_texts(model, ["bread"], side="doc")[0]
    sizes = [len(tokens) for tokens, _ in kept]
    assert (dense > 0).sum() in sizes
    assert max(sizes) < len(dense)
    assert all(np.all(weights > 0) for _, weights in kept)


@pytest.fixture
def jpq_index(dense, tiny_collection, tmp_path):
    return tiny_jpq_index(dense, tiny_collection, tmp_path / "index")


def test_jpq_is_what_trained_centroids_make_of_real_codes(jpq_index, monkeypatch):
    model = trained(load_model(jpq_index / "model"))
    towers = as_bi_encoder(model)
    queries = encode_texts(towers, QUERIES, side="query")
    monkeypatch.setattr("jaxir.scorers.CODED", 2)  # more than go through together
    found = make_scorer(model, role="teacher")(QUERIES, DOCS)
    params = jax.tree.map(jnp.asarray, model.params)
    for query, docs, scores in zip(queries, DOCS, found, strict=True):
        vectors = jnp.asarray(encode_texts(towers, docs, side="doc"))
        codes = quantize(assigning_codec(params), vectors)
        rebuilt = reconstruct(searching_codec(params), codes)
        np.testing.assert_allclose(scores, rebuilt @ query, atol=1e-5)
        assert np.abs(scores - vectors @ query).max() > 1e-3  # not the vectors'
    scorer = make_scorer(model)
    assert [len(scores) for scores in scorer(QUERIES, [[], ["bread"]])] == [0, 1]


def test_jpq_scores_as_its_index_does(jpq_index, tiny_collection, tmp_path):
    """Reranking what a search of all documents found changes nothing."""
    save_model(tmp_path / "jpq", trained(load_model(jpq_index / "model")))
    place = str(tmp_path / "jpq")
    assert load_scoring_model(place, changes={"query_length": 9}).config.query_length
    options = BuildOptions(pq=PqOptions(codes=jpq_index))
    build_index(place, None, tmp_path / "new", options=options)
    first, second = tmp_path / "first.trec", tmp_path / "second.trec"
    queries = f"{tiny_collection}:test"
    words = ["--queries", queries, "--output", str(first), "--k", "12"]
    assert main(["search", "--index", str(tmp_path / "new"), *words]) == 0
    words = ["--run", str(first), "--collection", queries, "--output", str(second)]
    assert main(["rerank", "--model", place, *words]) == 0
    searched, reranked = read_run(first), read_run(second)
    assert reranked.keys() == searched.keys()
    for query, found in searched.items():
        assert len(found) == 12
        assert reranked[query] == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("kind", ["encdec", "bert"])
def test_cross_encoder_is_its_pair_scorer(kind, tmp_path):
    model = tiny_reranker(kind, tmp_path)
    pairs = PairScorer(model.config, model.params, model.tokenizer, max_length=24)
    found = make_scorer(model, max_length=24)(QUERIES, DOCS)
    for query, docs, scores in zip(QUERIES, DOCS, found, strict=True):
        expected = pairs([(query, doc) for doc in docs])
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_a_cross_encoder_teaches(tmp_path, tiny_collection):
    from jaxir.data.lists import TrainingList

    model = tiny_reranker("bert", tmp_path / "model")
    collection = open_collection(str(tiny_collection))
    lists = [TrainingList("q-river-train", ("river0", "bread1"), (2.0, 0.0))]
    (labelled,) = label([make_teacher(model)], lists, collection)
    query = collection.queries()["q-river-train"]
    texts = collection.docs.texts(collection.docs.rows(["river0", "bread1"]))
    (expected,) = make_scorer(model)([query], [texts])
    np.testing.assert_allclose(labelled.scores, expected, atol=1e-6)


def test_kinds_that_cannot_score():
    model = SimpleNamespace(kind="masked_lm", path="models/lm")
    known = ", ".join(SCORERS)
    message = (
        f"models/lm: a model of kind 'masked_lm' as a rescorer; expected .*{known}"
    )
    with pytest.raises(InputError, match=message):
        make_scorer(model, role="rescorer")


def test_batches_of_no_tokens_say_so(dense):
    for count in (0, -1):
        with pytest.raises(InputError, match=f"batch_tokens: {count}; expected at l"):
            make_scorer(dense, batch_tokens=count)


@pytest.mark.parametrize("kind", ["dense", "hypencoder", "bert", "sparse"])
def test_scores_that_are_not_finite(kind, dense, tmp_path):
    """A document of a word that is no number, among others, ranks nothing."""
    model = dense
    if kind == "hypencoder":
        model = tiny_hypencoder(tmp_path)
    elif kind == "bert":
        model = tiny_reranker(kind, tmp_path)
    elif kind == "sparse":
        model = tiny_sparse(tmp_path, tied=False)  # the decoder has numbers
    (steel,) = model.tokenizer.pieces(["steel"])[0]

    def broken(path, leaf):
        if "'word'" not in jax.tree_util.keystr(path):
            return leaf
        table = np.array(leaf)
        table[steel] = np.nan
        return table

    params = jax.tree_util.tree_map_with_path(broken, model.params)
    scorer = make_scorer(model._replace(params=params, path="models/m"))
    with pytest.raises(InputError, match=r"models/m: the score nan of '.*steel.*'; ex"):
        scorer(QUERIES, DOCS)
    with pytest.raises(InputError, match="the score nan of "):
        Reranker(model._replace(params=params)).rank(QUERIES[0], DOCS[0])


@pytest.mark.parametrize("side", ["query", "doc"])
def test_jpq_does_not_hide_in_codes_what_is_not_finite(jpq_index, side):
    model = load_model(jpq_index / "model")
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), model.params[side])
    model = model._replace(params=model.params | {side: broken}, path="models/m")
    said = "models/m: a vector of 'banks of clay' that is not finite; expected a finite"
    if side == "query":
        said = "models/m: the score nan of 'banks of clay' for 'rivers to the sea'"
    with pytest.raises(InputError, match=said):
        make_scorer(model)(QUERIES, DOCS)


def test_what_scores_depend_on(dense, tmp_path):
    other = dense._replace(tokenizer=bert_tokenizer(tmp_path / "other"))
    assert other.fingerprint == dense.fingerprint
    assert scores_identity(other) != scores_identity(dense)
    assert scores_identity(dense, other) != scores_identity(other, dense)
