"""An evaluation as one HTML page: tables, plots and queries, nothing to load.

The page carries its style and its plots (inline SVG) within itself and no script; it
follows the reader's light or dark setting and prints.  Equal input gives equal bytes.
"""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata

import numpy as np

from jaxir.errors import InputError
from jaxir.evaluate import Evaluation
from jaxir.files import atomic_file, open_text
from jaxir.measures import recall_by_depth
from jaxir.plots import color_classes, difference_plot, dot_plot, dumbbell, line_plot
from jaxir.style import STYLE, section, signed, swatch
from jaxir.tables import (
    best_systems,
    coverage_notes,
    explain_marks,
    format_p,
    significance_marks,
)

__all__ = ["read_curves", "versions", "write_report"]

_PACKAGES = ("jaxir", "jax", "flax", "numpy", "scipy", "ir-measures", "bm25s")
_QUERIES_SHOWN = 5
_PANELS = 6

Curves = dict[str, tuple[list[float], list[float]]]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_curves(path: str | os.PathLike) -> Curves:
    """Curves of a training run from its ``metrics.jsonl``.

    Each line is an object with ``step`` and numbers by name; other values are skipped.

    Returns:
      For each name, its steps and values.

    Raises:
      InputError: a line is not such an object.
    """
    curves: Curves = {}
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                step = float(record["step"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}:{number}", f"{line.strip()[:40]!r}",
                    'an object with a number "step"', "give a metrics.jsonl",
                ) from error  # fmt: skip
            kind = record.get("kind", "train")
            prefix = "" if kind == "train" else f"{kind} "
            for name, value in record.items():
                number_like = isinstance(value, int | float)
                if name == "step" or not number_like or not math.isfinite(value):
                    continue
                steps, values = curves.setdefault(prefix + name, ([], []))
                steps.append(step)
                values.append(float(value))
    return curves


def write_report(
    evaluation: Evaluation,
    path: str | os.PathLike,
    *,
    title: str = "Retrieval report",
    qrels: Mapping[str, Mapping[str, int]] | None = None,
    runs: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    queries: Mapping[str, str] | None = None,
    training_curves: Mapping[str, str | os.PathLike] | None = None,
    commands: Sequence[str] = (),
    details: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Writes the report of an evaluation as one self-contained HTML file.

    Args:
      evaluation: what :func:`jaxir.evaluate.evaluate` returned.
      path: the file to write.
      title: heading of the page.
      qrels: the judgments, for recall by depth (needs ``runs`` as well).
      runs: the runs, by the names of the evaluation.
      queries: texts by query id, for the queries most helped and hurt.
      training_curves: a ``metrics.jsonl`` for each trained model's name.
      commands: command lines that made the numbers.
      details: facts to print below, such as the collection and its size.
      environment: versions to print; :func:`versions` of this process by default.

    Raises:
      InputError: a training curve cannot be read or the file cannot be written.
    """
    colors = color_classes(evaluation.systems, evaluation.baseline)
    sections = [_headline_table(evaluation, colors), _dots(evaluation, colors)]
    if evaluation.comparisons:
        sections.append(_differences(evaluation, colors))
    if qrels is not None and runs is not None:
        sections.append(_recall(evaluation, qrels, runs, colors))
    if training_curves:
        sections.append(_training(training_curves, colors))
    if evaluation.comparisons:
        sections.append(_queries(evaluation, colors, queries or {}))
        sections.append(_tests_in_full(evaluation))
    shown = versions() if environment is None else environment
    sections.append(_provenance(evaluation, details or {}, shown, commands))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<header>\n<h1>{escape(title)}</h1>\n"
        f"{_summary(evaluation)}</header>\n" + "\n".join(sections) + "\n</main>\n"
        "</body>\n</html>\n"
    )
    with atomic_file(path) as out:
        out.write(page)


def _summary(evaluation: Evaluation) -> str:
    """The finding in a sentence: who leads, by how much, and whether it is luck."""
    metric = evaluation.metrics[0]
    lead = max(evaluation.systems, key=lambda name: evaluation.mean(name, metric))
    alone = len(evaluation.systems) == 1
    first = lead == evaluation.baseline and not alone
    parts = [
        ("The baseline " if first else "") + f"<strong>{escape(lead)}</strong> "
        f"{'has' if alone else 'leads with'} {escape(metric)} "
        f"<strong>{evaluation.mean(lead, metric):.3f}</strong>"
    ]
    found = evaluation.comparison(lead, metric)
    if found is not None:
        low, high = found.interval
        agree = len(found.significant) == len(evaluation.tests)
        verdict = (
            "a difference every test made calls significant" if agree
            else "a difference not every test made calls significant" if
            found.significant else "a difference no test made calls significant"
        )  # fmt: skip
        parts.append(
            f", {signed(found.difference)} over {escape(str(evaluation.baseline))}"
            f" ({evaluation.confidence:.0%} interval {signed(low)} to "
            f"{signed(high)}), {verdict}"
        )
    elif first:
        parts.append("; no other system exceeds it")
    facts = f"{len(evaluation.query_ids):,} queries · {len(evaluation.systems)} "
    facts += "system" if alone else "systems"
    if evaluation.baseline is not None:
        facts += f" · baseline {escape(evaluation.baseline)}"
    return f'<p class="lead">{"".join(parts)}.</p>\n<p class="facts">{facts}</p>\n'


def _headline_table(evaluation: Evaluation, colors: Mapping[str, str]) -> str:
    best = {metric: best_systems(evaluation, metric) for metric in evaluation.metrics}
    head = "".join(
        f'<th scope="col">{escape(metric)}</th>' for metric in evaluation.metrics
    )
    rows = []
    for system in evaluation.systems:
        cells = [f'<th scope="row">{swatch(colors[system])}{escape(system)}</th>']
        for metric in evaluation.metrics:
            found = evaluation.comparison(system, metric)
            marks = significance_marks(evaluation, found)
            low, high = evaluation.interval(system, metric)
            name = "value best" if system in best[metric] else "value"
            small = f"{low:.3f}\N{EN DASH}{high:.3f}"
            if found is not None:
                small += f" · {signed(found.difference)}"
            cells.append(
                f'<td><span class="{name}">{evaluation.mean(system, metric):.4f}'
                f"<sup>{marks}</sup></span><small>{small}</small></td>"
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    notes = [
        f"Mean over the judged queries, with its {evaluation.confidence:.0%} bootstrap "
        "interval" + (" and the difference to the baseline" if evaluation.comparisons
        else "") + "; the best in bold.",
        escape(explain_marks(evaluation)) if evaluation.comparisons else "",
    ]  # fmt: skip
    notes += [escape(note) for note in coverage_notes(evaluation)]
    table = (
        f'<div class="scroll"><table class="headline"><thead><tr><td></td>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    return section("Results", "", table, f'<p class="note">{" ".join(notes)}</p>')


def _dots(evaluation: Evaluation, colors: Mapping[str, str]) -> str:
    text = f"Dots are means, bars {evaluation.confidence:.0%} bootstrap intervals."
    if evaluation.comparisons:
        text += (
            " The dashed line is the baseline’s mean; a filled dot differs from it by "
            "every test, a hollow one does not."
        )
    return section("Metrics with intervals", text, dot_plot(evaluation, colors))


def _others(evaluation: Evaluation) -> list[str]:
    """The systems compared, the best on the first metric first."""
    metric = evaluation.metrics[0]
    others = [name for name in evaluation.systems if name != evaluation.baseline]
    return sorted(others, key=lambda name: -evaluation.mean(name, metric))


def _differences(evaluation: Evaluation, colors: Mapping[str, str]) -> str:
    metric, others = evaluation.metrics[0], _others(evaluation)
    width = 900.0 if len(others) == 1 else 436.0
    plots = [
        difference_plot(evaluation, name, metric, colors[name], width)
        for name in others
    ]
    caption = (
        f"Difference in {escape(metric)} to {escape(str(evaluation.baseline))} "
        "for each query, from most helped to most hurt. Above the line the system "
        "wins, below it (grey) the baseline does."
    )
    return section(
        "Query by query", caption, f'<div class="grid">{"".join(plots)}</div>'
    )


def _recall(
    evaluation: Evaluation,
    qrels: Mapping[str, Mapping[str, int]],
    runs: Mapping[str, Mapping[str, Mapping[str, float]]],
    colors: Mapping[str, str],
) -> str:
    deepest = max(
        (len(scored) for run in runs.values() for scored in run.values()), default=1
    )
    depths = sorted(
        {round(10 ** (i / 10)) for i in range(10 * math.ceil(math.log10(deepest)) + 1)}
    )
    depths = [depth for depth in depths if depth < deepest] + [deepest]
    lines = {
        system: (depths, recall_by_depth(qrels, runs[system], depths).tolist())
        for system in evaluation.systems
        if system in runs
    }
    if deepest < 2 or not lines:
        return ""
    plot = line_plot(
        "Recall", lines, colors, x_label="documents read (log scale)", log_x=True
    )
    caption = "Share of the relevant documents among the first k, over all queries."
    return section("Recall by depth", caption, plot)


def _training(paths: Mapping[str, str | os.PathLike], colors: Mapping[str, str]) -> str:
    runs = {name: read_curves(path) for name, path in paths.items()}
    shown = {name: colors.get(name, f"s{i % 6}") for i, name in enumerate(runs)}
    names = dict.fromkeys(name for curves in runs.values() for name in curves)
    # the loss first, then what was evaluated, then the rest as it was logged
    ordered = sorted(names, key=lambda n: ("loss" not in n, "@" not in n))
    plots: list[str] = []
    for name in ordered:
        lines = {
            run: curves[name]
            for run, curves in runs.items()
            if name in curves and len(curves[name][0]) > 1
        }
        flat = all(len(set(values)) == 1 for _, values in lines.values())
        if lines and not flat and len(plots) < _PANELS:
            plots.append(line_plot(
                name, lines, shown, x_label="step", smooth=True, width=436.0,
                height=220.0,
            ))  # fmt: skip
    if not plots:
        return ""
    legend = "".join(
        f"<span>{swatch(shown[name])}{escape(name)}</span>" for name in runs
    )
    return section(
        "Training", "", f'<p class="legend">{legend}</p>',
        f'<div class="grid">{"".join(plots)}</div>',
    )  # fmt: skip


def _queries(
    evaluation: Evaluation, colors: Mapping[str, str], texts: Mapping[str, str]
) -> str:
    metric = evaluation.metrics[0]
    base = evaluation.per_query(str(evaluation.baseline), metric)
    blocks = []
    for i, system in enumerate(_others(evaluation)):
        values = evaluation.per_query(system, metric)
        rising = np.argsort(values - base, kind="stable")
        rows = [("Most helped", [q for q in rising[::-1] if values[q] > base[q]])]
        rows.append(("Most hurt", [q for q in rising if values[q] < base[q]]))
        tables = ""
        for heading, chosen in rows:
            body = "".join(
                _query_row(evaluation, int(q), base, values, colors[system], texts)
                for q in chosen[:_QUERIES_SHOWN]
            )
            body = body or '<tr><td class="none">no query</td></tr>'
            tables += f"<h3>{heading}</h3><table class='queries'>{body}</table>"
        state = " open" if i == 0 else ""
        blocks.append(
            f"<details{state}><summary>{swatch(colors[system])}{escape(system)}"
            f"</summary>{tables}</details>"
        )
    caption = f"{escape(metric)} from the baseline’s value (grey) to the system’s."
    return section("Queries most helped and hurt", caption, *blocks)


def _query_row(
    evaluation: Evaluation, q: int, base: np.ndarray, values: np.ndarray, color: str,
    texts: Mapping[str, str],
) -> str:  # fmt: skip
    query_id = evaluation.query_ids[q]
    text = texts.get(query_id, "")
    shown = text if len(text) <= 160 else text[:159] + "…"
    words = f"{escape(shown)} " if shown else ""
    return (
        f'<tr><td class="text">{words}<code>{escape(query_id)}</code></td>'
        f'<td class="step">{dumbbell(float(base[q]), float(values[q]), color)}</td>'
        f'<td class="number">{base[q]:.2f} → {values[q]:.2f}</td>'
        f'<td class="number">{signed(float(values[q] - base[q]), 2)}</td></tr>'
    )


def _tests_in_full(evaluation: Evaluation) -> str:
    heads = [
        "system",
        "metric",
        "difference",
        "interval",
        "effect d",
        "better / equal / worse",
        *(f"p {test}" for test in evaluation.tests),
    ]
    rows = []
    for found in evaluation.comparisons:
        low, high = found.interval
        cells = [
            escape(found.system),
            escape(found.metric),
            signed(found.difference, 4),
            f"{signed(low)} to {signed(high)}",
            signed(found.effect_size, 2),
            " / ".join(map(str, found.counts)),
        ]
        for test in evaluation.tests:
            p_value = escape(format_p(found.corrected[test]))
            strong = test in found.significant
            cells.append(f"<strong>{p_value}</strong>" if strong else p_value)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    caption = (
        f"Against {escape(str(evaluation.baseline))}; p values are two-sided; their "
        f"correction over the systems of each metric: {evaluation.correction}. Bold "
        f"below {evaluation.alpha:g}."
    )
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    table = f'<div class="scroll"><table class="full">{table}</table></div>'
    return section("Tests in full", caption, table)


def _provenance(
    evaluation: Evaluation,
    details: Mapping[str, str],
    environment: Mapping[str, str],
    commands: Sequence[str],
) -> str:
    facts = dict(details)
    facts["resampling"] = f"10,000 resamples and permutations, seed {evaluation.seed}"
    facts["versions"] = " · ".join(f"{name} {v}" for name, v in environment.items())
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in facts.items()
    )
    body = [f"<dl>{rows}</dl>"]
    if commands:
        lines = escape("\n".join(commands))
        body.append(f"<h3>Commands</h3>\n<pre>{lines}</pre>")
    return section("How this was made", "", *body)
