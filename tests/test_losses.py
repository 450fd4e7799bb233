"""Losses: the property matrix, numpy and torch as oracles, duplicates."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rax
from properties import LENGTH, PROPERTIES, Case, draw_scores

from jaxir import losses

CASES = [
    Case(
        "margin_mse",
        lambda s, t, w: losses.margin_mse_loss(s, t, where=w),
        hand=([3.0, 1.0, 0.0], [9.0, 8.0, 4.0], 2.5),
        labels=draw_scores,
        fixed=1,
    ),
    Case(
        "kl",
        lambda s, t, w: losses.kl_distillation_loss(s, t, where=w),
        hand=(
            [0.0, 0.0],
            [math.log(3.0), 0.0],
            0.75 * math.log(1.5) - 0.25 * math.log(2),
        ),
        labels=draw_scores,
    ),
    Case(
        "kl_warm",
        lambda s, t, w: losses.kl_distillation_loss(s, t, where=w, temperature=2.0),
        hand=(
            [0.0, 0.0],
            [math.log(9.0), 0.0],
            0.75 * math.log(1.5) - 0.25 * math.log(2),
        ),
        labels=draw_scores,
    ),
    Case(
        "contrastive",
        lambda s, y, w: losses.contrastive_loss(s, y, where=w),
        hand=(
            [0.0, math.log(3.0), 5.0, 0.0],
            [1.0, 0.0, 0.0, 0.0],
            math.log(1 + 3 + math.exp(5.0) + 1),
        ),
    ),
    Case(
        "contrastive_jnp_mean",
        lambda s, y, w: losses.contrastive_loss(s, y, where=w, reduce_fn=jnp.mean),
        hand=([0.0, 0.0, 0.0], [1.0, 2.0, 0.0], math.log(2.0)),
    ),
]


@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_property(case, check):
    check(case)


def _lists(seed=3, batch=4):
    rng = np.random.default_rng(seed)
    scores, teacher = (draw_scores(rng, batch, LENGTH) for _ in range(2))
    where = rng.random((batch, LENGTH)) < 0.7
    where[:, 0] = True
    return scores, teacher, where


def test_margin_mse_averages_over_pairs_not_over_queries():
    scores, teacher, where = _lists()
    expected = []
    for s, t, w in zip(scores, teacher, where, strict=True):
        expected += [
            ((s[0] - s[j]) - (t[0] - t[j])) ** 2 for j in range(1, LENGTH) if w[j]
        ]
    found = losses.margin_mse_loss(
        jnp.asarray(scores), jnp.asarray(teacher), where=jnp.asarray(where)
    )
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


def test_contrastive_with_one_positive_is_softmax_cross_entropy():
    scores, _, where = _lists()
    labels = np.zeros_like(scores)
    labels[:, 0] = 1
    found = losses.contrastive_loss(
        jnp.asarray(scores), jnp.asarray(labels), where=jnp.asarray(where)
    )
    expected = rax.softmax_loss(
        jnp.asarray(scores), jnp.asarray(labels), where=jnp.asarray(where)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_second_positive_does_not_punish_the_first():
    labels = jnp.array([1.0, 1.0, 0.0])
    slope = jax.grad(losses.contrastive_loss)(jnp.zeros(3), labels)
    np.testing.assert_allclose(slope, [-0.25, -0.25, 0.5], atol=1e-6)


def test_only_positives_teach_nothing():
    scores, labels = jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])
    value, slope = jax.value_and_grad(losses.contrastive_loss)(scores, labels)
    assert float(value) == 0.0
    assert not np.any(slope)


@pytest.mark.parametrize(
    "loss",
    [losses.margin_mse_loss, losses.kl_distillation_loss, losses.contrastive_loss],
)
def test_weights_scale_and_ones_change_nothing(loss):
    scores, teacher, where = map(jnp.asarray, _lists())
    labels = jnp.abs(teacher)
    plain = loss(scores, labels, where=where)
    ones = jnp.ones(scores.shape)
    np.testing.assert_allclose(
        loss(scores, labels, where=where, weights=ones), plain, rtol=1e-6
    )
    np.testing.assert_allclose(
        loss(scores, labels, where=where, weights=3 * ones), 3 * plain, rtol=1e-6
    )


def test_no_reduction_gives_one_value_a_query():
    scores, teacher, where = map(jnp.asarray, _lists())
    kl = losses.kl_distillation_loss(scores, teacher, where=where, reduce_fn=None)
    info = losses.contrastive_loss(
        scores, jnp.abs(teacher), where=where, reduce_fn=None
    )
    pairs = losses.margin_mse_loss(scores, teacher, where=where, reduce_fn=None)
    assert kl.shape == info.shape == (4,)
    assert pairs.shape == (4, LENGTH - 1)
    assert not np.any(np.where(where[:, 1:], 0.0, pairs))


def test_torch_gives_the_same_values_and_gradients():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    scores, teacher, _ = _lists()

    def compare(ours, theirs):
        leaf = torch.tensor(scores, requires_grad=True)
        value = theirs(leaf, torch.tensor(teacher))
        value.backward()
        found, slope = jax.value_and_grad(ours)(
            jnp.asarray(scores), jnp.asarray(teacher)
        )
        np.testing.assert_allclose(found, value.item(), rtol=1e-5)
        np.testing.assert_allclose(slope, leaf.grad.numpy(), atol=1e-6)

    compare(
        losses.margin_mse_loss,
        lambda s, t: functional.mse_loss(s[:, :1] - s[:, 1:], t[:, :1] - t[:, 1:]),
    )
    compare(
        lambda s, t: losses.kl_distillation_loss(s, t, temperature=3.0),
        lambda s, t: functional.kl_div(
            functional.log_softmax(s / 3, -1),
            functional.log_softmax(t / 3, -1),
            log_target=True,
            reduction="batchmean",
        ),
    )
    first = jax.nn.one_hot(jnp.zeros(4, dtype=int), LENGTH)
    compare(
        lambda s, t: losses.contrastive_loss(s, first),
        lambda s, t: functional.cross_entropy(s, torch.zeros(4, dtype=torch.long)),
    )


def test_flops_against_numpy():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 5, 7)).astype(np.float32)
    where = rng.random((2, 5)) < 0.6
    where[1] = False
    found = losses.flops_loss(jnp.asarray(values), where=jnp.asarray(where))
    expected = np.sum(np.mean(np.abs(values[0][where[0]]), axis=0) ** 2)
    np.testing.assert_allclose(found, [expected, 0.0], rtol=1e-5)
    slope = jax.grad(lambda a: losses.flops_loss(a).sum())(jnp.zeros((3, 4)))
    assert np.all(np.isfinite(slope))


def test_duplicates_are_told_apart_by_brute_force():
    rng = np.random.default_rng(5)
    index = rng.integers(-1, 9, size=(4, 3)).astype(np.int32)
    known = rng.random((4, 12)) < 0.2
    where = index >= 0
    where[2, 1] = False
    found = losses.duplicate_mask(
        jnp.asarray(index), jnp.asarray(known), where=jnp.asarray(where)
    )
    for q in range(4):
        own = set(index[q][where[q]])
        for j in range(12):
            other, item = divmod(j, 3)
            counts = where[other, item] and (
                other == q or not (index[other, item] in own or known[q, j])
            )
            assert bool(found[q, j]) == bool(counts), (q, j)
