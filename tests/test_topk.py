"""Top-k against a lexicographic sort in numpy, above all where scores are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranked import mesh_of, ranked

from jaxir.topk import (
    empty_ranking,
    merge_after,
    merge_top_k,
    sharded_top_k,
    streaming_top_k,
    top_k,
    update_top_k,
)
from jaxir.types import Ranking


def oracle(scores, k):
    return ranked(np.asarray(scores, np.float32), k)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.doc_ids, expected.doc_ids)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.doc_ids.dtype == jnp.int32
    assert found.scores.dtype == jnp.float32


SHAPES = [(1,), (7,), (50,), (1000,), (3, 500), (2, 2, 333), (2, 20_011)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("levels", [2, 10, 10**6])
def test_equals_lexicographic_sort_with_ties(shape, k, levels):
    rng = np.random.default_rng(k + levels)
    scores = rng.integers(-levels, levels, size=shape).astype(np.float32)
    scores[rng.random(shape) < 0.05] = -np.inf
    scores[rng.random(shape) < 0.05] = np.nan
    scores[rng.random(shape) < 0.05] = -0.0
    assert_same(top_k(jnp.asarray(scores), k), oracle(scores, k))


@settings(max_examples=60)
@given(
    values=st.lists(st.integers(-2, 2), min_size=96, max_size=96),
    group_size=st.sampled_from([2, 3, 8, 16]),
    k=st.sampled_from([1, 3, 7]),
)
def test_group_maxima_are_exact_for_every_group_size(values, group_size, k):
    scores = np.array(values, np.float32)
    found = top_k(jnp.asarray(scores), k, group_size=group_size)
    assert_same(found, oracle(scores, k))


def test_all_equal_returns_the_first_rows():
    found = top_k(jnp.zeros(100_000), 100)
    np.testing.assert_array_equal(found.doc_ids, np.arange(100))


def test_all_missing():
    for empty in (jnp.full(5000, -jnp.inf), jnp.full(5000, jnp.nan)):
        assert_same(top_k(empty, 10), jax.device_get(empty_ranking((), 10)))


def test_bfloat16_scores_are_returned_in_float32():
    scores = jnp.asarray(np.arange(300) % 7, jnp.bfloat16)
    assert_same(top_k(scores, 9), oracle(np.asarray(scores, np.float32), 9))


def test_positive_infinity_is_a_score():
    assert_same(
        top_k(jnp.array([0.0, jnp.inf]), 1),
        Ranking(np.array([1], np.int32), np.array([np.inf], np.float32)),
    )


@pytest.mark.parametrize("k", [1, 4, 40])
def test_merge_knows_no_order_of_its_arguments(k):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, size=(5, 60)).astype(np.float32)
    parts = []
    for rows in (np.arange(0, 60, 2), np.arange(1, 60, 2)):
        part = oracle(scores[:, rows], 20)
        parts.append(
            Ranking(
                jnp.asarray(rows[part.doc_ids], jnp.int32), jnp.asarray(part.scores)
            )
        )
    expected = oracle(scores, 60)
    found = merge_top_k(*parts, k)
    assert_same(merge_top_k(*reversed(parts), k), found)
    np.testing.assert_array_equal(
        found.scores[:, : min(k, 20)], expected.scores[:, : min(k, 20)]
    )
    np.testing.assert_array_equal(
        found.doc_ids[:, : min(k, 20)], expected.doc_ids[:, : min(k, 20)]
    )


def test_merge_pads_and_drops_what_is_missing():
    found = merge_top_k(empty_ranking((2,), 3), empty_ranking((2,), 1), 6)
    assert_same(found, jax.device_get(empty_ranking((2,), 6)))


@pytest.mark.parametrize(
    ("num_blocks", "size", "k"), [(1, 7, 3), (5, 40, 60), (8, 999, 20)]
)
def test_streaming_equals_one_selection(num_blocks, size, k):
    rng = np.random.default_rng(size)
    scores = rng.integers(0, 9, size=(3, num_blocks, size)).astype(np.float32)
    scores[:, -1, size // 2 :] = -np.inf
    device = jnp.asarray(scores)
    found = jax.jit(lambda: streaming_top_k(lambda i: device[:, i], num_blocks, k))()
    assert_same(found, oracle(scores.reshape(3, -1), k))


@pytest.mark.parametrize("order", ["random", "rising", "falling", "equal"])
@pytest.mark.parametrize("k", [3, 50])
def test_running_looks_into_enough_groups(order, k):
    """Blocks in which none, few, some or all groups beat the running k-th score."""
    rng = np.random.default_rng(k)
    scores = rng.integers(0, 400, size=(4, 12 * 4096)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.01] = np.nan
    if order != "random":
        scores = np.sort(scores, axis=-1)
        scores = {"falling": scores[:, ::-1], "equal": scores * 0}.get(order, scores)
    blocks = jnp.asarray(scores.reshape(4, 12, 4096))
    found = jax.jit(lambda: streaming_top_k(lambda i: blocks[:, i], 12, k))()
    assert_same(found, oracle(scores, k))


def test_streaming_holds_one_block_of_scores():
    """Temporary memory does not grow with the number of blocks."""

    def memory(num_blocks):
        compiled = jax.jit(
            lambda x: streaming_top_k(
                lambda i: x * i.astype(jnp.float32), num_blocks, 5
            )
        ).lower(jnp.ones((4, 4096)))
        return compiled.compile().memory_analysis().temp_size_in_bytes

    assert memory(400) <= memory(4) + 4 * 400 * 4


def test_update_and_merge_after_keep_earlier_rows_on_ties():
    running = update_top_k(empty_ranking((), 3), jnp.array([1.0, 1.0]), 0)
    running = update_top_k(running, jnp.array([1.0, 2.0]), 2)
    assert running.doc_ids.tolist() == [3, 0, 1]
    again = merge_after(running, Ranking(jnp.array([9], jnp.int32), jnp.array([1.0])))
    assert again.doc_ids.tolist() == [3, 0, 1]


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_sharded_equals_one_device(num_devices):
    mesh = mesh_of(num_devices)
    rng = np.random.default_rng(1)
    for shape, k in [((800,), 10), ((3, 4000), 700), ((2, 16), 30)]:
        scores = rng.integers(0, 50, size=shape).astype(np.float32)
        scores[..., -3:] = -np.inf
        found = sharded_top_k(jnp.asarray(scores), k, mesh=mesh)
        assert_same(found, oracle(scores, k))


def test_no_recompilation_for_a_known_shape():
    top_k(jnp.zeros((2, 4096)), 10)
    before = top_k._cache_size()
    for seed in range(3):
        top_k(jnp.full((2, 4096), seed, jnp.float32), 10)
    assert top_k._cache_size() == before
