"""The Hypencoder: towers and head together, its warm start, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.dense import model as dense
from jaxir.errors import InputError
from jaxir.hyper import model
from jaxir.hyper.head import HyperHead
from jaxir.hyper.model import HypencoderConfig, adapt_params
from jaxir.hyper.qnet import QNetSpec
from jaxir.nn.bert import BertConfig, BertEncoder
from jaxir.types import TokenBatch

TINY = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    intermediate_size=16,
    max_positions=16,
)
LENGTHS = {"query_length": 8, "doc_length": 16}
CONFIG = HypencoderConfig(TINY, QNetSpec(8, (8, 8)), **LENGTHS)
WARM = dataclasses.replace(
    CONFIG,
    qnet=QNetSpec(8, (8, 8), gated=True, residual_on_last=True),
    warm_start=True,
)


# Compiled as wholes: operation by operation these tests would take minutes.
init_params, encode_query, encode_doc, params_from_towers, match = (
    jax.jit(function, static_argnums=0)
    for function in (
        model.init_params,
        model.encode_query,
        model.encode_doc,
        model.params_from_towers,
        model.match,
    )
)
dense_query, dense_doc, dense_init = (
    jax.jit(function, static_argnums=0)
    for function in (dense.encode_query, dense.encode_doc, dense.init_params)
)


def tokens(rows=3, length=6, seed=0) -> TokenBatch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, size=(rows, 1))
    mask = np.arange(length)[None] < lengths
    ids = np.where(mask, rng.integers(1, 20, size=(rows, length)), 0)
    return TokenBatch(jnp.asarray(ids, jnp.int32), jnp.asarray(mask))


def params_of(config):
    return init_params(config, jax.random.key(0, impl="rbg"))


def shapes(params):
    return jax.tree.map(lambda x: x.shape, params)


def same(found, expected, **tolerance):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **tolerance), found, expected
    )


def test_documents_are_first_tokens_and_queries_are_heads_over_states():
    params = params_of(CONFIG)
    batch = tokens()
    backbone = {"params": params["shared"]["backbone"]}
    states = jax.jit(BertEncoder(TINY).apply)(backbone, batch).states
    np.testing.assert_allclose(
        encode_doc(CONFIG, params, batch), states[:, 0], atol=1e-6
    )
    head = jax.jit(HyperHead(CONFIG.qnet).apply)
    expected = head({"params": params["head"]}, states, batch.mask)
    same(encode_query(CONFIG, params, batch), expected, atol=1e-5)


def test_match_scores_every_query_with_every_document():
    params = params_of(CONFIG)
    queries = encode_query(CONFIG, params, tokens())
    docs = encode_doc(CONFIG, params, tokens(5, seed=1))
    found = match(CONFIG, queries, docs)
    assert found.shape == (3, 5)
    one = jax.tree.map(lambda x: x[1:2], queries)
    np.testing.assert_allclose(match(CONFIG, one, docs), found[1:2], atol=1e-5)
    with pytest.raises(InputError, match="docs: vectors of width 7; expected 8"):
        match(CONFIG, queries, docs[:, :7])


@pytest.mark.parametrize("config", [CONFIG, WARM], ids=["paper", "warm"])
def test_padding_changes_nothing_and_an_empty_query_is_finite(config):
    params, short = params_of(config), tokens()
    long = TokenBatch(*(jnp.pad(x, ((0, 0), (0, 2))) for x in short[:2]))
    found = encode_query(config, params, long)
    same(found, encode_query(config, params, short), atol=1e-5)
    empty = TokenBatch(jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 4), bool))
    weights = encode_query(config, params, empty)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(weights))


@pytest.mark.parametrize(
    ("similarity", "towers", "projection"),
    [("cosine", "shared", None), ("dot", "separate", 6)],
)
def test_warm_start_is_the_bi_encoder(similarity, towers, projection):
    of_dense = dense.DenseConfig(
        TINY, "mean", similarity, towers, projection_size=projection, **LENGTHS
    )
    width = projection or 8
    config = dataclasses.replace(
        WARM,
        qnet=dataclasses.replace(
            WARM.qnet, input_width=width, hidden=(width, width, width)
        ),
        pooling="mean",
        similarity=similarity,
        towers=towers,
        projection_size=projection,
    )
    trained = dense_init(of_dense, jax.random.key(3, impl="rbg"))
    if towers == "separate":
        trained["doc"] = jax.tree.map(lambda x: np.asarray(1.1 * x), trained["doc"])
    params = params_from_towers(config, trained, jax.random.key(0, impl="rbg"))
    queries, docs = tokens(), tokens(5, seed=1)
    vectors = dense_query(of_dense, trained, queries)
    expected = dense_doc(of_dense, trained, docs)
    weights = encode_query(config, params, queries)
    np.testing.assert_array_equal(weights.output, vectors)
    assert not weights.gates.any()
    np.testing.assert_array_equal(encode_doc(config, params, docs), expected)
    # the same products, whose sums may be taken in another order
    np.testing.assert_allclose(
        match(config, weights, expected),
        dense.match(of_dense, vectors, expected),
        rtol=1e-6,
        atol=1e-6,
    )


def test_several_vectors_of_a_document():
    several = dataclasses.replace(
        CONFIG, qnet=dataclasses.replace(CONFIG.qnet, num_vectors=3)
    )
    params, batch = params_of(several), tokens(4)
    docs = encode_doc(several, params, batch)
    assert docs.shape == (4, 24)
    np.testing.assert_allclose(
        docs[:, :8], encode_doc(CONFIG, params, batch), atol=1e-6
    )
    queries = encode_query(several, params, tokens())
    each = match(CONFIG, queries, docs.reshape(12, 8)).reshape(3, 4, 3)
    np.testing.assert_allclose(
        match(several, queries, docs), each.max(axis=-1), atol=1e-5
    )


def test_rng_draws_dropout_and_its_absence_does_not():
    params, batch = params_of(CONFIG), tokens()
    first = encode_query(CONFIG, params, batch, rng=jax.random.key(1))
    same(encode_query(CONFIG, params, batch, rng=jax.random.key(1)), first)
    plain = encode_query(CONFIG, params, batch)
    assert not np.allclose(first.biases[0], plain.biases[0])
    docs = encode_doc(CONFIG, params, batch, rng=jax.random.key(1))
    assert not np.allclose(docs, encode_doc(CONFIG, params, batch))


def test_bfloat16_backbone_gives_float32_near_the_same():
    params, batch = params_of(CONFIG), tokens()
    half = dataclasses.replace(
        CONFIG, backbone=dataclasses.replace(TINY, dtype="bfloat16")
    )
    weights = encode_query(half, params, batch)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(weights))
    same(weights.kernels, encode_query(CONFIG, params, batch).kernels, atol=0.05)


def test_one_tower_becomes_two_and_the_head_stays():
    params = params_of(CONFIG)
    two = dataclasses.replace(CONFIG, towers="separate", attention_scale="paper")
    both = adapt_params(CONFIG, params, two)
    assert sorted(both) == ["doc", "head", "query"]
    assert both["head"] is params["head"]
    same(both["query"], params["shared"])
    assert shapes(both) == shapes(params_of(two))
    same(adapt_params(CONFIG, params, CONFIG), params)
    with pytest.raises(InputError, match="two trained towers cannot become one"):
        adapt_params(two, both, CONFIG)
    fresh = params_from_towers(
        two, {"shared": params["shared"]}, jax.random.key(0, impl="rbg")
    )
    assert shapes(fresh) == shapes(both)


def test_a_head_of_another_shape_is_refused():
    params = params_of(CONFIG)
    deeper = dataclasses.replace(CONFIG, qnet=QNetSpec(8, (8, 8, 8)))
    with pytest.raises(InputError, match=r"qnet: hidden=\(8, 8, 8\), warm_start=False"):
        adapt_params(CONFIG, params, deeper)
    with pytest.raises(InputError, match="expected a q-net of the same shape; start"):
        adapt_params(CONFIG, params, WARM)


def test_cosine_documents_have_length_one():
    config = dataclasses.replace(CONFIG, similarity="cosine")
    docs = encode_doc(config, params_of(config), tokens())
    np.testing.assert_allclose(jnp.linalg.norm(docs, axis=1), np.ones(3), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "median"}, "HypencoderConfig.pooling: 'median'; expected one of"),
        ({"similarity": "euclid"}, "HypencoderConfig.similarity: 'euclid'"),
        ({"towers": "two"}, "HypencoderConfig.towers: 'two'"),
        ({"projection_activation": "x"}, "HypencoderConfig.projection_activation: 'x'"),
        (
            {"doc_length": 17},
            "HypencoderConfig.doc_length: 17 tokens; expected 1 to 16",
        ),
        ({"query_template": "query: "}, "query template: 'query: '; expected {text}"),
        ({"attention_scale": "root"}, "scale: 'root'; expected one of released, paper"),
        ({"qnet": QNetSpec(9, (9,))}, "qnet: input_width=9; expected 8, the width of"),
        ({"projection_size": 5}, "qnet: input_width=8; expected 5, the width of"),
        (
            {"warm_start": True},
            "warm_start: a q-net without gates; expected gated=True",
        ),
    ],
)
def test_what_cannot_be_a_hypencoder_says_so(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **change)
