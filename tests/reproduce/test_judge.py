"""What was found is compared as the conditions say."""

import pytest
from small_books import make_book

from jaxir.errors import InputError
from jaxir.reproduce.judge import findings, flattened

EVALUATED = {
    "baseline": "old",
    "systems": [
        {
            "name": "new",
            "results": {
                "AP": {
                    "mean": 0.6, "difference": 0.2, "wins": 3, "ties": 2, "losses": 1,
                },
            },
        },
        {"name": "old", "results": {"AP": {"mean": 0.4}}},
    ],
}  # fmt: skip


def condition(tmp_path, body, measures=""):
    text = f"{measures}\n[steps.a]\nrun = 'jaxir x'\n[conditions.c]\nsection = 'S'\n"
    return make_book(tmp_path, f"{text}read = 'a'\n{body}").conditions["c"]


def verdicts(condition, *records):
    return [item.verdict for item in findings(condition, {"a": records})]


def test_an_evaluation_is_flattened():
    assert flattened(EVALUATED) == pytest.approx(
        {
            "AP": 0.6, "AP difference": 0.2, "AP baseline": 0.4, "AP share": 1.5,
            "AP better": 3, "AP equal": 2, "AP worse": 1,
        }
    )  # fmt: skip
    assert flattened(EVALUATED, "old") == {"AP": 0.4}
    with pytest.raises(InputError, match="no such system was evaluated; expected new"):
        flattened(EVALUATED, "other")


def test_other_results_are_numbers_as_they_are():
    record = {"docs": 8, "docs_scored": 2, "kind": "x", "ok": True, "none": None}
    assert flattened(record) == {"docs": 8, "docs_scored": 2, "share_scored": 0.25}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (0.5, "OK"), (0.5104, "OK"), (0.4896, "OK"), (0.512, "deviates"),
        (0.488, "deviates"), (float("nan"), "deviates"),
    ],
)  # fmt: skip
def test_tolerance_and_half_a_digit(tmp_path, found, verdict):
    own = condition(tmp_path, "tolerance = 0.01\nexpect = { x = '.500' }")
    assert verdicts(own, {"x": found}) == [verdict]


@pytest.mark.parametrize(
    ("expected", "found", "verdict"),
    [
        ("+.0120", 0.0061, "OK"), ("+.0120", 0.0059, "deviates"),
        ("+.0120", 0.0, "deviates"), ("-.0080", -0.0035, "deviates"),
        ("+.0030", -0.0069, "OK"), ("+.1730", 0.1640, "OK"),
        ("+.1730", 0.1620, "deviates"),
    ],
)  # fmt: skip
def test_a_difference_does_not_vanish_within_the_tolerance(
    tmp_path, expected, found, verdict
):
    body = f"tolerance = 0.01\nexpect = {{ 'AP difference' = '{expected}' }}"
    assert verdicts(condition(tmp_path, body), {"AP difference": found}) == [verdict]


def test_shares_and_what_is_better(tmp_path):
    measures = (
        "[measures.ratio]\ntolerance = '25 %'\nbetter = 'more'\n"
        "[measures.peak]\ntolerance = '10 %'\nbetter = 'less'\n"
        "[measures.s]\njudged = false\n"
    )
    own = condition(
        tmp_path,
        "expect = { ratio = '2.00', peak = '100 MB', s = '1.0' }",
        measures,
    )
    assert verdicts(own, {"ratio": 9.0, "peak": 1e6, "s": 50.0}) == ["OK", "OK", "-"]
    told = findings(own, {"a": [{"ratio": 9.0, "peak": 1e6, "s": 50.0}]})
    assert [item.tolerance for item in told] == ["25 %", "10 %", ""]
    assert verdicts(own, {"ratio": 1.51, "peak": 1.1e8, "s": 1}) == ["OK", "OK", "-"]
    found = verdicts(own, {"ratio": 1.4, "peak": 1.2e8, "s": 1})
    assert found == ["deviates", "deviates", "-"]


def test_cases_of_a_benchmark(tmp_path):
    own = condition(
        tmp_path,
        "case = ['k=1', 'k=10']\npeer = 'p'\ntolerance = 0.1\n"
        "expect = { x = '1.0; 2.0', y = '3.0' }",
    )
    records = [
        {"case": "k=1", "peer": "p", "x": 1.0, "y": 2.0},
        {"case": "k=1", "peer": "q", "x": 7.0, "y": 7.0},
        {"case": "k=10: 12 of 13", "peer": "p", "x": 2.3, "y": 4.0},
    ]
    found = findings(own, {"a": records})
    assert [item.values for item in found] == [(1.0, 1.0), (2.0, 2.3), (3.0, 3.0)]
    assert [item.verdict for item in found] == ["OK", "deviates", "OK"]
    assert [item.difference for item in found] == ["0.0", "+0.3", "0.0"]
    with pytest.raises(InputError, match="k=10: 0 such cases were measured"):
        findings(own, {"a": records[:2]})


def test_several_steps_and_a_missing_measure(tmp_path):
    own = condition(tmp_path, "tolerance = 1\nexpect = { 'AP' = '.6', docs = '3' }")
    assert verdicts(own, EVALUATED, {"docs": 3}) == ["OK", "OK"]
    with pytest.raises(InputError, match="docs: was not measured; expected AP, AP di"):
        findings(own, {"a": [EVALUATED]})
