"""What was found beside what was expected."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxir.errors import InputError
from jaxir.reproduce.book import Condition, Measure
from jaxir.reproduce.numbers import Number

__all__ = ["Finding", "allowance", "findings", "flattened"]


class Finding(NamedTuple):
    """One number of a condition.

    Attributes:
      condition: whose.
      measure: its name, with the case where there are several.
      expected: the number as docs/results.md has it.
      found: what was found, in the same form.
      difference: found less expected, in the same form.
      tolerance: how far off is well, in the same form or as a share; nothing for what
        is not compared.
      verdict: ``OK``, ``deviates``, or ``-`` for what is not compared.
      values: expected and found as numbers.
    """

    condition: str
    measure: str
    expected: str
    found: str
    difference: str
    tolerance: str
    verdict: str
    values: tuple[float, float]


def flattened(record: Mapping[str, Any], system: str = "") -> dict[str, float]:
    """The numbers that a step printed, by the names of measures.

    Of ``jaxir evaluate --json``, the means of a system (the first if none is named),
    and against the baseline ``METRIC difference``, ``share``, ``better``, ``equal``,
    ``worse`` and ``baseline``; of anything else, its numbers as they are.

    Args:
      record: one JSON object.
      system: of an evaluation, which.

    Raises:
      InputError: no such system.

    Example::

      >>> flattened({"docs": 12, "docs_scored": 3.0, "index": "i"})
      {'docs': 12.0, 'docs_scored': 3.0, 'share_scored': 0.25}
    """
    if "systems" not in record:
        found = {
            name: float(value) for name, value in record.items() if _is_number(value)
        }
        if {"docs", "docs_scored"} <= found.keys() and "share_scored" not in found:
            found["share_scored"] = found["docs_scored"] / found["docs"]
        return found
    systems = {entry["name"]: entry["results"] for entry in record["systems"]}
    name = system or next(iter(systems))
    if name not in systems:
        raise InputError(name, "no such system was evaluated", ", ".join(systems))
    base = systems.get(record.get("baseline") or "", {})
    flat = {}
    for metric, result in systems[name].items():
        flat[metric] = result["mean"]
        if "difference" in result:
            flat[f"{metric} difference"] = result["difference"]
            flat[f"{metric} baseline"] = base[metric]["mean"]
            flat[f"{metric} share"] = result["mean"] / base[metric]["mean"]
            for word, count in (
                ("better", "wins"),
                ("equal", "ties"),
                ("worse", "losses"),
            ):
                flat[f"{metric} {word}"] = float(result[count])
    return flat


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _case(records: Sequence[Mapping], case: str, peer: str) -> Mapping[str, Any]:
    """The record of a benchmark's case: of that name, or the one that begins so."""
    own = [r for r in records if not peer or r.get("peer") == peer]
    exact = [r for r in own if r.get("case") == case]
    chosen = exact or [r for r in own if str(r.get("case", "")).startswith(case)]
    if len(chosen) != 1:
        known = "; ".join(str(r.get("case")) for r in own)
        raise InputError(case, f"{len(chosen)} such cases were measured", known)
    return chosen[0]


def findings(
    condition: Condition, printed: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Finding]:
    """Compares what the steps of a condition printed with what is expected.

    Args:
      condition: which.
      printed: JSON objects by the name of the step.

    Raises:
      InputError: a case or a measure that no step has printed.
    """
    records = [record for name in condition.read for record in printed[name]]
    found: list[dict[str, float]]
    if any("systems" in record for record in records) or not condition.cases:
        system = condition.cases[0] if condition.cases else ""
        flat: dict[str, float] = {}
        for record in records:
            flat |= flattened(record, system)
        found = [flat]
    else:
        found = [
            flattened(_case(records, case, condition.peer)) for case in condition.cases
        ]
    results = []
    for expected in condition.expected:
        whats = list(zip(expected.whats, expected.measures, strict=True))
        named = [
            (what, m, _value(values, what)) for values in found for what, m in whats
        ]
        if len(expected.numbers) == 1 and len(named) > 1:  # one number for all cases
            mean = sum(value for *_, value in named) / len(named)
            named = [(*named[0][:2], mean)]
        for number, (what, measure, value) in zip(expected.numbers, named, strict=True):
            results.append(_finding(condition.name, what, measure, number, value))
    return results


def _value(values: Mapping[str, float], what: str) -> float:
    if what not in values:
        raise InputError(what, "was not measured", ", ".join(values) or "a number")
    return values[what]


def _finding(
    condition: str, what: str, measure: Measure, number: Number, value: float
) -> Finding:
    difference = value - number.value
    verdict, tolerance = "-", ""
    if measure.judged:
        allowed, tolerance = allowance(what, measure, number)
        # not so for a value that is not a number; half a unit of the last digit is none
        near = abs(difference) <= allowed + 0.5001 * number.step
        well = {"more": difference > 0, "less": difference < 0}.get(measure.better)
        verdict = "OK" if near or well else "deviates"
    return Finding(
        condition, what, number.write(number.value), number.write(value),
        number.write(difference, sign=True), tolerance, verdict, (number.value, value),
    )  # fmt: skip


def allowance(what: str, measure: Measure, number: Number) -> tuple[float, str]:
    """How far off is well, as a number and as it is told.

    A difference of systems that is above half the tolerance may at most halve: else it
    could vanish within it, and with it what the row is there to show.

    Args:
      what: the measure's name.
      measure: how it is compared.
      number: what is expected.

    Example::

      >>> from jaxir.reproduce.numbers import numbers_in
      >>> measure = Measure(tolerance=0.01)
      >>> allowance("AP", measure, numbers_in(".286")[0])
      (0.01, '.01')
      >>> allowance("AP difference", measure, numbers_in("+.012")[0])
      (0.006, '.006')
    """
    tolerance = measure.tolerance or 0.0
    if isinstance(tolerance, str):
        return float(tolerance.rstrip(" %")) / 100 * abs(number.value), tolerance
    half = abs(number.value) / 2
    if what.endswith(" difference") and half > tolerance / 4:
        tolerance = min(tolerance, half)
    text = f"{tolerance / number.scale:g} {number.unit}".rstrip()
    return float(tolerance), text if number.zero else text.removeprefix("0")
