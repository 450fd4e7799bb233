"""The q-net: one implementation three ways, against PyTorch, and its refusals."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.hyper import qnet
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
    @jax.jit
    def forms(weights, docs):
        one = [jax.tree.map(lambda x, i=i: x[i], weights) for i in range(4)]
        folded = apply(spec, one[0], docs[:6].reshape(2, 3, -1))
        return (
            apply_all(spec, weights, docs),
            jnp.stack([apply(spec, own, docs) for own in one]),
            jax.vmap(lambda own: apply(spec, own, docs))(weights),
            apply_own(spec, weights, jnp.broadcast_to(docs[None], (4, *docs.shape))),
            folded,
        )

    every, *others, folded = forms(random_weights(spec), random_docs(spec, 7))
    assert every.shape == (4, 7)
    assert every.dtype == jnp.float32
    near = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    for other in others:
        near(other, every)
    near(folded, every[0, :6].reshape(2, 3))


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_pytorch_scores_and_gradients(spec):
    torch = pytest.importorskip("torch")
    from hyper_torch import scores

    weights, docs = random_weights(spec), random_docs(spec, 5)
    tensors = [
        torch.tensor(np.array(x), dtype=torch.float64, requires_grad=True)
        for x in (*weights.kernels, *weights.biases, weights.output, docs)
    ]
    depth = spec.depth
    gates = None
    if spec.gated:
        gates = torch.tensor(np.array(weights.gates), dtype=torch.float64)
        gates.requires_grad_()
    vectors = tensors[-1].reshape(-1, spec.input_width)
    expected = scores(
        [*tensors[:depth], tensors[2 * depth][:, :, None]],
        tensors[depth : 2 * depth],
        vectors,
        activation=spec.activation,
        layer_norm=spec.layer_norm,
        norm_before_residual=spec.norm_before_residual,
        residual=spec.residual,
        residual_on_last=spec.residual_on_last,
        gates=gates,
    )
    expected = expected.reshape(4, 5, spec.num_vectors).amax(dim=-1)
    expected.square().sum().backward()

    def total(weights, docs):
        found = apply_all(spec, weights, docs)
        return jnp.sum(jnp.square(found)), found

    gradient = jax.jit(jax.grad(total, (0, 1), has_aux=True))
    (own, of_docs), found = gradient(weights, docs)
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-4, atol=1e-4)
    flat = [*own.kernels, *own.biases, own.output, of_docs]
    if spec.gated:
        flat, tensors = [*flat, own.gates], [*tensors, gates]
    for ours, theirs in zip(flat, tensors, strict=True):
        known = theirs.grad.numpy()
        np.testing.assert_allclose(ours, known, rtol=0, atol=1e-4 * np.abs(known).max())


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[1], SPECS[-2], SPECS[-1]])
def test_queries_in_turn_score_as_together(spec, monkeypatch):
    weights, docs = random_weights(spec), random_docs(spec, 7)
    own = random_docs(spec, 4, 3)

    def both(weights, docs, own):
        return apply_all(spec, weights, docs), apply_own(spec, weights, own)

    def total(*args):
        return sum(jnp.sum(jnp.square(x)) for x in both(*args))

    def run(*args):
        slope = jax.grad(total, (0, 1, 2))
        # a function of its own, for what is compiled is remembered by function
        return jax.jit(lambda *args: (both(*args), slope(*args)))(*args)

    together = run(weights, docs, own)
    monkeypatch.setattr(qnet, "_CPU_CACHE_BYTES", 0)
    near = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(near, run(weights, docs, own), together)
    assert "scan" in str(jax.make_jaxpr(both)(weights, docs, own))


def test_several_vectors_score_as_their_best():
    spec = dataclasses.replace(SPEC, num_vectors=3)
    weights, docs = random_weights(spec), random_docs(spec, 7)
    each = apply_all(SPEC, weights, docs.reshape(21, 8)).reshape(4, 7, 3)
    np.testing.assert_allclose(apply_all(spec, weights, docs), each.max(axis=-1))


@pytest.mark.parametrize("stored", [jnp.bfloat16, jnp.float16])
def test_narrow_storage_gives_near_scores_in_float32(stored):
    weights, docs = random_weights(SPEC), random_docs(SPEC, 7)
    wide = apply_all(SPEC, weights, docs)
    narrow = apply_all(SPEC, weights, docs.astype(stored))
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide, atol=0.1 * float(jnp.abs(wide).max()))
    half = jax.tree.map(lambda x: x.astype(stored), weights)
    assert apply_all(SPEC, half, docs).dtype == jnp.float32
    own = jnp.broadcast_to(docs.astype(stored)[None], (4, 7, 8))
    np.testing.assert_allclose(apply_own(SPEC, half, own), narrow, rtol=1e-2, atol=1e-2)


def test_a_broken_vector_shows_in_its_own_score_only():
    weights, docs = random_weights(SPEC), random_docs(SPEC, 4)
    clean = apply_all(SPEC, weights, docs)
    found = apply_all(SPEC, weights, docs.at[2, 3].set(jnp.nan))
    assert np.isnan(found[:, 2]).all()
    np.testing.assert_allclose(found[:, [0, 1, 3]], clean[:, [0, 1, 3]], rtol=1e-6)


def test_operations_are_counted():
    assert flops(QNetSpec()) == 2 * (6 * 768 * 768 + 768)
    assert flops(QNetSpec(4, (3, 2), num_vectors=2)) == 2 * 2 * (12 + 6 + 2)


@pytest.mark.parametrize("num_vectors", [1, 3])
@pytest.mark.parametrize(("queries", "docs"), [(0, 2), (2, 0), (0, 0)])
def test_no_queries_or_no_documents(queries, docs, num_vectors):
    spec = dataclasses.replace(SPEC, num_vectors=num_vectors)
    weights = jax.tree.map(lambda x: x[:queries], random_weights(spec))
    rows = jnp.ones((docs, spec.row_width))
    assert apply_all(spec, weights, rows).shape == (queries, docs)


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
