"""The losses against loops over pairs, and their slopes against the paper's alpha."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.pq.losses import list_contrast, rank_weights, weighted_pairs

POSITIVES = np.array([[0.3, -1.0, 0.0], [2.0, 9.0, 9.0], [5.0, 1.0, 2.0]], np.float32)
NEGATIVES = np.array([[0.1, 0.5, 8.0, 1.0]] * 3, np.float32)
HAS_POSITIVE = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
HAS_NEGATIVE = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
POSITIVE_WEIGHTS = np.array([[0.5, 0.2, 9], [0.1, 9, 9], [1, 0.5, 0.2]], np.float32)
NEGATIVE_WEIGHTS = np.array([[1.0, 0.3, 9.0, 0.0]] * 3, np.float32)


def arrays(*values):
    return [jnp.asarray(value) for value in values]


def pairs_loss(positives, negatives):
    """The mean over the pairs of each query, by loops in float64."""
    values = []
    for b in range(3):
        terms = [
            abs(float(POSITIVE_WEIGHTS[b, i]) - float(NEGATIVE_WEIGHTS[b, j]))
            * np.log1p(np.exp(float(negatives[b, j]) - float(positives[b, i])))
            for i in range(3)
            for j in range(4)
            if HAS_POSITIVE[b, i] and HAS_NEGATIVE[b, j]
        ]
        values.append(np.mean(terms) if terms else 0.0)
    return np.array(values)


def ours(positives, negatives):
    weights = arrays(POSITIVE_WEIGHTS, NEGATIVE_WEIGHTS)
    where = arrays(HAS_POSITIVE, HAS_NEGATIVE)
    return weighted_pairs(
        positives, negatives, positive_weights=weights[0], negative_weights=weights[1],
        where_positive=where[0], where_negative=where[1],
    )  # fmt: skip


def test_weights():
    ranks = jnp.array([[1, 2, 10, 11, 200]])
    np.testing.assert_allclose(rank_weights(ranks)[0], [1, 0.5, 0.1, 1 / 11, 0.005])
    np.testing.assert_allclose(rank_weights(ranks, cut=10)[0], [1, 0.5, 0.1, 0, 0])


def test_lambdarank_against_loops_and_finite_differences():
    found = ours(*arrays(POSITIVES, NEGATIVES))
    np.testing.assert_allclose(found, pairs_loss(POSITIVES, NEGATIVES), rtol=1e-5)
    assert found[2] == 0.0  # no pair
    slopes = jax.grad(lambda p, n: ours(p, n).sum(), argnums=(0, 1))(
        *arrays(POSITIVES, NEGATIVES)
    )
    step = 1e-4
    for which, slope in enumerate(slopes):
        values = [POSITIVES.astype(float), NEGATIVES.astype(float)]
        for place in np.ndindex(values[which].shape):
            ends = []
            for sign in (1, -1):
                moved = [value.copy() for value in values]
                moved[which][place] += sign * step
                ends.append(pairs_loss(*moved).sum())
            expected = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(slope[place], expected, atol=1e-5)


def test_alpha_of_equation_17():
    one = jnp.ones((1, 1), bool)

    def pair(positive, negative):
        return weighted_pairs(
            jnp.full((1, 1), positive), jnp.full((1, 1), negative),
            positive_weights=jnp.full((1, 1), 0.25), where_positive=one,
            negative_weights=jnp.full((1, 1), 1.0), where_negative=one,
        )[0]  # fmt: skip

    for positive, negative in ((0.0, 0.0), (3.0, 1.0), (-2.0, 60.0), (90.0, -90.0)):
        of_positive, of_negative = jax.grad(pair, argnums=(0, 1))(positive, negative)
        alpha = 0.75 / (1 + np.exp(np.float64(positive - negative)))
        np.testing.assert_allclose(of_negative, alpha, rtol=1e-5, atol=1e-30)
        np.testing.assert_allclose(of_positive, -alpha, rtol=1e-5, atol=1e-30)
        assert np.isfinite(pair(positive, negative))  # where exp would overflow


def test_contrast_against_a_softmax():
    where = arrays(HAS_POSITIVE, HAS_NEGATIVE)

    def contrast(positives, negatives):
        return list_contrast(
            positives, negatives, where_positive=where[0], where_negative=where[1]
        )

    expected = []
    for b in range(3):
        others = np.exp(NEGATIVES[b][HAS_NEGATIVE[b]].astype(float)).sum()
        each = np.exp(POSITIVES[b][HAS_POSITIVE[b]].astype(float))
        expected.append(np.mean(-np.log(each / (each + others))))
    given = arrays(POSITIVES, NEGATIVES)
    np.testing.assert_allclose(contrast(*given), expected, rtol=1e-5, atol=1e-6)
    slopes = jax.grad(lambda *x: contrast(*x).sum(), argnums=(0, 1))(*given)
    assert all(np.isfinite(slope).all() for slope in slopes)
    for slope, there in zip(slopes, (HAS_POSITIVE, HAS_NEGATIVE), strict=True):
        assert not np.asarray(slope)[~there].any()


@pytest.mark.parametrize("loss", [weighted_pairs, list_contrast])
def test_what_is_not_there_does_not_matter(loss):
    where = {"where_positive": HAS_POSITIVE, "where_negative": HAS_NEGATIVE}
    if loss is weighted_pairs:
        where |= {
            "positive_weights": POSITIVE_WEIGHTS, "negative_weights": NEGATIVE_WEIGHTS
        }  # fmt: skip
    where = {name: jnp.asarray(value) for name, value in where.items()}
    filled = [
        np.where(there, value, 1e30).astype(np.float32)
        for value, there in ((POSITIVES, HAS_POSITIVE), (NEGATIVES, HAS_NEGATIVE))
    ]
    np.testing.assert_array_equal(
        loss(*arrays(*filled), **where), loss(*arrays(POSITIVES, NEGATIVES), **where)
    )
