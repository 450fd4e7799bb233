"""The property matrix: what every function of a list must satisfy, one row a function.

A loss or a metric joins by adding a :class:`Case`; a test file runs the matrix with::

    @pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_property(case, check):
        check(case)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LENGTH = 6
BATCH = 3


def draw_scores(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Ordinary scores, or a teacher's."""
    return rng.normal(size=shape).astype(np.float32)


def draw_grades(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Grades 0 to 2, the first always positive and the last never."""
    labels = rng.integers(0, 3, size=shape).astype(np.float32)
    labels[..., 0] = 1 + labels[..., 0] % 2
    labels[..., -1] = 0
    return labels


class Case(NamedTuple):
    """One function of lists and what is known about it.

    Attributes:
      name: shown in the test's name.
      apply: ``apply(scores, labels, where) -> value``, a scalar for one list and the
        mean over lists for a batch of lists of one length.
      hand: ``(scores, labels, value)`` worked out by hand.
      labels: draws labels of a shape.
      fixed: how many leading items have a role of their own and are not permuted.
      differentiable: False for metrics.
      empty: the value of a list without items.
    """

    name: str
    apply: Callable
    hand: tuple[list[float], list[float], float]
    labels: Callable = draw_grades
    fixed: int = 0
    differentiable: bool = True
    empty: float = 0.0


def _draw(case: Case, *batch: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    scores = draw_scores(rng, *batch, LENGTH)
    return jnp.asarray(scores), jnp.asarray(case.labels(rng, *batch, LENGTH))


def _close(found, expected, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def hand_value(case: Case) -> None:
    scores, labels, value = case.hand
    scores, labels = jnp.array(scores), jnp.array(labels)
    _close(case.apply(scores, labels, None), value)
    _close(case.apply(scores, labels, jnp.ones(scores.shape, dtype=bool)), value)


def same_under_jit(case: Case) -> None:
    scores, labels = _draw(case, BATCH)
    where = jnp.arange(LENGTH)[None, :] < jnp.array([[6], [3], [4]])
    _close(
        jax.jit(case.apply)(scores, labels, where), case.apply(scores, labels, where)
    )


def batch_is_mean_of_lists(case: Case) -> None:
    scores, labels = _draw(case, BATCH)
    where = jnp.ones(scores.shape, dtype=bool)
    each = jax.vmap(case.apply)(scores, labels, where)
    loop = [case.apply(scores[i], labels[i], where[i]) for i in range(BATCH)]
    _close(each, jnp.stack(loop))
    _close(case.apply(scores, labels, where), jnp.mean(each))
    _close(case.apply(scores[None], labels[None], where[None]), jnp.mean(each))


def order_does_not_matter(case: Case) -> None:
    scores, labels = _draw(case)
    where = jnp.array([True, True, False, True, False, True])
    moved = np.random.default_rng(1).permutation(np.arange(case.fixed, LENGTH))
    order = np.concatenate([np.arange(case.fixed), moved]).astype(int)
    _close(
        case.apply(scores[order], labels[order], where[order]),
        case.apply(scores, labels, where),
    )


def mask_is_slice(case: Case) -> None:
    scores, labels = _draw(case)
    where = jnp.array([True, True, False, True, False, False])
    kept = np.flatnonzero(where)
    value = case.apply(scores[kept], labels[kept], None)
    for rubbish in (1e30, -1e30, jnp.inf, jnp.nan):
        dirty = jnp.where(where, scores, rubbish)
        _close(case.apply(dirty, labels, where), value)
        if case.differentiable:
            slope = jax.grad(case.apply)(dirty, labels, where)
            _close(slope[kept], jax.grad(case.apply)(scores[kept], labels[kept], None))
            assert not np.any(slope[~where]), "padding has a gradient"


def all_masked_is_empty(case: Case) -> None:
    scores, labels = _draw(case)
    where = jnp.zeros(LENGTH, dtype=bool)
    assert float(case.apply(scores, labels, where)) == case.empty
    if case.differentiable:
        assert not np.any(jax.grad(case.apply)(scores, labels, where))
    # An empty list beside a full one does not dilute its value.
    both = jnp.stack([scores, scores]), jnp.stack([labels, labels])
    half = jnp.stack([jnp.ones(LENGTH, dtype=bool), where])
    if case.empty == 0.0:
        _close(case.apply(*both, half), case.apply(scores, labels, None))


def finite_at_extremes(case: Case) -> None:
    _, labels = _draw(case)
    for size in (0.0, 1e-30, 1e4, 1e8):
        for signs in ([1, -1, 1, -1, 1, -1], [-1, 1, 1, 1, 1, 1]):
            scores = jnp.array(signs, dtype=jnp.float32) * size
            assert np.isfinite(case.apply(scores, labels, None))
            if case.differentiable:
                assert np.all(np.isfinite(jax.grad(case.apply)(scores, labels, None)))


def gradient_is_the_slope(case: Case) -> None:
    if not case.differentiable:
        return
    scores, labels = _draw(case)
    where = jnp.array([True, True, True, True, False, True])
    slope = jax.grad(case.apply)(scores, labels, where)
    assert np.all(np.isfinite(slope))
    assert np.any(slope)
    step = 1e-2
    for i in range(LENGTH):
        nudge = jnp.zeros(LENGTH).at[i].set(step)
        rise = case.apply(scores + nudge, labels, where)
        fall = case.apply(scores - nudge, labels, where)
        _close(slope[i], (rise - fall) / (2 * step), 2e-3)


def low_precision_is_close(case: Case) -> None:
    scores, labels = _draw(case)
    scores = scores.astype(jnp.bfloat16)
    exact = case.apply(scores.astype(jnp.float32), labels, None)
    found = case.apply(scores, labels, None)
    assert found.dtype == jnp.float32
    _close(found, exact)


PROPERTIES = (
    hand_value,
    same_under_jit,
    batch_is_mean_of_lists,
    order_does_not_matter,
    mask_is_slice,
    all_masked_is_empty,
    finite_at_extremes,
    gradient_is_the_slope,
    low_precision_is_close,
)
