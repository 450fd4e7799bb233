"""The one training loop: a task, batches, and a directory to continue from."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import optax
from jax.sharding import Mesh

from jaxir.checkpoints.state import StateStore
from jaxir.errors import InputError
from jaxir.mesh import any_process, make_mesh, put_batch, replicated
from jaxir.progress import say
from jaxir.train.config import TrainConfig, check_settings, resolve_durations
from jaxir.train.interrupt import TrainingInterrupted, collect_signals
from jaxir.train.optimizers import (
    OptimizerConfig,
    averaged_params,
    make_optimizer,
    make_schedule,
)
from jaxir.train.step import ShardingRule, make_train_step, plan_state
from jaxir.train.writers import (
    JsonlWriter,
    ProgressWriter,
    TensorBoardWriter,
    Writer,
)
from jaxir.types import Params, Task

__all__ = [
    "Batches",
    "NonFiniteLoss",
    "TrainConfig",
    "TrainResult",
    "TrainingInterrupted",
    "train",
]

# Steps the host may run ahead of the device: enough to hide its work, few enough that
# batches do not pile up and a signal is answered at once.
_AHEAD = 2


class Batches(Protocol):
    """An endless iterator over batches that knows its position.

    ``steps_per_epoch`` or ``len()`` is asked for only where epochs are configured.
    """

    def __next__(self) -> Any:
        """The next batch, host arrays ``[rows, ...]`` of a fixed set of shapes."""

    def state(self) -> dict[str, Any]:
        """The position as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position."""


class TrainResult(NamedTuple):
    """What training leaves.

    Attributes:
      params: of the best evaluation, or the last without one; on the devices.
      step: updates done.
      metrics: the evaluation of ``params``; empty without one.
      best_step: the update ``params`` come from.
      stopped_early: patience ran out before ``total_steps``.
      compilations: shapes for which the step was compiled.
    """

    params: Params
    step: int
    metrics: dict[str, float]
    best_step: int
    stopped_early: bool
    compilations: int


class NonFiniteLoss(InputError, FloatingPointError):
    """The loss or its gradient became NaN or infinite."""


@dataclasses.dataclass
class _Run:
    """What a run remembers besides arrays and data; saved with every checkpoint."""

    pending: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] | None = None  # step, value, metrics
    bad_evals: int = 0
    evaluated_step: int = -1

    def judge(self, step: int, metrics: dict[str, float], config: TrainConfig) -> bool:
        """Takes an evaluation; true when it is the best so far."""
        self.evaluated_step = step
        name = config.metric or next(iter(metrics), "")
        value = metrics.get(name)
        if value is None or math.isnan(value):
            raise InputError(
                "metric",
                f"{name!r} is {value}",
                f"a number; evaluated: {', '.join(metrics) or 'nothing'}",
            )
        sign = 1 if config.mode == "max" else -1
        if self.best is None or sign * value > sign * self.best["value"]:
            self.best = {"step": step, "value": value, "metrics": metrics}
            self.bad_evals = 0
            return True
        self.bad_evals += 1
        return False

    @property
    def best_step(self) -> int | None:
        return None if self.best is None else self.best["step"]


class _Rate:
    """Examples a second, without compilation, evaluation and saving."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._examples, self._start = 0, time.perf_counter()

    def add(self, examples: int) -> None:
        self._examples += examples

    def values(self) -> dict[str, float]:
        if not self._examples:
            return {}
        seconds = time.perf_counter() - self._start
        return {"examples_per_second": self._examples / seconds}


def train(
    task: Task,
    batches: Any,
    config: TrainConfig,
    *,
    optimizer: OptimizerConfig | optax.GradientTransformation,
    work_dir: str | Path,
    mesh: Mesh | None = None,
    initial_params: Params | None = None,
    evaluate: Callable[[Params], dict[str, float]] | None = None,
    writers: Sequence[Any] = (),
    sharding_rule: ShardingRule | None = None,
) -> TrainResult:
    """Trains, or continues what ``work_dir`` holds, to the end.

    Interrupted at any step and called again, it gives the parameters of an
    uninterrupted run bit for bit.  On SIGTERM or SIGINT the step is finished and saved;
    after a crash the last checkpoint is continued.  A finished run returns its result.

    Leaves in ``work_dir``: ``checkpoints/``, ``metrics.jsonl``, ``tensorboard/``.

    Args:
      task: parameters and loss.
      batches: see :class:`Batches`.
      config: durations and habits.
      optimizer: a configuration, or any optax transformation.
      work_dir: made if absent.
      mesh: devices, all of them by default; batches are split over its ``"data"`` axis.
      initial_params: to begin from instead of ``task.init``; left as they are.
      evaluate: ``params -> metrics``, higher or lower is better as ``config.mode``
        says.  It must not keep the parameters: the next step reuses their memory.
      writers: further :class:`~jaxir.train.writers.Writer` objects.
      sharding_rule: shardings of parameters over the mesh; None replicates them.

    Raises:
      InputError: a configuration that cannot be, a checkpoint of another model, an
        evaluation without the metric, a full disk, batches that end.
      NonFiniteLoss: the loss or its gradient is not finite; checkpoints stay good.
      TrainingInterrupted: a signal came; what was done is saved.
    """
    check_settings(config, optimizer)
    work_dir = Path(work_dir)
    mesh = make_mesh() if mesh is None else mesh

    # The order of beginning and of resuming is one and the same:
    # 1. durations, the optimizer and its schedule;
    times = resolve_durations(config, _steps_per_epoch(batches))
    schedule = None
    summary = {"seed": config.seed, "accumulate": config.accumulate, **times._asdict()}
    if isinstance(optimizer, OptimizerConfig):
        summary["optimizer"] = repr(optimizer)
        schedule = make_schedule(optimizer, times.total_steps)
        optimizer = make_optimizer(optimizer, times.total_steps)

    # 2. one batch for its shapes, after which the iterator goes back;
    position = batches.state()
    example = _next(batches, 0)
    batches.restore(position)

    # 3. shapes and places of the state; nothing is allocated yet;
    rng = jax.random.key(config.seed, impl=config.rng_impl)
    plan = plan_state(
        task, optimizer, example, rng,
        mesh=mesh, initial_params=initial_params, rule=sharding_rule,
    )  # fmt: skip
    train_step: Any = make_train_step(
        task, optimizer, accumulate=config.accumulate, mesh=mesh,
        rng_impl=config.rng_impl,
        shardings=jax.tree.map(lambda leaf: leaf.sharding, plan.like),
    )  # fmt: skip

    # once, for all steps
    constants = jax.device_put(task.constants, replicated(mesh))

    with contextlib.ExitStack() as stack:
        # 4. the last whole checkpoint, or the state before the first step;
        store = StateStore(work_dir / "checkpoints", keep=config.keep)
        stack.callback(store.close)
        run, step = _Run(), store.latest() or 0
        if store.latest() is None:
            state = plan.make()
        else:
            state, record = store.restore(step, plan.like)
            # 5. the position in the data, where the next batch is step + 1's;
            batches.restore(record["data"])
            # 6. best value, patience, and the metrics of an unfinished window;
            run = _Run(**record["run"])
            _say_changes(record["summary"], summary)
            say(f"continuing after step {step} of {times.total_steps} in {work_dir}")

        # 7. writers forget what came after that step;
        bar = ProgressWriter(times.total_steps)
        outputs: list[Writer] = [bar, *writers]
        if jax.process_index() == 0:
            outputs.append(JsonlWriter(work_dir / "metrics.jsonl"))
            if config.tensorboard:
                outputs.append(TensorBoardWriter(work_dir / "tensorboard"))
        for output in outputs:
            stack.callback(output.close)
            output.resume(step)

        rate, compiled = _Rate(), 0
        on_device: list[Any] = []  # metrics of steps not looked at yet
        received = stack.enter_context(collect_signals())

        def fetch() -> None:
            """Brings metrics to the host and looks at them: before any save."""
            if not on_device:
                return
            first = step - len(on_device)
            for i, values in enumerate(jax.device_get(on_device)):
                values = {name: float(value) for name, value in values.items()}
                _check_finite(first + i + 1, values, store)
                run.pending.append(values)
            on_device.clear()

        def write(kind: str, values: dict[str, float]) -> None:
            for output in outputs:
                output.write(step, kind, values)

        def save() -> None:
            fetch()
            record = {
                "data": batches.state(),
                "run": dataclasses.asdict(run),
                "summary": summary,
            }
            store.save(step, state, record, best_step=run.best_step)
            rate.reset()

        def assess() -> None:
            """Evaluates where it is due and not done; saves what is best so far."""
            due = step % times.eval_every == 0 or step == times.total_steps
            if step == 0:
                due = config.eval_first
            if evaluate is None or not due or run.evaluated_step >= step:
                return
            fetch()
            metrics = evaluate(averaged_params(state.opt_state, state.params))
            metrics = {name: float(value) for name, value in metrics.items()}
            write("eval", metrics)
            if run.judge(step, metrics, config):
                save()
            rate.reset()

        def stopped_early() -> bool:
            return config.patience is not None and run.bad_evals >= config.patience

        def stopping() -> bool:
            if jax.process_count() == 1:
                return bool(received)
            # All processes must leave after the same step; asking has a price.
            return step % times.log_every == 0 and any_process(bool(received))

        # 8. an evaluation that an interruption left undone;
        assess()

        # 9. the steps.
        while step < times.total_steps and not stopped_early() and not stopping():
            batch = _next(batches, step)
            started = time.perf_counter()
            state, metrics = train_step(state, put_batch(batch, mesh), constants)
            step += 1
            on_device.append(metrics)
            rate.add(_rows(batch) * jax.process_count())
            if train_step._cache_size() > compiled:
                compiled = train_step._cache_size()
                seconds = time.perf_counter() - started
                say(f"compiled the step for {_shapes(batch)} in {seconds:.1f} s")
                rate.reset()
            # Not a stall: the device has work queued behind the step waited for.
            if len(on_device) >= _AHEAD:
                jax.block_until_ready(on_device[-_AHEAD])
            bar.advance()

            if step % times.log_every == 0 or step == times.total_steps:
                fetch()
                values = _mean(run.pending)
                run.pending.clear()
                if schedule is not None:
                    values["learning_rate"] = float(schedule(step - 1))
                write("train", {**values, **rate.values()})
                rate.reset()
            # A signal does not wait for an evaluation, which is done on resuming; but
            # of several processes only some know of it, and all must evaluate.
            if not received or step == times.total_steps or jax.process_count() > 1:
                assess()
            if step % times.save_every == 0:
                save()

        save()
        store.wait()
        if step < times.total_steps and not stopped_early():
            number = received[0] if received else signal.SIGTERM
            say(
                f"stopped by {signal.Signals(number).name} after step {step}, saved in "
                f"{store.path(step)}; run the same command to continue"
            )
            raise TrainingInterrupted(step, number)

        best = run.best or {"step": step, "metrics": {}}
        if best["step"] != step:
            del state  # two states need not fit
            state = store.restore(best["step"], plan.like).state
        params = averaged_params(state.opt_state, state.params)
        return TrainResult(
            params, step, best["metrics"], best["step"],
            step < times.total_steps, compiled,
        )  # fmt: skip


def _steps_per_epoch(batches: Any) -> int | None:
    count = getattr(batches, "steps_per_epoch", None)
    return len(batches) if count is None and hasattr(batches, "__len__") else count


def _next(batches: Any, step: int) -> Any:
    try:
        return next(batches)
    except StopIteration:
        raise InputError(
            "batches", f"ended after step {step}", "an endless iterator"
        ) from None


def _rows(batch: Any) -> int:
    return next(x.shape[0] for x in jax.tree.leaves(batch) if x.ndim)


def _shapes(batch: Any) -> str:
    shapes = dict.fromkeys(str(list(x.shape)) for x in jax.tree.leaves(batch))
    return " ".join(shapes)


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(r[name] for r in rows) / len(rows) for name in rows[0]}


def _check_finite(step: int, values: dict[str, float], store: StateStore) -> None:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            store.wait()
            last = store.latest()
            raise NonFiniteLoss(
                f"step {step}",
                f"{name} is {values[name]}",
                "a finite number",
                "lower the learning rate or clip gradients; last good checkpoint: "
                + ("none" if last is None else str(store.path(last))),
            )


def _say_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            change = f"{name} {before.get(name)} -> {now.get(name)}"
            say(f"changed since the checkpoint: {change}")
