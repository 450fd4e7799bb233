"""JPQ's training, stopped from outside and started again."""

import signal

import jax
import numpy as np
import pytest
from e2e.test_interrupt import run
from tiny_jpq import tiny_jpq_index

from jaxir.checkpoints.model_dir import load_model


@pytest.mark.slow
def test_train_interrupted(tiny_collection, make_tiny_model, tmp_path):
    index = tiny_jpq_index(make_tiny_model(), tiny_collection, tmp_path / "index")

    def words(place, delay):
        return (
            "train", delay, "--gin_file", "experiments/jpq_small.gin",
            f"--gin.COLLECTION={str(tiny_collection)!r}", f"--gin.INDEX={str(index)!r}",
            "--gin.DEV_SPLIT='test'", "--gin.TRAIN_STEPS=12", "--gin.BATCH_SIZE=3",
            "--gin.QUERY_LENGTH=16", "--gin.NUM_NEGATIVES=8", "--gin.EVAL_EVERY=5",
            "--gin.SAVE_EVERY=100", "--gin.LEARNING_RATE=1e-2",
            "--model_dir", tmp_path / place,
        )  # fmt: skip

    assert run(*words("whole", 0)) == 0
    code = run(*words("part", 0.2), stop_at="batch 7", number=signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert not (tmp_path / "part" / "model.json").exists()
    assert run(*words("part", 0)) == 0
    whole, part = load_model(tmp_path / "whole"), load_model(tmp_path / "part")
    jax.tree.map(np.testing.assert_array_equal, whole.params, part.params)
    assert whole.fingerprint == part.fingerprint
