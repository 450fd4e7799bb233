"""Masked reductions against numpy on the kept entries, and finite everywhere."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir import numerics


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_doctests():
    assert doctest.testmod(numerics).failed == 0


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-6])
def test_softmax_is_the_softmax_of_the_slice(rng, scale):
    scores = jnp.asarray(rng.normal(size=(5, 7)) * scale, jnp.float32)
    where = jnp.asarray(rng.random((5, 7)) < 0.6).at[:, 0].set(True)
    probs = numerics.masked_softmax(scores, where)
    logs = numerics.masked_log_softmax(scores, where)
    for row in range(5):
        kept = np.asarray(where[row])
        want = jax.nn.softmax(scores[row][kept])
        np.testing.assert_allclose(probs[row][kept], want, atol=1e-6)
        np.testing.assert_allclose(
            logs[row][kept], jax.nn.log_softmax(scores[row][kept]), rtol=1e-5, atol=1e-5
        )
        assert not np.any(np.asarray(probs[row])[~kept])
        assert not np.any(np.asarray(logs[row])[~kept])


def test_rows_without_entries_are_zero_with_zero_gradient():
    scores = jnp.ones((2, 3)).at[0, 1].set(jnp.inf)
    nothing = jnp.zeros((2, 3), bool)

    def total(s):
        return jnp.sum(numerics.masked_log_softmax(s, nothing)) + jnp.sum(
            numerics.masked_softmax(s, nothing)
        )

    assert total(scores) == 0
    assert np.array_equal(jax.grad(total)(scores), np.zeros((2, 3)))


def test_masked_extremes_have_finite_gradients():
    scores = jnp.array([[1.0, jnp.inf, -jnp.inf], [1e38, -1e38, 0.0]])
    where = jnp.array([[True, False, False], [True, True, True]])

    def first(s):
        return numerics.masked_log_softmax(s, where)[:, 0].sum()

    assert np.all(np.isfinite(jax.grad(first)(scores)))


def test_mean(rng):
    values = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    where = jnp.asarray(rng.random((4, 6)) < 0.5)
    want = [np.mean(np.asarray(values[i])[np.asarray(where[i])]) for i in range(4)]
    np.testing.assert_allclose(
        numerics.masked_mean(values, where, axis=-1), np.nan_to_num(want), rtol=1e-5
    )
    np.testing.assert_allclose(numerics.masked_mean(values), values.mean(), rtol=1e-5)
    assert numerics.mean_over_queries(values[:, 0], jnp.zeros(4, bool)) == 0


def test_safe_divide_gradient():
    grad = jax.grad(lambda d: numerics.safe_divide(jnp.ones(()), d))(jnp.zeros(()))
    assert grad == 0


def test_normalize(rng):
    vectors = jnp.asarray(rng.normal(size=(3, 8)), jnp.float32).at[1].set(0.0)
    unit = numerics.l2_normalize(vectors)
    np.testing.assert_allclose(
        np.linalg.norm(np.asarray(unit), axis=-1), [1, 0, 1], atol=1e-6
    )
    grad = jax.grad(lambda v: numerics.l2_normalize(v).sum())(vectors)
    assert np.all(np.isfinite(grad))


def test_where_score():
    out = numerics.where_score(jnp.ones(2), jnp.array([True, False]))
    assert out.tolist() == [1.0, -np.inf]
