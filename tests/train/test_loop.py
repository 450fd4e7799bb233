"""The loop: it learns, resumes exactly, chooses the best, and fails clearly."""

import dataclasses
import os
import signal

import jax
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from train.tiny_task import Stream, distance, equal, linear_task

from jaxir import progress
from jaxir.checkpoints.state import StateStore
from jaxir.errors import InputError
from jaxir.mesh import make_mesh
from jaxir.train.config import (
    Durations,
    TrainConfig,
    check_settings,
    resolve_durations,
)
from jaxir.train.loop import NonFiniteLoss, TrainingInterrupted, train
from jaxir.train.optimizers import OptimizerConfig
from jaxir.train.writers import read_metrics

OPTIMIZER = OptimizerConfig(learning_rate=0.1)
CONFIG = TrainConfig(
    total_steps=20, log_every=4, eval_every=6, save_every=5, mode="min"
)


def go(work_dir, config=CONFIG, *, stream=None, **options):
    options = {"optimizer": OPTIMIZER, "mesh": make_mesh(2), **options}
    return train(
        linear_task(), Stream() if stream is None else stream, config,
        work_dir=work_dir, **options,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Keeps what XLA compiled: every test here trains the same few steps."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    folder = str(tmp_path_factory.mktemp("xla"))
    for name, value in zip(names, (folder, 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


class Stop:
    """Batches that raise a signal while handing out batch ``at``."""

    def __init__(self, stream, at, number=signal.SIGTERM):
        self.stream, self.at, self.number = stream, at, number
        self.steps_per_epoch = stream.steps_per_epoch
        self.state, self.restore = stream.state, stream.restore
        self.seen = 0

    def __next__(self):
        self.seen += 1
        # the loop peeks at one batch before it begins
        if self.seen == self.at + 1:
            os.kill(os.getpid(), self.number)
        return next(self.stream)


class Crash(RuntimeError):
    pass


class Break(Stop):
    def __next__(self):
        self.seen += 1
        if self.seen == self.at + 1:
            raise Crash
        return next(self.stream)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("whole")
    result = go(work_dir, evaluate=distance)
    return jax.device_get(result.params), result, rows_of(work_dir)


def rows_of(work_dir):
    rows = read_metrics(work_dir / "metrics.jsonl")
    return [
        {k: v for k, v in row.items() if k != "examples_per_second"} for row in rows
    ]


def test_it_learns(tmp_path):
    config = dataclasses.replace(CONFIG, total_steps=200, log_every=20, save_every=1.0)
    result = go(tmp_path, config, optimizer=OptimizerConfig(learning_rate=0.2))
    losses = [row["loss"] for row in rows_of(tmp_path)]
    assert losses[-1] < 0.4 * losses[0]
    assert result.step == result.best_step == 200
    assert result.metrics == {}
    assert result.compilations == 1
    assert not result.stopped_early
    # the dropout biases the least-squares fit towards 0, not away from the truth
    assert np.all(np.sign(result.params["dense"]["kernel"]) == [1, -1, 1, 1])


@pytest.mark.parametrize("at", [1, 4, 5, 6, 12, 19, 20])
def test_stopped_by_a_signal_and_resumed(tmp_path, uninterrupted, at, capsys):
    params, result, rows = uninterrupted
    handler = signal.getsignal(signal.SIGTERM)
    stream = Stop(Stream(), at)
    if at < 20:
        with pytest.raises(TrainingInterrupted) as error:
            go(tmp_path, stream=stream, evaluate=distance)
        assert error.value.step == at
        assert error.value.code == 128 + signal.SIGTERM
        assert f"stopped by SIGTERM after step {at}, saved" in capsys.readouterr().err
    else:  # nothing was left to interrupt
        go(tmp_path, stream=stream, evaluate=distance)
    assert signal.getsignal(signal.SIGTERM) is handler
    resumed = go(tmp_path, evaluate=distance)
    assert equal(resumed.params, params)
    assert resumed.metrics == result.metrics
    assert resumed.best_step == result.best_step
    assert sorted_rows(tmp_path) == sorted(rows, key=order)


def order(row):
    return row["step"], row["kind"]


def sorted_rows(work_dir):
    # an evaluation put off by a signal is written after the next start
    return sorted(rows_of(work_dir), key=order)


@pytest.mark.parametrize("at", [1, 3, 6, 7, 13])
def test_crashed_and_resumed_from_the_last_save(tmp_path, uninterrupted, at):
    params, result, rows = uninterrupted
    with pytest.raises(Crash):
        go(tmp_path, stream=Break(Stream(), at), evaluate=distance)
    resumed = go(tmp_path, evaluate=distance)
    assert equal(resumed.params, params)
    assert resumed.metrics == result.metrics
    assert rows_of(tmp_path) == rows


def test_interrupted_again_and_again(tmp_path, uninterrupted):
    for _ in range(4):
        with pytest.raises(TrainingInterrupted):
            go(tmp_path, stream=Stop(Stream(), 3, signal.SIGINT), evaluate=distance)
    assert equal(go(tmp_path, evaluate=distance).params, uninterrupted[0])


def test_a_finished_run_returns_its_result(tmp_path, uninterrupted):
    first = go(tmp_path, evaluate=distance)

    def never(params):
        raise AssertionError("evaluated again")

    again = go(tmp_path, evaluate=never)
    assert equal(first.params, again.params)
    assert again.metrics == first.metrics
    assert again.compilations == 0


class Scripted:
    """An evaluation that says what it is told to, whatever the parameters."""

    def __init__(self, *values):
        self.values, self.params = list(values), []

    def __call__(self, params):
        self.params.append(jax.device_get(params))
        return {"loss": 0.0, "quality": self.values[len(self.params) - 1]}


SCRIPT = dataclasses.replace(
    CONFIG, eval_every=2, metric="quality", mode="max", patience=3, save_every=100
)


def test_best_and_early_stop(tmp_path):
    evaluate = Scripted(1, 5, 4, 5, 3, 9)
    result = go(tmp_path, SCRIPT, evaluate=evaluate)
    assert result.stopped_early
    assert (result.step, result.best_step) == (10, 4)
    assert result.metrics["quality"] == 5
    assert equal(result.params, evaluate.params[1])
    # saved at 2, 4 (each the best so far) and 10 (the end); keep is 2
    with StateStore(tmp_path / "checkpoints") as store:
        assert store.steps() == [4, 10]
    again = go(tmp_path, SCRIPT, evaluate=Scripted())
    assert again.stopped_early
    assert equal(again.params, result.params)


@pytest.mark.parametrize("at", [5, 6, 9])
def test_patience_survives_an_interruption(tmp_path, at):
    values = [1, 5, 4, 5, 3, 9]
    with pytest.raises(TrainingInterrupted):
        go(tmp_path, SCRIPT, stream=Stop(Stream(), at), evaluate=Scripted(*values))
    # a signal at an evaluation step leaves that evaluation to the next run
    done = at // 2 - (at % 2 == 0)
    result = go(tmp_path, SCRIPT, evaluate=Scripted(*values[done:]))
    assert (result.stopped_early, result.step, result.best_step) == (True, 10, 4)


def test_evaluated_before_the_first_step(tmp_path):
    given = {"dense": {"kernel": np.full(4, 0.25, np.float32), "bias": np.float32(0)}}
    evaluate = Scripted(5, *[1] * 10)
    config = dataclasses.replace(SCRIPT, eval_first=True, patience=None)
    result = go(tmp_path, config, evaluate=evaluate, initial_params=given)
    assert (result.best_step, result.step) == (0, 20)
    assert equal(result.params, given)


def test_the_average_is_evaluated_and_returned(tmp_path):
    seen = []

    def evaluate(params):
        seen.append(jax.device_get(params))
        return {"q": len(seen)}

    config = dataclasses.replace(CONFIG, mode="max")
    averaged = go(
        tmp_path / "a", config, evaluate=evaluate,
        optimizer=dataclasses.replace(OPTIMIZER, ema_decay=0.9),
    )  # fmt: skip
    assert equal(averaged.params, seen[-1])
    plain = go(tmp_path / "b", config)
    assert not equal(averaged.params, plain.params)


def test_nan_names_the_step_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(NonFiniteLoss, match="step 14: loss is nan") as error:
        go(tmp_path, stream=Stream(bad_at=13))
    assert isinstance(error.value, FloatingPointError)
    assert isinstance(error.value, InputError)
    assert f"last good checkpoint: {tmp_path / 'checkpoints' / '10'}" in str(
        error.value
    )
    with StateStore(tmp_path / "checkpoints") as store:
        assert store.steps() == [5, 10]
    assert all(row["loss"] is not None for row in rows_of(tmp_path))


def test_nan_is_found_before_it_is_saved(tmp_path):
    config = dataclasses.replace(CONFIG, log_every=100, save_every=1)
    with pytest.raises(NonFiniteLoss, match="step 3: loss is nan"):
        go(tmp_path, config, stream=Stream(bad_at=2))
    with StateStore(tmp_path / "checkpoints") as store:
        assert store.latest() == 2


def test_nan_at_once(tmp_path):
    with pytest.raises(NonFiniteLoss, match="last good checkpoint: none"):
        go(tmp_path, stream=Stream(bad_at=0))


def test_another_optimizer_on_resume(tmp_path):
    go(tmp_path)
    with pytest.raises(InputError, match=r"another model or optimizer: .*\+ opt_state"):
        go(tmp_path, optimizer=dataclasses.replace(OPTIMIZER, name="sgd"))


def test_a_longer_run_says_what_changed(tmp_path, capsys):
    go(tmp_path)
    result = go(tmp_path, dataclasses.replace(CONFIG, total_steps=24))
    assert result.step == 24
    assert "changed since the checkpoint: total_steps 20 -> 24" in (
        capsys.readouterr().err
    )


def test_compilation_is_said_once(tmp_path, capsys):
    assert go(tmp_path).compilations == 1
    assert capsys.readouterr().err.count("compiled the step for [8, 4] [8] in") == 1


def test_any_optax_optimizer_and_tensorboard(tmp_path):
    import optax

    config = dataclasses.replace(CONFIG, total_steps=4, tensorboard=True, epochs=None)
    go(tmp_path, config, optimizer=optax.sgd(0.1))
    assert "learning_rate" not in rows_of(tmp_path)[-1]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_metrics_hold_rate_and_learning_rate(tmp_path):
    go(tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20]
    assert rows[-1]["examples_per_second"] > 0
    assert {"loss", "abs", "grad_norm", "learning_rate"} <= rows[-1].keys()
    # warm-up over 2 of 20 steps: the last update has the rate of count 19
    assert rows[-1]["learning_rate"] == pytest.approx(0.1 / 18, rel=1e-5)


def test_no_host_sync_between_logs(tmp_path, monkeypatch):
    fetched = []
    real = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: fetched.append(1) or real(x))
    go(tmp_path, dataclasses.replace(CONFIG, log_every=10, save_every=10))
    # at 10 and 20 once to log, once more (with nothing to fetch) to save
    assert len(fetched) <= 4


def test_durations():
    assert resolve_durations(
        TrainConfig(epochs=1.5, log_every=0.5, eval_every=3, save_every=1.0), 11
    ) == Durations(17, 8, 3, 17)
    assert resolve_durations(TrainConfig(total_steps=7)).eval_every == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_steps": None}, "total_steps/epochs: None and None; expected exactly"),
        ({"epochs": 1}, "total_steps/epochs: 20 and 1; expected exactly one"),
        ({"total_steps": 0}, "total_steps: 0; expected 1 or more"),
        ({"save_every": 0}, "save_every: 0; expected 1 or more steps"),
        ({"log_every": 1.5}, "log_every: 1.5; expected steps, or a fraction"),
        ({"mode": "best"}, "mode: 'best'; expected max | min"),
        ({"patience": 0}, "patience: 0; expected 1 or more"),
        ({"accumulate": 0}, "accumulate: 0; expected 1 or more"),
        ({"metric": "nDCG"}, "metric: 'nDCG' is None; expected a number; evaluated: d"),
    ],
)
def test_bad_configurations(tmp_path, changes, message):
    config = dataclasses.replace(CONFIG, **changes)
    with pytest.raises(InputError) as error:
        go(tmp_path, config, evaluate=distance)
    assert message in str(error.value)


def test_settings_are_checked_without_data():
    long = OptimizerConfig(warmup=10**6)
    check_settings(TrainConfig(epochs=0.5), long)  # may be right
    check_settings(TrainConfig(total_steps=1), optax.sgd(1.0))
    with pytest.raises(InputError, match=r"warmup: 1000000; expected .* 0 to 7 steps"):
        check_settings(TrainConfig(total_steps=7), long)


def test_epochs_of_unknown_length():
    with pytest.raises(InputError, match="the length of the data is unknown"):
        resolve_durations(TrainConfig(epochs=2))


def test_batches_that_end(tmp_path):
    class Short(Stream):
        def __next__(self):
            if self.position == 3:
                raise StopIteration
            return super().__next__()

    with pytest.raises(InputError, match="batches: ended after step 3"):
        go(tmp_path, stream=Short())


def test_quiet_training_says_nothing(tmp_path, capsys):
    progress.set_quiet(True)
    try:
        go(tmp_path, evaluate=distance)
    finally:
        progress.set_quiet(False)
    assert capsys.readouterr().err == ""
