"""Two processes train one model: the global batch, one checkpoint, one end."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from train.tiny_task import Stream, distance, linear_task

import jaxir
from jaxir.checkpoints.state import StateStore
from jaxir.mesh import make_mesh
from jaxir.train.loop import TrainConfig, train
from jaxir.train.optimizers import OptimizerConfig

SCRIPT = Path(__file__).parent / "two_processes.py"


def start(work_dir, delay):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    root = str(Path(jaxir.__file__).parent.parent)
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(work_dir), address, str(i), str(delay)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        for i in range(2)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [7, 9], ids=["on the way", "before evaluation"])
def test_two_processes_train_stop_and_resume(tmp_path, signalled):
    alone = train(
        linear_task(), Stream(),
        TrainConfig(total_steps=30, log_every=2, eval_every=10, mode="min"),
        optimizer=OptimizerConfig(learning_rate=0.1), work_dir=tmp_path / "alone",
        evaluate=distance, mesh=make_mesh(4),
    )  # fmt: skip

    runs = start(tmp_path / "two", 0.05)
    for line in runs[1].stdout:
        if f"at {signalled}" in line:
            runs[1].send_signal(signal.SIGTERM)
            break
    for run in runs:  # one was told, both stop after the same step
        _, err = run.communicate(timeout=120)
        assert run.returncode == 128 + signal.SIGTERM, err[-3000:]
    with StateStore(tmp_path / "two" / "checkpoints") as store:
        assert 7 <= store.latest() <= 12

    for run in start(tmp_path / "two", 0.0):
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err[-3000:]
    first, second = (np.load(tmp_path / "two" / f"kernel{i}.npy") for i in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, alone.params["dense"]["kernel"], rtol=1e-4)
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 15 + 3
