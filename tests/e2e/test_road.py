"""The whole road by the command line, relative paths and gzip files all the way."""

import gzip
import json

import numpy as np
import pytest

from jaxir.cli.main import main
from jaxir.data.formats import read_run


@pytest.fixture
def workplace(tiny_collection, tiny_model, tmp_path, monkeypatch):
    """``collection/``, gzipped, and ``model/`` in the folder one stands in."""
    for path in [*tiny_collection.glob("*.jsonl"), *tiny_collection.glob("qrels/*")]:
        with gzip.open(f"{path}.gz", "wb") as out:
            out.write(path.read_bytes())
        path.unlink()
    tiny_collection.rename(tmp_path / "collection")
    tiny_model.rename(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def equal_runs(first, second):
    a, b = read_run(first), read_run(second)
    assert a.keys() == b.keys()
    for query, scored in a.items():
        assert list(scored) == list(b[query])
        np.testing.assert_allclose(
            list(scored.values()), list(b[query].values()), atol=1e-5
        )


@pytest.mark.slow
def test_road(workplace, capfd):
    def run(*words):
        """The command's result as JSON."""
        capfd.readouterr()
        assert main([*words, "--json", "--quiet"]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        return json.loads(out)

    found = run("data", "beir", "collection")
    assert (found["num_docs"], found["num_queries"]) == (12, 6)

    runs = []
    for name, model in (("bm25", "bm25"), ("dense", "model")):
        index, trec = f"indexes/{name}", f"runs/{name}.trec.gz"
        built = run(
            "index", "--model", model, "--collection", "collection", "--index", index
        )
        assert built["docs"] == 12
        words = ("--queries", "collection:test", "--output", trec, "--k", "10")
        assert run("search", "--index", index, *words)["queries"] == 3
        runs.append(trec)
    run("fuse", "--runs", *runs, "--output", "runs/fused.trec")

    evaluated = run(
        "evaluate", "--qrels", "collection:test", "--runs", *runs, "runs/fused.trec",
        "--metrics", "nDCG@10", "R@10", "--baseline", "bm25",
        "--report", "out/report.html", "--per-query", "out/values.csv",
    )  # fmt: skip
    systems = {row["name"]: row["results"] for row in evaluated["systems"]}
    assert set(systems) == {"bm25", "dense", "fused"}
    assert systems["bm25"]["nDCG@10"]["mean"] > 0.7
    assert "<html" in (workplace / "out" / "report.html").read_text()[:200]
    lines = (workplace / "out" / "values.csv").read_text().splitlines()
    assert len(lines) > 3 * 3

    mined = run(
        "mine", "--index", "indexes/dense", "--collection", "collection:train",
        "--output", "lists/mined.jsonl.gz", "--range_max", "12",
    )  # fmt: skip
    assert mined["lists"] > 0
    size = min(8, mined["lists"])

    def train(experiment, lists, place):
        return run(
            "train", "--gin_file", f"experiments/{experiment}.gin",
            "--gin.COLLECTION='collection'", "--gin.MODEL_PATH='model'",
            "--gin.DEV_SPLIT='test'", "--gin.TRAIN_STEPS=3", f"--gin.LISTS='{lists}'",
            f"--gin.BATCH_SIZE={size}", "--gin.LIST_SIZE=3", "--gin.QUERY_LENGTH=16",
            "--gin.DOC_LENGTH=16", "--gin.TOWERS='shared'", "--model_dir", place,
            *(["--gin.CANDIDATES=None"] if experiment == "finetune_small" else []),
        )  # fmt: skip

    assert train("finetune_small", "lists/mined.jsonl.gz", "models/first")["step"] == 3
    labelled = run(
        "label", "--teachers", "models/first", "model", "--collection", "collection",
        "--lists", "lists/mined.jsonl.gz", "--output", "lists/labelled.jsonl",
    )  # fmt: skip
    assert labelled["lists"] == mined["lists"]
    prepared = run(
        "data", "tfds", "--lists", "lists/labelled.jsonl", "--output", "lists/set",
        "--collection", "collection:train",
    )  # fmt: skip
    assert prepared["lists"] == labelled["lists"]
    assert train("be_base_small", "lists/set", "models/second")["step"] == 3

    run("convert", "models/second", "hf:exported")
    run("convert", "hf:exported", "jaxir:back")
    for model in ("models/second", "exported", "back"):
        index = f"indexes/{model.replace('/', '-')}"
        words = ("--model", model, "--collection", "collection", "--index", index)
        run("index", *words)
        words = ("--index", index, "--queries", "collection:test", "--output")
        run("search", *words, f"{index}.trec")
    equal_runs("indexes/models-second.trec", "indexes/exported.trec")
    equal_runs("indexes/models-second.trec", "indexes/back.trec")
    hidden = [path for path in workplace.rglob(".*") if path.is_file()]
    assert hidden == [], "temporary files or locks are left"
