"""Gradient caching equals the gradient of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig, BertEncoder, init_params
from jaxir.nn.chunks import in_chunks
from jaxir.nn.heads import mean_pool
from jaxir.types import TokenBatch

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=24,
    max_positions=12,
)


def encode(params, tokens, rng):
    output = BertEncoder(CONFIG).apply(
        {"params": params},
        tokens,
        deterministic=rng is None,
        rngs={} if rng is None else {"dropout": rng},
    )
    return mean_pool(output.states, output.mask)


def batch(size=8):
    rng = np.random.default_rng(0)
    mask = np.arange(6)[None] < rng.integers(1, 7, size)[:, None]
    return TokenBatch(jnp.asarray(rng.integers(0, 30, (size, 6))), jnp.asarray(mask))


def contrastive(encode, rng=None):
    """In-batch loss: every embedding meets every other, so chunks are not separable."""

    def loss(params):
        vectors = encode(params, batch(), rng)
        scores = vectors[:4] @ vectors[4:].T
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores)))

    return jax.jit(jax.value_and_grad(loss))(init_params(CONFIG, jax.random.key(0)))


def assert_same(a, b):
    """Equal to 1e-6 of the largest gradient."""
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(b))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6 * largest), a, b
    )


@pytest.mark.parametrize("chunk_size", [1, 2, 8])
def test_equals_the_full_gradient(chunk_size):
    assert_same(contrastive(in_chunks(encode, chunk_size)), contrastive(encode))


def test_dropout_is_drawn_by_chunk_and_the_same_again_backward():
    key = jax.random.key(7)

    def by_hand(params, tokens, rng):
        rows = [
            encode(
                params,
                jax.tree.map(lambda x: x[i::4], tokens),  # noqa: B023
                jax.random.fold_in(rng, i),
            )
            for i in range(4)
        ]
        # A chunk is every fourth text.
        return jnp.stack(rows, axis=1).reshape(8, -1)

    assert_same(contrastive(in_chunks(encode, 2), key), contrastive(by_hand, key))


def test_memory_is_that_of_one_chunk():
    params = init_params(CONFIG, jax.random.key(0))
    tokens = batch(64)

    def temporary_bytes(encode):
        gradient = jax.grad(lambda p: jnp.sum(jnp.square(encode(p, tokens, None))))
        return jax.jit(gradient).lower(params).compile().memory_analysis()

    whole = temporary_bytes(encode).temp_size_in_bytes
    assert temporary_bytes(in_chunks(encode, 4)).temp_size_in_bytes < whole / 3


def test_refuses_chunks_that_do_not_divide():
    with pytest.raises(InputError, match="3 for a batch of 8; expected a divisor"):
        in_chunks(encode, 3)(init_params(CONFIG, jax.random.key(0)), batch(), None)
    with pytest.raises(InputError, match="chunk_size: 0; expected a number above 0"):
        in_chunks(encode, 0)


def test_every_device_has_its_share_of_every_chunk():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    tokens = jax.device_put(batch(32), spread)
    params = init_params(CONFIG, jax.random.key(0))
    compiled = jax.jit(in_chunks(encode, 8)).lower(params, tokens, None).compile()
    # One text of 6 tokens a device and step, not all 8 texts on each of them.
    assert f"f32[6,{CONFIG.intermediate_size}]" in compiled.as_text()
    assert f"f32[48,{CONFIG.intermediate_size}]" not in compiled.as_text()
