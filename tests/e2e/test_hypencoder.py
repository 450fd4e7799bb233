"""A Hypencoder's whole road: trained, indexed, searched both ways, and as a teacher."""

import json

import numpy as np
import pytest
from tiny_hypencoders import tiny_hypencoder

from jaxir import fit
from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.cli.main import main
from jaxir.data.formats import read_run
from jaxir.data.lists import read_lists
from jaxir.data.pipeline import PipelineConfig
from jaxir.hyper.task import HyperLoss
from jaxir.train.config import TrainConfig
from jaxir.train.optimizers import OptimizerConfig
from jaxir.validate import ValidationConfig


def trained(start, place):
    """Learned from the judgments alone; the best of the validations."""
    return fit.fit(
        load_model(start),
        "tiny",
        model_dir=place,
        loss=HyperLoss(margin_mse=0.0),
        pipeline=PipelineConfig(batch_size=8, list_size=4, query_buckets=1),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="constant", warmup=1),
        loop=TrainConfig(total_steps=300, save_every=300, eval_every=20),
        validation=ValidationConfig(split="test"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("warm_start", [False, True])
def test_road(warm_start, tiny_collection, tmp_path, monkeypatch, capfd):
    def run(*words):
        """The command's result as JSON."""
        capfd.readouterr()
        assert main([*words, "--json", "--quiet"]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        return json.loads(out)

    def ndcg(name):
        told = run("evaluate", "--qrels", "tiny:test", "--runs", f"{name}.trec")
        return told["systems"][0]["results"]["nDCG@10"]["mean"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxir.mesh.use_cpu_cores", lambda: 1)
    words = tmp_path / "words"
    save_model("start", tiny_hypencoder(words, spread=False, warm_start=warm_start))
    result = trained("start", "model")
    assert result.compilations == 1
    assert result.model.kind == load_model("model").kind == "hypencoder"

    search = ("search", "--queries", "tiny:test", "--k", "10", "--output")
    for name in ("start", "model"):
        built = run("index", "--model", name, "--collection", "tiny", "--index",
                    f"i-{name}", "--neighbors", "4")  # fmt: skip
        assert (built["kind"], built["neighbors"]) == ("hypencoder", 4)
        found = run(*search, f"{name}.trec", "--index", f"i-{name}")
        assert (found["mode"], found["docs_scored"]) == ("exhaustive", 12)
    # training helps, and what it was told of itself is what a search then gives
    assert ndcg("model") > max(0.8, ndcg("start"))
    assert ndcg("model") == pytest.approx(result.metrics["nDCG@10"], abs=1e-6)

    few = ("--entry_points", "2", "--explore", "1", "--iterations", "2")
    graph = ("--index", "i-model", "--mode", "graph", *few)
    walked = run(*search, "graph.trec", *graph)
    assert walked["mode"] == "graph"
    # two, and of one's four neighbours those that are not the other
    assert 5 <= walked["docs_scored"] <= 6
    exhaustive = read_run("model.trec")
    for query, scored in read_run("graph.trec").items():
        assert len(scored) == 2  # fewer documents, the same scores
        for doc, score in scored.items():
            if doc in exhaustive[query]:  # ten of twelve
                assert score == pytest.approx(exhaustive[query][doc], abs=1e-4)

    # it reranks, mines and teaches like any other model that scores
    told = run("rerank", "--model", "model", "--run", "start.trec", "--collection",
               "tiny:test", "--output", "reranked.trec")  # fmt: skip
    assert told["queries"] == 3
    reranked = read_run("reranked.trec")
    for query, scored in reranked.items():
        both = scored.keys() & exhaustive[query].keys()
        ours, theirs = ([of[doc] for doc in both] for of in (scored, exhaustive[query]))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    run("mine", "--index", "i-start", "--collection", "tiny:train", "--output",
        "mined.jsonl", "--range_max", "12", "--rescore", "model")  # fmt: skip
    labelled = "labelled.jsonl"
    run("label", "--teachers", "model", "--collection", "tiny", "--lists",
        "mined.jsonl", "--output", labelled)  # fmt: skip
    assert all(len(item.scores) == len(item.doc_ids) for item in read_lists(labelled))
    hidden = [path for path in tmp_path.rglob(".*") if path.is_file()]
    assert hidden == [], "temporary files or locks are left"
