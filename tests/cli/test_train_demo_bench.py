"""The verbs train, demo and bench from the command line, on tiny inputs."""

import json
import re
from types import SimpleNamespace

import pytest
from grown import grow

import jaxir
from jaxir.cli import road
from jaxir.cli.main import main
from jaxir.cli.stages import Stages
from jaxir.data.formats import write_run
from jaxir.errors import InputError


def train(tiny_collection, tiny_model, place, *more):
    run = {"q-river-train": {"bread0": 1.0}}
    write_run(place.parent / "run.trec", run)
    return main([
        "train", "--quiet", "--json",
        "--gin_file", "experiments/finetune_small.gin",
        f"--gin.COLLECTION={str(tiny_collection)!r}",
        f"--gin.CANDIDATES={str(place.parent / 'run.trec')!r}",
        f"--gin.MODEL_PATH={str(tiny_model)!r}",
        "--gin.DEV_SPLIT='test'", "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=8",
        "--gin.QUERY_LENGTH=16", "--gin.DOC_LENGTH=16",
        "--model_dir", str(place), *more,
    ])  # fmt: skip


@pytest.mark.slow
def test_train(tiny_collection, tiny_model, tmp_path, capsys):
    assert train(tiny_collection, tiny_model, tmp_path / "m") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["step"] == 2
    assert (tmp_path / "m" / "model.json").is_file()
    card = (tmp_path / "m" / "MODEL_CARD.md").read_text()
    assert "jaxir train --quiet --json --gin_file experiments/finetune_small" in card


def test_train_refuses_unknown_names(tiny_collection, tiny_model, tmp_path, capsys):
    place = tmp_path / "m"
    assert train(tiny_collection, tiny_model, place, "--gin.TRIAN_STEPS=3") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--gin.TRIAN_STEPS: no such macro" in error
    assert not place.exists()
    assert train(tiny_collection, tiny_model, place, "--gin.fit.fit.colour=3") == 2
    assert not place.exists()


@pytest.mark.slow
def test_demo_runs_and_keeps_what_it_made(
    tiny_collection, tiny_model, tmp_path, capsys, monkeypatch
):
    words = [
        "demo", "--output", str(tmp_path / "demo"), "--model", str(tiny_model),
        "--collection", str(tiny_collection), "--steps", "2",
        "--gin.DEV_SPLIT='test'", "--gin.BATCH_SIZE=8",
        "--gin.QUERY_LENGTH=16", "--gin.DOC_LENGTH=16",
    ]  # fmt: skip
    assert main(words) == 0
    first = capsys.readouterr()
    assert "OPQ and JPQ were left out: 256 centroids" in first.out
    assert "Sparse has no model for queries, and " in first.out
    names = ("BM25", "Zero-shot", "Fine-tuned", "BM25 + reranker", "Fusion", "Sparse")
    for name in (*names, "Hypencoder", "Hypencoder, graph", "report.html"):
        assert name in first.out
    scored = re.search(r"its graph it scored (\d+) of 12 documents", first.out)
    assert scored
    assert 0 < int(scored[1]) <= 12
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "Fine-tuned" in page
    assert "jaxir demo --output" in page
    assert f"scored {scored[1]} of 12 documents" in page
    run = (tmp_path / "demo" / "runs" / "bm25.trec").read_bytes()
    assert main([*words, "--json"]) == 0
    second = capsys.readouterr()
    assert second.err.count("kept from before") == 18
    result = json.loads(second.out)
    assert result["systems"][0]["name"] == "BM25"
    assert " tokens a document, " in result["sparse"]
    assert result["graph"] == f"scored {scored[1]} of 12 documents a query"
    assert (tmp_path / "demo" / "runs" / "bm25.trec").read_bytes() == run

    def training(files, *more, **options):
        raise InputError(files[0], "trained again")

    monkeypatch.setattr(road, "train_from_gin", training)
    text = road.experiment_text
    monkeypatch.setattr(road, "experiment_text", lambda file: text(file) + "# new")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("kept from before") == 3  # BM25's
    assert "experiments/demo.gin: trained again" in error


@pytest.mark.slow
def test_demo_compresses(tiny_collection, tiny_model, tmp_path):
    grow(tiny_collection, 288)
    out = tmp_path / "demo"
    out.mkdir()
    (out / "model").symlink_to(tiny_model)
    jaxir.build_index(str(tiny_model), tiny_collection, out / "indexes" / "fine-tuned")
    bindings = (f"COLLECTION = {str(tiny_collection)!r}", "CANDIDATES = 'none'")
    way = road.Road(
        out, jaxir.open_collection(str(tiny_collection)), "test", str(tiny_model),
        Stages(out, total=6), (*bindings, "TRAIN_STEPS = 2", "BATCH_SIZE = 8"),
        ("DEV_SPLIT = 'test'",), "jaxir demo",
    )  # fmt: skip
    saved = road.compressed(way)
    assert saved.startswith("1 bytes a document for 64 (64 times fewer), ")
    assert list(way.runs) == ["OPQ", "JPQ"]
    assert all(len(found) == 100 for found in way.runs["JPQ"].values())
    codes = [(out / "indexes" / n / "codes.npy").read_bytes() for n in ("opq", "jpq")]
    assert codes[0] == codes[1]


def test_text_of_an_experiment(tmp_path, monkeypatch):
    packaged = road.experiment_text("experiments/demo.gin")
    for line in ("SAVE_EVERY = 20", "include 'runs/train.gin'", "RUN = @fit.fit"):
        assert line in packaged
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.gin").write_text("include 'part.gin'\nA = 1\n")
    (tmp_path / "part.gin").write_text("B = 2")
    assert road.experiment_text("mine.gin").endswith("A = 1\n\nB = 2")


def test_demo_leaves_a_folder_of_others_alone(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("precious")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "holds something else than a demo" in error
    assert error.count("\n") == 1
    assert (tmp_path / "model" / "mine.txt").read_text() == "precious"


def test_bench_names(capsys):
    assert main(["bench", "--list"]) == 0
    names = capsys.readouterr().out.split()
    assert {"startup", "encode", "exact-search", "topk", "train-step"} <= set(names)
    assert main(["bench", "startpu"]) == 2
    assert "no such benchmark" in capsys.readouterr().err


TIMES = {"name": "adc", "case": "M=24", "ours_s": 0.5, "peer": "P", "peer_s": 1.0,
         "ratio": 2.0}  # fmt: skip
ALONE = {"peer": None, "peer_s": None, "ratio": None}


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ({}, "ratio 2.00"),
        ({"cpu_ratio": 1.816}, "ratio 2.00  cpu ratio 1.82"),
        ({"recall": 0.98765}, "ratio 2.00  recall 0.988"),
        ({**ALONE, "bytes_per_s": 1.234e12}, "ours 0.5 s  1,234.0 GB/s"),
        ({**ALONE, "bytes_per_s": 85.6e9}, "ours 0.5 s  85.6 GB/s"),
    ],
)
def test_bench_prints_what_a_search_in_codes_has(monkeypatch, capsys, more, end):
    case = TIMES | more
    benchmark = SimpleNamespace(run=lambda quick: iter([case]))
    monkeypatch.setattr("jaxir.cli.bench._load", lambda name: benchmark)
    assert main(["bench", "adc"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("adc            M=24 ")
    assert line.endswith(f" {end}")
    assert main(["bench", "adc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == case


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ({"latency_ms": {"p50": 1.25, "max": 20.0}}, "  p50 1.2, max 20.0 ms"),
        ({"requests": 10, "errors": 1, "wrong": 2}, "  10 requests, 1 errors, 2 wrong"),
        (
            {"served": 3, "refused": 4,
             "afterwards": {"requests": 5, "errors": 0, "wrong": 0}},
            "  3 served, 4 refused  then 5 requests, 0 errors, 0 wrong",
        ),
    ],
)  # fmt: skip
def test_bench_prints_what_became_of_requests(monkeypatch, capsys, more, end):
    case = {"name": "serve", "case": "a", "ours_s": 0.5, "peer": None} | more
    benchmark = SimpleNamespace(run=lambda quick: iter([case]))
    monkeypatch.setattr("jaxir.cli.bench._load", lambda name: benchmark)
    assert main(["bench", "serve"]) == 0
    assert capsys.readouterr().out.endswith(f"ours 0.5 s{end}\n")


@pytest.mark.slow
def test_bench_startup(capsys):
    assert main(["bench", "startup", "--quick", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines
    for line in lines:
        assert {"name", "case", "ours_s", "peer", "peer_s", "ratio"} <= set(line)
