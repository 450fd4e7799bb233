"""How long a run lasts and what it does on the way: the configuration of the loop."""

import dataclasses
import math
from typing import Any, NamedTuple

from jaxir.errors import InputError
from jaxir.train.optimizers import OptimizerConfig, make_optimizer

__all__ = ["Durations", "TrainConfig", "check_settings", "resolve_durations"]

_ENDLESS = 2**31  # steps of an epoch whose length is not known yet


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long to train, and what to do on the way.

    Durations are an int, in steps, or a float in (0, 1], a fraction of the whole run.

    Attributes:
      total_steps: updates in all; or give ``epochs``.
      epochs: passes over the data.
      log_every: steps between lines of metrics, each a mean over its window.
      eval_every: steps between evaluations; None evaluates at the end.
      save_every: steps between checkpoints.
      eval_first: evaluate before the first step as well (a fine-tuned model may be no
        better than what it began from).
      keep: latest checkpoints kept, besides the best.
      seed: of parameters, dropout and sampling.
      rng_impl: JAX's generator; ``"rbg"`` is faster for dropout on accelerators.
      accumulate: micro-batches of a batch, see ``make_train_step``.
      metric: what the best checkpoint is chosen by; None is the first evaluated.
      mode: ``"max"`` or ``"min"``.
      patience: stop after so many evaluations without a better value; None never.
      tensorboard: also write TensorBoard events.
    """

    total_steps: int | None = None
    epochs: int | float | None = None
    log_every: int | float = 10
    eval_every: int | float | None = None
    save_every: int | float = 500
    eval_first: bool = False
    keep: int = 2
    seed: int = 0
    rng_impl: str = "threefry2x32"
    accumulate: int = 1
    metric: str | None = None
    mode: str = "max"
    patience: int | None = None
    tensorboard: bool = False


class Durations(NamedTuple):
    """All durations of a run, in steps."""

    total_steps: int
    log_every: int
    eval_every: int
    save_every: int


def resolve_durations(
    config: TrainConfig, steps_per_epoch: int | None = None
) -> Durations:
    """Every duration in steps.

    Args:
      config: see :class:`TrainConfig`.
      steps_per_epoch: batches of one pass, where known.

    Raises:
      InputError: neither or both of total_steps and epochs, epochs over data of unknown
        length, or a duration that is not positive.

    Example::

      >>> resolve_durations(TrainConfig(epochs=2, eval_every=0.25), 100)
      Durations(total_steps=200, log_every=10, eval_every=50, save_every=500)
    """
    if (config.total_steps is None) == (config.epochs is None):
        raise InputError(
            "total_steps/epochs",
            f"{config.total_steps} and {config.epochs}",
            "exactly one of the two",
        )
    if config.epochs is None:
        total = config.total_steps or 0
    elif steps_per_epoch is None:
        raise InputError(
            "epochs", "the length of the data is unknown", "a count", "use total_steps"
        )
    else:
        total = math.ceil(config.epochs * steps_per_epoch)
    if total < 1:
        raise InputError("total_steps", str(total), "1 or more")

    def steps(name: str, value: int | float) -> int:
        if isinstance(value, float):
            if not 0 < value <= 1:
                raise InputError(name, str(value), "steps, or a fraction up to 1.0")
            value = max(1, round(value * total))
        if value < 1:
            raise InputError(name, str(value), "1 or more steps")
        return value

    return Durations(
        total,
        steps("log_every", config.log_every),
        total if config.eval_every is None else steps("eval_every", config.eval_every),
        steps("save_every", config.save_every),
    )


def check_settings(config: TrainConfig, optimizer: Any) -> None:
    """Raises what training would, as far as it can be told before there are data.

    Of epochs the steps are not known: a warm-up in steps may still be too long.

    Args:
      config: of the loop.
      optimizer: its configuration, or any optax transformation, which has none.

    Raises:
      InputError: a setting out of range, an unknown name, a warm-up longer than the
        run.
    """
    if config.mode not in ("max", "min"):
        raise InputError("mode", repr(config.mode), "max | min")
    if config.patience is not None and config.patience < 1:
        raise InputError("patience", str(config.patience), "1 or more evaluations")
    if config.accumulate < 1:
        raise InputError("accumulate", str(config.accumulate), "1 or more")
    times = resolve_durations(config, _ENDLESS)
    if isinstance(optimizer, OptimizerConfig):
        make_optimizer(optimizer, times.total_steps)
