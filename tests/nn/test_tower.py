"""Towers: vectors of a text, those of its first tokens, what is read beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.dense.model import DenseConfig
from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig, BertEncoder
from jaxir.nn.tower import Tower
from jaxir.types import TokenBatch

TINY = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    intermediate_size=16,
    max_positions=16,
)


def texts(lengths, width) -> TokenBatch:
    mask = np.arange(width)[None] < np.array(lengths)[:, None]
    ids = np.where(mask, np.random.default_rng(0).integers(1, 20, mask.shape), 0)
    return TokenBatch(jnp.asarray(ids, jnp.int32), jnp.asarray(mask))


def init(tower, tokens):
    return tower.init(jax.random.key(0), tokens)


def test_read_gives_the_vectors_and_the_states_they_come_from():
    tower, tokens = Tower(TINY, "mean", "dot"), texts([3, 6], 6)
    params = init(tower, tokens)
    vectors, output = tower.apply(params, tokens, method=Tower.read)
    np.testing.assert_array_equal(vectors, tower.apply(params, tokens))
    backbone = {"params": params["params"]["backbone"]}
    states = BertEncoder(TINY).apply(backbone, tokens).states
    np.testing.assert_allclose(output.states, states, atol=1e-6)
    np.testing.assert_allclose(vectors[0], states[0, :3].mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(output.mask, tokens.mask)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("projection", [None, 5])
def test_first_vectors_are_those_of_the_first_tokens(similarity, projection):
    tower = Tower(
        TINY, "cls", similarity, projection, "tanh" if projection else "identity"
    )
    tokens = texts([2, 5, 3], 5)
    params = init(tower, tokens)
    found = tower.apply(params, tokens, 4, method=Tower.first_vectors)
    width = projection or 8
    assert found.shape == (3, 4, width)
    states = tower.apply(params, tokens, method=Tower.read)[1].states
    if projection:
        own = params["params"]["projection"]
        states = jnp.tanh(states @ own["kernel"] + own["bias"][None, None])
    if similarity == "cosine":
        states = states / jnp.linalg.norm(states, axis=-1, keepdims=True)
    np.testing.assert_allclose(found[1], states[1, :4], atol=1e-5)
    np.testing.assert_allclose(found[0, :2], states[0, :2], atol=1e-5)
    # a text of two tokens repeats its first, as does one whose batch is narrower still
    np.testing.assert_array_equal(found[0, 2], found[0, 0])
    np.testing.assert_array_equal(found[0, 3], found[0, 0])
    np.testing.assert_allclose(found[:, 0], tower.apply(params, tokens), atol=1e-6)
    narrow = tower.apply(params, tokens, 7, method=Tower.first_vectors)
    np.testing.assert_allclose(narrow[:, :4], found, atol=1e-6)
    np.testing.assert_array_equal(narrow[:, 5], narrow[:, 0])


def test_vectors_of_a_text_without_tokens_are_finite():
    tower, tokens = Tower(TINY), texts([0, 2], 3)
    params = init(tower, tokens)
    assert np.isfinite(tower.apply(params, tokens)).all()
    assert np.isfinite(tower.apply(params, tokens, 2, method=Tower.first_vectors)).all()


def test_a_layer_norm_may_follow_the_projection():
    tokens = texts([3, 6], 6)
    plain = Tower(TINY, "cls", "dot", 5)
    tower = Tower(TINY, "cls", "dot", 5, "layer_norm")
    params = init(tower, tokens)["params"]
    assert set(params) == {"backbone", "projection", "projection_norm"}
    scale, bias = jnp.arange(1.0, 6.0), jnp.arange(5.0)
    params = params | {"projection_norm": {"scale": scale, "bias": bias}}
    found = tower.apply({"params": params}, tokens)
    del params["projection_norm"]
    vectors = np.asarray(plain.apply({"params": params}, tokens), np.float64)
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    wanted = centred / np.sqrt(vectors.var(axis=1, keepdims=True) + 1e-5)
    wanted = wanted * np.asarray(scale)[None] + np.asarray(bias)[None]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_layer_norm_needs_a_projection():
    with pytest.raises(InputError, match="'layer_norm' without a projection; expected"):
        DenseConfig(
            TINY, query_length=8, doc_length=8, projection_activation="layer_norm"
        )
