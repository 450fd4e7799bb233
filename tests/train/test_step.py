"""One update: accumulation, devices, donation, shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from train.tiny_task import Stream, equal, linear_task

from jaxir.errors import InputError
from jaxir.mesh import make_mesh, put_batch, replicated
from jaxir.train.optimizers import OptimizerConfig, make_optimizer
from jaxir.train.step import (
    make_train_step,
    micro_batches,
    plan_state,
    state_shardings,
)
from jaxir.types import RankBatch, Task, TokenBatch, TokenGroups

CONFIG = OptimizerConfig(learning_rate=0.1, warmup=0)


def begin(task, mesh, optimizer=None, **options):
    optimizer = optimizer or make_optimizer(CONFIG, 20)
    plan = plan_state(task, optimizer, next(Stream()), jax.random.key(0), mesh=mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, plan.like)
    step = make_train_step(task, optimizer, mesh=mesh, shardings=shardings, **options)
    return plan.make(), step


def steps(task, num_devices, count=3, rows=16, **options):
    mesh = make_mesh(num_devices)
    state, step = begin(task, mesh, **options)
    stream, losses = Stream(rows), []
    for _ in range(count):
        state, metrics = step(state, put_batch(next(stream), mesh))
        losses.append(float(metrics["loss"]))
    assert step._cache_size() == 1
    return state, losses


def in_batch_task() -> Task:
    """Contrastive: every row is a negative of every other."""

    def init(rng, batch):
        return {"kernel": jax.random.normal(rng, (batch.x.shape[-1], 3))}

    def loss(params, batch, rng):
        vectors = batch.x @ params["kernel"]
        scores = vectors @ (vectors + batch.y[:, None]).T
        return jnp.mean(jax.nn.logsumexp(scores, axis=-1) - jnp.diagonal(scores)), {}

    return Task(init, loss)


@pytest.mark.parametrize("task", [linear_task(), in_batch_task()])
def test_one_device_is_two_is_eight(task):
    state, losses = steps(task, 1)
    for count in (2, 8):
        other, others = steps(task, count)
        np.testing.assert_allclose(others, losses, rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            jax.device_get(other.params),
            jax.device_get(state.params),
        )


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_is_the_full_gradient(num_devices, accumulate):
    # SGD, so that parameters show the gradient itself
    options = {"optimizer": optax.sgd(0.1), "count": 2}
    task = linear_task(dropout=0.0)
    full, losses = steps(task, num_devices, **options)
    parts, others = steps(task, num_devices, accumulate=accumulate, **options)
    np.testing.assert_allclose(others, losses, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        jax.device_get(parts.params),
        jax.device_get(full.params),
    )


def test_accumulation_draws_anew_for_each_part():
    def loss(params, batch, rng):
        return jnp.sum(params), {"drawn": jax.random.uniform(rng)}

    task = Task(lambda rng, batch: jnp.zeros(2), loss)
    plan = plan_state(
        task, optax.sgd(1.0), next(Stream()), jax.random.key(0), mesh=make_mesh(1)
    )
    batch, drawn = next(Stream()), []
    for accumulate in (1, 2):
        step = make_train_step(task, optax.sgd(1.0), accumulate=accumulate)
        state = plan.make()
        for _ in range(2):
            state, metrics = step(state, batch)
            drawn.append(float(metrics["drawn"]))
    assert len(set(drawn)) == 4


def test_micro_batches_of_a_rank_batch():
    rows, size, length = 6, 3, 2
    tokens = TokenBatch(np.zeros((rows, 4), np.int32), np.ones((rows, 4), bool))
    columns = np.arange(rows * size, dtype=np.int32)
    known = np.random.default_rng(0).random((rows, rows * size)) < 0.5
    batch = jax.tree.map(
        jnp.asarray,
        RankBatch(
            tokens, tokens, np.zeros((rows, size)), np.ones((rows, size), bool),
            doc_index=columns.reshape(rows, size), known_positive=known,
        ),
    )  # fmt: skip
    parts = micro_batches(batch, length)
    for i in range(length):
        mine = parts.doc_index[i]
        np.testing.assert_array_equal(mine, batch.doc_index[i::length])
        # column c of known_positive is the document in row c of the flattened index
        expected = known[i::length][:, np.asarray(mine).reshape(-1)]
        np.testing.assert_array_equal(parts.known_positive[i], expected)
    assert parts.teacher_scores is None


def test_pairs_in_groups_cannot_be_split():
    tokens = TokenBatch(jnp.zeros((4, 3), jnp.int32), jnp.ones((4, 3), bool))
    position = jnp.arange(8, dtype=jnp.int32).reshape(4, 2)
    batch = RankBatch(
        None, TokenGroups((tokens, tokens), position), jnp.zeros((4, 2)),
        jnp.ones((4, 2), bool),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"accumulate: 2 over pairs in groups.*chunk"):
        micro_batches(batch, 2)


def test_uneven_accumulation():
    with pytest.raises(InputError, match="accumulate: 3; expected a divisor of the 4"):
        micro_batches({"x": jnp.zeros((4, 2))}, 3)
    with pytest.raises(InputError, match="accumulate: 0; expected 1 or more"):
        make_train_step(linear_task(), optax.sgd(0.1), accumulate=0)


def test_the_state_is_donated_and_initial_params_are_not():
    mesh = make_mesh(2)
    given = {"dense": {"kernel": jnp.ones(4), "bias": jnp.zeros(())}}
    on_mesh = jax.device_put(given, replicated(mesh))
    task, optimizer = linear_task(), make_optimizer(CONFIG, 5)
    batch = put_batch(next(Stream()), mesh)
    for params in (given, on_mesh, jax.device_get(given)):
        plan = plan_state(
            task, optimizer, next(Stream()), jax.random.key(0),
            mesh=mesh, initial_params=params,
        )  # fmt: skip
        state = plan.make()
        assert equal(state.params, given)
        kernel = state.params["dense"]["kernel"]
        make_train_step(task, optimizer, mesh=mesh)(state, batch)
        assert kernel.is_deleted()
        assert float(np.sum(params["dense"]["kernel"])) == 4.0


def test_initial_params_of_another_model():
    given = {"dense": {"kernel": jnp.ones(5)}, "extra": jnp.zeros(2)}
    with pytest.raises(InputError) as error:
        plan_state(
            linear_task(), optax.sgd(0.1), next(Stream()), jax.random.key(0),
            mesh=make_mesh(1), initial_params=given,
        )  # fmt: skip
    assert "- dense/bias (); + extra (2,); ≠ dense/kernel (5,) for (4,)" in str(
        error.value
    )


def test_parameters_may_be_sharded_over_the_model_axis():
    mesh = make_mesh(4, model=2)

    def rule(params, mesh):
        split = NamedSharding(mesh, PartitionSpec("model"))
        whole = replicated(mesh)
        return jax.tree.map(lambda x: split if x.ndim else whole, params)

    task, optimizer = linear_task(), make_optimizer(CONFIG, 20)
    plan = plan_state(
        task, optimizer, next(Stream()), jax.random.key(0), mesh=mesh, rule=rule
    )
    shardings = state_shardings(plan.like, mesh, rule)
    step = make_train_step(task, optimizer, mesh=mesh, shardings=shardings)
    state, stream = plan.make(), Stream(16)
    for _ in range(3):
        state, metrics = step(state, put_batch(next(stream), mesh))
    assert step._cache_size() == 1
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == (4,)]
    assert len(moments) == 2  # Adam's two moments lie as the kernel does
    for leaf in (*moments, state.params["dense"]["kernel"]):
        assert leaf.addressable_shards[0].data.shape == (2,)
    _, losses = steps(task, 1)
    assert float(metrics["loss"]) == pytest.approx(losses[-1], rel=1e-5)


def test_no_recompilation_over_a_fixed_set_of_shapes():
    mesh = make_mesh(2)
    state, step = begin(linear_task(), mesh)
    streams = [Stream(rows) for rows in (4, 8, 16)]
    for stream in streams * 4:
        state, _ = step(state, put_batch(next(stream), mesh))
    assert step._cache_size() == 3


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_random_generators(impl):
    mesh = make_mesh(1)
    optimizer = make_optimizer(CONFIG, 5)
    plan = plan_state(
        linear_task(), optimizer, next(Stream()), jax.random.key(0, impl=impl),
        mesh=mesh,
    )  # fmt: skip
    step = make_train_step(linear_task(), optimizer, mesh=mesh, rng_impl=impl)
    state, metrics = step(plan.make(), put_batch(next(Stream()), mesh))
    assert int(state.step) == 1
    assert np.isfinite(float(metrics["grad_norm"]))
