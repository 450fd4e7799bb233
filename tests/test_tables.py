"""Tables: marks, alignment, escaping, CSV."""

import csv

import pytest

from jaxir import tables
from jaxir.evaluate import Comparison, evaluate

QRELS = {f"q{i}": {"a": 1} for i in range(12)}
FIRST = {q: {"a": 2.0, "b": 1.0} for q in QRELS}
SECOND = {q: {"a": 1.0, "b": 2.0} for q in QRELS}


@pytest.fixture(scope="module")
def evaluation():
    runs = {"first": FIRST, "se_cond|": SECOND, "copy": FIRST}
    return evaluate(QRELS, runs, metrics=["RR@10", "R@10"], baseline="first")


def test_marks(evaluation):
    found = evaluation.comparison("se_cond|", "RR@10")
    assert tables.significance_marks(evaluation, found) == "†"
    assert tables.significance_marks(evaluation, None) == ""
    equal = evaluation.comparison("copy", "RR@10")
    assert tables.significance_marks(evaluation, equal) == ""
    some = Comparison(**{**vars(found), "significant": ("t", "permutation")})
    assert tables.significance_marks(evaluation, some) == "ᵗᵖ"


def test_explanation_names_what_was_done(evaluation):
    text = tables.explain_marks(evaluation)
    assert "first by the paired t, Wilcoxon and permutation tests" in text
    assert "(Holm-corrected p < 0.05)" in text
    plain = evaluate(
        QRELS, {"a": FIRST, "b": SECOND}, metrics=["RR"], baseline="a", tests=["t"],
        correction="none", alpha=0.01,
    )  # fmt: skip
    assert tables.explain_marks(plain) == (
        "† differs from a by the paired t test (uncorrected p < 0.01)."
    )
    assert tables.explain_marks(evaluate(QRELS, {"a": FIRST})) == ""
    same = evaluate(QRELS, {"a": FIRST, "b": FIRST}, metrics=["RR"], baseline="a")
    assert tables.explain_marks(same).startswith("Nothing differs from a by the paired")


def test_terminal_table_is_aligned(evaluation):
    lines = tables.format_table(evaluation).splitlines()
    assert lines[0].index("RR@10") == lines[1].index("1.0000")
    assert lines[2].index("0.5000†") == lines[1].index("1.0000")
    assert any(line.startswith("against first") for line in lines)
    assert "0/0/12" in tables.format_table(evaluation)


def test_missing_queries_are_said():
    run = {q: scored for q, scored in FIRST.items() if q != "q3"} | {"z": {"a": 1.0}}
    text = tables.format_table(evaluate(QRELS, {"part": run}, metrics=["RR"]))
    assert "part: 1 of 12 judged queries have no result and count as 0." in text
    assert "part: 1 unjudged queries do not count." in text


def test_markdown_and_latex_escape(evaluation):
    markdown = tables.markdown_table(evaluation)
    assert "| se_cond\\| | 0.5000† | **1.0000** |" in markdown
    latex = tables.latex_table(evaluation)
    assert r"se\_cond| & 0.5000$^{\dagger}$ & \textbf{1.0000} \\" in latex


def test_equal_systems_are_both_best(evaluation):
    assert tables.best_systems(evaluation, "RR@10") == {"first", "copy"}


def test_per_query_file_holds_every_value(evaluation, tmp_path):
    tables.write_per_query(evaluation, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12 * 2 * 3
    assert rows[1] == {
        "query_id": "q0", "metric": "RR@10", "system": "se_cond|", "value": "0.5",
    }  # fmt: skip


def test_p_values():
    assert tables.format_p(0.0004) == "<0.001"
    assert tables.format_p(0.0314) == "0.031"
