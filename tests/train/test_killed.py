"""Processes killed from outside: resumed they end as if nothing had happened."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from train import runner
from train.tiny_task import equal

import jaxir

RUNNER = Path(runner.__file__)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    result = runner.main(tmp_path_factory.mktemp("whole"))
    return jax.device_get(result.params)


def kill_at(work_dir, position, number):
    """Runs until batch ``position`` is asked for, then sends a signal."""
    root = str(Path(jaxir.__file__).parent.parent)
    same = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as conftest.py has it: bit for bit
    process = subprocess.Popen(
        [sys.executable, str(RUNNER), str(work_dir), "0.02"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": root, **same},
    )  # fmt: skip
    for line in process.stdout:
        # position 0 is asked for twice: once for its shapes
        if line.strip() == str(position):
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "position"), [(signal.SIGTERM, 9), (signal.SIGKILL, 17)]
)
def test_killed(tmp_path, uninterrupted, number, position):
    code, errors = kill_at(tmp_path, position, number)
    if number == signal.SIGTERM:
        assert code == 128 + signal.SIGTERM
        assert "stopped by SIGTERM after step" in errors
        assert "Traceback" not in errors
    else:
        assert code == -signal.SIGKILL
    result = runner.main(tmp_path)
    assert result.step == 40
    assert equal(result.params, uninterrupted)
