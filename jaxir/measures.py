"""Metrics by any of their names, computed by one set of rules.

The numbers are ir-measures' (trec_eval's own code through pytrec-eval).  Added here:

* a judged query that a run lacks counts as 0, as under ``trec_eval -c``; so does a
  judged query without any relevant document;
* documents are ordered by falling score in single precision, and equal scores by
  falling document id, as trec_eval does.  ir-measures alone leaves the order of ties
  to whichever program computes a metric, so that ``RR`` and ``RR@10`` of one run may
  disagree;
* interpolated precision (``IPrec``) rounds its recall levels as trec_eval now does;
* what gdeval computes (``ERR``, ``nDCG`` of ``dcg='exp-log2'``) takes ids of any form.
"""

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxir.errors import InputError, refuse_one

__all__ = [
    "DEFAULT_METRICS",
    "judged_part",
    "make_measure",
    "parse_metrics",
    "recall_by_depth",
]

DEFAULT_METRICS = ("nDCG@10", "RR@10", "R@1000")
"""What is measured when nothing is asked for: the headlines of BEIR and MS MARCO."""

# Spellings of sentence-transformers, ranx and BEIR -> ir-measures.
_ALIASES = {
    "ndcg": "nDCG", "mrr": "RR", "rr": "RR", "map": "AP", "ap": "AP", "recall": "R",
    "r": "R", "precision": "P", "p": "P", "success": "Success", "hit": "Success",
    "hits": "Success", "hit_rate": "Success", "judged": "Judged",
}  # fmt: skip

# What the parsers of ir-measures raise at spellings they do not know.
_PARSER_ERRORS = (
    AssertionError, AttributeError, IndexError, KeyError, NameError, SyntaxError,
    TypeError, ValueError,
)  # fmt: skip


def parse_metrics(metrics: Sequence[str]) -> list[Any]:
    """Metrics by any of their usual names, as ir-measures' objects, each once.

    Raises:
      InputError: a name that nobody knows, a cutoff that is missing or below 1, or one
        name for the list of them.

    Example::

      >>> names = ["ndcg_cut.10", "mrr@10", "nDCG@10", "P.5,10"]
      >>> [str(measure) for measure in parse_metrics(names)]
      ['nDCG@10', 'RR@10', 'P@5', 'P@10']
    """
    refuse_one("metrics", metrics, "name")
    if not metrics:
        raise InputError("metrics", "none", "at least one, such as nDCG@10")
    return list(dict.fromkeys(m for name in metrics for m in _parse_metric(name)))


def _parse_metric(name: str) -> list[Any]:
    import ir_measures

    base, at, cutoff = name.partition("@")
    respelled = _ALIASES.get(base.lower(), base) + at + cutoff
    for parse, spelling in (
        (ir_measures.parse_measure, name),
        # before the aliases: trec_eval's "map" and "P.5" are not ir-measures' AP, P
        (ir_measures.parse_trec_measure, name),
        (ir_measures.parse_measure, respelled),
    ):
        try:
            parsed = parse(spelling)
            found = list(parsed) if isinstance(parsed, list) else [parsed]
            for measure in found:
                str(measure)  # names an unknown parameter by failing
        except _PARSER_ERRORS:
            continue
        if found:
            for measure in found:
                _check_cutoff(name, measure)
            return found
    raise InputError(
        "metrics", f"unknown metric {name!r}",
        "names such as nDCG@10, RR@10, R@1000, AP, P@5, Success@1, Judged@10, "
        "RR(rel=2)@10, or trec_eval's ndcg_cut.10, map, recip_rank",
    )  # fmt: skip


def _check_cutoff(name: str, measure: Any) -> None:
    """A cutoff below 1 ends the whole process inside trec_eval, hence the check."""
    supported = measure.SUPPORTED_PARAMS.get("cutoff")
    if supported is None:
        return
    cutoff = measure.params.get("cutoff")
    if cutoff is None and not supported.required:
        return
    if type(cutoff) is not int or cutoff < 1:
        raise InputError(
            "metrics", f"{name!r} has {'no' if cutoff is None else 'a bad'} cutoff",
            f"a depth of at least 1, as in {measure.NAME}@10",
        )  # fmt: skip


def make_measure(
    measures: Sequence[Any], qrels: Mapping[str, Mapping[str, int]]
) -> Any:
    """A function of a judged run that yields ``(query_id, measure, value)``.

    Args:
      measures: from :func:`parse_metrics`.
      qrels: relevance by query and document.

    Raises:
      InputError: a metric that cannot be computed on this machine or on these ids; also
        raised by the function returned.
    """
    import ir_measures

    def unable(error: Exception) -> InputError:
        first = str(error).strip().splitlines()[0]
        remedy = "choose another metric, or install what computes this one"
        return InputError("metrics", f"cannot be computed here ({first})", "", remedy)

    plain = {query_id: dict(judged) for query_id, judged in qrels.items()}
    ours = [m for m in measures if m.NAME == "IPrec" and not m["judged_only"]]
    gdevals = [m for m in measures if m.NAME == "ERR" or _is_exponential(m)]
    theirs = [m for m in measures if m not in ours and m not in gdevals]
    query_ids = list(plain)
    numbers = {query_id: str(i) for i, query_id in enumerate(query_ids)}
    docs: dict[str, int] = {}

    def numbered(table: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Numbers for ids: gdeval cuts them at spaces, and queries' at hyphens."""
        return {
            numbers[query_id]: {
                str(docs.setdefault(doc_id, len(docs))): value
                for doc_id, value in row.items()
            }
            for query_id, row in table.items()
        }

    try:
        evaluator = ir_measures.evaluator(theirs, plain) if theirs else None
        gdeval = ir_measures.evaluator(gdevals, numbered(plain)) if gdevals else None
    except (ValueError, RuntimeError, AssertionError) as error:
        raise unable(error) from error

    def measure(run: dict[str, dict[str, float]]) -> list[Any]:
        try:
            found = list(evaluator.iter_calc(run)) if evaluator else []
            for by_number in gdeval.iter_calc(numbered(run)) if gdeval else []:
                query_id = query_ids[int(by_number.query_id)]
                found.append(by_number._replace(query_id=query_id))
        except (
            ArithmeticError, AssertionError, RuntimeError, ValueError,
            subprocess.SubprocessError,
        ) as error:  # fmt: skip
            raise unable(error) from error
        for own in ours:
            for query_id, scored in run.items():
                value = _interpolated_precision(own, plain[query_id], scored)
                found.append(ir_measures.Metric(query_id, own, value))
        return found

    return measure


def _is_exponential(measure: Any) -> bool:
    return measure.NAME == "nDCG" and measure["dcg"] == "exp-log2"


def _interpolated_precision(
    measure: Any, judged: Mapping[str, int], scored: Mapping[str, float]
) -> float:
    """The best precision at or below the rank where a recall level is reached.

    trec_eval now rounds the number of relevant documents to find to the nearest;
    pytrec-eval carries 9.0.8, which rounded it up, and differs in the third decimal.
    """
    relevant = {doc_id for doc_id, label in judged.items() if label >= measure["rel"]}
    hits = np.cumsum([doc_id in relevant for doc_id in _ranked(scored)])
    enough = hits >= int(measure["recall"] * len(relevant) + 0.5)
    precision = hits / np.arange(1, len(hits) + 1)
    return float(precision[enough].max()) if relevant and enough.any() else 0.0


def _ranked(scored: Mapping[str, float]) -> list[str]:
    """Documents by falling score, of which :func:`judged_part` left no two equal."""
    return sorted(scored, key=scored.__getitem__, reverse=True)


def judged_part(
    name: str, run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, object]
) -> dict[str, dict[str, float]]:
    """The judged queries of a run, ties resolved, so that every metric sees one order.

    Raises:
      InputError: a score is NaN, or no query of the run is judged.
    """
    kept = {}
    for query_id, scored in run.items():
        if query_id in qrels and scored:
            kept[query_id] = _without_ties(name, query_id, scored)
    if not kept:
        examples = f"{next(iter(run), '(no query)')!r} and {next(iter(qrels))!r}"
        raise InputError(
            f"run {name}",
            f"a run for other queries: none of its {len(run)} is judged ({examples})",
            "the query ids of the judgments", "give the judgments of this run's split",
        )  # fmt: skip
    return kept


def _without_ties(
    name: str, query_id: str, scored: Mapping[str, float]
) -> dict[str, float]:
    scores = np.fromiter(scored.values(), np.float64, len(scored))
    if np.isnan(scores).any():
        doc_id = list(scored)[int(np.isnan(scores).argmax())]
        raise InputError(
            f"run {name}", f"NaN as the score of {doc_id!r} for query {query_id!r}",
            "a number", "score the run again",
        )  # fmt: skip
    with np.errstate(over="ignore"):
        single = scores.astype(np.float32)
    if len(np.unique(single)) == len(single):
        return dict(zip(scored, scores.tolist(), strict=True))
    by_id = sorted(scored, reverse=True)
    row = {doc_id: i for i, doc_id in enumerate(scored)}
    falling = np.argsort(-single[[row[doc_id] for doc_id in by_id]], kind="stable")
    return {by_id[j]: float(len(by_id) - rank) for rank, j in enumerate(falling)}


def recall_by_depth(
    qrels: Mapping[str, Mapping[str, int]],
    run: Mapping[str, Mapping[str, float]],
    depths: Sequence[int],
) -> np.ndarray:
    """Mean recall of a run at each depth, by the same rules as ``R@k``.

    Returns:
      ``[depths]`` float64.

    Example::

      >>> recall_by_depth({"q": {"a": 1, "b": 1}}, {"q": {"a": 2.0, "c": 1.0}}, [1, 9])
      array([0.5, 0.5])
    """
    total = np.zeros(len(depths))
    for query_id, judged in qrels.items():
        relevant = {doc_id for doc_id, label in judged.items() if label > 0}
        scored = run.get(query_id)
        if not relevant or not scored:
            continue
        ranked = _ranked(_without_ties("", query_id, scored))
        hits = np.cumsum([doc_id in relevant for doc_id in ranked])
        cut = np.minimum(np.asarray(depths), len(ranked)) - 1
        total += hits[cut] / len(relevant)
    return total / max(1, len(qrels))
