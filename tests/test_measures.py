"""Metrics: spellings, ties, missing queries, and trec_eval's own answers."""

import shutil

import numpy as np
import pytest

from jaxir.data.formats import read_qrels
from jaxir.errors import InputError
from jaxir.evaluate import evaluate
from jaxir.measures import make_measure, parse_metrics, recall_by_depth


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("nDCG@10", "nDCG@10"), ("ndcg@10", "nDCG@10"), ("ndcg_cut.10", "nDCG@10"),
        ("ndcg_cut_10", "nDCG@10"), ("MRR@10", "RR@10"), ("mrr@10", "RR@10"),
        ("recip_rank", "RR"), ("map", "AP"), ("MAP@100", "AP@100"), ("AP", "AP"),
        ("recall.1000", "R@1000"), ("recall@100", "R@100"), ("hit_rate@5", "Success@5"),
        ("Judged@10", "Judged@10"), ("RR(rel=2)@10", "RR(rel=2)@10"),
    ],
)  # fmt: skip
def test_spellings(spelling, expected):
    assert [str(m) for m in parse_metrics([spelling])] == [expected]


def test_a_metric_named_twice_is_measured_once():
    assert len(parse_metrics(["nDCG@10", "ndcg_cut.10", "ndcg@10"])) == 1


@pytest.mark.parametrize(
    "name", ["", "@", "foo", "nDCG@", "nDCG@x", "nDCG@10)", "RR(foo=2)", "import os"]
)
def test_unknown_metrics(name):
    with pytest.raises(InputError, match=r"unknown metric .*; expected names such as"):
        parse_metrics([name])


@pytest.mark.parametrize(("name", "word"), [("R", "no"), ("P@0", "a bad")])
def test_cutoffs_that_would_end_the_process(name, word):
    with pytest.raises(InputError, match=f"has {word} cutoff; expected a depth of at"):
        parse_metrics([name])


def test_no_metric():
    with pytest.raises(InputError, match="metrics: none; expected at least one"):
        parse_metrics([])


def test_metric_without_its_program():
    qrels = {"q": {"a": 1}}
    with pytest.raises(InputError, match="cannot be computed here"):
        make_measure(parse_metrics(["alpha_nDCG@10"]), qrels)({"q": {"a": 1.0}})


def test_a_metric_that_is_undefined_here():
    qrels = {"q": {"a": 1}}
    with pytest.raises(InputError, match="float division by zero"):
        make_measure(parse_metrics(["Accuracy@1"]), qrels)({"q": {"a": 1.0}})


@pytest.mark.parametrize("ids", [("1", "2"), ("PLAIN-7", "OTHER-7"), ("q ä", "q")])
def test_gdevals_metrics_take_ids_of_any_form(ids):
    if shutil.which("perl") is None:
        pytest.skip("gdeval needs perl")
    one, two = ids
    qrels = {one: {"doc a": 2, "b": -1}, two: {"doc b": 1, "doc a": 0}}
    run = {one: {"b": 2.0, "doc a": 1.0}, two: {"doc b": 0.5, "doc a": 0.5}}
    metrics = ["ERR@5", "nDCG(dcg='exp-log2')@5", "RR"]
    values = evaluate(qrels, {"run": run}, metrics=metrics).values[0]
    np.testing.assert_allclose(values[0], [3 / 16 / 2, 1 / 16], atol=1e-5)
    np.testing.assert_allclose(values[1], [1 / np.log2(3), 1.0], atol=1e-5)
    np.testing.assert_array_equal(values[2], [0.5, 1.0])


def _value(qrels, run, metric):
    return evaluate(qrels, {"run": run}, metrics=[metric]).values[0, 0].tolist()


@pytest.mark.parametrize("metric", ["RR", "RR@10", "nDCG@1", "P@1", "Success@1", "R@1"])
def test_ties_go_to_the_higher_document_id_under_every_metric(metric):
    run = {"q": {"a": 1.0, "b": 1.0}}
    assert _value({"q": {"b": 1}}, run, metric) == [1.0]
    assert _value({"q": {"a": 1}}, run, metric) < [1.0]
    # Judged@1 asks for the same first document
    assert _value({"q": {"b": 0}}, run, "Judged@1") == [1.0]


def test_scores_equal_in_single_precision_are_ties():
    run = {"q": {"a": 1000.00001, "b": 1000.0}}
    assert _value({"q": {"a": 1}}, run, "RR") == [0.5]
    assert _value({"q": {"a": 1}}, run, "RR@10") == [0.5]


def test_missing_and_unanswerable_queries_count_as_zero():
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 0}, "q4": {"a": 1}}
    run = {"q1": {"a": 1.0}, "q3": {"a": 1.0}, "q4": {}}
    for metric in ("nDCG@10", "RR@10", "RR", "R@10", "AP"):
        assert _value(qrels, run, metric) == [1.0, 0.0, 0.0, 0.0]


def test_recall_by_depth_is_ir_measures_recall():
    rng = np.random.default_rng(0)
    docs = [f"d{i}" for i in range(60)]
    qrels = {
        f"q{i}": {d: int(rng.integers(0, 3)) for d in rng.permutation(docs)[:9]}
        for i in range(12)
    }
    run = {  # coarse scores tie; two queries are missing
        f"q{i}": {d: float(rng.integers(0, 9)) for d in rng.permutation(docs)[:30]}
        for i in range(10)
    }
    depths = [1, 2, 5, 10, 30, 100]
    names = [f"R@{depth}" for depth in depths]
    expected = evaluate(qrels, {"run": run}, metrics=names).values[0].mean(-1)
    np.testing.assert_allclose(
        recall_by_depth(qrels, run, depths), expected, atol=1e-12
    )


# trec_eval's name in its expected output -> ours.  What is left out, ir-measures
# does not have: gm_map, utility, 11pt_avg, G, binG, ndcg_rel, Rndcg, …
SHARED = {
    "map": "AP", "Rprec": "Rprec", "bpref": "Bpref", "recip_rank": "RR",
    "infAP": "infAP", "ndcg": "nDCG", "set_P": "SetP", "set_recall": "SetR",
    "set_map": "SetAP", "set_F": "SetF",
}  # fmt: skip
FAMILIES = {
    "P": "P", "recall": "R", "ndcg_cut": "nDCG", "map_cut": "AP", "success": "Success",
}  # fmt: skip


def _ours(name):
    if name in SHARED:
        return SHARED[name]
    if name.startswith("iprec_at_recall_"):
        return "IPrec@" + str(float(name.rpartition("_")[2]))
    base, _, cutoff = name.rpartition("_")
    return f"{FAMILIES[base]}@{cutoff}" if base in FAMILIES else None


def _read_results(path):
    """trec_eval reads any white space and ignores what follows the tag."""
    run = {}
    for line in path.read_text().splitlines():
        query_id, _, doc_id, _, score, *_ = line.split()
        run.setdefault(query_id, {})[doc_id] = float(score)
    return run


def _at_level(name, level):
    if level == 1 or name.startswith("nDCG"):
        return name  # gains are graded, whatever counts as relevant
    base, at, cutoff = name.partition("@")
    return f"{base}(rel={level}){at}{cutoff}"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("expected", "qrels", "results", "level", "least"),
    [
        ("out.test", "qrels.test.with-comments", "results.test", 1, 24),
        ("out.test.a", "qrels.test", "results.test", 1, 60),
        ("out.test.aq", "qrels.test", "results.test", 1, 240),
        ("out.test.aqc", "qrels.test", "results.trunc", 1, 240),
        ("out.test.aql", "qrels.rel_level", "results.test", 2, 208),
        ("out.test.meas_params", "qrels.test", "results.test", 1, 60),
    ],
)
def test_trec_eval(shared_data, expected, qrels, results, level, least):
    folder = shared_data / "trec_eval"
    run = _read_results(folder / results)
    wanted = {}
    for line in (folder / expected).read_text().splitlines():
        name, query_id, value = line.split()
        if _ours(name) is not None and "=" not in name:
            wanted[_at_level(_ours(name), level), query_id] = float(value)
    metrics = list(dict.fromkeys(metric for metric, _ in wanted))
    result = evaluate(read_qrels(folder / qrels), {"run": run}, metrics=metrics)
    found = {}
    for metric, query_id in wanted:
        values = result.per_query("run", metric)
        row = slice(None) if query_id == "all" else result.query_ids.index(query_id)
        found[metric, query_id] = round(float(values[row].mean()), 4)
    assert len(wanted) >= least
    assert found == wanted
