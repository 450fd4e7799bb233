"""One update of the parameters: a jitted function with donated state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxir.errors import InputError
from jaxir.mesh import batch_sharding, replicated
from jaxir.types import Metrics, Params, RankBatch, Task, TokenGroups

__all__ = [
    "ShardingRule",
    "StatePlan",
    "TrainState",
    "make_train_step",
    "micro_batches",
    "plan_state",
    "state_shardings",
]

ShardingRule = Callable[[Any, Mesh], Any]
"""``rule(param_shapes, mesh) -> shardings``, a pytree like the parameters."""


class TrainState(NamedTuple):
    """Everything an update changes, and the key that never changes.

    Attributes:
      step: int32 scalar, updates done so far.
      params: the parameters.
      opt_state: the optimizer's state, float32.
      rng: ``key_data`` of the run's random key (typed keys would keep calls off jit's
        fast path); an update uses ``fold_in(rng, step)``, so a resumed run draws what
        an uninterrupted one draws.
    """

    step: Any
    params: Any
    opt_state: Any
    rng: Any


class StatePlan(NamedTuple):
    """A state that may be made or restored.

    Attributes:
      like: ``jax.ShapeDtypeStruct`` leaves with shardings, for restoring.
      make: computes the state before the first update.
    """

    like: TrainState
    make: Callable[[], TrainState]


def state_shardings(
    state: TrainState, mesh: Mesh, rule: ShardingRule | None = None
) -> TrainState:
    """Where each leaf of a state lies: replicated, or as ``rule`` says of parameters.

    Optimizer state that mirrors a parameter (same path below it, same shape) lies as
    the parameter does.

    Args:
      state: arrays or their shapes.
      mesh: see :func:`jaxir.mesh.make_mesh`.
      rule: shardings of the parameters; None replicates them.
    """
    whole = replicated(mesh)
    everywhere = jax.tree.map(lambda _: whole, state)
    if rule is None:
        return everywhere
    params = rule(state.params, mesh)
    placed = {
        path: (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(state.params),
            jax.tree.leaves(params),
            strict=True,
        )
    }

    def mirror(path: tuple, leaf: Any) -> Any:
        for start in range(len(path)):
            shape, sharding = placed.get(path[start:], (None, whole))
            if shape == leaf.shape:
                return sharding
        return whole

    opt_state = jax.tree_util.tree_map_with_path(mirror, state.opt_state)
    return everywhere._replace(params=params, opt_state=opt_state)


def plan_state(
    task: Task,
    optimizer: optax.GradientTransformation,
    batch: Any,
    rng: Any,
    *,
    mesh: Mesh,
    initial_params: Params | None = None,
    rule: ShardingRule | None = None,
) -> StatePlan:
    """Shapes and places of the state, and the function that makes it.

    ``task.init`` sees a batch of zeros in the shapes of ``batch``: parameters depend on
    the key alone, whatever the data and the process.

    Args:
      task: what is trained.
      optimizer: what trains it.
      batch: one batch, for its shapes.
      rng: a key made by ``jax.random.key``.
      mesh: where the state shall lie.
      initial_params: parameters to begin from instead of ``task.init``; copied.
      rule: shardings of the parameters, see :func:`state_shardings`.

    Raises:
      InputError: ``initial_params`` are not shaped as the task's.
    """
    shapes = jax.eval_shape(lambda: batch)

    def draw(rng: Any) -> Any:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return task.init(jax.random.split(rng)[0], zeros)

    def build(rng: Any, params: Any) -> TrainState:
        # A copy: the caller keeps initial_params, while the state will be donated.
        params = draw(rng) if params is None else jax.tree.map(jnp.copy, params)
        start = jnp.zeros((), jnp.int32)
        key = jax.random.key_data(jax.random.split(rng)[1])
        return TrainState(start, params, optimizer.init(params), key)

    if initial_params is not None:
        _check_params(jax.eval_shape(draw, rng), initial_params)
    state = jax.eval_shape(build, rng, initial_params)
    shardings = state_shardings(state, mesh, rule)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        shardings,
    )

    def make() -> TrainState:
        params = initial_params
        if params is not None:
            params = jax.device_put(params, shardings.params)
        return jax.jit(build, out_shardings=shardings)(rng, params)

    return StatePlan(like, make)


def _check_params(expected: Any, given: Any) -> None:
    def shapes(tree: Any) -> dict[str, str]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(p, simple=True, separator="/"): str(x.shape)
            for p, x in leaves
        }

    want, have = shapes(expected), shapes(given)
    lines = [f"- {name} {want[name]}" for name in sorted(want.keys() - have.keys())]
    lines += [f"+ {name} {have[name]}" for name in sorted(have.keys() - want.keys())]
    lines += [
        f"≠ {name} {have[name]} for {want[name]}"
        for name in sorted(want.keys() & have.keys())
        if want[name] != have[name]
    ]
    if lines:
        raise InputError(
            "initial_params",
            "; ".join(lines[:20]),
            "the task's parameters (- missing, + unexpected, ≠ shape)",
            "begin from a model of the same architecture",
        )


def micro_batches(batch: Any, count: int) -> Any:
    """Splits a batch into ``count`` of equal size along a new first axis.

    Micro-batch ``i`` holds rows ``i, i + count, ...``, so that each is spread over all
    devices as the batch was.  The columns of ``known_positive`` follow the rows.

    Args:
      batch: pytree of arrays ``[B, ...]``.
      count: a divisor of ``B``.

    Raises:
      InputError: the batch cannot be split so; pairs in groups cannot at all.

    Example::

      >>> micro_batches({"x": jnp.arange(4)}, 2)["x"].tolist()
      [[0, 2], [1, 3]]
    """

    def split(leaf: Any) -> Any:
        if leaf.ndim == 0:
            return jnp.broadcast_to(leaf, (count,))
        rows = leaf.shape[0]
        if rows % count:
            raise InputError(
                "accumulate",
                str(count),
                f"a divisor of the {rows} rows of a batch",
            )
        return leaf.reshape(rows // count, count, *leaf.shape[1:]).swapaxes(0, 1)

    if isinstance(batch, RankBatch) and isinstance(batch.doc, TokenGroups):
        # Rows of a group belong to lists all over the batch.
        raise InputError(
            "accumulate", f"{count} over pairs in groups of like length", "1",
            "bound the memory by RankLoss.chunk_size, or set pair_groups to 1",
        )  # fmt: skip
    known = batch.known_positive if isinstance(batch, RankBatch) else None
    if known is None:
        return jax.tree.map(split, batch)
    parts = jax.tree.map(split, batch._replace(known_positive=None))
    rows = known.shape[0]
    size = rows // count
    # [B, B * L] -> [size, count, size, count, L], of which part i is [:, i, :, i]
    blocks = known.reshape(size, count, size, count, -1)
    mine = jnp.stack([blocks[:, i, :, i] for i in range(count)])
    return parts._replace(known_positive=mine.reshape(count, size, -1))


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    shardings: TrainState | None = None,
    rng_impl: str = "threefry2x32",
) -> Callable[..., tuple[TrainState, Metrics]]:
    """A jitted ``step(state, batch) -> (state, metrics)`` that donates the state.

    A task with constants makes a ``step(state, batch, constants)``: they are given on
    the devices with every call, and neither donated nor part of the program.

    Metrics are the task's, ``loss`` and ``grad_norm`` (before clipping), float32
    scalars that stay on the device.

    With ``accumulate = n`` the gradient is the mean over ``n`` micro-batches computed
    one after another, in the memory of one.  It equals the gradient of the batch for
    losses that are a mean over queries.  It does not for in-batch negatives, which
    then come from the micro-batch alone: for those wrap the encoder with
    ``jaxir.nn.chunks.in_chunks``, which caches gradients and keeps the whole batch.

    Args:
      task: what is trained.
      optimizer: what trains it.
      accumulate: micro-batches of a batch.
      mesh: where the state lies; None is one device.
      shardings: of the state, see :func:`state_shardings`; replicated by default.
      rng_impl: the generator that ``state.rng`` belongs to.

    Example::

      >>> task = Task(lambda rng, x: jnp.ones(()),
      ...             lambda p, x, rng: (jnp.mean((p - x) ** 2), {}))
      >>> step = make_train_step(task, optax.sgd(0.5))
      >>> state = TrainState(jnp.int32(0), jnp.ones(()), optax.sgd(0.5).init(1.0),
      ...                    jax.random.key_data(jax.random.key(0)))
      >>> state, metrics = step(state, jnp.full((2,), 3.0))
      >>> float(state.params), float(metrics["loss"])
      (3.0, 4.0)
    """
    if accumulate < 1:
        raise InputError("accumulate", str(accumulate), "1 or more")

    def loss_fn(
        params: Any, batch: Any, rng: Any, constants: Any, count: Any
    ) -> tuple[Any, Metrics]:
        more = () if constants is None else (constants,)
        known = {"step": count} if task.stepwise else {}
        loss, metrics = task.loss(params, batch, rng, *more, **known)
        values = {**metrics, "loss": loss}
        return loss, jax.tree.map(lambda value: jnp.float32(value), values)

    gradient = jax.grad(loss_fn, has_aux=True)

    def in_parts(
        params: Any, batch: Any, rng: Any, constants: Any, count: Any
    ) -> tuple[Any, Metrics]:
        def one(total: Any, part: tuple) -> tuple[Any, Metrics]:
            index, rows = part
            if mesh is not None:
                split = batch_sharding(mesh)
                rows = jax.tree.map(
                    lambda x: (
                        jax.lax.with_sharding_constraint(x, split) if x.ndim else x
                    ),
                    rows,
                )
            key = jax.random.fold_in(rng, index)
            grads, metrics = gradient(params, rows, key, constants, count)
            return jax.tree.map(lambda t, g: t + g, total, grads), metrics

        zero = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        parts = (jnp.arange(accumulate), micro_batches(batch, accumulate))
        total, metrics = jax.lax.scan(one, zero, parts)
        mean = jax.tree.map(lambda t: t / accumulate, total)
        return mean, jax.tree.map(jnp.mean, metrics)

    def step(
        state: TrainState, batch: Any, constants: Any = None
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.wrap_key_data(state.rng, impl=rng_impl)
        rng = jax.random.fold_in(key, state.step)
        compute = gradient if accumulate == 1 else in_parts
        grads, metrics = compute(state.params, batch, rng, constants, state.step)
        metrics["grad_norm"] = optax.tree.norm(optax.tree.cast(grads, jnp.float32))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.rng), metrics

    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    # Fixed output shardings: a step's output must fit the compiled step's input.
    whole = replicated(mesh)
    out = (whole if shardings is None else shardings, whole)
    return jax.jit(step, donate_argnums=0, out_shardings=out)
