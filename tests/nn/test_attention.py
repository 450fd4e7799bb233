"""Attention against a float64 brute force and PyTorch's own kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.nn.attention import SelfAttention, attend


def inputs(batch=3, length=7, keys=9, heads=2, size=8, scale=1.0):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(batch, length, heads, size)) * scale
    k = rng.normal(size=(batch, keys, heads, size)) * scale
    v = rng.normal(size=(batch, keys, heads, size))
    mask = np.arange(keys)[None] < np.array([keys, 4, 1])[:batch, None]
    return (*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), jnp.asarray(mask))


def brute_force(q, k, v, mask):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("bthc,bshc->bhts", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(mask[:, None, None], scores, -np.inf)
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    return np.einsum("bhts,bshc->bthc", probs, v)


@pytest.mark.parametrize("scale", [1.0, 30.0])  # 30: scores of thousands
def test_equals_brute_force(scale):
    q, k, v, mask = inputs(scale=scale)
    got = jax.jit(attend)(q, k, v, mask)
    np.testing.assert_allclose(got, brute_force(q, k, v, mask), atol=2e-5)


def test_gradient_equals_pytorch():
    torch = pytest.importorskip("torch")
    q, k, v, mask = inputs()
    weight = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)
    gradient = jax.jit(
        jax.grad(lambda *x: jnp.sum(attend(*x, mask) * weight), argnums=(0, 1, 2))
    )
    tensors = [torch.tensor(np.asarray(x), requires_grad=True) for x in (q, k, v)]
    out = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in tensors),
        attn_mask=torch.tensor(np.asarray(mask))[:, None, None],
    ).transpose(1, 2)
    (out * torch.tensor(weight)).sum().backward()
    for ours, theirs in zip(gradient(q, k, v), tensors, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("masked_score", [1e4, -1e4])
def test_masked_keys_do_not_matter_however_large(masked_score):
    q, k, v, mask = inputs()
    wild = jnp.where(mask[..., None, None], k, masked_score)
    run = jax.jit(attend)
    np.testing.assert_allclose(run(q, wild, v, mask), run(q, k, v, mask), atol=1e-6)
    slope = jax.jit(jax.grad(lambda k: jnp.sum(attend(q, k, v, mask))))(wild)
    assert np.isfinite(slope).all()
    assert not slope[~mask].any()


def plain_attention(q, k, v, mask, bias, scale):
    """Attention as one writes it down, for automatic differentiation."""
    scores = jnp.einsum("bthc,bshc->bhts", q, k) * scale + bias[None]
    mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    scores = jnp.where(mask, scores, -1e9)
    probs = jnp.where(mask, jax.nn.softmax(scores), 0.0)
    return jnp.einsum("bhts,bshc->bthc", probs, v)


@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize("form", ["keys", "pairs"])
def test_bias_and_masks_equal_the_plain_form_with_gradients(form, scale):
    q, k, v, mask = inputs()
    rng = np.random.default_rng(2)
    bias = jnp.asarray(rng.normal(size=(2, 7, 9)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=q.shape), jnp.float32)
    if form == "pairs":
        mask = jnp.asarray(rng.random((3, 7, 9)) < 0.5).at[1, 2].set(False)
    else:
        mask = mask.at[1].set(False)

    def ours(q, k, v, bias):
        return jnp.sum(weight * attend(q, k, v, mask, bias=bias, scale=scale))

    def plain(q, k, v, bias):
        factor = 8**-0.5 if scale is None else scale
        return jnp.sum(weight * plain_attention(q, k, v, mask, bias, factor))

    got, expected = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2, 3)))(q, k, v, bias)
        for f in (ours, plain)
    )
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    for a, b in zip(got[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_infinite_bias_hides_keys_with_a_finite_gradient():
    q, k, v, _ = inputs()
    every = jnp.ones((3, 9), bool)
    past = jnp.arange(9)[None] <= jnp.arange(7)[:, None]
    past = past.at[3].set(False)  # a query that sees nothing

    def by_bias(q, bias):
        bias = jnp.where(past[None], bias, -jnp.inf)
        return jnp.sum(jnp.square(attend(q, k, v, every, bias=bias)))

    def by_mask(q, bias):
        mask = jnp.broadcast_to(past[None], (3, 7, 9))
        return jnp.sum(jnp.square(attend(q, k, v, mask, bias=bias)))

    bias = jax.random.normal(jax.random.key(0), (2, 7, 9))
    for a, b in zip(
        *(jax.jit(jax.grad(f, argnums=(0, 1)))(q, bias) for f in (by_bias, by_mask)),
        strict=True,
    ):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_bias_with_dropout_has_the_drawn_functions_gradient():
    q, k, v, mask = inputs()
    key = jax.random.key(5)

    def loss(bias):
        out = attend(q, k, v, mask, bias=bias, dropout=0.3, rng=key)
        return jnp.sum(jnp.square(out))

    bias = jnp.zeros((2, 7, 9))
    slope = jax.grad(loss)(bias)
    step = bias.at[1, 2, 0].set(1e-2)
    numeric = (loss(step) - loss(-step)) / 2e-2
    np.testing.assert_allclose(slope[1, 2, 0], numeric, rtol=2e-2, atol=1e-3)


def test_all_padding_gives_zero_with_zero_gradient():
    q, k, v, mask = inputs()
    mask = mask & (jnp.arange(3) != 1)[:, None]
    run = jax.jit(lambda *x: attend(*x, mask))
    assert not run(q, k, v)[1].any()
    slopes = jax.jit(
        jax.grad(lambda *x: jnp.sum(jnp.square(attend(*x, mask))), argnums=(0, 1, 2))
    )(q, k, v)
    for slope in slopes:
        assert np.isfinite(slope).all()
        assert not slope[1].any()


def test_vmap_is_the_batch():
    q, k, v, mask = inputs()
    rows = jax.vmap(lambda *x: attend(*(y[None] for y in x))[0])(q, k, v, mask)
    np.testing.assert_allclose(rows, attend(q, k, v, mask), atol=1e-6)


def test_dropout_is_unbiased_and_follows_its_key():
    q, k, v, mask = inputs()
    run = jax.jit(lambda key: attend(q, k, v, mask, dropout=0.3, rng=key))
    keys = jax.random.split(jax.random.key(0), 2000)
    np.testing.assert_array_equal(run(keys[0]), run(keys[0]))
    assert np.abs(run(keys[0]) - run(keys[1])).max() > 0.01
    mean = np.mean(jax.jit(jax.vmap(run))(keys), axis=0)
    np.testing.assert_allclose(mean, attend(q, k, v, mask), atol=0.15)


def test_dropout_gradient_is_that_of_the_drawn_function():
    q, k, v, mask = inputs()
    key = jax.random.key(5)

    def loss(q):
        return jnp.sum(jnp.square(attend(q, k, v, mask, dropout=0.3, rng=key)))

    slope = jax.grad(loss)(q)
    step = jnp.zeros_like(q).at[0, 2, 1, 3].set(1e-2)
    numeric = (loss(q + step) - loss(q - step)) / 2e-2
    np.testing.assert_allclose(slope[0, 2, 1, 3], numeric, rtol=2e-2, atol=1e-3)


def test_bfloat16_has_float32_statistics():
    q, k, v, mask = inputs(scale=3.0)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    got = attend(*half, mask)
    assert got.dtype == jnp.bfloat16
    exact = brute_force(*half, mask)
    np.testing.assert_allclose(np.asarray(got, np.float32), exact, atol=0.1)


def test_the_fused_kernel_is_given_what_it_takes(monkeypatch):
    """On a GPU in bfloat16; here XLA's own form stands in for cuDNN's."""
    own = jax.nn.dot_product_attention
    shapes = []

    def stand_in(query, key, value, *, mask, scale, implementation):
        shapes.append((implementation, mask.shape))
        return own(query, key, value, mask=mask, scale=scale, implementation="xla")

    q, k, v, mask = (x[:, :6] for x in inputs())
    mask = mask & (jnp.arange(3) != 1)[:, None]
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    expected = attend(*half, mask)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    got = attend(*half, mask)
    assert shapes == [("cudnn", (3, 1, 6, 6))]  # [B, 1 or H, T, S]
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.float32(x) for x in (got, expected)), atol=0.02)
    assert not got[1].any()
    attend(q, k, v, mask)  # float32 is not for cuDNN
    attend(*half, mask, dropout=0.1, rng=jax.random.key(0))  # nor is dropout
    assert len(shapes) == 1


def test_self_attention_projects_and_mixes():
    layer = SelfAttention(num_heads=2)
    states = jax.random.normal(jax.random.key(0), (2, 5, 8))
    mask = jnp.ones((2, 5), bool)
    params = layer.init(jax.random.key(1), states, mask)
    assert set(params["params"]) == {"query", "key", "value", "out"}
    assert layer.apply(params, states, mask).shape == states.shape
