"""Optimizers and schedules: one frozen configuration, one function each.

Every optimizer is the same chain: gradients in float32, clipping by global norm, the
optimizer's own direction, decoupled weight decay, minus the learning rate.  Groups of
parameters, told by their path, may have a learning rate, a decay and a clipping of
their own.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxir.errors import InputError

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "AverageState",
    "OptimizerConfig",
    "ParamGroup",
    "averaged_params",
    "make_optimizer",
    "make_schedule",
    "param_paths",
]


@dataclasses.dataclass(frozen=True)
class ParamGroup:
    """Parameters that are treated apart.

    Attributes:
      pattern: regular expression searched in the path, as in ``doc/layer_0/kernel``.
        A parameter belongs to the first group that matches.
      learning_rate: peak of the common schedule; None keeps the common one, 0 freezes.
      weight_decay: None keeps the common one.
      clip: whether the gradients count in the global norm and are clipped with it.
    """

    pattern: str
    learning_rate: float | None = None
    weight_decay: float | None = None
    clip: bool = True


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """What changes parameters, and how fast.

    Attributes:
      name: a key of :data:`OPTIMIZERS`.
      learning_rate: the peak of the schedule.
      schedule: a key of :data:`SCHEDULES`: what follows the warm-up.
      warmup: linear rise from 0: an int counts steps, a float below 1 is a fraction of
        the whole run.
      final_scale: what ``linear`` and ``cosine`` end at, as a fraction of the peak.
      weight_decay: decoupled, times the learning rate (AdamW's).
      no_decay: regular expressions of parameters that never decay; scalars never do.
        Add ``r"embedding$"`` to spare the embeddings.
      clip_norm: gradients longer than this are scaled to it; None clips nothing.
      b1, b2, eps: Adam's and Lion's moments (Lion ignores ``eps``; SGD takes ``b1`` as
        momentum; Adafactor none of them).
      multiply_by_parameter_scale: Adafactor's relative steps, as T5 trained with.
      groups: parameters treated apart.
      ema_decay: keeps an exponential moving average of the parameters, which then are
        what is evaluated and returned; None keeps none.
    """

    name: str = "adamw"
    learning_rate: float = 2e-5
    schedule: str = "linear"
    warmup: int | float = 0.1
    final_scale: float = 0.0
    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = (r"(^|/)(bias|scale)$",)
    clip_norm: float | None = 1.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    multiply_by_parameter_scale: bool = True
    groups: tuple[ParamGroup, ...] = ()
    ema_decay: float | None = None


def _constant(peak: float, warmup: int, total: int, final: float) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _linear(peak: float, warmup: int, total: int, final: float) -> optax.Schedule:
    return optax.linear_schedule(peak, peak * final, max(1, total - warmup))


def _cosine(peak: float, warmup: int, total: int, final: float) -> optax.Schedule:
    return optax.cosine_decay_schedule(peak, max(1, total - warmup), final)


def _rsqrt(peak: float, warmup: int, total: int, final: float) -> optax.Schedule:
    scale = max(1, warmup)
    # A joined schedule is also asked for counts before its beginning.
    return lambda count: peak * jnp.sqrt(scale / (jnp.maximum(count, 0) + scale))


SCHEDULES: dict[str, Callable[[float, int, int, float], optax.Schedule]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "rsqrt": _rsqrt,
}
"""What follows the warm-up: ``make(peak, warmup, total, final_scale) -> schedule``."""


def _adafactor(config: OptimizerConfig) -> optax.GradientTransformation:
    # optax.adafactor adds its decay after the learning rate; ours comes before.
    parts = [optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)]
    if config.multiply_by_parameter_scale:
        parts.append(optax.scale_by_param_block_rms())
    return optax.chain(*parts)


OPTIMIZERS: dict[str, Callable[[OptimizerConfig], optax.GradientTransformation]] = {
    "adamw": lambda c: optax.scale_by_adam(b1=c.b1, b2=c.b2, eps=c.eps),
    "adafactor": _adafactor,
    "lion": lambda c: optax.scale_by_lion(b1=c.b1, b2=c.b2),
    "sgd": lambda c: optax.trace(decay=c.b1),
}
"""The direction each optimizer takes, before decay and learning rate."""


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate by update, counted from 0.

    With ``w`` warm-up updates, ``n`` in all and peak ``p``: update ``i < w`` has
    ``p i / w``.  Then ``constant`` keeps ``p``; ``linear`` and ``cosine`` fall to
    ``final_scale p`` at ``n`` (``transformers``' schedules of these names); ``rsqrt``
    has ``p sqrt(w / i)`` (T5's, scaled so that its peak is ``p``).

    Args:
      config: see :class:`OptimizerConfig`.
      total_steps: updates of the whole run.

    Raises:
      InputError: an unknown schedule, or a warm-up that is not within the run.

    Example::

      >>> config = OptimizerConfig(learning_rate=1.0, schedule="linear", warmup=2)
      >>> schedule = make_schedule(config, 6)
      >>> [round(float(schedule(i)), 2) for i in range(7)]
      [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if config.schedule not in SCHEDULES:
        raise InputError("schedule", repr(config.schedule), " | ".join(SCHEDULES))
    warmup = config.warmup
    if isinstance(warmup, float) and warmup < 1:
        warmup = round(warmup * total_steps)
    if warmup != int(warmup) or not 0 <= warmup <= total_steps:
        raise InputError(
            "warmup",
            str(config.warmup),
            f"a fraction below 1 or 0 to {total_steps} steps",
        )
    warmup = int(warmup)
    peak = config.learning_rate
    body = SCHEDULES[config.schedule](peak, warmup, total_steps, config.final_scale)
    if warmup == 0:
        return body
    rise = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rise, body], [warmup])


def param_paths(params: Any) -> list[str]:
    """The path of every parameter, as in ``encoder/layer_0/kernel``.

    Example::

      >>> param_paths({"dense": {"bias": 0, "kernel": 1}})
      ['dense/bias', 'dense/kernel']
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [_path_name(path) for path, _ in leaves]


def _path_name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _in_float32(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """State and arithmetic in float32 whatever the type of the parameters."""

    def cast(tree: Any) -> Any:
        return optax.tree.cast(tree, jnp.float32)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return inner.update(cast(updates), state, cast(params))

    return optax.GradientTransformation(lambda params: inner.init(cast(params)), update)


class AverageState(NamedTuple):
    """Optimizer state that carries the averaged parameters (float32)."""

    average: Any


def _average(decay: float) -> optax.GradientTransformation:
    """Passes updates through and averages the parameters they lead to.

    ``a <- d a + (1 - d) p``, beginning at the initial parameters, hence without bias.
    """

    def update(updates: Any, state: AverageState, params: Any) -> tuple[Any, Any]:
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(
            lambda a, p: decay * a + (1 - decay) * p, state.average, new
        )
        return updates, AverageState(average)

    # A copy: params and the average must be separate buffers, both are donated.
    return optax.GradientTransformation(
        lambda params: AverageState(jax.tree.map(jnp.copy, params)), update
    )


def averaged_params(opt_state: Any, params: Any) -> Any:
    """The moving average kept in ``opt_state`` in the types of ``params``.

    ``params`` themselves come back where the optimizer keeps no average.
    """
    found = [
        node
        for node in jax.tree.leaves(
            opt_state, is_leaf=lambda node: isinstance(node, AverageState)
        )
        if isinstance(node, AverageState)
    ]
    if not found:
        return params
    return jax.tree.map(lambda a, p: a.astype(p.dtype), found[0].average, params)


def make_optimizer(
    config: OptimizerConfig, total_steps: int
) -> optax.GradientTransformation:
    """The optimizer a configuration describes.

    Args:
      config: see :class:`OptimizerConfig`.
      total_steps: updates of the whole run, which schedules are stretched over.

    Returns:
      An optax transformation whose state is float32.

    Raises:
      InputError: an unknown name or schedule, a value out of range, a pattern that is
        not a regular expression, or (from ``init``) a group without parameters.

    Example::

      >>> optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup=0), 10)
      >>> params = {"kernel": jnp.ones(2)}
      >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
      >>> updates["kernel"].round(3).tolist()
      [-0.10100000351667404, -0.10100000351667404]
    """
    _check(config)
    groups = (*config.groups, ParamGroup(""))  # the last one takes the rest

    def labels(params: Any) -> Any:
        def label(path: tuple, _: Any) -> str:
            name = _path_name(path)
            found = (i for i, g in enumerate(groups) if re.search(g.pattern, name))
            return str(next(found))

        return jax.tree_util.tree_map_with_path(label, params)

    def clipped(params: Any) -> Any:
        return jax.tree.map(lambda name: groups[int(name)].clip, labels(params))

    parts: list[optax.GradientTransformation] = []
    if config.clip_norm is not None:
        clip = optax.clip_by_global_norm(config.clip_norm)
        # Everything is masked in where nothing is excluded: a smaller state tree.
        every = all(group.clip for group in groups)
        parts.append(clip if every else optax.masked(clip, clipped))
    if config.groups:
        inner = {str(i): _group(config, g, total_steps) for i, g in enumerate(groups)}
        parts.append(optax.partition(inner, labels))
    else:
        parts.append(_group(config, groups[0], total_steps))
    if config.ema_decay is not None:
        parts.append(_average(config.ema_decay))
    chained = _in_float32(optax.chain(*parts))

    def init(params: Any) -> Any:
        paths = param_paths(params)
        for group in config.groups:
            if not any(re.search(group.pattern, path) for path in paths):
                raise InputError(
                    "groups",
                    f"{group.pattern!r} matches no parameter",
                    f"a pattern for paths such as {', '.join(paths[:3])}",
                )
        return chained.init(params)

    return optax.GradientTransformation(init, chained.update)


def _group(
    config: OptimizerConfig, group: ParamGroup, total_steps: int
) -> optax.GradientTransformation:
    """Direction, decay and learning rate of one group."""
    if group.learning_rate == 0:
        return optax.set_to_zero()
    if group.learning_rate is not None:
        config = dataclasses.replace(config, learning_rate=group.learning_rate)
    parts = [OPTIMIZERS[config.name](config)]
    decay = config.weight_decay if group.weight_decay is None else group.weight_decay
    if decay:

        def decays(params: Any) -> Any:
            def one(path: tuple, leaf: Any) -> bool:
                name = _path_name(path)
                # A masked-out leaf of another group has no shape and never decays.
                if not getattr(leaf, "ndim", 0):
                    return False
                return not any(re.search(p, name) for p in config.no_decay)

            return jax.tree_util.tree_map_with_path(one, params)

        parts.append(optax.add_decayed_weights(decay, mask=decays))
    schedule = make_schedule(config, total_steps)
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule))


def _check(config: OptimizerConfig) -> None:
    if config.name not in OPTIMIZERS:
        raise InputError("name", repr(config.name), " | ".join(OPTIMIZERS))
    if not (math.isfinite(config.learning_rate) and config.learning_rate >= 0):
        raise InputError("learning_rate", str(config.learning_rate), "0 or more")
    if config.clip_norm is not None and not config.clip_norm > 0:
        raise InputError(
            "clip_norm", str(config.clip_norm), "above 0", "use None to clip nothing"
        )
    if config.ema_decay is not None and not 0 <= config.ema_decay < 1:
        raise InputError("ema_decay", str(config.ema_decay), "0 to below 1")
    patterns = [*config.no_decay, *(group.pattern for group in config.groups)]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(
                "groups/no_decay", repr(pattern), "a regular expression", str(error)
            ) from error
