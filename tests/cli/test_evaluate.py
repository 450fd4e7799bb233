"""``jaxir evaluate`` on files and collections, its outputs and its mistakes."""

import json
import shutil

import pytest

from jaxir.cli.main import main
from jaxir.data.formats import write_run

QUERIES = ("q-river-test", "q-engine-test", "q-bread-test")


@pytest.fixture
def runs(tmp_path):
    good = {q: {f"{q.split('-')[1]}0": 2.0, "x": 1.0} for q in QUERIES}
    poor = {q: {"x": 2.0, f"{q.split('-')[1]}1": 1.0} for q in QUERIES}
    write_run(tmp_path / "good.trec", good)
    write_run(tmp_path / "poor.run.trec.gz", poor)
    return [str(tmp_path / "good.trec"), str(tmp_path / "poor.run.trec.gz")]


def test_everything_at_once(runs, tiny_collection, tmp_path, capsys):
    words = [
        "evaluate", "--qrels", f"{tiny_collection}:test", "--runs", *runs,
        "--names", "good", "poor", "--metrics", "RR@10", "recall.10",
        "--baseline", "poor", "--report", str(tmp_path / "r.html"), "--per-query",
        str(tmp_path / "q.csv"), "--markdown", str(tmp_path / "t.md"), "--latex",
        str(tmp_path / "t.tex"),
    ]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr()
    assert "good    1.0000" in said.out
    assert "against poor" in said.out
    assert "report: " in said.err
    page = (tmp_path / "r.html").read_text()
    assert "tiny, 12 documents" in page
    assert "the sea past" in page  # the text of a query that was helped
    assert "query_id,metric,system,value" in (tmp_path / "q.csv").read_text()
    assert "| good |" in (tmp_path / "t.md").read_text()
    assert "toprule" in (tmp_path / "t.tex").read_text()


def test_json_and_names_from_files(runs, tiny_collection, capsys):
    qrels = str(tiny_collection / "qrels" / "test.tsv")
    assert main(["evaluate", "--qrels", qrels, "--runs", *runs, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [system["name"] for system in result["systems"]] == ["good", "poor.run"]
    assert result["systems"][0]["results"]["RR@10"]["mean"] == 1.0
    assert result["metrics"] == ["nDCG@10", "RR@10", "R@1000"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--metrics", "foo"], "metrics: unknown metric 'foo'"),
        (["--baseline", "z"], "--baseline: no run is named 'z'; expected one of good"),
        (["--names", "a"], "--names: 1 for 2 runs; expected one for each run"),
        (["--names", "a", "a"], "--runs: 2 runs are called 'a'"),
        (["--curves", "x"], "--curves: 'x'; expected NAME=FILE"),
        (["--qrels", "nowhere"], "nowhere"),
    ],
)
def test_mistakes(runs, tiny_collection, tmp_path, capsys, changes, message):
    qrels, report = f"{tiny_collection}:test", tmp_path / "r.html"
    words = ["evaluate", "--qrels", qrels, "--runs", *runs, "--report", str(report)]
    assert main([*words, *changes]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not report.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--title", "x"], "--title: given without --report; expected both"),
        (["--curves", "a=b"], "--curves: given without --report; expected both"),
        (["--tests", "t"], "--tests: given without --baseline; expected both"),
        (["--alpha", "0"], "--alpha: given without --baseline; expected both"),
        (["--alpha", "0", "--baseline", "good"], "alpha: 0.0; expected a number betw"),
    ],
)
def test_flags_that_nothing_would_read(runs, tiny_collection, capsys, flags, message):
    words = ["evaluate", "--qrels", f"{tiny_collection}:test", "--runs", *runs]
    assert main([*words, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_run_for_other_queries(runs, tiny_collection, capsys):
    words = ["evaluate", "--qrels", f"{tiny_collection}:train", "--runs", runs[0]]
    assert main(words) == 2
    assert "a run for other queries" in capsys.readouterr().err


def test_a_baseline_is_proposed(runs, tiny_collection, capsys):
    shutil.copy(runs[0], tiny_collection / "copy.trec")
    words = ["evaluate", "--qrels", f"{tiny_collection}:test", "--runs", *runs]
    assert main(words) == 0
    assert "--baseline good would test" in capsys.readouterr().err
