"""Stopped from outside and started again, a command ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxir
from jaxir.checkpoints.model_dir import load_model

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


@pytest.mark.slow
def test_train_interrupted(tiny_collection, tiny_model, tmp_path):
    def words(place, delay):
        return (
            "train", delay, "--gin_file", "experiments/finetune_small.gin",
            f"--gin.COLLECTION={str(tiny_collection)!r}", "--gin.CANDIDATES=None",
            f"--gin.MODEL_PATH={str(tiny_model)!r}", "--gin.DEV_SPLIT='test'",
            "--gin.TRAIN_STEPS=12", "--gin.BATCH_SIZE=4", "--gin.QUERY_LENGTH=16",
            "--gin.DOC_LENGTH=16", "--gin.DROPOUT=0.1", "--gin.EVAL_EVERY=5",
            "--gin.SAVE_EVERY=100", "--gin.LEARNING_RATE=1e-2",
            "--model_dir", tmp_path / place,
        )  # fmt: skip

    assert run(*words("whole", 0)) == 0
    code = run(*words("part", 0.2), stop_at="batch 7", number=signal.SIGINT)
    assert code == 128 + signal.SIGINT
    assert not (tmp_path / "part" / "model.json").exists()
    assert run(*words("part", 0)) == 0
    whole, part = load_model(tmp_path / "whole"), load_model(tmp_path / "part")
    jax.tree.map(np.testing.assert_array_equal, whole.params, part.params)
    assert whole.fingerprint == part.fingerprint
