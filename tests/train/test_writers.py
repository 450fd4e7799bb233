"""Metrics on disk and on the terminal."""

import errno
import json
import os

import pytest

from jaxir import progress
from jaxir.errors import InputError
from jaxir.train.writers import (
    JsonlWriter,
    ProgressWriter,
    TensorBoardWriter,
    read_metrics,
)


def test_lines_are_appended_and_truncated_on_resume(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.resume(0)
    for step in (10, 20, 30):
        writer.write(step, "train", {"loss": 1 / step})
    writer.write(20, "eval", {"nDCG@10": 0.5})
    with path.open("a") as out:
        out.write('{"step": 40, "ki')  # a crash
    again = JsonlWriter(path)
    again.resume(20)
    assert [(r["step"], r["kind"]) for r in read_metrics(path)] == [
        (10, "train"), (20, "train"), (20, "eval"),
    ]  # fmt: skip
    again.write(20, "eval", {"nDCG@10": 0.5})  # done again: not written twice
    again.write(30, "train", {"loss": 2.0})
    assert len(read_metrics(path)) == 4


def test_values_that_json_lacks(tmp_path):
    writer = JsonlWriter(tmp_path / "m.jsonl")
    writer.write(1, "eval", {"a": float("inf"), "b": 1.0})
    assert json.loads(writer.path.read_text()) == {
        "step": 1, "kind": "eval", "a": None, "b": 1.0,
    }  # fmt: skip


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(InputError, match="no space left on the device"):
        JsonlWriter(tmp_path / "m.jsonl").write(1, "train", {"loss": 1.0})


def test_tensorboard(tmp_path):
    writer = TensorBoardWriter(tmp_path / "tb")
    writer.resume(5)
    writer.close()  # nothing written, nothing made
    assert not (tmp_path / "tb").exists()
    writer.write(6, "train", {"loss": 0.25})
    writer.close()
    event_file = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    events = event_file.EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    (scalar,) = events.Scalars("train/loss")
    assert (scalar.step, scalar.value) == (6, 0.25)


def test_the_bar_shows_loss_rate_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.delenv("JAXIR_QUIET", raising=False)
    writer = ProgressWriter(100)
    writer.resume(40)
    writer.advance()
    writer.write(41, "train", {"loss": 0.12345, "examples_per_second": 12.34})
    writer.write(41, "eval", {"nDCG@10": 0.5})
    writer.close()
    shown = capsys.readouterr().err
    assert "41/100" in shown
    assert "loss=0.1235" in shown or "loss=0.1234" in shown
    assert "ex/s=12.3" in shown
    assert "step 41  nDCG@10 0.5000" in shown
    assert not progress._quiet
