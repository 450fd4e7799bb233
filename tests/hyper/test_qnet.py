"""The q-net: one implementation three ways, against a transcription in numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.hyper.qnet import QNetSpec, QNetWeights, apply, apply_all, apply_own, flops

SPEC = QNetSpec(input_width=8, hidden=(8, 8, 8))
SPECS = [
    SPEC,
    QNetSpec(input_width=6, hidden=(8, 8, 5)),
    *(
        dataclasses.replace(SPEC, **change)
        for change in (
            {"activation": "tanh"},
            {"activation": "sigmoid"},
            {"activation": "gelu"},
            {"activation": "leaky_relu"},
            {"layer_norm": False},
            {"norm_before_residual": False},
            {"residual": False},
            {"residual_on_last": True},
            {"residual_on_last": True, "gated": True},
            {"num_vectors": 3},
        )
    ),
]
IDS = [f"{i}-{spec.activation}" for i, spec in enumerate(SPECS)]


def random_weights(spec, batch=4, seed=0, dtype=jnp.float32) -> QNetWeights:
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=(batch, *shape)) * 0.5, dtype)

    pairs = zip(spec.widths[:-1], spec.widths[1:], strict=True)
    return QNetWeights(
        tuple(draw(*pair) for pair in pairs),
        tuple(draw(width) for width in spec.hidden),
        draw(spec.hidden[-1]),
        draw(spec.depth) if spec.gated else None,
    )


def random_docs(spec, *shape, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(*shape, spec.row_width)), jnp.float32)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_three_ways_give_the_same_scores(spec):
    weights, docs = random_weights(spec), random_docs(spec, 7)
    every = apply_all(spec, weights, docs)
    assert every.shape == (4, 7)
    assert every.dtype == jnp.float32
    one = [jax.tree.map(lambda x, i=i: x[i], weights) for i in range(4)]
    for i in range(4):
        np.testing.assert_allclose(
            apply(spec, one[i], docs), every[i], rtol=1e-5, atol=1e-5
        )
    mapped = jax.vmap(lambda own: apply(spec, own, docs))(weights)
    np.testing.assert_allclose(mapped, every, rtol=1e-5, atol=1e-5)
    copies = jnp.broadcast_to(docs[None], (4, *docs.shape))
    own = apply_own(spec, weights, copies)
    np.testing.assert_allclose(own, every, rtol=1e-5, atol=1e-5)
    folded = apply(spec, one[0], docs[:6].reshape(2, 3, -1))
    np.testing.assert_allclose(folded.reshape(-1), every[0, :6], rtol=1e-5, atol=1e-5)


def test_operations_are_counted():
    assert flops(QNetSpec()) == 2 * (6 * 768 * 768 + 768)
    assert flops(QNetSpec(4, (3, 2), num_vectors=2)) == 2 * 2 * (12 + 6 + 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "swish"}, "QNetSpec.activation: 'swish'; expected one of relu"),
        ({"hidden": ()}, r"QNetSpec.hidden: \(\); expected numbers above 0"),
        ({"hidden": (8, 0)}, r"QNetSpec.hidden: \(8, 0\)"),
        ({"input_width": 0}, "QNetSpec.input_width: 0"),
        ({"num_vectors": 0}, "QNetSpec.num_vectors: 0"),
        ({"norm_eps": 0.0}, "QNetSpec.norm_eps: 0.0; expected a number above 0"),
        ({"gated": True}, "QNetSpec.gated: block 2 has no residual"),
        (
            {"gated": True, "residual_on_last": True, "hidden": (8, 4)},
            "QNetSpec.gated: block 1 has no residual",
        ),
    ],
)
def test_what_cannot_be_a_q_net_says_so(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SPEC, **change)


@pytest.mark.parametrize("form", [apply, apply_all, apply_own])
def test_vectors_of_another_width_and_weights_of_another_shape(form):
    weights = random_weights(SPEC)
    if form is apply:
        weights = jax.tree.map(lambda x: x[0], weights)
    shape = {apply: (5,), apply_all: (5,), apply_own: (4, 5)}[form]
    with pytest.raises(InputError, match="docs: vectors of width 9; expected 8, the"):
        form(SPEC, weights, jnp.zeros((*shape, 9)))
    deeper = dataclasses.replace(SPEC, hidden=(8,) * 4)
    with pytest.raises(InputError, match=r"weights: kernels of \[\(8, 8\), "):
        form(deeper, weights, jnp.zeros((*shape, 8)))
    gated = dataclasses.replace(SPEC, gated=True, residual_on_last=True)
    with pytest.raises(InputError, match="with gates; weights that the spec's own"):
        form(gated, weights, jnp.zeros((*shape, 8)))
