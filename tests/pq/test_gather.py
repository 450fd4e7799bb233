"""Scores of chosen documents, and both ways to add up their gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.pq import gather
from jaxir.pq.codec import Codec, decode, lookup, pack, rotate, tables

B, K, M, C, W, N = 3, 7, 4, 16, 2, 50


def drawn():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(B, M, C)).astype(np.float32)
    codes = draw.integers(0, C, (M, N)).astype(np.uint8)
    return values, codes, draw.integers(-1, N, (B, K)).astype(np.int32)


@pytest.mark.parametrize("packed", [False, True])
def test_chosen_codes(packed):
    _, codes, docs = drawn()
    stored = jnp.asarray(pack(codes) if packed else codes)
    found = gather.chosen_codes(stored, jnp.asarray(docs), M)
    expected = np.swapaxes(codes[:, np.maximum(docs, 0)], 0, 1)
    np.testing.assert_array_equal(found, expected)


def test_they_are_the_scores_of_a_search():
    values, codes, docs = drawn()
    docs = np.maximum(docs, 0)
    chosen = gather.chosen_codes(jnp.asarray(codes), jnp.asarray(docs), M)
    found = gather.chosen_scores(jnp.asarray(values), chosen)
    searched = np.asarray(lookup(jnp.asarray(values), jnp.asarray(codes)))
    np.testing.assert_allclose(
        found, np.take_along_axis(searched, docs, axis=1), rtol=1e-5, atol=1e-6
    )


def test_they_are_products_with_decoded_documents():
    _, codes, docs = drawn()
    draw = np.random.default_rng(1)
    rotation = np.linalg.qr(draw.normal(size=(M * W, M * W)))[0].astype(np.float32)
    centroids = draw.normal(size=(M, C, W)).astype(np.float32)
    queries = draw.normal(size=(B, M * W)).astype(np.float32)
    chosen = gather.chosen_codes(jnp.asarray(codes), jnp.asarray(docs), M)

    def by_tables(queries, centroids):
        codec = Codec(jnp.asarray(rotation), centroids)
        return gather.chosen_scores(tables(codec, queries), chosen)

    def by_vectors(queries, centroids):
        codec = Codec(jnp.asarray(rotation), centroids)
        flat = jnp.swapaxes(chosen, 1, 2).reshape(-1, M)
        docs = decode(codec, flat).reshape(B, K, -1)
        turned = rotate(codec, queries)
        return jnp.einsum("BE,BKE->BK", turned, docs, precision="highest")

    slope = jnp.asarray(draw.normal(size=(B, K)), jnp.float32)
    ours, theirs = (
        jax.vjp(score, jnp.asarray(queries), jnp.asarray(centroids))
        for score in (by_tables, by_vectors)
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    for mine, other in zip(ours[1](slope), theirs[1](slope), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


def test_both_sums_of_the_gradient_are_equal_and_right():
    values, codes, docs = drawn()
    chosen = gather.chosen_codes(jnp.asarray(codes), jnp.asarray(docs), M)
    slope = np.random.default_rng(2).normal(size=(B, K)).astype(np.float32)
    expected = np.zeros(values.shape)
    for b in range(B):
        for m in range(M):
            for k in range(K):
                expected[b, m, chosen[b, m, k]] += slope[b, k]
    for add in (gather.add_by_scatter, gather.add_by_indicators):
        found = jax.jit(add, static_argnames="count")(
            jnp.asarray(slope), chosen, count=C
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    found = jax.vjp(lambda t: gather.chosen_scores(t, chosen), jnp.asarray(values))[1](
        jnp.asarray(slope)
    )[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_accelerator_scatters_nothing():
    values, codes, docs = drawn()
    chosen = gather.chosen_codes(jnp.asarray(codes), jnp.asarray(docs), M)
    gradient = jax.jit(jax.grad(lambda t: gather.chosen_scores(t, chosen).sum()))
    traced = gradient.trace(jnp.asarray(values))
    on_cpu, on_gpu = (
        traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")
    )
    assert "scatter" in on_cpu
    assert "scatter" not in on_gpu
