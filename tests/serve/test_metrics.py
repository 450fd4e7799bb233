"""Metrics in Prometheus' text format."""

import threading

import pytest

from jaxir.serve.metrics import Metrics


@pytest.fixture
def metrics():
    made = Metrics()
    made.describe("calls_total", "counter", "Calls.")
    made.describe("open", "gauge", "Open now.")
    made.describe("seconds", "histogram", "Seconds.", (0.1, 1))
    return made


def test_text(metrics):
    metrics.add("calls_total", path="/a", status="200")
    metrics.add("calls_total", 2, path="/a", status="200")
    metrics.add("calls_total", path='q"\\\n', status="400")
    metrics.set("open", 2.5)
    for value in (0.05, 0.1, 0.5, 7):
        metrics.observe("seconds", value, work="w")
    assert metrics.text() == (
        "# HELP calls_total Calls.\n# TYPE calls_total counter\n"
        'calls_total{path="/a",status="200"} 3\n'
        'calls_total{path="q\\"\\\\\\n",status="400"} 1\n'
        "# HELP open Open now.\n# TYPE open gauge\nopen 2.500000\n"
        "# HELP seconds Seconds.\n# TYPE seconds histogram\n"
        'seconds_bucket{work="w",le="0.1"} 2\n'
        'seconds_bucket{work="w",le="1"} 3\n'
        'seconds_bucket{work="w",le="+Inf"} 4\n'
        'seconds_sum{work="w"} 7.650000\nseconds_count{work="w"} 4\n'
    )


def test_values(metrics):
    assert metrics.value("calls_total", path="/") == 0
    metrics.add("calls_total", path="/")
    metrics.set("open", 3)
    metrics.set("open", 1)
    assert metrics.value("calls_total", path="/") == 1
    assert metrics.value("open") == 1
    metrics.forget("open")
    assert "open 1" not in metrics.text()


def test_threads_lose_nothing(metrics):
    def work():
        for _ in range(500):
            metrics.add("calls_total")
            metrics.observe("seconds", 0.5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.value("calls_total") == 4000
    assert "seconds_count 4000" in metrics.text()
