"""The loss in blocks equals the loss at once, and so do its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxir.errors import InputError
from jaxir.lm.cross_entropy import token_cross_entropy

ROWS, LENGTH, WIDTH, VOCABULARY = 4, 7, 6, 11


def linear(params, states):
    return states @ params["kernel"] + params["bias"][None, :]


def curved(params, states):
    return jnp.tanh(states @ params["kernel"]) * 3 + params["bias"][None, :]


@pytest.fixture
def case():
    random = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape).astype(np.float32))

    params = {"kernel": draw(WIDTH, VOCABULARY), "bias": draw(VOCABULARY)}
    targets = jnp.asarray(random.integers(0, VOCABULARY, (ROWS, LENGTH)))
    where = jnp.asarray(random.random((ROWS, LENGTH)) < 0.7)
    return params, draw(ROWS, LENGTH, WIDTH), targets, where


def at_once(logits_of, params, states, targets, where, z_loss=0.0, smoothing=0.0):
    """The definition, over all logits, by optax."""
    logits = logits_of(params, states.reshape(-1, WIDTH))
    labels = jax.nn.one_hot(targets.reshape(-1), VOCABULARY)
    low = smoothing / (VOCABULARY - 1)
    soft = labels * (1 - smoothing) + (1 - labels) * low
    losses = optax.softmax_cross_entropy(logits, soft)
    losses += jnp.sum(jax.scipy.special.xlogy(soft, soft), axis=-1)
    losses += z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    kept = where.reshape(-1)
    return jnp.sum(jnp.where(kept, losses, 0.0)) / jnp.sum(kept)


@pytest.mark.parametrize(
    ("logits_of", "block_size", "z_loss", "smoothing"),
    [
        (linear, 1, 0.0, 0.0),
        (linear, 8, 0.01, 0.1),
        (curved, 12, 0.01, 0.0),
        (curved, 1000, 0.0, 0.1),
    ],
)
def test_blocks_equal_the_whole(case, logits_of, block_size, z_loss, smoothing):
    params, states, targets, where = case

    def ours(params, states):
        said = token_cross_entropy(
            logits_of, params, states, targets, where, z_loss=z_loss,
            label_smoothing=smoothing, block_size=block_size,
        )  # fmt: skip
        return 2.0 * said.loss, said

    def theirs(params, states):
        whole = at_once(logits_of, params, states, targets, where, z_loss, smoothing)
        return 2.0 * whole

    (value, said), gradient = jax.jit(
        jax.value_and_grad(ours, argnums=(0, 1), has_aux=True)
    )(params, states)
    wanted, slope = jax.jit(jax.value_and_grad(theirs, argnums=(0, 1)))(params, states)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    # without a gradient the same value
    np.testing.assert_allclose(jax.jit(ours)(params, states)[0], wanted, rtol=1e-5)
    best = np.argmax(logits_of(params, states.reshape(-1, WIDTH)), -1)
    right = (best == targets.reshape(-1))[where.reshape(-1)]
    assert float(said.accuracy) == pytest.approx(right.mean())
    assert float(said.tokens) == where.sum()


def test_no_tokens_and_large_logits(case):
    params, states, targets, where = case
    loss = functools.partial(token_cross_entropy, linear, block_size=8)

    def value(params, states, where):
        return loss(params, states, targets, where).loss

    gradient = jax.grad(value, argnums=(0, 1))
    nothing = jnp.zeros_like(where)
    assert float(value(params, states, nothing)) == 0
    for leaf in jax.tree.leaves(gradient(params, states, nothing)):
        assert not np.asarray(leaf).any()
    for leaf in jax.tree.leaves(gradient(params, 1e4 * states, where)):
        assert np.isfinite(leaf).all()


def test_logits_are_never_all_in_memory():
    rows, length, width, vocabulary = 16, 64, 8, 4096
    shapes = (
        jax.ShapeDtypeStruct((width, vocabulary), jnp.float32),
        jax.ShapeDtypeStruct((rows, length, width), jnp.float32),
    )

    def loss(kernel, states):
        targets = jnp.zeros((rows, length), jnp.int32)
        return token_cross_entropy(
            lambda kernel, x: x @ kernel, kernel, states, targets, targets == 0,
            block_size=32,
        ).loss  # fmt: skip

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    assert used < 4 * rows * length * vocabulary / 3


def test_devices_share_the_rows(case):
    from jaxir.mesh import batch_sharding, make_mesh, replicated

    params, states, targets, where = case
    mesh = make_mesh(4)

    def loss(params, states, targets, where):
        return token_cross_entropy(
            linear, params, states, targets, where, block_size=8
        ).loss

    wanted = jax.grad(loss)(params, states, targets, where)
    split = [jax.device_put(x, batch_sharding(mesh)) for x in (states, targets, where)]
    found = jax.jit(jax.grad(loss))(jax.device_put(params, replicated(mesh)), *split)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_mistakes(case):
    params, states, targets, where = case
    for change, message in (
        ({"block_size": 0}, "block_size: 0; expected 1 or more"),
        ({"label_smoothing": 1.0}, r"label_smoothing: 1\.0; expected 0 to below 1"),
        ({"z_loss": -1.0}, r"z_loss: -1\.0; expected 0 or more"),
    ):
        with pytest.raises(InputError, match=message):
            token_cross_entropy(linear, params, states, targets, where, **change)
