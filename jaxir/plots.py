"""Plots of an evaluation as inline SVG: text, colours and darkness follow the page.

Each function returns one ``<svg>`` element that uses the classes of the page's style
sheet (``jaxir.report``) and no script, image or font from elsewhere.  Equal input gives
equal bytes.  A system keeps its colour class (``s0`` …, ``base`` for the baseline)
through the whole page; names stand beside the marks, so colour never speaks alone.
"""

import html
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxir.evaluate import Evaluation
from jaxir.significance import wins_ties_losses
from jaxir.style import signed

__all__ = [
    "color_classes",
    "difference_plot",
    "dot_plot",
    "dumbbell",
    "line_plot",
    "nice_ticks",
]

NUM_COLORS = 6
_MOST_BARS = 1000

Number = int | float
_Scale = Callable[[Number], float]  # a value to its place in pixels


def color_classes(systems: Sequence[str], baseline: str | None) -> dict[str, str]:
    """The style class of each system: grey for the baseline, a hue for the others.

    Example::

      >>> color_classes(["bm25", "dense", "fused"], "bm25")
      {'bm25': 'base', 'dense': 's0', 'fused': 's1'}
    """
    others = [system for system in systems if system != baseline]
    hues = {name: f"s{i % NUM_COLORS}" for i, name in enumerate(others)}
    return {name: hues.get(name, "base") for name in systems}


def nice_ticks(low: Number, high: Number, count: int = 4) -> list[float]:
    """About ``count`` round numbers that enclose an interval.

    Example::

      >>> nice_ticks(0.43, 0.52)
      [0.425, 0.45, 0.475, 0.5, 0.525]
    """
    span = high - low
    if not span > 0:
        low, span = low - 0.05, 0.1
        high = low + span
    power = 10.0 ** math.floor(math.log10(span / count))
    steps = [factor * power for factor in (1, 2, 2.5, 5, 10)]
    step = min(steps, key=lambda s: abs(span / s - count))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _label(value: Number) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-4):
        return f"{value:.1e}"
    if abs(value) >= 1000 and value % 1000 == 0:
        return f"{value / 1000:g}k"
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _n(value: Number) -> str:
    """A coordinate: one decimal, and no negative zero."""
    return f"{round(float(value), 1) + 0.0:g}"


def _line(x1: Number, y1: Number, x2: Number, y2: Number, style: str) -> str:
    return (
        f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" '
        f'class="{style}"/>'
    )


def _text(x: Number, y: Number, text: str, style: str, anchor: str = "start") -> str:
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" class="{style}" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>"
    )


def _svg(width: Number, height: Number, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_n(width)} {_n(height)}" role="img" '
        f'style="max-width:{_n(width)}px" aria-label="{html.escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def dot_plot(evaluation: Evaluation, colors: Mapping[str, str]) -> str:
    """Means with their intervals: a row for each system, a panel for each metric.

    A filled dot differs from the baseline by every test made, a hollow one does not.
    """
    left, width, row, top, bottom = 150.0, 900.0, 32.0, 30.0, 40.0
    per_line = min(3, len(evaluation.metrics))
    panel = (width - left) / per_line
    height = top + row * len(evaluation.systems) + bottom
    parts = []
    for m, metric in enumerate(evaluation.metrics):
        x0 = left + (m % per_line) * panel + 22
        y0 = (m // per_line) * height
        if m % per_line == 0:
            for i, system in enumerate(evaluation.systems):
                y = y0 + top + row * (i + 0.5)
                name = _shorten(system, 20)
                parts.append(_text(left - 12, y + 4.5, name, "name", "end"))
        parts += _dot_panel(evaluation, metric, colors, x0, y0 + top, panel - 54, row)
    lines = -(-len(evaluation.metrics) // per_line)
    return _svg(width, height * lines, "Means with intervals", parts)


def _dot_panel(
    evaluation: Evaluation,
    metric: str,
    colors: Mapping[str, str],
    x0: Number,
    y0: Number,
    width: Number,
    row: Number,
) -> list[str]:
    ends = evaluation.intervals[:, evaluation.metrics.index(metric)]
    low, high = float(ends.min()), float(ends.max())
    margin = max(0.06 * (high - low), 0.004)
    low, high = low - margin, high + margin
    ticks = [tick for tick in nice_ticks(low, high, 4) if low <= tick <= high]

    def at(value: Number) -> float:
        return x0 + (value - low) / (high - low) * width

    bottom = y0 + row * len(evaluation.systems)
    parts = [_text(x0, y0 - 12, metric, "panel")]
    for tick in ticks:
        parts.append(_line(at(tick), y0, at(tick), bottom, "grid"))
        parts.append(_text(at(tick), bottom + 17, _label(tick), "tick", "middle"))
    if evaluation.baseline is not None:
        x = at(evaluation.mean(evaluation.baseline, metric))
        parts.append(_line(x, y0, x, bottom, "reference"))
    for i, system in enumerate(evaluation.systems):
        y, mean = y0 + row * (i + 0.5), evaluation.mean(system, metric)
        start, stop = evaluation.interval(system, metric)
        found = evaluation.comparison(system, metric)
        hollow = found is not None and len(found.significant) < len(evaluation.tests)
        shape = "hollow" if hollow else "dot"
        parts.append(_line(at(start), y, at(stop), y, f"bar {colors[system]}"))
        parts.append(
            f'<circle cx="{_n(at(mean))}" cy="{_n(y)}" r="5.5" '
            f'class="{shape} {colors[system]}"><title>{html.escape(system)} '
            f"{html.escape(metric)} {mean:.4f} [{start:.4f}, {stop:.4f}]</title>"
            "</circle>"
        )
    return parts


def difference_plot(
    evaluation: Evaluation, system: str, metric: str, color: str, width: Number
) -> str:
    """Differences to the baseline query by query, from most helped to most hurt.

    Bars above the line are queries the system wins (its colour), below the line
    queries the baseline wins (grey).
    """
    base = evaluation.per_query(str(evaluation.baseline), metric)
    falling = np.sort(evaluation.per_query(system, metric) - base)[::-1]
    found = evaluation.comparison(system, metric)
    counts = wins_ties_losses(falling)
    left, top, plot_height, bottom = 44.0, 54.0, 120.0, 26.0
    right = width - 8
    reach = max(float(np.abs(falling).max()), 0.05)
    ticks = [-reach, 0.0, reach]
    middle = top + plot_height / 2

    def at_y(value: Number) -> float:
        return middle - value / reach * plot_height / 2

    parts = [_text(0, 16, _shorten(system, 34), "panel")]
    if found is not None:
        low, high = (signed(end) for end in found.interval)
        text = f"mean {signed(found.difference)}  [{low}, {high}]"
        parts.append(_text(right, 16, text, "tick", "end"))
    for tick in ticks:
        style = "axis" if tick == 0 else "grid"
        parts.append(_line(left, at_y(tick), right, at_y(tick), style))
        shown = "0" if tick == 0 else f"{tick:+.2f}".replace("-", "\N{MINUS SIGN}")
        parts.append(_text(left - 6, at_y(tick) + 4, shown, "tick", "end"))
    for sign, style in ((1, color), (-1, "base")):
        parts.append(_bars(falling, sign, style, left, right, at_y))
    wins, ties, losses = counts
    caption = [
        (f"{wins} better", left, "start"),
        (f"{ties} equal", (left + right) / 2, "middle"),
        (f"{losses} worse", right, "end"),
    ]
    for text, x, anchor in caption:
        parts.append(_text(x, top + plot_height + 20, text, "tick", anchor))
    height = top + plot_height + bottom
    return _svg(width, height, f"Differences of {system} by query", parts)


def _bars(
    falling: np.ndarray,
    sign: int,
    style: str,
    left: Number,
    right: Number,
    at_y: _Scale,
) -> str:
    """All bars of one sign as one outline; beyond a thousand queries, neighbours in
    the order are averaged."""
    count = len(falling)
    edges = np.linspace(0, count, min(count, _MOST_BARS) + 1).astype(int)
    scale = (right - left) / count
    path = ""
    for start, stop in itertools.pairwise(edges):
        value = float(falling[start:stop].mean())
        if value * sign <= 1e-9:
            continue
        x1, x2 = left + float(start) * scale, left + float(stop) * scale
        path += f"V{_n(at_y(value))}H{x2:.2f}" if path else (
            f"M{x1:.2f} {_n(at_y(0.0))}V{_n(at_y(value))}H{x2:.2f}"
        )  # fmt: skip
    path += f"V{_n(at_y(0.0))}Z" if path else ""
    return f'<path d="{path}" class="area {style}"/>'


def line_plot(
    title: str,
    lines: Mapping[str, tuple[Sequence[Number], Sequence[Number]]],
    colors: Mapping[str, str],
    *,
    x_label: str,
    log_x: bool = False,
    smooth: bool = False,
    width: Number = 900.0,
    height: Number = 320.0,
) -> str:
    """Lines with their names at the right end.

    Args:
      title: printed above.
      lines: for each name, its x and y values.
      colors: style class of each name.
      x_label: what x is.
      log_x: whether x is drawn in powers of ten.
      smooth: whether to draw a running mean over the faint original.
      width: in pixels.
      height: in pixels.
    """
    names_width = 14 + 8.8 * min(24, max(map(len, lines))) if len(lines) > 1 else 14
    left, top, bottom, right = 46.0, 32.0, 42.0, width - names_width
    every_x = np.concatenate([np.asarray(x, float) for x, _ in lines.values()])
    every_y = np.concatenate([np.asarray(y, float) for _, y in lines.values()])
    ticks = nice_ticks(float(every_y.min()), float(every_y.max()), 4)
    x_low, x_high = float(every_x.min()), float(every_x.max())
    if x_high <= x_low:
        x_high = x_low + 1

    def at_x(value: Number) -> float:
        if log_x:
            part = math.log(value / x_low) / math.log(x_high / x_low)
        else:
            part = (value - x_low) / (x_high - x_low)
        return left + part * (right - left)

    def at_y(value: Number) -> float:
        part = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return height - bottom - part * (height - bottom - top)

    parts = [_text(0, 15, title, "panel")]
    for tick in ticks:
        parts.append(_line(left, at_y(tick), right, at_y(tick), "grid"))
        parts.append(_text(left - 8, at_y(tick) + 4, _label(tick), "tick", "end"))
    if log_x:
        wide = x_high / x_low >= 300
        powers = range(math.floor(math.log10(x_low)), math.ceil(math.log10(x_high)) + 1)
        x_ticks = [
            factor * 10.0**power
            for power in powers
            for factor in ((1,) if wide else (1, 2, 5))
            if x_low <= factor * 10.0**power <= x_high
        ]
    else:
        wanted = nice_ticks(x_low, x_high, max(3, int(width / 160)))
        x_ticks = [tick for tick in wanted if x_low <= tick <= x_high]
    for tick in x_ticks:
        parts.append(_line(at_x(tick), at_y(ticks[0]), at_x(tick), top, "grid"))
        y = height - bottom + 18
        parts.append(_text(at_x(tick), y, _label(tick), "tick", "middle"))
    parts.append(_text((left + right) / 2, height - 4, x_label, "tick", "middle"))
    for name, (steps, values) in lines.items():
        style = colors[name]
        if smooth and len(values) >= 20:
            parts.append(_polyline(steps, values, at_x, at_y, f"curve faint {style}"))
            values = _running_mean(np.asarray(values, float)).tolist()
        parts.append(_polyline(steps, values, at_x, at_y, f"curve {style}"))
        if len(steps) <= 12 and not log_x:
            for one_x, one_y in zip(steps, values, strict=True):
                parts.append(
                    f'<circle cx="{_n(at_x(one_x))}" cy="{_n(at_y(one_y))}" r="3.5" '
                    f'class="dot {style}"/>'
                )
    if len(lines) > 1:
        ends = {name: at_y(float(y[-1])) for name, (_, y) in lines.items()}
        for name, y in _spread(ends, 16.0).items():
            style = f"name {colors[name]}-text"
            parts.append(_text(right + 8, y + 4, _shorten(name, 24), style))
    return _svg(width, height, title, parts)


def _polyline(
    x: Sequence[Number], y: Sequence[Number], at_x: _Scale, at_y: _Scale, style: str
) -> str:
    points = " ".join(
        f"{_n(at_x(float(a)))},{_n(at_y(float(b)))}" for a, b in zip(x, y, strict=True)
    )
    return f'<polyline points="{points}" class="{style}"/>'


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a twentieth of the curve around each point, less at its ends;
    a curve without noise is left as it is."""
    half = max(2, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    low, high = np.maximum(0, i - half), np.minimum(len(values), i + half + 1)
    smooth = (total[high] - total[low]) / (high - low)
    noise = float(np.abs(values - smooth).mean())
    return smooth if noise > 0.01 * float(np.ptp(values)) else values


def _spread(positions: Mapping[str, float], gap: Number) -> dict[str, float]:
    """Moves labels apart until none covers another, each near its own line."""
    placed = sorted(positions.items(), key=lambda item: item[1])
    for _ in range(200):
        moved = False
        for i in range(len(placed) - 1):
            (upper, y1), (lower, y2) = placed[i], placed[i + 1]
            if y2 - y1 < gap - 1e-6:
                middle = (y1 + y2) / 2
                placed[i] = (upper, middle - gap / 2)
                placed[i + 1] = (lower, middle + gap / 2)
                moved = True
        if not moved:
            break
    return dict(placed)


def dumbbell(before: Number, after: Number, color: str) -> str:
    """One query's step from the baseline's value (grey) to the system's, on [0, 1]."""
    width, height = 150.0, 18.0

    def at(value: Number) -> float:
        return 8 + min(1.0, max(0.0, value)) * (width - 16)

    parts = [
        _line(8, 9, width - 8, 9, "grid"),
        _line(at(before), 9, at(after), 9, f"bar {color}"),
        f'<circle cx="{_n(at(before))}" cy="9" r="4" class="dot base"/>',
        f'<circle cx="{_n(at(after))}" cy="9" r="5" class="dot {color}"/>',
    ]
    return _svg(width, height, f"from {before:.3f} to {after:.3f}", parts)
