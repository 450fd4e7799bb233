"""``jaxir mine`` over a BM25 index."""

import json

import pytest
from tiny_rerankers import tiny_reranker, tiny_t5

from jaxir.checkpoints.model_dir import save_model
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


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_rescored_by_a_cross_encoder(kind, tiny_collection, tmp_path, capsys):
    """Also by a T5 that has no score of its own: it is read as EncDec."""
    with (tiny_collection / "corpus.jsonl").open("a") as out:
        text = "water and mountains, fuel and wheels, flour and ovens"
        out.write(json.dumps({"_id": "unjudged", "title": "", "text": text}) + "\n")
    build_index("bm25", open_collection(str(tiny_collection)), tmp_path / "index")
    folder = tmp_path / "words"
    model = tiny_t5(folder) if kind == "t5" else tiny_reranker(kind, folder)
    save_model(tmp_path / "model", model)
    words = [
        "mine", "--index", str(tmp_path / "index"), "--num_negatives", "1",
        "--collection", f"{tiny_collection}:train",
        "--output", str(tmp_path / "lists.jsonl"),
    ]  # fmt: skip
    assert main([*words, "--rescore", str(tmp_path / "model"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lists"] > 0
    for item in read_lists(tmp_path / "lists.jsonl"):
        assert item.doc_ids[-1] == "unjudged"
        assert len(item.scores) == len(item.doc_ids)
