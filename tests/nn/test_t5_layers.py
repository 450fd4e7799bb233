"""T5's parts: buckets against PyTorch's, biases against a look-up, the short cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.nn.t5_layers import (
    Attention,
    FeedForward,
    RelativePositions,
    Unembedding,
    relative_position_buckets,
)


@pytest.mark.parametrize("sizes", [(32, 128), (16, 64), (32, 256)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_equal_pytorchs_at_every_distance(bidirectional, sizes):
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    distance = np.arange(-3000, 3001)
    got = relative_position_buckets(
        distance,
        bidirectional=bidirectional,
        num_buckets=sizes[0],
        max_distance=sizes[1],
    )
    expected = peer._relative_position_bucket(
        torch.tensor(distance), bidirectional, *sizes
    )
    np.testing.assert_array_equal(got, expected.numpy())


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (3, 150), (150, 3)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_positions_are_rows_of_the_table_with_their_gradient(
    shape, bidirectional
):
    queries, keys = shape
    layer = RelativePositions(num_heads=3, bidirectional=bidirectional)
    table = jax.random.normal(jax.random.key(0), (3, 32))
    distance = np.arange(keys)[None] - np.arange(queries)[:, None]
    buckets = relative_position_buckets(distance, bidirectional=bidirectional)
    weight = jax.random.normal(jax.random.key(1), (3, *shape))

    def ours(table):
        bias = layer.apply({"params": {"rel_embedding": table}}, *shape)
        return jnp.sum(bias * weight), bias

    def look_up(table):
        return jnp.sum(table[:, buckets] * weight), table[:, buckets]

    (got, bias), (slope, expected) = (
        jax.grad(f, has_aux=True)(table) for f in (ours, look_up)
    )
    np.testing.assert_allclose(bias, expected, atol=1e-6)
    np.testing.assert_allclose(got, slope, atol=1e-4)


def attention():
    layer = Attention(num_heads=2, head_dim=3, features=8)
    states = jax.random.normal(jax.random.key(0), (3, 5, 8))
    mask = jnp.arange(5)[None] < jnp.array([5, 2, 0])[:, None]
    params = jax.jit(layer.init)(jax.random.key(1), states, states, mask)
    return layer, params, states, mask


def test_from_one_token_equals_the_plain_order():
    layer, params, states, mask = attention()
    query = jax.random.normal(jax.random.key(2), (3, 8))

    def plain(params, query, states):
        return layer.apply(params, query[:, None], states, mask)[:, 0]

    def short(params, query, states):
        method = Attention.from_one_token
        return layer.apply(params, query, states, mask, method=method)

    def graded(f):
        def total(*args):
            vectors = f(*args)
            return jnp.sum(jnp.square(vectors)), vectors

        function = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
        return jax.jit(function)(params, query, states)

    ((_, got), slope), ((_, expected), other) = graded(short), graded(plain)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), slope, other)
    one = jax.jit(short)(params, query[:1], states)  # a query for all
    every = jax.jit(plain)(params, jnp.repeat(query[:1], 3, axis=0), states)
    np.testing.assert_allclose(one, every, atol=1e-5)


def test_to_itself_is_attention_over_one_token():
    layer, params, states, _ = attention()
    token = states[:, :1]
    plain = layer.apply(params, token, token, jnp.ones((3, 1), bool))[:, 0]
    short = layer.apply(params, token[:, 0], method=Attention.to_itself)
    np.testing.assert_allclose(short, plain, atol=1e-6)


def test_dropped_probabilities_are_shared_by_the_queries_of_a_head():
    layer, params, states, mask = attention()
    layer = Attention(2, 3, 8, dropout_rate=0.5)
    same = jnp.broadcast_to(states[:, :1], states.shape)  # equal queries

    def draw(key):
        rngs = {"dropout": jax.random.key(key)}
        return layer.apply(params, same, states, mask, deterministic=False, rngs=rngs)

    np.testing.assert_allclose(
        draw(0), jnp.repeat(draw(0)[:, :1], 5, axis=1), atol=1e-6
    )
    assert np.abs(draw(0) - draw(1)).max() > 0.01


def test_gated_feed_forward_is_its_equation():
    layer = FeedForward(6, ("gelu", "linear"))
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    params = layer.init(jax.random.key(1), x)
    kernels = {name: np.float64(p["kernel"]) for name, p in params["params"].items()}
    assert set(kernels) == {"wi_0", "wi_1", "wo"}
    gate, line = (np.float64(x) @ kernels[name] for name in ("wi_0", "wi_1"))
    gate = gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) / 2
    expected = (gate * line) @ kernels["wo"]
    np.testing.assert_allclose(layer.apply(params, x), expected, atol=1e-5)


def test_a_feed_forward_without_activations():
    with pytest.raises(InputError, match="activations: none"):
        FeedForward(6, ()).init(jax.random.key(0), jnp.ones((1, 1, 4)))


def test_unembedding_of_some_tokens():
    layer = Unembedding(9, 4)
    states = jax.random.normal(jax.random.key(0), (3, 4), jnp.bfloat16)
    params = layer.init(jax.random.key(1), states)
    whole = layer.apply(params, states)
    assert whole.dtype == jnp.float32
    some = layer.apply(params, states, (8, 0), method=Unembedding.of)
    np.testing.assert_allclose(some, whole[:, np.array([8, 0])], atol=1e-6)
