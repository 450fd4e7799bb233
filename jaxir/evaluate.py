"""Runs against judgments: metrics, intervals, and paired tests against a baseline.

The rules of measuring (missing queries, ties, spellings) are in
:mod:`jaxir.measures`, the statistics in :mod:`jaxir.significance`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxir.errors import InputError
from jaxir.measures import (
    DEFAULT_METRICS,
    judged_part,
    make_measure,
    parse_metrics,
)
from jaxir.progress import progress_bar, say
from jaxir.significance import (
    CORRECTIONS,
    TESTS,
    WinsTiesLosses,
    bootstrap_intervals,
    effect_size,
    wins_ties_losses,
)

__all__ = [
    "Comparison",
    "Coverage",
    "Evaluation",
    "evaluate",
]


class Coverage(NamedTuple):
    """How a run's queries meet the judged ones.

    Attributes:
      judged: judged queries, over which every mean is taken.
      missing: judged queries without a result in the run; they count as 0.
      ignored: queries of the run without a judgment; they do not count.
    """

    judged: int
    missing: int
    ignored: int


@dataclass(frozen=True)
class Comparison:
    """One system against the baseline on one metric.

    Attributes:
      system: name of the system.
      metric: name of the metric.
      difference: mean of the system minus mean of the baseline.
      interval: bootstrap interval of the difference.
      effect_size: Cohen's d of the paired values.
      counts: queries won, tied and lost.
      p_values: p of each test, as computed.
      corrected: p of each test, corrected for the number of systems compared.
      significant: the tests whose corrected p is below alpha.
    """

    system: str
    metric: str
    difference: float
    interval: tuple[float, float]
    effect_size: float
    counts: WinsTiesLosses
    p_values: dict[str, float]
    corrected: dict[str, float]
    significant: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
      systems: names of the runs, in the order given.
      metrics: names of the metrics, in the order given.
      query_ids: the judged queries, in the order of the judgments.
      values: ``[systems, metrics, queries]`` float64.
      intervals: ``[systems, metrics, 2]`` bootstrap intervals of the means.
      coverage: for each system, how many queries it answered.
      baseline: name of the system the others are compared with, or None.
      comparisons: one for each other system and metric.
      tests: names of the tests made.
      correction: name of the correction for several systems.
      alpha: error rate at which a test is called significant.
      confidence: mass of the intervals.
      seed: of the resamples.
    """

    systems: tuple[str, ...]
    metrics: tuple[str, ...]
    query_ids: tuple[str, ...]
    values: np.ndarray
    intervals: np.ndarray
    coverage: dict[str, Coverage]
    baseline: str | None
    comparisons: tuple[Comparison, ...]
    tests: tuple[str, ...]
    correction: str
    alpha: float
    confidence: float
    seed: int

    def _place(self, system: str, metric: str) -> tuple[int, int]:
        """Rows of a system and of a metric, by any of the metric's names."""
        if system not in self.systems:
            expected = "one of " + ", ".join(self.systems)
            raise InputError("system", f"no run is named {system!r}", expected)
        name = metric
        if name not in self.metrics:
            name = str(parse_metrics([metric])[0])
        if name not in self.metrics:
            expected = "one of " + ", ".join(self.metrics)
            raise InputError("metric", f"{metric!r} was not measured", expected)
        return self.systems.index(system), self.metrics.index(name)

    def per_query(self, system: str, metric: str) -> np.ndarray:
        """Values ``[queries]`` of a system, in the order of ``query_ids``.

        Args:
          system: name of a run.
          metric: by any of its names, as for :func:`evaluate`.

        Raises:
          InputError: no such run, or a metric that was not measured.
        """
        return self.values[self._place(system, metric)]

    def mean(self, system: str, metric: str) -> float:
        """The mean over all judged queries: the number one reports."""
        return float(self.per_query(system, metric).mean())

    def interval(self, system: str, metric: str) -> tuple[float, float]:
        """The bootstrap interval of :meth:`mean`."""
        row = self.intervals[self._place(system, metric)]
        return float(row[0]), float(row[1])

    def comparison(self, system: str, metric: str) -> Comparison | None:
        """The comparison with the baseline, or None where there is none."""
        metric = self.metrics[self._place(system, metric)[1]]
        for found in self.comparisons:
            if (found.system, found.metric) == (system, metric):
                return found
        return None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-query values, ready for JSON."""
        return {
            "queries": len(self.query_ids),
            "metrics": list(self.metrics),
            "baseline": self.baseline,
            "alpha": self.alpha,
            "correction": self.correction,
            "confidence": self.confidence,
            "seed": self.seed,
            "systems": [self._system_to_dict(system) for system in self.systems],
        }

    def _system_to_dict(self, system: str) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for metric in self.metrics:
            entry: dict[str, Any] = {
                "mean": self.mean(system, metric),
                "interval": list(self.interval(system, metric)),
            }
            found = self.comparison(system, metric)
            if found is not None:
                finite = np.isfinite(found.effect_size)
                entry |= {
                    "difference": found.difference,
                    "difference_interval": list(found.interval),
                    # JSON has no infinity (all queries differ by the same amount).
                    "effect_size": found.effect_size if finite else None,
                    **found.counts._asdict(),
                    "p": found.p_values,
                    "p_corrected": found.corrected,
                    "significant": list(found.significant),
                }
            results[metric] = entry
        return {
            "name": system,
            **self.coverage[system]._asdict(),
            "results": results,
        }


def evaluate(
    qrels: Mapping[str, Mapping[str, int]],
    runs: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    baseline: str | None = None,
    tests: Sequence[str] = ("t", "wilcoxon", "permutation"),
    correction: str = "holm",
    alpha: float = 0.05,
    confidence: float = 0.95,
    seed: int = 0,
) -> Evaluation:
    """Measures runs and tests each against a baseline.

    Args:
      qrels: relevance by query and document.
      runs: for each system's name, scores by query and document.
      metrics: ir-measures' spellings (``nDCG@10``, ``RR(rel=2)@10``, ``AP``,
        ``Judged@10``), trec_eval's (``ndcg_cut.10``, ``map``, ``recip_rank``) or those
        of sentence-transformers and ranx (``mrr@10``).
      baseline: name of the run that the others are tested against; None for no tests.
      tests: names from :data:`jaxir.significance.TESTS`.
      correction: name from :data:`jaxir.significance.CORRECTIONS`; it is made for each
        metric and test over the systems compared.
      alpha: error rate at which a corrected p is called significant.
      confidence: mass of the bootstrap intervals.
      seed: of bootstrap and permutations; equal seeds give equal results.

    Raises:
      InputError: a metric, test or name that is unknown, a run without any judged
        query, a score that is not a number, or nothing to evaluate.

    Example::

      >>> qrels = {"q1": {"a": 1}, "q2": {"b": 1}}
      >>> good = {"q1": {"a": 2.0, "b": 1.0}, "q2": {"b": 2.0, "a": 1.0}}
      >>> poor = {"q1": {"b": 2.0, "a": 1.0}}
      >>> result = evaluate(qrels, {"good": good, "poor": poor}, metrics=["RR@10"])
      >>> result.mean("good", "RR@10"), result.mean("poor", "RR@10")
      (1.0, 0.25)
      >>> result.coverage["poor"]
      Coverage(judged=2, missing=1, ignored=0)
    """
    _check(qrels, runs, baseline, tests, correction, alpha)
    measures = parse_metrics(metrics)
    names = tuple(str(measure) for measure in measures)
    measure = make_measure(measures, qrels)
    rows = {query_id: i for i, query_id in enumerate(qrels)}
    column = {measure: i for i, measure in enumerate(measures)}
    values = np.zeros((len(runs), len(measures), len(rows)))
    coverage = {}
    for i, (name, run) in enumerate(
        progress_bar(runs.items(), total=len(runs), label="evaluate", unit="run")
    ):
        kept = judged_part(name, run, rows)
        ignored = len(run.keys() - rows.keys())
        coverage[name] = Coverage(len(rows), len(rows) - len(kept), ignored)
        if ignored:
            say(
                f"run {name}: {ignored} of {len(run)} queries have no judgment; ignored"
            )
        for found in measure(kept):
            values[i, column[found.measure], rows[found.query_id]] = found.value
    intervals = bootstrap_intervals(values, confidence=confidence, seed=seed)
    result = Evaluation(
        tuple(runs), names, tuple(rows), values, intervals, coverage, baseline, (),
        tuple(tests), correction, alpha, confidence, seed,
    )  # fmt: skip
    if baseline is None:
        return result
    return Evaluation(**{**vars(result), "comparisons": tuple(_compare(result))})


def _check(
    qrels: Mapping[str, Mapping[str, int]],
    runs: Mapping[str, Mapping[str, Mapping[str, float]]],
    baseline: str | None,
    tests: Sequence[str],
    correction: str,
    alpha: float,
) -> None:
    if not qrels:
        raise InputError("qrels", "no judgments", "at least one judged query")
    if not runs:
        raise InputError("runs", "no run", "at least one run to evaluate")
    if baseline is not None and baseline not in runs:
        raise InputError(
            "baseline", f"no run is named {baseline!r}", "one of " + ", ".join(runs)
        )
    for test in tests:
        if test not in TESTS:
            raise InputError("tests", f"{test!r}", "some of " + ", ".join(TESTS))
    if correction not in CORRECTIONS:
        expected = "one of " + ", ".join(CORRECTIONS)
        raise InputError("correction", f"{correction!r}", expected)
    if not 0 < alpha < 1:
        raise InputError("alpha", f"{alpha}", "a number between 0 and 1")


def _compare(result: Evaluation) -> list[Comparison]:
    others = [system for system in result.systems if system != result.baseline]
    comparisons = []
    for metric in result.metrics:
        base = result.per_query(str(result.baseline), metric)
        differences = np.array([result.per_query(s, metric) - base for s in others])
        if not others:
            break
        ends = bootstrap_intervals(
            differences, confidence=result.confidence, seed=result.seed
        )
        plain = {
            test: [TESTS[test](row, seed=result.seed) for row in differences]
            for test in result.tests
        }
        corrected = {t: CORRECTIONS[result.correction](p) for t, p in plain.items()}
        for i, system in enumerate(others):
            comparisons.append(
                Comparison(
                    system,
                    metric,
                    float(differences[i].mean()),
                    (float(ends[i, 0]), float(ends[i, 1])),
                    effect_size(differences[i]),
                    wins_ties_losses(differences[i]),
                    {test: p[i] for test, p in plain.items()},
                    {test: p[i] for test, p in corrected.items()},
                    tuple(t for t, p in corrected.items() if p[i] < result.alpha),
                )
            )
    return comparisons
