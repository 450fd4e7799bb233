"""The bi-encoder: pooling, similarity, towers, projection, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.dense.model import (
    DenseConfig,
    adapt_params,
    embedding_size,
    encode_doc,
    encode_query,
    init_params,
    match,
    tower_name,
)
from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig, BertEncoder
from jaxir.types import TokenBatch

TINY = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_layers=2,
    num_heads=2,
    intermediate_size=16,
    max_positions=16,
)
CONFIG = DenseConfig(TINY, query_length=8, doc_length=16)


def tokens(rows=3, length=6, seed=0) -> TokenBatch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, size=(rows, 1))
    mask = np.arange(length)[None] < lengths
    ids = np.where(mask, rng.integers(1, 20, size=(rows, length)), 0)
    return TokenBatch(jnp.asarray(ids, jnp.int32), jnp.asarray(mask))


def params_of(config):
    return init_params(config, jax.random.key(0))


def test_cosine_vectors_have_length_one_and_dot_vectors_the_same_direction():
    params, batch = params_of(CONFIG), tokens()
    cosine = encode_query(CONFIG, params, batch)
    dot = encode_query(dataclasses.replace(CONFIG, similarity="dot"), params, batch)
    np.testing.assert_allclose(jnp.linalg.norm(cosine, axis=1), np.ones(3), rtol=1e-5)
    lengths = jnp.linalg.norm(dot, axis=1, keepdims=True)
    np.testing.assert_allclose(cosine, dot / lengths, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_is_that_of_the_states(pooling):
    config = dataclasses.replace(CONFIG, pooling=pooling, similarity="dot")
    params, batch = params_of(config), tokens()
    backbone = {"params": params["shared"]["backbone"]}
    states = np.asarray(BertEncoder(TINY).apply(backbone, batch).states)
    for row in range(3):
        kept = states[row][np.asarray(batch.mask[row])]
        expected = kept.mean(axis=0) if pooling == "mean" else kept[0]
        found = encode_doc(config, params, batch)[row]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_padding_changes_nothing():
    short = tokens(length=6)
    long = TokenBatch(*(jnp.pad(x, ((0, 0), (0, 4))) for x in short[:2]))
    params = params_of(CONFIG)
    np.testing.assert_allclose(
        encode_doc(CONFIG, params, long), encode_doc(CONFIG, params, short), atol=1e-6
    )


def test_separate_towers_begin_equal_and_are_apart():
    config = dataclasses.replace(CONFIG, towers="separate")
    params, batch = params_of(config), tokens()
    assert set(params) == {"query", "doc"}
    np.testing.assert_array_equal(
        encode_query(config, params, batch), encode_doc(config, params, batch)
    )
    before = encode_query(config, params, batch)
    params["doc"] = jax.tree.map(lambda x: 2 * x, params["doc"])
    np.testing.assert_array_equal(encode_query(config, params, batch), before)
    assert not np.allclose(encode_doc(config, params, batch), before)
    assert tower_name(config, "doc") == "doc"


def test_projection_and_its_activation():
    config = dataclasses.replace(
        CONFIG, projection_size=5, projection_activation="tanh", similarity="dot"
    )
    params, batch = params_of(config), tokens()
    plain = dataclasses.replace(
        config, projection_size=None, projection_activation="identity"
    )
    pooled = encode_doc(plain, params, batch)
    projection = params["shared"]["projection"]
    expected = np.tanh(pooled @ projection["kernel"] + projection["bias"][None])
    found = encode_doc(config, params, batch)
    assert found.shape == (3, embedding_size(config)) == (3, 5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_rng_draws_dropout_and_its_absence_does_not():
    params, batch = params_of(CONFIG), tokens()
    first = encode_doc(CONFIG, params, batch, rng=jax.random.key(1))
    again = encode_doc(CONFIG, params, batch, rng=jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, encode_doc(CONFIG, params, batch))


def test_parameter_tree_is_the_one_that_checkpoints_know():
    config = dataclasses.replace(CONFIG, projection_size=5)
    tree = jax.tree_util.tree_flatten_with_path(params_of(config))[0]
    names = {"/".join(str(key.key) for key in path): leaf.shape for path, leaf in tree}
    assert names["shared/backbone/embeddings/word/embedding"] == (20, 8)
    assert names["shared/backbone/layer_1/attention/query/kernel"] == (8, 8)
    assert names["shared/backbone/layer_1/mlp/wi/kernel"] == (8, 16)
    assert names["shared/projection/kernel"] == (8, 5)
    assert len(names) == 5 + 2 * 16 + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "median"}, "DenseConfig.pooling: 'median'; expected one of cls"),
        ({"similarity": "euclid"}, "similarity: 'euclid'; expected one of cosine, dot"),
        ({"towers": "two"}, "towers: 'two'; expected one of shared, separate"),
        ({"projection_activation": "x"}, "'x'; expected one of identity, tanh"),
        ({"doc_length": 17}, "doc_length: 17 tokens; expected 1 to 16"),
        ({"query_length": 0}, "query_length: 0 tokens"),
        ({"query_template": "query: "}, "query template: 'query: '; expected {text}"),
        ({"doc_template": "{title} {text}"}, "doc template: '{title} {text}'; exp"),
    ],
)
def test_what_cannot_be_a_bi_encoder_says_so(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_one_tower_becomes_two_and_not_the_reverse():
    two = dataclasses.replace(CONFIG, towers="separate")
    params = params_of(CONFIG)
    assert adapt_params(CONFIG, params, CONFIG) is params
    both = adapt_params(CONFIG, params, two)
    batch = tokens()
    expected = encode_doc(CONFIG, params, batch)
    np.testing.assert_array_equal(encode_doc(two, both, batch), expected)
    np.testing.assert_array_equal(encode_query(two, both, batch), expected)
    with pytest.raises(InputError, match="two trained towers cannot become one"):
        adapt_params(two, both, CONFIG)


def test_match_is_the_inner_product():
    params = params_of(CONFIG)
    queries = encode_query(CONFIG, params, tokens())
    docs = encode_doc(CONFIG, params, tokens(rows=5, seed=1))
    found = match(CONFIG, queries, docs)
    np.testing.assert_allclose(
        found, np.asarray(queries) @ np.asarray(docs).T, atol=1e-6
    )
