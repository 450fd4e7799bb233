"""A loss that knows how far training is: in the compiled step, in parts, resumed."""

import jax
import numpy as np
import optax
import pytest
from train.tiny_task import Stream, equal, linear_task

from jaxir.mesh import make_mesh, put_batch
from jaxir.train.config import TrainConfig
from jaxir.train.loop import train
from jaxir.train.optimizers import OptimizerConfig
from jaxir.train.step import make_train_step, plan_state
from jaxir.types import Task


def rising_task(factor=lambda step: step + 1.0):
    """The linear task, its loss times a function of the step."""
    plain = linear_task(dropout=0.0)

    def loss(params, batch, rng, *, step):
        value, metrics = plain.loss(params, batch, rng)
        return factor(step) * value, metrics | {"step_seen": step}

    return Task(plain.init, loss, stepwise=True)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_the_step_is_the_updates_done(accumulate, num_devices):
    mesh = make_mesh(num_devices)
    optimizer, batch = optax.sgd(0.0), next(Stream(rows=16))
    task = rising_task()
    plan = plan_state(task, optimizer, batch, jax.random.key(0), mesh=mesh)
    step = make_train_step(task, optimizer, accumulate=accumulate, mesh=mesh)
    state, placed = plan.make(), put_batch(batch, mesh)
    seen, losses = [], []
    for _ in range(4):
        state, metrics = step(state, placed)
        seen.append(float(metrics["step_seen"]))
        losses.append(float(metrics["loss"]))
    assert seen == [0, 1, 2, 3]
    assert step._cache_size() == 1
    np.testing.assert_allclose(losses, losses[0] * np.arange(1, 5), rtol=1e-6)


def test_it_scales_the_slope_as_well():
    """SGD by a loss times (step + 1) is SGD at so many times the rate."""
    mesh = make_mesh(1)

    def run(task, rates):
        batch = next(Stream())
        plan = plan_state(task, optax.sgd(0.1), batch, jax.random.key(0), mesh=mesh)
        state = plan.make()
        for rate in rates:
            state, _ = make_train_step(task, optax.sgd(rate))(state, batch)
        return state.params

    found = run(rising_task(), [0.01] * 3)
    expected = run(linear_task(dropout=0.0), [0.01, 0.02, 0.03])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found,
                 expected)  # fmt: skip


def test_a_resumed_run_goes_on_at_its_step(tmp_path, stop_training):
    def run(place):
        return train(
            rising_task(), Stream(), TrainConfig(total_steps=6, save_every=2),
            optimizer=OptimizerConfig(learning_rate=0.05, warmup=0),
            work_dir=tmp_path / place, mesh=make_mesh(1),
        )  # fmt: skip

    whole = run("whole")
    with stop_training():
        run("stopped")
    assert equal(run("stopped").params, whole.params)
