"""``jaxir mine`` over a BM25 index."""

import json

import pytest

from jaxir.cli.main import main
from jaxir.data.collection import open_collection
from jaxir.data.lists import read_lists
from jaxir.index import build_index


@pytest.fixture
def index(tiny_collection, tmp_path):
    build_index("bm25", open_collection(str(tiny_collection)), tmp_path / "index")
    return str(tmp_path / "index")


def test_mine(index, tiny_collection, tmp_path, capsys):
    output = tmp_path / "lists.jsonl"
    words = [
        "mine", "--index", index, "--collection", f"{tiny_collection}:train",
        "--output", str(output), "--num_negatives", "2", "--per", "query",
    ]  # fmt: skip
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    lists = list(read_lists(output))
    assert result["queries"] == 3
    assert result["lists"] == len(lists)
    for item in lists:
        topic = item.query_id.split("-")[1]
        assert all(doc.startswith(topic) for doc in item.doc_ids[:4])
        assert not any(doc.startswith(topic) for doc in item.doc_ids[4:])


def test_mistake(index, tiny_collection, tmp_path, capsys):
    output = tmp_path / "lists.jsonl"
    words = [
        "mine", "--index", index, "--collection", f"{tiny_collection}:train",
        "--output", str(output), "--range_min", "5", "--range_max", "6",
    ]  # fmt: skip
    assert main(words) == 2
    assert "leaves no room for 3 negatives" in capsys.readouterr().err
    assert not output.exists()
