"""The settings of a graph search over an index of one's own."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from tiny_hypencoders import tiny_hypencoder

from jaxir.cli.main import main
from jaxir.index import add_neighbors, build_index


@pytest.fixture
def index(tiny_collection, tmp_path):
    build_index(tiny_hypencoder(tmp_path / "m"), tiny_collection, tmp_path / "h")
    return tmp_path / "h"


def bench(*words):
    return main(["bench", *map(str, words)])


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_sweep(index, tiny_collection, tmp_path, capsys):
    add_neighbors(index, 3)
    figure, queries = tmp_path / "plots" / "figure.svg", f"{tiny_collection}:test"
    words = ("--index", index, "--queries", queries, "--output", figure)
    assert bench("hyper-graph", *words, "--json", "--k", 5) == 0
    cases = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert cases[0]["case"] == "exhaustive"
    assert cases[0]["docs_scored"] == 12
    assert len({case["case"] for case in cases}) == len(cases) > 8
    for case in cases:
        assert 0 < case["docs_scored"] <= 12
        assert 0 <= case["nDCG@10"] <= 1
        assert case["share_scored"] == case["docs_scored"] / 12
    scored = {case["case"]: case["docs_scored"] for case in cases}
    assert scored["entry 12, explore 12, iterations 8"] == 12
    assert scored["entry 1, explore 12, iterations 1"] == 1
    drawn = ElementTree.fromstring(figure.read_text())  # well-formed
    texts = {element.text for element in drawn.iter() if element.tag.endswith("text")}
    assert {"nDCG@10", "entry points", "explore", "iterations", "exhaustive"} <= texts


def test_what_cannot_be_swept_is_refused(index, tiny_collection, tmp_path, capsys):
    def refused(match, *words):
        assert bench(*words) == 2
        assert match in capsys.readouterr().err

    place = ("--index", index, "--output", tmp_path / "f.svg")
    queries = ("--queries", f"{tiny_collection}:test")
    refused("given with topk; expected hyper-graph", "topk", *place, *queries)
    refused("--queries: missing beside --index", "hyper-graph", *place)
    refused("--rule: given without --index", "hyper-graph", "--rule", "paper")
    refused("without a neighbour graph", "hyper-graph", *place, *queries)
    add_neighbors(index, 3)
    refused("rule: 'mine'", "hyper-graph", *place, *queries, "--rule", "mine")
    assert not (tmp_path / "f.svg").exists()
