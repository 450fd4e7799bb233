"""Batches of fixed shapes: every text once, little padding, results in their rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.bucketing import default_batch_tokens, plan_batches, run_batches
from jaxir.mesh import make_mesh


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("multiple", [1, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_plan_covers_every_text_once(fill, multiple, count):
    lengths = np.random.default_rng(count).integers(2, 65, size=count)
    options = {"batch_tokens": 512, "multiple": multiple, "fill": fill}
    plan = plan_batches(lengths, 64, **options)
    rows = np.concatenate([batch.rows for batch in plan] or [np.zeros(0, int)])
    assert sorted(rows) == list(range(count))
    for batch in plan:
        height, width = batch.shape
        assert len(batch.rows) <= height
        assert lengths[batch.rows].max() <= width
        assert height % multiple == 0
        assert height * width <= max(512, multiple * width)


def test_plan_has_few_shapes_and_little_padding():
    lengths = np.random.default_rng(0).integers(10, 257, size=20_000)
    plan = plan_batches(lengths, 256)
    assert len({batch.shape for batch in plan}) <= 12
    assert sum(np.prod(batch.shape) for batch in plan) < 1.1 * lengths.sum()


def test_few_texts_are_not_padded_to_a_whole_batch():
    (batch,) = plan_batches(np.array([9, 5]), 64, batch_tokens=4096, fill=False)
    assert batch.shape == (4, 16)


def test_default_batch_grows_with_the_machine():
    assert default_batch_tokens() % 512 == 0


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize("fill", [True, False])
def test_results_are_those_of_each_text(fill, num_devices):
    if jax.device_count() < num_devices:
        pytest.skip("needs simulated devices")
    random = np.random.default_rng(0)
    ids = [random.integers(1, 9, size=n) for n in random.integers(1, 65, size=150)]
    boundaries = np.array([random.integers(len(text) + 1) for text in ids])
    shapes = []

    @jax.jit
    def compute(tokens):
        shapes.append(tokens.ids.shape)  # when it is compiled
        weights = tokens.mask * (1 + 10 * tokens.type_ids)
        return jnp.sum(tokens.ids * weights, axis=1)

    def run():
        found = np.full(len(ids), -1)
        for rows, sums in run_batches(
            compute, ids, max_length=64, pad_id=3, mesh=make_mesh(num_devices),
            batch_tokens=512, fill=fill, boundaries=boundaries,
        ):  # fmt: skip
            found[rows] = sums
        return found

    expected = [
        text.sum() + 10 * text[boundary:].sum()
        for text, boundary in zip(ids, boundaries, strict=True)
    ]
    np.testing.assert_array_equal(run(), expected)
    compiled = list(shapes)
    assert len(set(compiled)) == len(compiled) <= 5
    np.testing.assert_array_equal(run(), expected)
    assert shapes == compiled


def test_two_batches_are_under_way():
    started = []

    def compute(tokens):
        started.append(tokens.ids.shape)
        return tokens.ids[:, 0]

    running = run_batches(
        compute, [np.ones(16, np.int32)] * 5, max_length=16, pad_id=0,
        mesh=make_mesh(1), batch_tokens=16,
    )  # fmt: skip
    next(running)
    assert len(started) == 3
    assert len(list(running)) == 4
