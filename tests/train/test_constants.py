"""Arrays of a task that never change: an argument of the step, never saved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train.tiny_task import Stream, equal, linear_task

from jaxir.mesh import make_mesh, put_batch, replicated
from jaxir.train.config import TrainConfig
from jaxir.train.loop import train
from jaxir.train.optimizers import OptimizerConfig
from jaxir.train.step import make_train_step, plan_state
from jaxir.types import Task

SHIFT = np.arange(1 << 15, dtype=np.float32)


def shifted_task():
    """The linear task whose inputs move by an entry of a large constant."""
    plain = linear_task()

    def loss(params, batch, rng, constants):
        return plain.loss(params, batch._replace(x=batch.x + constants["at"][2]), rng)

    return Task(plain.init, loss, {"at": SHIFT})


def begin(task, mesh, **options):
    optimizer, batch = optax.sgd(0.1), next(Stream())
    plan = plan_state(task, optimizer, batch, jax.random.key(0), mesh=mesh)
    step = make_train_step(task, optimizer, mesh=mesh, **options)
    return plan.make(), step, put_batch(batch, mesh)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_reads_them_and_the_step_keeps_them(accumulate):
    mesh = make_mesh(2)
    state, step, batch = begin(shifted_task(), mesh, accumulate=accumulate)
    constants = jax.device_put({"at": SHIFT}, replicated(mesh))
    state, found = step(state, batch, constants)
    _, again = step(state, batch, constants)  # not donated
    assert not constants["at"].is_deleted()
    assert step._cache_size() == 1

    moved = batch._replace(x=batch.x + 2.0)
    state, step, _ = begin(linear_task(), mesh, accumulate=accumulate)
    state, expected = step(state, moved)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-6)
    _, expected = step(state, moved)
    np.testing.assert_allclose(again["loss"], expected["loss"], rtol=1e-6)


def test_they_are_no_part_of_the_program():
    mesh = make_mesh(1)
    state, step, batch = begin(shifted_task(), mesh)
    text = step.lower(state, batch, {"at": jnp.asarray(SHIFT)}).as_text()
    assert len(text) < SHIFT.nbytes  # a baked constant is written out


def test_the_loop_gives_them_and_saves_none(tmp_path):
    def run(task, place):
        return train(
            task, Stream(), TrainConfig(total_steps=3), work_dir=tmp_path / place,
            optimizer=OptimizerConfig(warmup=0), mesh=make_mesh(2),
        )  # fmt: skip

    with_them = run(shifted_task(), "a")
    saved = sum(f.stat().st_size for f in (tmp_path / "a").rglob("*") if f.is_file())
    assert saved < SHIFT.nbytes

    def loss(params, batch, rng):
        return linear_task().loss(params, batch._replace(x=batch.x + 2.0), rng)

    baked = run(Task(linear_task().init, loss), "b")
    assert equal(with_them.params, baked.params)
