"""An evaluation as a table: for a terminal, Markdown, LaTeX, CSV."""

import csv
import os
from collections.abc import Callable

from jaxir.evaluate import Comparison, Evaluation
from jaxir.files import atomic_file

__all__ = [
    "best_systems",
    "coverage_notes",
    "explain_marks",
    "format_p",
    "format_table",
    "latex_table",
    "markdown_table",
    "significance_marks",
    "write_per_query",
]

_LETTERS = {"t": "ᵗ", "wilcoxon": "ʷ", "permutation": "ᵖ"}
_TEST_NAMES = {"t": "t", "wilcoxon": "Wilcoxon", "permutation": "permutation"}


def significance_marks(evaluation: Evaluation, found: Comparison | None) -> str:
    """``†`` where all tests made agree on a difference, else the letters of some."""
    if found is None or not found.significant:
        return ""
    if len(found.significant) == len(evaluation.tests):
        return "†"
    return "".join(_LETTERS[test] for test in found.significant)


def explain_marks(evaluation: Evaluation) -> str:
    """One sentence: what :func:`significance_marks` means, or that there are none."""
    if evaluation.baseline is None or not evaluation.tests:
        return ""
    names = [_TEST_NAMES[test] for test in evaluation.tests]
    listed = ", ".join(names[:-1]) + " and " + names[-1] if names[1:] else names[0]
    corrected = {"none": "uncorrected"}.get(
        evaluation.correction, f"{evaluation.correction.capitalize()}-corrected"
    )
    by = (
        f"from {evaluation.baseline} by the paired {listed} "
        f"test{'s' if names[1:] else ''} ({corrected} p < {evaluation.alpha:g})"
    )
    if not any(found.significant for found in evaluation.comparisons):
        return f"Nothing differs {by}."
    text = f"† differs {by}"
    if any(0 < len(c.significant) < len(names) for c in evaluation.comparisons):
        letters = ", ".join(f"{_LETTERS[t]} {_TEST_NAMES[t]}" for t in evaluation.tests)
        text += f"; {letters} where only these tests do"
    return text + "."


def coverage_notes(evaluation: Evaluation) -> list[str]:
    """A sentence for each run whose queries are not just the judged ones."""
    notes = []
    for system, cover in evaluation.coverage.items():
        if cover.missing:
            notes.append(
                f"{system}: {cover.missing} of {cover.judged} judged queries have no "
                "result and count as 0."
            )
        if cover.ignored:
            notes.append(f"{system}: {cover.ignored} unjudged queries do not count.")
    return notes


def best_systems(evaluation: Evaluation, metric: str) -> set[str]:
    """The systems with the highest mean, several where they are equal."""
    means = {system: evaluation.mean(system, metric) for system in evaluation.systems}
    top = max(means.values())
    return {system for system, mean in means.items() if top - mean < 5e-5}


def _rows(
    evaluation: Evaluation, cell: Callable[[str, str], str]
) -> tuple[list[str], list[list[str]]]:
    head = ["system", *evaluation.metrics]
    body = [
        [system, *(cell(system, metric) for metric in evaluation.metrics)]
        for system in evaluation.systems
    ]
    return head, body


def format_table(evaluation: Evaluation) -> str:
    """The table for a terminal: means with marks and intervals, then the tests.

    Example::

      >>> from jaxir.evaluate import evaluate
      >>> qrels = {"q1": {"a": 1}, "q2": {"a": 1}}
      >>> run = {"q1": {"a": 1.0}, "q2": {"a": 1.0}}
      >>> print(format_table(evaluate(qrels, {"mine": run}, metrics=["RR@10"])))
      system  RR@10
      mine    1.0000   [1.000, 1.000]
      <BLANKLINE>
      2 queries; 95% bootstrap intervals in brackets.
    """

    def cell(system: str, metric: str) -> str:
        marks = significance_marks(evaluation, evaluation.comparison(system, metric))
        low, high = evaluation.interval(system, metric)
        mean = f"{evaluation.mean(system, metric):.4f}{marks}"
        return f"{mean:<8} [{low:.3f}, {high:.3f}]"

    head, body = _rows(evaluation, cell)
    lines = _aligned([head, *body])
    notes = [
        f"{len(evaluation.query_ids)} queries; {evaluation.confidence:.0%} bootstrap "
        "intervals in brackets."
    ]
    notes += coverage_notes(evaluation)
    if evaluation.comparisons:
        notes += [explain_marks(evaluation), "", *_comparison_lines(evaluation)]
    return "\n".join([*lines, "", *notes])


def _comparison_lines(evaluation: Evaluation) -> list[str]:
    rows = [
        [f"against {evaluation.baseline}", "metric", "difference", "interval", "effect",
         "better/equal/worse", *(f"p {test}" for test in evaluation.tests)]
    ]  # fmt: skip
    for found in evaluation.comparisons:
        low, high = found.interval
        rows.append(
            [found.system, found.metric, f"{found.difference:+.4f}",
             f"[{low:+.3f}, {high:+.3f}]", f"{found.effect_size:+.2f}",
             "/".join(map(str, found.counts)),
             *(format_p(found.corrected[test]) for test in evaluation.tests)]
        )  # fmt: skip
    return _aligned(rows)


def format_p(p_value: float) -> str:
    """A p value with as many digits as mean something: ``0.031``, ``<0.001``."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def markdown_table(evaluation: Evaluation) -> str:
    """The table for a README: best means in bold.

    Example::

      >>> from jaxir.evaluate import evaluate
      >>> run = {"q": {"a": 1.0}}
      >>> print(markdown_table(evaluate({"q": {"a": 1}}, {"m": run}, metrics=["AP"])))
      | system | AP |
      |---|---|
      | m | **1.0000** |
    """

    def cell(system: str, metric: str) -> str:
        marks = significance_marks(evaluation, evaluation.comparison(system, metric))
        text = f"{evaluation.mean(system, metric):.4f}"
        best = system in best_systems(evaluation, metric)
        return (f"**{text}**" if best else text) + marks

    head, body = _rows(evaluation, cell)
    for row in body:
        row[0] = row[0].replace("|", "\\|")
    lines = ["| " + " | ".join(row) + " |" for row in [head, *body]]
    lines.insert(1, "|" + "---|" * len(head))
    note = explain_marks(evaluation) if evaluation.comparisons else ""
    return "\n".join(lines) + (f"\n\n{note}" if note else "")


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "†": r"$^{\dagger}$", "ᵗ": r"$^{t}$", "ʷ": r"$^{w}$",
    "ᵖ": r"$^{p}$", "<": "$<$", ">": "$>$",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex_table(evaluation: Evaluation) -> str:
    r"""The table for a paper, with booktabs rules and best means in bold.

    Example::

      >>> from jaxir.evaluate import evaluate
      >>> run = {"q": {"a": 1.0}}
      >>> print(latex_table(evaluate({"q": {"a": 1}}, {"a_b": run}, metrics=["AP"])))
      \begin{tabular}{lr}
      \toprule
      system & AP \\
      \midrule
      a\_b & \textbf{1.0000} \\
      \bottomrule
      \end{tabular}
    """

    def cell(system: str, metric: str) -> str:
        marks = significance_marks(evaluation, evaluation.comparison(system, metric))
        text = f"{evaluation.mean(system, metric):.4f}"
        if system in best_systems(evaluation, metric):
            text = rf"\textbf{{{text}}}"
        return text + _latex(marks)

    head, body = _rows(evaluation, cell)
    lines = [r"\begin{tabular}{l" + "r" * len(evaluation.metrics) + "}", r"\toprule"]
    lines += [" & ".join(map(_latex, head)) + r" \\", r"\midrule"]
    lines += [" & ".join([_latex(row[0]), *row[1:]]) + r" \\" for row in body]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if evaluation.comparisons:
        lines.append("% " + explain_marks(evaluation))
    return "\n".join(lines)


def write_per_query(evaluation: Evaluation, path: str | os.PathLike) -> None:
    """Writes every value as CSV: ``query_id,metric,system,value``.

    Args:
      evaluation: whose values.
      path: the file; ``.gz`` is compressed.
    """
    with atomic_file(path) as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["query_id", "metric", "system", "value"])
        for q, query_id in enumerate(evaluation.query_ids):
            for m, metric in enumerate(evaluation.metrics):
                for s, system in enumerate(evaluation.systems):
                    value = float(evaluation.values[s, m, q])
                    writer.writerow([query_id, metric, system, f"{value:.6g}"])
