"""Pooling by brute force, the masked-LM head against PyTorch's recorded logits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.nn.heads import POOLING, MaskedLanguageModelHead, ScoreHead

GOLDENS = Path(__file__).parent.parent / "goldens"

BRUTE_FORCE = {
    "cls": lambda rows, padded: padded[0],
    "mean": lambda rows, padded: rows.mean(0) if len(rows) else 0 * padded[0],
    "max": lambda rows, padded: rows.max(0) if len(rows) else 0 * padded[0],
    "last": lambda rows, padded: rows[-1] if len(rows) else padded[0],
}


def states_and_mask():
    states = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    mask = np.arange(6)[None] < np.array([6, 3, 1, 0])[:, None]
    return jnp.asarray(states), jnp.asarray(mask)


def test_every_pooling_is_tested():
    assert set(POOLING) == set(BRUTE_FORCE)


@pytest.mark.parametrize("name", POOLING)
def test_pooling_equals_brute_force(name):
    states, mask = states_and_mask()
    got = jax.jit(POOLING[name])(states, mask)
    rows = zip(np.asarray(states), np.asarray(mask), strict=True)
    expected = [BRUTE_FORCE[name](s[m], s) for s, m in rows]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("name", POOLING)
def test_pooling_is_float32_and_its_gradient_finite(name):
    states, mask = states_and_mask()
    half = jnp.asarray(states, jnp.bfloat16)
    assert POOLING[name](half, mask).dtype == jnp.float32
    slope = jax.grad(lambda s: jnp.sum(jnp.square(POOLING[name](s, mask))))(states)
    assert np.isfinite(slope).all()
    if name != "cls":
        assert not slope[:3][~mask[:3]].any()  # padding learns nothing


def test_score_head_is_one_number_a_vector():
    head = ScoreHead()
    vectors = jax.random.normal(jax.random.key(0), (2, 3, 4))
    params = head.init(jax.random.key(1), vectors)
    kernel, bias = (params["params"]["dense"][k] for k in ("kernel", "bias"))
    expected = vectors @ kernel[:, 0] + bias[0]
    np.testing.assert_allclose(head.apply(params, vectors), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "eps", "transform", "norm", "bias", "word"),
    [
        (
            "bert",
            1e-12,
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.bias",
            "bert.embeddings.word_embeddings.weight",
        ),
        (
            "roberta",
            1e-5,
            "lm_head.dense",
            "lm_head.layer_norm",
            "lm_head.bias",
            "roberta.embeddings.word_embeddings.weight",
        ),
        (
            "distilbert",
            1e-12,
            "vocab_transform",
            "vocab_layer_norm",
            "vocab_projector.bias",
            "distilbert.embeddings.word_embeddings.weight",
        ),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_masked_lm_head_equals_pytorch(family, eps, transform, norm, bias, word, tied):
    data = jax.tree.map(jnp.asarray, dict(np.load(GOLDENS / f"{family}.npz")))
    params = {
        "transform": {
            "kernel": data[f"weights/{transform}.weight"].T,
            "bias": data[f"weights/{transform}.bias"],
        },
        "norm": {
            "scale": data[f"weights/{norm}.weight"],
            "bias": data[f"weights/{norm}.bias"],
        },
        "bias": data[f"weights/{bias}"],
    }
    table = data[f"weights/{word}"]
    if not tied:
        params["decoder"] = {"kernel": table.T}
    head = MaskedLanguageModelHead(vocab_size=50, norm_eps=eps)
    logits = head.apply({"params": params}, data["states"], table if tied else None)
    np.testing.assert_allclose(logits, data["mlm_logits"], atol=1e-5)
    fresh = head.init(jax.random.key(0), data["states"], table if tied else None)
    shapes = jax.tree.map(jnp.shape, fresh["params"])
    assert shapes == jax.tree.map(jnp.shape, params)
