"""Layers against PyTorch's definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxir.nn.layers import (
    ACTIVATIONS,
    Dense,
    Embedding,
    LayerNorm,
    RMSNorm,
    dropout,
    gelu,
)


def exact_gelu(x):
    x = np.asarray(x, np.float64)
    return x * special.ndtr(x)


def exact_gelu_slope(x):
    x = np.asarray(x, np.float64)
    return special.ndtr(x) + x * np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)


def test_gelu_and_its_derivative_are_exact():
    x = np.linspace(-12, 12, 200_001, dtype=np.float32)
    assert np.abs(jax.jit(gelu)(x) - exact_gelu(x)).max() < 1e-6
    slope = jax.jit(jax.vmap(jax.grad(gelu)))(x)
    assert np.abs(slope - exact_gelu_slope(x)).max() < 2e-6


@pytest.mark.parametrize("value", [np.inf, 1e30, -1e30, 0.0, -0.0])
def test_gelu_of_extremes(value):
    expected = max(value, 0.0)
    got = float(jax.jit(gelu)(value))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    if np.isfinite(value):
        assert np.isfinite(jax.grad(gelu)(jnp.float32(value)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_type_and_shape(name):
    x = jnp.ones((2, 3), jnp.bfloat16)
    y = ACTIVATIONS[name](x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_is_no_number_stays_none(name):
    """A model that has diverged must not look like one that has not."""
    assert np.isnan(jax.jit(ACTIVATIONS[name])(jnp.float32(np.nan)))


def test_layer_norm_value_and_gradient_are_exact():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(3, 5, 24)) * 4 + 7).astype(np.float32)
    scale, bias = rng.normal(size=(2, 24)).astype(np.float32)
    weight = rng.normal(size=x.shape).astype(np.float32)

    def loss(params, x):
        y = LayerNorm(eps=1e-5).apply({"params": params}, x)
        return jnp.sum(y * weight), y

    params = {"scale": scale, "bias": bias}
    grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (d_params, d_x), y = grad(params, x)

    x64 = x.astype(np.float64)
    centred = x64 - x64.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    unit = centred * inverse
    np.testing.assert_allclose(y, unit * scale + bias, atol=1e-5)
    np.testing.assert_allclose(d_params["bias"], weight.sum((0, 1)), atol=1e-4)
    np.testing.assert_allclose(
        d_params["scale"], (weight * unit).sum((0, 1)), atol=1e-4
    )
    d_unit = weight * scale.astype(np.float64)
    expected = inverse * (
        d_unit
        - d_unit.mean(-1, keepdims=True)
        - unit * (d_unit * unit).mean(-1, keepdims=True)
    )
    np.testing.assert_allclose(d_x, expected, atol=1e-5)


def test_layer_norm_of_constant_rows_is_its_bias():
    params = {"scale": jnp.ones(4), "bias": jnp.arange(4.0)}
    y = LayerNorm(eps=1e-12).apply({"params": params}, jnp.full((2, 4), 3.0))
    np.testing.assert_allclose(y, np.tile(np.arange(4.0), (2, 1)), atol=1e-5)


def test_layer_norm_statistics_are_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64)) + 100, jnp.bfloat16)
    params = {"scale": jnp.ones(64), "bias": jnp.zeros(64)}
    y = LayerNorm(eps=1e-12, dtype=jnp.bfloat16).apply({"params": params}, x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=0.02)


def test_rms_norm_value_and_gradient_are_exact():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(3, 5, 24)) * 4 + 7).astype(np.float32)
    scale = rng.normal(size=24).astype(np.float32)
    weight = rng.normal(size=x.shape).astype(np.float32)

    def loss(scale, x):
        y = RMSNorm(eps=1e-6).apply({"params": {"scale": scale}}, x)
        return jnp.sum(y * weight), y

    grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (d_scale, d_x), y = grad(scale, x)

    x64 = x.astype(np.float64)
    inverse = 1 / np.sqrt((x64**2).mean(-1, keepdims=True) + 1e-6)
    unit = x64 * inverse
    np.testing.assert_allclose(y, unit * scale, atol=1e-5)
    np.testing.assert_allclose(d_scale, (weight * unit).sum((0, 1)), atol=1e-4)
    d_unit = weight * scale.astype(np.float64)
    expected = inverse * (d_unit - unit * (d_unit * unit).mean(-1, keepdims=True))
    np.testing.assert_allclose(d_x, expected, atol=1e-5)


def test_rms_norm_of_zeros_is_finite_and_its_statistics_are_float32():
    layer, params = RMSNorm(dtype=jnp.bfloat16), {"params": {"scale": jnp.ones(64)}}
    zeros = jnp.zeros((2, 64), jnp.bfloat16)
    assert not layer.apply(params, zeros).any()
    slope = jax.grad(lambda x: jnp.sum(layer.apply(params, x)))(zeros)
    assert slope.dtype == jnp.bfloat16
    assert np.isfinite(np.float32(slope)).all()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64)) + 100, jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    exact = exact / np.sqrt((exact**2).mean(-1, keepdims=True))
    np.testing.assert_allclose(np.float64(layer.apply(params, x)), exact, atol=0.01)


def test_dropout_shares_a_draw_along_an_axis():
    x = jnp.ones((4, 50, 60))
    y = dropout(x, 0.25, jax.random.key(0), shared_axis=1)
    assert (y == y[:, :1]).all()
    np.testing.assert_allclose(np.unique(y), [0.0, 1 / 0.75], rtol=1e-6)
    assert abs(float((y == 0).mean()) - 0.25) < 0.1
    apart = dropout(x, 0.25, jax.random.key(0))
    assert (apart != apart[:, :1]).any()


def test_dense_is_the_affine_map_over_any_leading_axes():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(4, 3)), rng.normal(size=3)
    params = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    for shape in ((4,), (2, 4), (2, 3, 4)):
        x = rng.normal(size=shape)
        y = Dense(3).apply({"params": params}, jnp.float32(x))
        np.testing.assert_allclose(y, x @ kernel + bias, atol=1e-5)


def test_embedding_product_and_look_up_agree_in_value_and_gradient():
    layer = Embedding(5, 3)
    ids = jnp.array([[1, 4, 1], [0, 2, 2]])
    params = layer.init(jax.random.key(0), ids)
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3)), jnp.float32)

    def loss(params, method):
        return jnp.sum(layer.apply(params, ids, method=method) * weight)

    for a, b in zip(
        jax.value_and_grad(loss)(params, Embedding.__call__),
        jax.value_and_grad(loss)(params, Embedding.by_product),
        strict=True,
    ):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)
