"""Studies over one's own data: a graph search's settings, and pairs put first."""

import itertools
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
    refused("given with topk; expected hyper-graph or", "topk", *place, *queries)
    refused("--queries: missing for hyper-graph over", "hyper-graph", *place)
    refused("--index: missing for hyper-graph", "hyper-graph", "--rule", "paper")
    refused("--index: given for limit", "limit", *place, *queries)
    refused("without a neighbour graph", "hyper-graph", *place, *queries)
    add_neighbors(index, 3)
    refused("rule: 'mine'", "hyper-graph", *place, *queries, "--rule", "mine")
    assert not (tmp_path / "f.svg").exists()


@pytest.mark.slow
def test_pairs_that_come_first(tmp_path, capsys):
    """Six documents on a line: one dimension would do for neighbours, not for all."""
    folder, names = tmp_path / "pairs", "abcdef"
    pairs = list(itertools.combinations(names, 2))
    (folder / "qrels").mkdir(parents=True)
    docs = [{"_id": name, "text": name} for name in names]
    queries = [{"_id": "".join(pair), "text": "q"} for pair in pairs]
    for file, rows in (("corpus", docs), ("queries", queries)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{file}.jsonl").write_text(text)
    judged = [f"{''.join(pair)}\t{name}\t1" for pair in pairs for name in pair]
    header = "query-id\tcorpus-id\tscore"
    (folder / "qrels" / "test.tsv").write_text("\n".join([header, *judged]) + "\n")
    figure = tmp_path / "figure.svg"
    words = ("--queries", f"{folder}:test", "--output", figure, "--json")
    assert bench("limit", *words) == 0
    cases = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {(case["system"], case["dimension"]): case["realised"] for case in cases}
    assert {case["queries"] for case in cases} == {len(pairs)}
    assert found["inner product", 2] < len(pairs)  # Radon: no five points in the plane
    assert found["inner product", 8] == found["q-net", 8] == len(pairs)
    drawn = ElementTree.fromstring(figure.read_text())
    texts = {element.text for element in drawn.iter() if element.tag.endswith("text")}
    assert {"inner product", "q-net", "dimension"} <= texts
