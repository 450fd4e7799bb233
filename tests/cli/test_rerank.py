"""``jaxir rerank``: options, counts, and the queries' places."""

import json

import pytest
from tiny_rerankers import tiny_reranker, tiny_t5

from jaxir.checkpoints.model_dir import save_model
from jaxir.cli.main import main
from jaxir.data.collection import open_collection
from jaxir.data.formats import read_run, write_run


@pytest.fixture(autouse=True)
def _devices_as_they_are(monkeypatch):
    monkeypatch.setattr("jaxir.mesh.use_cpu_cores", lambda: 1)


@pytest.fixture
def first(tiny_collection, tmp_path):
    queries = open_collection(str(tiny_collection)).queries("test")
    docs = {"river0": 3.0, "bread1": 2.0, "engine2": 1.0}
    write_run(tmp_path / "first.trec", dict.fromkeys(queries, docs))
    return tmp_path / "first.trec"


@pytest.fixture
def words(first, tiny_collection, tmp_path):
    save_model(tmp_path / "model", tiny_reranker("bert", tmp_path / "words"))
    return [
        "rerank", "--model", str(tmp_path / "model"), "--run", str(first),
        "--collection", str(tiny_collection), "--output", str(tmp_path / "out.trec"),
    ]  # fmt: skip


def test_result_as_json(words, tmp_path, capsys):
    assert main([*words, "--json", "--k", "2", "--max-length", "12"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.pop("seconds") > 0
    assert result == {
        "output": str(tmp_path / "out.trec"), "run": str(tmp_path / "first.trec"),
        "model": str(tmp_path / "model"), "queries": 3, "pairs": 6, "cut_docs": 6,
        "cut_queries": 0, "missing_queries": 0, "missing_docs": 0,
    }  # fmt: skip
    assert all(len(found) == 2 for found in read_run(tmp_path / "out.trec").values())
    assert (tmp_path / "out.trec").read_text().split("\n")[0].endswith(" rank_bert")


def test_result_for_people(words, tmp_path, capsys):
    words = [*words, "--k", "2", "--keep_rest", "--max_length", "8", "--tag", "mine"]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "6 pairs of 3 queries" in err
    assert "6 documents were cut to the length of a pair" in err
    assert all(len(found) == 3 for found in read_run(tmp_path / "out.trec").values())
    assert (tmp_path / "out.trec").read_text().split("\n")[0].endswith(" mine")


def test_places_of_queries(words, tiny_collection, tmp_path):
    """All of the collection, one split, a file: the same texts, the same run."""
    outputs = []
    place = str(tiny_collection)
    for i, more in enumerate(
        (
            [], ["--collection", f"{place}:test"], ["--queries", f"{place}:test"],
            ["--queries", f"{place}/queries.jsonl"],
        )
    ):  # fmt: skip
        output = tmp_path / f"{i}.trec"
        assert main([*words, *more, "--output", str(output), "--quiet"]) == 0
        outputs.append(output.read_bytes())
    assert len(set(outputs)) == 1


def test_missing_are_skipped_when_asked(words, tmp_path, capsys):
    with (tmp_path / "first.trec").open("a") as out:
        out.write("q-none Q0 river0 1 1.0 x\n")
    assert main([*words, "--quiet"]) == 2
    assert "--skip_missing" in capsys.readouterr().err
    assert main([*words, "--skip-missing"]) == 0
    assert "1 queries are not in the collection" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--target_token", "▁true", "--contrast_token", "▁false"],
        ["--dtype", "bfloat16", "--batch_tokens", "64"],
    ],
)
def test_a_t5_is_read_as_an_encoder_decoder(words, tmp_path, more):
    save_model(tmp_path / "t5", tiny_t5(tmp_path / "pieces"))
    words[2] = str(tmp_path / "t5")
    assert main([*words, *more, "--quiet"]) == 0
    assert len(read_run(tmp_path / "out.trec")) == 3
