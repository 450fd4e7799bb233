"""The report: self-contained, escaped, deterministic, whole with little input."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.evaluate import evaluate
from jaxir.plots import color_classes, line_plot, nice_ticks
from jaxir.report import read_curves, versions, write_report
from jaxir.style import STYLE

EVIL = '<script>alert("x")</script>&'
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Checker(HTMLParser):
    """Counts tags and insists that they nest."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.outside = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def make_runs(num_queries=60, seed=0):
    rng = np.random.default_rng(seed)
    qrels, runs = {}, {"bm25": {}, EVIL: {}, "fused": {}}
    for i in range(num_queries):
        docs = [f"d{j}" for j in range(30)]
        qrels[f"q{i}"] = {docs[int(rng.integers(30))]: 1, "d3": 1}
        for name, noise in (("bm25", 0.5), (EVIL, 0.6), ("fused", 0.2)):
            runs[name][f"q{i}"] = {
                d: float(rng.normal() * noise + (d in qrels[f"q{i}"])) for d in docs
            }
    return qrels, runs


@pytest.fixture(scope="module")
def example():
    qrels, runs = make_runs()
    metrics = ["nDCG@10", "RR@10", "AP", "R@10"]
    return evaluate(qrels, runs, metrics=metrics, baseline="bm25"), qrels, runs


@pytest.fixture
def curves(tmp_path):
    lines = [{"step": s, "loss": 1 / (s + 1), "rate": s} for s in range(0, 300, 5)]
    lines += [{"step": 100, "dev/nDCG@10": 0.4}, {"step": 200, "dev/nDCG@10": 0.5}]
    lines += [{"step": s, "kind": "eval", "loss": 1.0 + s} for s in (100, 200)]
    lines += [{"step": 200, "note": "text", "flag": True}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _write(path, example, curves, **changes):
    evaluation, qrels, runs = example
    given = {
        "title": f"Report {EVIL}", "qrels": qrels, "runs": runs,
        "queries": {q: f"text of {q} {EVIL}" for q in qrels},
        "training_curves": {EVIL: curves}, "commands": [f"jaxir {EVIL}"],
        "details": {EVIL: EVIL}, "environment": {"python": EVIL},
    }  # fmt: skip
    write_report(evaluation, path, **given | changes)
    return path.read_text()


def test_the_page_is_whole_and_carries_everything(tmp_path, example, curves):
    page = _write(tmp_path / "r.html", example, curves)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.outside == []
    assert "script" not in checker.seen
    assert "<script" not in page
    assert not re.search(r"https?://|@import|url\(", page)
    for heading in ("Results", "Metrics with intervals", "Query by query",
                    "Recall by depth", "Training", "Queries most helped and hurt",
                    "Tests in full", "How this was made"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in page
    assert checker.seen.count("svg") > 8
    assert "prefers-color-scheme: dark" in page
    assert "†" in page
    assert "nan" not in re.findall(r'="[^"]*"', page)


def test_every_plot_is_well_formed(tmp_path, example, curves):
    page = _write(tmp_path / "r.html", example, curves)
    for svg in re.findall(r"<svg.*?</svg>", page, re.S):
        root = ElementTree.fromstring(svg)
        width, height = map(float, root.get("viewBox").split()[2:])
        for circle in root.iter("circle"):
            assert 0 <= float(circle.get("cx")) <= width
            assert 0 <= float(circle.get("cy")) <= height
        for line in root.iter("polyline"):
            points = np.array([p.split(",") for p in line.get("points").split()], float)
            assert np.isfinite(points).all()
            assert (points >= -1).all()
            assert (points <= [width + 1, height + 1]).all()


def test_equal_input_gives_equal_bytes(tmp_path, example, curves):
    first = _write(tmp_path / "a.html", example, curves)
    assert _write(tmp_path / "b.html", example, curves) == first


def test_without_a_baseline_or_anything_else(tmp_path):
    qrels, runs = make_runs(3)
    evaluation = evaluate(qrels, {"bm25": runs["bm25"]}, metrics=["AP"])
    write_report(evaluation, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "Query by query" not in page
    assert "has AP" in page
    assert "1 system<" in page


def test_the_summary_says_who_leads(tmp_path, example):
    write_report(example[0], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<strong>fused</strong> leads with nDCG@10" in page
    assert "a difference every test made calls significant" in page
    qrels, runs = make_runs()
    worse = evaluate(
        qrels, {"fused": runs["fused"], "bm25": runs["bm25"]}, baseline="fused"
    )
    write_report(worse, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "The baseline <strong>fused</strong> leads" in text


def test_equal_runs_and_one_document_draw(tmp_path):
    qrels, run = {"q": {"a": 1}}, {"q": {"a": 1.0}}
    evaluation = evaluate(
        qrels, {"x": run, "y": dict(run)}, metrics=["RR@10"], baseline="x"
    )
    write_report(evaluation, tmp_path / "r.html", qrels=qrels, runs={"x": run})
    assert "no query" in (tmp_path / "r.html").read_text()


def test_curves_that_are_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2}\n{"loss": 2}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:2: .*an object with a number"):
        read_curves(path)
    path.write_text('{"step": 1, "loss": NaN}\n\n{"step": 2, "loss": 0.5}\n')
    assert read_curves(path) == {"loss": ([2.0], [0.5])}


def test_curves_of_training_and_evaluation_are_apart(curves):
    found = read_curves(curves)
    assert len(found["loss"][0]) == 60
    assert found["eval loss"] == ([100.0, 200.0], [101.0, 201.0])
    assert "note" not in found


def test_ticks_enclose_and_colors_stay():
    for low, high in ((0.0, 1.0), (0.61, 0.612), (3, 3000), (-2, 5), (0.5, 0.5)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 8
    names = [f"s{i}" for i in range(9)]
    colors = color_classes(names, "s4")
    assert colors["s4"] == "base"
    assert colors["s3"] != colors["s5"]


def test_labels_at_line_ends_do_not_cover_each_other():
    lines = {f"line {i}": ([1, 10], [0.5, 0.5 + i / 1000]) for i in range(5)}
    svg = line_plot("t", lines, dict.fromkeys(lines, "s0"), x_label="x", log_x=True)
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" class="name', svg)]
    assert np.diff(sorted(heights)).min() >= 15.9


def test_versions_name_python():
    assert "python" in versions()


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
    ]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("palette", [0, 1], ids=["light", "dark"])
def test_every_text_colour_can_be_read(palette):
    """WCAG 2.1 AA: at least 4.5 to 1 for small text."""
    found = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[palette]
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", found))
    ground = luminance(colors["ground"])
    for name in ("ink", "soft", "base-ink", "s0", "s1", "s2", "s3", "s4", "s5"):
        low, high = sorted((luminance(colors[name]), ground))
        assert (high + 0.05) / (low + 0.05) >= 4.5, name
