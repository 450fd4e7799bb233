"""Evaluation: counts, comparisons, determinism, and every mistake it names."""

import json

import numpy as np
import pytest
from scipy import stats

from jaxir import progress
from jaxir.errors import InputError
from jaxir.evaluate import evaluate


def make_example(num_queries=40, seed=0):
    """Judgments and three runs: ``good`` beats ``base``, ``same`` is its copy."""
    rng = np.random.default_rng(seed)
    qrels, base, good = {}, {}, {}
    for i in range(num_queries):
        docs = [f"d{j:02d}" for j in rng.permutation(50)[:20]]
        relevant = docs[int(rng.integers(2, 12))]
        qrels[f"q{i}"] = {relevant: 1, docs[0]: 0}
        base[f"q{i}"] = {d: float(20 - rank) for rank, d in enumerate(docs)}
        better = dict(base[f"q{i}"])
        better[relevant] += float(rng.integers(0, 8)) + 0.5
        good[f"q{i}"] = better
    return qrels, {"base": base, "good": good, "same": dict(base)}


def test_comparisons_agree_with_scipy():
    qrels, runs = make_example()
    result = evaluate(qrels, runs, metrics=["nDCG@10", "RR@10"], baseline="base")
    assert [(c.system, c.metric) for c in result.comparisons] == [
        ("good", "nDCG@10"), ("same", "nDCG@10"), ("good", "RR@10"), ("same", "RR@10"),
    ]  # fmt: skip
    base = result.per_query("base", "RR@10")
    good = result.per_query("good", "RR@10")
    found = result.comparison("good", "RR@10")
    assert found.p_values["t"] == pytest.approx(stats.ttest_rel(good, base).pvalue)
    # Two systems are compared: Holm doubles the smaller p.
    assert found.corrected["t"] == pytest.approx(2 * found.p_values["t"])
    assert found.significant == ("t", "wilcoxon", "permutation")
    assert found.difference == pytest.approx(np.mean(good - base))
    assert found.interval[0] < found.difference < found.interval[1]
    assert sum(found.counts) == len(qrels)
    assert found.counts.losses == 0
    same = result.comparison("same", "RR@10")
    assert same.significant == ()
    assert same.counts == (0, len(qrels), 0)
    assert result.comparison("base", "RR@10") is None


def test_results_are_found_by_any_name_of_their_metric():
    qrels, runs = make_example()
    result = evaluate(qrels, runs, metrics=["ndcg_cut.10", "MRR@10"], baseline="base")
    assert result.metrics == ("nDCG@10", "RR@10")
    assert result.mean("good", "ndcg_cut.10") == result.mean("good", "nDCG@10")
    assert result.interval("good", "mrr@10") == result.interval("good", "RR@10")
    assert result.comparison("good", "MRR@10").metric == "RR@10"
    with pytest.raises(InputError, match="metric: 'AP' was not measured; expected one"):
        result.mean("good", "AP")
    with pytest.raises(InputError, match="system: no run is named 'best'; expected on"):
        result.comparison("best", "RR@10")
    with pytest.raises(InputError, match="metrics: one name; expected a list of names"):
        evaluate(qrels, runs, metrics="RR@10")


def test_correction_and_alpha_are_obeyed():
    qrels, runs = make_example()
    asked = {"metrics": ["RR@10"], "baseline": "base", "tests": ["t"]}
    plain = evaluate(qrels, runs, correction="none", **asked).comparisons[0]
    assert plain.corrected == plain.p_values
    strict = evaluate(qrels, runs, alpha=1e-12, **asked).comparisons[0]
    assert strict.significant == ()


def test_equal_seeds_give_equal_results():
    qrels, runs = make_example()
    one = evaluate(qrels, runs, metrics=["nDCG@10"], baseline="base", seed=3)
    two = evaluate(qrels, runs, metrics=["nDCG@10"], baseline="base", seed=3)
    assert json.dumps(one.to_dict()) == json.dumps(two.to_dict())
    np.testing.assert_array_equal(one.intervals, two.intervals)
    low, high = one.interval("good", "nDCG@10")
    assert low < one.mean("good", "nDCG@10") < high


def test_without_a_baseline_nothing_is_tested():
    qrels, runs = make_example(5)
    result = evaluate(qrels, runs, metrics=["AP"])
    assert result.comparisons == ()
    assert "difference" not in json.dumps(result.to_dict())


def test_a_baseline_alone_is_no_comparison():
    qrels, runs = make_example(5)
    alone = evaluate(qrels, {"base": runs["base"]}, metrics=["AP"], baseline="base")
    assert alone.comparisons == ()


def test_json_has_no_infinity():
    qrels = {f"q{i}": {"a": 1} for i in range(4)}
    first = {q: {"a": 2.0, "b": 1.0} for q in qrels}
    second = {q: {"a": 1.0, "b": 2.0} for q in qrels}
    result = evaluate(qrels, {"a": first, "b": second}, metrics=["RR@10"], baseline="a")
    assert result.comparisons[0].effect_size == -np.inf
    json.dumps(result.to_dict(), allow_nan=False)


def test_unjudged_queries_are_counted_and_said(capsys):
    qrels, runs = make_example(6)
    run = {**runs["base"], "other": {"d01": 1.0}}
    del run["q0"]
    progress.set_quiet(False)
    result = evaluate(qrels, {"base": run}, metrics=["AP"])
    assert result.coverage["base"] == (6, 1, 1)
    assert result.per_query("base", "AP")[0] == 0
    said = capsys.readouterr().err
    assert "run base: 1 of 6 queries have no judgment; ignored" in said


def test_a_run_for_other_queries():
    with pytest.raises(InputError, match="run x: a run for other queries: none of its"):
        evaluate({"q1": {"a": 1}}, {"x": {"z9": {"a": 1.0}}}, metrics=["AP"])
    with pytest.raises(InputError, match="a run for other queries"):
        evaluate({"q1": {"a": 1}}, {"x": {}}, metrics=["AP"])


def test_nan_scores():
    with pytest.raises(InputError, match="run x: NaN as the score of 'b' for"):
        evaluate({"q": {"a": 1}}, {"x": {"q": {"a": 1.0, "b": float("nan")}}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qrels": {}}, "qrels: no judgments"),
        ({"runs": {}}, "runs: no run"),
        ({"baseline": "z"}, "baseline: no run is named 'z'; expected one of x"),
        ({"tests": ["anova"]}, "tests: 'anova'; expected some of t, wilcoxon"),
        ({"correction": "bh"}, "correction: 'bh'; expected one of holm, bonferroni"),
        ({"alpha": 5.0}, "alpha: 5.0; expected a number between 0 and 1"),
        ({"metrics": ["foo"]}, "unknown metric 'foo'"),
    ],
)
def test_mistakes(changes, message):
    given = {"qrels": {"q": {"a": 1}}, "runs": {"x": {"q": {"a": 1.0}}}} | changes
    with pytest.raises(InputError, match=message):
        evaluate(given.pop("qrels"), given.pop("runs"), **given)
