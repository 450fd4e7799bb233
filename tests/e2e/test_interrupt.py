"""Stopped from outside and started again, a command ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_rerankers import tiny_reranker

import jaxir
from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.data.formats import write_run

STOPS = Path(__file__).parent / "stops.py"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(jaxir.__file__).parent.parent),
    "JAX_NUM_CPU_DEVICES": "1",
}


def run(*words, stop_at="", number=signal.SIGKILL):
    """Exit code of a process that gets a signal when it prints a certain line."""
    process = subprocess.Popen(
        [sys.executable, str(STOPS), *map(str, words)], text=True, env=ENVIRONMENT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    for line in process.stdout:
        if stop_at and line.startswith(stop_at):
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors, errors
    return process.returncode


def files(folder):
    """Bytes of every file but those that hold no vectors or ids."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".npy", ".bin")
    }


@pytest.mark.slow
def test_index_killed(tiny_collection, tiny_model, tmp_path):
    words = ("index", tiny_model, tiny_collection)
    assert run(*words, tmp_path / "whole", 0) == 0
    killed, partial = tmp_path / "killed", tmp_path / "killed.partial"
    assert run(*words, killed, 60, stop_at="shard") == -signal.SIGKILL
    assert not killed.exists()
    first = partial / "vectors-00000.npy"
    kept = (first.stat().st_ino, first.stat().st_mtime_ns)
    assert len(list(partial.glob("*.npy"))) == 1
    assert run(*words, killed, 0) == 0
    assert not partial.exists()
    assert files(killed) == files(tmp_path / "whole")
    first = killed / "vectors" / "vectors-00000.npy"
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == kept, "encoded twice"


def check_stopped_training(words, place, number):
    """Stopped and started again, it ends with the parameters of a whole training.

    Args:
      words: of ``jaxir train``, over the tiny collection.
      place: for the model directories.
      number: of the signal.
    """
    words = (
        *words, "--gin.DEV_SPLIT='test'", "--gin.TRAIN_STEPS=12",
        "--gin.QUERY_LENGTH=16", "--gin.EVAL_EVERY=5", "--gin.SAVE_EVERY=100",
        "--gin.LEARNING_RATE=1e-2", "--model_dir",
    )  # fmt: skip
    assert run("train", 0, *words, place / "whole") == 0
    code = run("train", 0.2, *words, place / "part", stop_at="batch 7", number=number)
    assert code == 128 + number
    assert not (place / "part" / "model.json").exists()
    assert run("train", 0, *words, place / "part") == 0
    whole, part = load_model(place / "whole"), load_model(place / "part")
    jax.tree.map(np.testing.assert_array_equal, whole.params, part.params)
    assert whole.fingerprint == part.fingerprint


@pytest.mark.slow
def test_train_interrupted(tiny_collection, tiny_model, tmp_path):
    words = (
        "--gin_file", "experiments/finetune_small.gin",
        f"--gin.COLLECTION={str(tiny_collection)!r}", "--gin.CANDIDATES=None",
        f"--gin.MODEL_PATH={str(tiny_model)!r}", "--gin.BATCH_SIZE=4",
        "--gin.DOC_LENGTH=16", "--gin.DROPOUT=0.1",
    )  # fmt: skip
    check_stopped_training(words, tmp_path, signal.SIGINT)


@pytest.mark.slow
def test_rerank_killed(tiny_collection, tmp_path):
    save_model(tmp_path / "model", tiny_reranker("encdec", tmp_path / "words"))
    docs = [f"{topic}{i}" for topic in ("river", "engine", "bread") for i in (0, 1)]
    queries = [
        f"q-{topic}-{split}"
        for topic in ("river", "engine", "bread")
        for split in ("train", "test")
    ]
    scores = {doc: float(-i) for i, doc in enumerate(docs)}
    write_run(tmp_path / "run.trec", dict.fromkeys(queries, scores))

    def words(delay, name):
        return (
            "rerank", delay, "--model", tmp_path / "model", "--run",
            tmp_path / "run.trec", "--collection", tiny_collection, "--k", 4,
            "--keep_rest", "--output", tmp_path / name,
        )  # fmt: skip

    assert run(*words(0, "whole")) == 0
    # in the middle of a window of two queries
    code = run(*words(60, "killed"), stop_at="query 1")
    assert code == -signal.SIGKILL
    partial = tmp_path / "killed.partial"
    assert len(partial.read_text().splitlines()) == 2  # the settings, a query
    assert not (tmp_path / "killed").exists()
    with partial.open("a") as out:
        out.write('{"key": "q-river-te')  # as a crash leaves it
    assert run(*words(0.2, "killed"), stop_at="query 3") == -signal.SIGKILL
    assert len(partial.read_text().splitlines()) >= 4
    assert run(*words(0, "killed")) == 0
    assert not partial.exists()
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()
