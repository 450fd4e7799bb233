"""Counters, gauges and histograms in Prometheus' text format.

The format is version 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats
"""

import bisect
import threading
from collections.abc import Sequence

__all__ = ["BATCHES", "CONTENT_TYPE", "SECONDS", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what :meth:`Metrics.text` gives."""

SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0
)  # fmt: skip
"""Bounds of durations."""

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Bounds of numbers of items."""

_Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self, bounds: Sequence[float | int]) -> None:
        self.bounds, self.counts = bounds, [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float | int) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """All metrics of a service; any thread may change them.

    Example::

      >>> metrics = Metrics()
      >>> metrics.describe("jaxir_requests_total", "counter", "Requests answered.")
      >>> metrics.add("jaxir_requests_total", path="/search")
      >>> print(metrics.text().splitlines()[-1])
      jaxir_requests_total{path="/search"} 1
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._about: dict[str, tuple[str, str]] = {}
        self._bounds: dict[str, Sequence[float | int]] = {}
        self._values: dict[str, dict[_Labels, float | int]] = {}
        self._histograms: dict[str, dict[_Labels, _Histogram]] = {}

    def describe(
        self, name: str, kind: str, text: str, bounds: Sequence[float | int] = SECONDS
    ) -> None:
        """Declares a metric.

        Args:
          name: in Prometheus' characters.
          kind: ``counter``, ``gauge`` or ``histogram``.
          text: one line.
          bounds: of a histogram.
        """
        self._about[name], self._bounds[name] = (kind, text), bounds
        (self._histograms if kind == "histogram" else self._values)[name] = {}

    def add(self, name: str, amount: float | int = 1, **labels: str) -> None:
        """Adds to a counter or a gauge."""
        key = tuple(labels.items())
        with self._lock:
            values = self._values[name]
            values[key] = values.get(key, 0) + amount

    def set(self, name: str, value: float | int, **labels: str) -> None:
        """Sets a gauge."""
        with self._lock:
            self._values[name][tuple(labels.items())] = value

    def forget(self, name: str) -> None:
        """Removes all values of a metric."""
        with self._lock:
            self._values[name].clear()

    def observe(self, name: str, value: float | int, **labels: str) -> None:
        """Adds one value to a histogram."""
        key = tuple(labels.items())
        with self._lock:
            found = self._histograms[name]
            if key not in found:
                found[key] = _Histogram(self._bounds[name])
            found[key].add(value)

    def value(self, name: str, **labels: str) -> float | int:
        """What a counter or a gauge stands at, 0 where it was never changed."""
        with self._lock:
            return self._values[name].get(tuple(labels.items()), 0)

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        lines = []
        with self._lock:
            for name, (kind, text) in self._about.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                for key, value in self._values.get(name, {}).items():
                    lines.append(f"{name}{_labels(key)} {_number(value)}")
                for key, histogram in self._histograms.get(name, {}).items():
                    lines += _histogram_lines(name, key, histogram)
        return "\n".join(lines) + "\n"


def _histogram_lines(name: str, key: _Labels, found: _Histogram) -> list[str]:
    lines, total = [], 0
    for bound, count in zip((*found.bounds, "+Inf"), found.counts, strict=True):
        total += count
        labels = _labels((*key, ("le", f"{bound}")))
        lines.append(f"{name}_bucket{labels} {total}")
    lines.append(f"{name}_sum{_labels(key)} {found.sum:.6f}")
    lines.append(f"{name}_count{_labels(key)} {total}")
    return lines


def _number(value: float | int) -> str:
    return f"{value:.6f}" if value % 1 else f"{int(value)}"


def _labels(key: _Labels) -> str:
    if not key:
        return ""
    pairs = [f'{name}="{_escaped(value)}"' for name, value in key]
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
