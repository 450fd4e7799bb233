"""Is a difference between two systems more than luck of the queries drawn?

All functions take paired values: the same metric of the same queries under two systems
(Smucker, Allan and Carterette, "A comparison of statistical significance tests for
information retrieval evaluation", CIKM 2007, which also names the three tests here).
Everything is numpy on the host, vectorised over resamples and seeded.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxir.errors import InputError

__all__ = [
    "CORRECTIONS",
    "TESTS",
    "WinsTiesLosses",
    "bonferroni",
    "bootstrap_intervals",
    "effect_size",
    "holm",
    "paired_t_test",
    "permutation_test",
    "uncorrected",
    "wilcoxon_test",
    "wins_ties_losses",
]

_BLOCK = 4_000_000  # numbers drawn at once: 32 MB of float64
_TIE = 1e-9  # per-query differences below this are rounding, not a win


class WinsTiesLosses(NamedTuple):
    """Queries on which a system is better than, equal to and worse than the baseline.

    Attributes:
      wins: number of queries with a positive difference.
      ties: number of queries without a difference.
      losses: number of queries with a negative difference.
    """

    wins: int
    ties: int
    losses: int


def bootstrap_intervals(
    values: np.ndarray,
    *,
    confidence: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Percentile bootstrap intervals of means over queries.

    Queries are drawn with replacement ``samples`` times, and the interval runs between
    the ``(1 - confidence) / 2`` quantiles of the means (Efron, 1979).  All rows see
    the same draws, so that intervals of differences are paired.

    Args:
      values: ``[..., Q]`` a value for each query.
      confidence: mass of the interval, in (0, 1).
      samples: number of resamples.
      seed: equal seeds give equal intervals.

    Returns:
      ``[..., 2]`` lower and upper ends.

    Raises:
      InputError: ``confidence`` is not a probability.

    Example::

      >>> bootstrap_intervals(np.array([0.5, 0.5, 0.5]), samples=100)
      array([0.5, 0.5])
    """
    if not 0 < confidence < 1:
        raise InputError("confidence", f"{confidence}", "a number between 0 and 1")
    values = np.asarray(values, np.float64)
    columns = np.ascontiguousarray(values.reshape(-1, values.shape[-1]).T)
    num_queries = len(columns)
    rng = np.random.default_rng(seed)
    means = np.empty((samples, columns.shape[1]))
    step = max(1, _BLOCK // num_queries)
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        # How often each query was drawn, so that one product gives all means.
        drawn = rng.integers(num_queries, size=(rows, num_queries))
        drawn += np.arange(rows)[:, None] * num_queries
        times = np.bincount(drawn.ravel(), minlength=rows * num_queries)
        means[start : start + rows] = times.reshape(rows, num_queries) @ columns
    tail = (1 - confidence) / 2
    ends = np.quantile(means / num_queries, [tail, 1 - tail], axis=0)
    return ends.T.reshape(*values.shape[:-1], 2)


def paired_t_test(differences: np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p of Student's paired t-test (``scipy.stats.ttest_rel``).

    Args:
      differences: ``[Q]`` system minus baseline.
      seed: unused; the tests share one signature.

    Returns:
      The p value; 1 where nothing can be told apart (no difference, or one query).

    Example::

      >>> round(paired_t_test(np.array([0.1, 0.2, 0.3, 0.2])), 4)
      0.0163
    """
    from scipy import stats

    if len(differences) < 2 or not np.any(np.abs(differences) > _TIE):
        return 1.0
    # Equal differences everywhere give an infinite t: p is 0, and no cause to warn.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        p_value = stats.ttest_rel(differences, np.zeros_like(differences)).pvalue
    return float(p_value)


def wilcoxon_test(differences: np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (``scipy.stats.wilcoxon``).

    Queries without a difference are left out (Wilcoxon's own treatment of zeros).

    Args:
      differences: ``[Q]`` system minus baseline.
      seed: unused; the tests share one signature.

    Returns:
      The p value; 1 where no query differs.

    Example::

      >>> wilcoxon_test(np.array([0.1, 0.2, 0.3, 0.25]))
      0.125
    """
    from scipy import stats

    # Rounded, because equal differences must tie in rank whatever their last bit is.
    kept = np.round(differences[np.abs(differences) > _TIE], 10)
    if len(kept) == 0:
        return 1.0
    return float(stats.wilcoxon(kept).pvalue)


def permutation_test(
    differences: np.ndarray, *, seed: int = 0, samples: int = 10_000
) -> float:
    """Two-sided p of Fisher's paired permutation (randomisation) test.

    Under the null hypothesis the sign of each difference is a coin's.  With few
    queries all ``2^Q`` signs are tried and p is exact; otherwise ``samples`` random
    ones are, and ``p = (1 + #{|mean'| >= |mean|}) / (1 + samples)``, which is never 0
    (Phipson and Smyth, 2010).

    Args:
      differences: ``[Q]`` system minus baseline.
      seed: equal seeds give equal p values.
      samples: sign vectors to draw.

    Example::

      >>> permutation_test(np.array([0.1, 0.2, 0.3, 0.25]))
      0.125
    """
    kept = differences[np.abs(differences) > _TIE]
    count = len(kept)
    if count == 0:
        return 1.0
    total = kept.sum()
    bar = abs(total) - 1e-12 * np.abs(kept).sum()  # equal sums may differ in rounding
    if count < 64 and 2**count <= samples:
        every = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float(np.mean(np.abs(total - 2 * (every @ kept)) >= bar))
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // count)
    extreme = 0
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        width = -(-count // 8)
        bits = rng.integers(0, 256, size=(rows, width), dtype=np.uint8)
        flips = np.unpackbits(bits, axis=1, count=count)
        extreme += int(np.sum(np.abs(total - 2 * (flips @ kept)) >= bar))
    return (1 + extreme) / (1 + samples)


def effect_size(differences: np.ndarray) -> float:
    """Cohen's d of paired values: mean difference over its standard deviation.

    ``d = mean(x) / std(x)`` with ``Q - 1`` in the denominator (Sakai, "Statistical
    reform in information retrieval?", SIGIR Forum 2014).

    Args:
      differences: ``[Q]`` system minus baseline.

    Returns:
      d; 0 where there is no difference, signed infinity where all queries differ by
      the same amount.

    Example::

      >>> round(effect_size(np.array([0.1, 0.2, 0.3])), 3)
      2.0
    """
    mean = float(np.mean(differences))
    spread = float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    if abs(mean) <= _TIE:
        return 0.0
    return mean / spread if spread > _TIE else float(np.copysign(np.inf, mean))


def wins_ties_losses(differences: np.ndarray) -> WinsTiesLosses:
    """Counts queries by the sign of their difference.

    Example::

      >>> wins_ties_losses(np.array([0.5, 0.0, -0.1, 0.2]))
      WinsTiesLosses(wins=2, ties=1, losses=1)
    """
    wins = int(np.sum(differences > _TIE))
    losses = int(np.sum(differences < -_TIE))
    return WinsTiesLosses(wins, len(differences) - wins - losses, losses)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for several comparisons with one baseline.

    The i-th smallest of n values is multiplied by ``n - i + 1``; later ones are never
    smaller than earlier ones (Holm, 1979).  It holds the family-wise error rate.

    Example::

      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]
    """
    corrected = [1.0] * len(p_values)
    floor = 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for position, i in enumerate(order):
        floor = max(floor, min(1.0, p_values[i] * (len(p_values) - position)))
        corrected[i] = floor
    return corrected


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """Bonferroni's correction: every p times the number of comparisons.

    Example::

      >>> bonferroni([0.01, 0.6])
      [0.02, 1.0]
    """
    return [min(1.0, p * len(p_values)) for p in p_values]


def uncorrected(p_values: Sequence[float]) -> list[float]:
    """The p values as they are.

    Example::

      >>> uncorrected([0.01, 0.6])
      [0.01, 0.6]
    """
    return list(p_values)


TESTS: dict[str, Callable[..., float]] = {
    "t": paired_t_test,
    "wilcoxon": wilcoxon_test,
    "permutation": permutation_test,
}
"""Paired tests by name, each ``test(differences, seed=...) -> p``."""

CORRECTIONS: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "holm": holm,
    "bonferroni": bonferroni,
    "none": uncorrected,
}
"""Corrections for several systems by name, each ``p values -> p values``."""
