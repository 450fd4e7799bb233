"""Scorers of texts: every kind by its own oracle, and kinds that cannot score."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_hypencoders import tiny_hypencoder
from tiny_rerankers import bert_tokenizer, tiny_reranker

from jaxir.data.collection import open_collection
from jaxir.encode import encode_texts
from jaxir.errors import InputError
from jaxir.hyper.qnet import apply
from jaxir.label import label, make_teacher
from jaxir.rank.score import PairScorer
from jaxir.reranker import Reranker
from jaxir.scorers import SCORERS, bi_encoder_scorer, make_scorer, scores_identity

pytestmark = pytest.mark.usefixtures("quick_compilation")

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


@pytest.mark.parametrize("kind", ["dense", "hypencoder", "bert"])
def test_scores_that_are_not_finite(kind, dense, tmp_path):
    """A document of a word that is no number, among others, ranks nothing."""
    model = dense
    if kind == "hypencoder":
        model = tiny_hypencoder(tmp_path)
    elif kind == "bert":
        model = tiny_reranker(kind, tmp_path)
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


def test_what_scores_depend_on(dense, tmp_path):
    other = dense._replace(tokenizer=bert_tokenizer(tmp_path / "other"))
    assert other.fingerprint == dense.fingerprint
    assert scores_identity(other) != scores_identity(dense)
    assert scores_identity(dense, other) != scores_identity(other, dense)
