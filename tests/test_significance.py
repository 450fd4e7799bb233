"""Significance against scipy, brute force and hand values."""

import itertools

import numpy as np
import pytest
from scipy import stats

from jaxir import significance as sig
from jaxir.errors import InputError


def _differences(count, shift, seed=0):
    return np.random.default_rng(seed).normal(shift, 1.0, count)


def test_t_and_wilcoxon_are_scipys():
    a = np.random.default_rng(1).random(40)
    b = np.random.default_rng(2).random(40)
    assert sig.paired_t_test(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert sig.wilcoxon_test(a - b) == pytest.approx(stats.wilcoxon(a, b).pvalue)


@pytest.mark.parametrize("test", sig.TESTS.values())
def test_no_difference_is_p_one(test):
    assert test(np.zeros(20), seed=0) == 1.0
    assert test(np.full(20, 1e-15), seed=0) == 1.0


def test_one_query_proves_nothing():
    assert [t(np.array([0.3]), seed=0) for t in sig.TESTS.values()] == [1.0, 1.0, 1.0]


def test_constant_difference_has_no_spread():
    # The t statistic is infinite; p is 0 and nothing warns.
    assert sig.paired_t_test(np.full(8, 0.25)) == 0.0
    assert sig.effect_size(np.full(8, 0.25)) == np.inf
    assert sig.effect_size(np.full(8, -0.25)) == -np.inf


def test_wilcoxon_ties_in_rank_survive_rounding():
    exact = np.array([1.0, 1.0, 1.0, -1.0, 2.0, 3.0, 4.0, -2.0]) / 10
    noisy = exact + np.array([1, -1, 2, -2, 1, 0, 1, 2]) * 1e-16
    assert sig.wilcoxon_test(noisy) == sig.wilcoxon_test(exact)


@pytest.mark.parametrize("count", [3, 8, 13])
def test_small_permutation_tests_are_exact(count):
    x = _differences(count, 0.4, seed=count)
    signs = np.array(list(itertools.product([1, -1], repeat=count)))
    brute = np.mean(np.abs((signs * x).sum(1)) >= abs(x.sum()) - 1e-9)
    assert sig.permutation_test(x) == pytest.approx(brute)


def test_large_permutation_test_agrees_with_scipy():
    x = _differences(60, 0.25, seed=3)
    scipys = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=20_000, rng=5
    ).pvalue
    ours = sig.permutation_test(x, seed=4)
    assert ours == pytest.approx(scipys, abs=0.01)
    assert ours == sig.permutation_test(x, seed=4)
    assert sig.permutation_test(_differences(80, 3.0)) == pytest.approx(1 / 10_001)


def test_permutation_in_blocks_is_whole(monkeypatch):
    x = _differences(40, 0.3)
    whole = sig.permutation_test(x, seed=1)
    monkeypatch.setattr(sig, "_BLOCK", 40 * 333)
    # Blocks draw other signs, but as many of them.
    assert sig.permutation_test(x, seed=1) == pytest.approx(whole, abs=0.01)


def test_bootstrap_against_scipy_and_the_normal_interval():
    x = np.random.default_rng(0).random((2, 3, 200))
    ours = sig.bootstrap_intervals(x, seed=1)
    assert ours.shape == (2, 3, 2)
    scipys = stats.bootstrap(
        (x[1, 2],), np.mean, method="percentile", n_resamples=10_000, rng=2
    ).confidence_interval
    np.testing.assert_allclose(ours[1, 2], scipys, atol=2e-3)
    half = 1.96 * x.std(-1, ddof=1) / np.sqrt(200)
    np.testing.assert_allclose(ours[..., 0], x.mean(-1) - half, atol=4e-3)
    np.testing.assert_array_equal(ours, sig.bootstrap_intervals(x, seed=1))


def test_bootstrap_in_blocks_is_whole(monkeypatch):
    x = np.random.default_rng(0).random((2, 50))
    whole = sig.bootstrap_intervals(x, samples=1000)
    monkeypatch.setattr(sig, "_BLOCK", 50 * 77)
    np.testing.assert_array_equal(sig.bootstrap_intervals(x, samples=1000), whole)


def test_bootstrap_is_paired_across_rows():
    x = np.random.default_rng(0).random(80)
    both = sig.bootstrap_intervals(np.stack([x, x + 0.125]))
    np.testing.assert_allclose(both[1] - both[0], 0.125, atol=1e-9)


def test_bad_confidence():
    with pytest.raises(
        InputError, match=r"confidence: 95\.0; expected a number between"
    ):
        sig.bootstrap_intervals(np.ones(3), confidence=95.0)


def test_corrections_against_scipy_and_hand():
    p = [0.01, 0.04, 0.03, 0.2]
    assert sig.holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    assert sig.bonferroni(p) == pytest.approx([0.04, 0.16, 0.12, 0.8])
    assert sig.uncorrected(p) == p
    assert sig.holm([]) == []
    assert sig.holm([0.9, 0.8]) == [1.0, 1.0]


def test_wins_ties_losses_count_every_query():
    x = np.array([0.1, 0.0, 1e-12, -0.2, 0.3])
    assert sig.wins_ties_losses(x) == (2, 2, 1)
