"""Schedules, masks, groups, and updates against numpy, optax and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxir.errors import InputError
from jaxir.train.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    OptimizerConfig,
    ParamGroup,
    averaged_params,
    make_optimizer,
    make_schedule,
    param_paths,
)

PARAMS = {
    "embed": {"embedding": jnp.full((4, 2), 0.5)},
    "layer": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.ones(2)},
    "norm": {"scale": jnp.ones(2)},
    "temperature": jnp.ones(()),
}


def plain(**changes):
    defaults = {"learning_rate": 0.1, "schedule": "constant", "warmup": 0}
    return OptimizerConfig(**{**defaults, **changes})


def run(config, gradients, params, total=10):
    optimizer = make_optimizer(config, total)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_warms_up_and_peaks(name):
    config = OptimizerConfig(learning_rate=2.0, schedule=name, warmup=4)
    values = np.array([make_schedule(config, 20)(i) for i in range(21)])
    np.testing.assert_allclose(values[:5], [0, 0.5, 1, 1.5, 2], rtol=1e-6)
    assert (np.diff(values[4:]) <= 1e-7).all()
    assert values.max() == pytest.approx(2.0)


def test_schedules_by_hand():
    def at(name, step, **changes):
        config = OptimizerConfig(
            learning_rate=2.0, schedule=name, **{"warmup": 4, **changes}
        )
        return float(make_schedule(config, 20)(step))

    assert at("linear", 12) == pytest.approx(1.0)
    assert at("linear", 20, final_scale=0.1) == pytest.approx(0.2)
    assert at("cosine", 12) == pytest.approx(1.0)
    assert at("cosine", 8) == pytest.approx(1 + np.cos(np.pi / 4), rel=1e-6)
    assert at("rsqrt", 16) == pytest.approx(1.0)
    assert at("constant", 19) == 2.0


def test_warmup_as_a_fraction_is_the_same():
    a, b = (
        make_schedule(OptimizerConfig(learning_rate=1.0, warmup=w), 20)
        for w in (0.25, 5)
    )
    assert [float(a(i)) for i in range(20)] == [float(b(i)) for i in range(20)]


@pytest.mark.parametrize("scheduled", ["linear", "cosine"])
def test_schedules_equal_transformers(scheduled):
    torch = pytest.importorskip("torch")
    from transformers import get_scheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([parameter], lr=1.0)
    theirs = get_scheduler(scheduled, reference, 3, 12)
    config = OptimizerConfig(learning_rate=1.0, schedule=scheduled, warmup=3)
    ours = make_schedule(config, 12)
    for i in range(12):
        assert float(ours(i)) == pytest.approx(theirs.get_last_lr()[0], abs=1e-6)
        reference.step()
        theirs.step()


def test_adamw_equals_numpy():
    rng = np.random.default_rng(0)
    start = rng.standard_normal((3, 2)).astype(np.float32)
    gradients = rng.standard_normal((5, 3, 2)).astype(np.float32)
    config = plain(weight_decay=0.1, clip_norm=1.5, b1=0.8, b2=0.95, eps=1e-6)
    ours, _ = run(
        config,
        [{"kernel": jnp.asarray(g)} for g in gradients],
        {"kernel": jnp.asarray(start)},
    )
    w, m, v = start.astype(np.float64), 0.0, 0.0
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        g = g * min(1.0, 1.5 / np.linalg.norm(g))
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        direction = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        w = w - 0.1 * (direction + 0.1 * w)
    np.testing.assert_allclose(ours["kernel"], w, rtol=1e-5, atol=1e-6)


def test_adamw_equals_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    start = rng.standard_normal(6).astype(np.float32)
    gradients = rng.standard_normal((6, 6)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(start))
    reference = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.01)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        reference.step()
    ours, _ = run(
        plain(clip_norm=None),
        [{"kernel": jnp.asarray(g)} for g in gradients],
        {"kernel": jnp.asarray(start)},
    )
    np.testing.assert_allclose(
        ours["kernel"], parameter.detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_adafactor_equals_optax():
    params = {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3)}
    gradients = [{"kernel": jnp.sin(params["kernel"] * i)} for i in range(1, 4)]
    ours, _ = run(
        plain(name="adafactor", weight_decay=0.0, clip_norm=None), gradients, params
    )
    reference = optax.adafactor(0.1)
    theirs, state = params, reference.init(params)
    for gradient in gradients:
        updates, state = reference.update(gradient, state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    np.testing.assert_allclose(ours["kernel"], theirs["kernel"], rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_in_float32(name):
    config = plain(name=name, learning_rate=0.02, weight_decay=0.0)
    target = {"kernel": jnp.arange(4.0)}
    optimizer = make_optimizer(config, 100)
    params = {"kernel": jnp.ones(4, jnp.bfloat16)}
    state = optimizer.init(params)
    floats = [x for x in jax.tree.leaves(state) if x.dtype != jnp.int32]
    assert all(x.dtype == jnp.float32 for x in floats)

    def loss(params):
        return jnp.sum((params["kernel"].astype(jnp.float32) - target["kernel"]) ** 2)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    before = float(loss(params))
    for _ in range(50):
        params, state = step(params, state)
    assert params["kernel"].dtype == jnp.bfloat16
    assert float(loss(params)) < 0.7 * before


def test_what_decays():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    new, _ = run(plain(weight_decay=0.5), [zero], PARAMS)
    ratio = jax.tree.map(lambda a, b: float(jnp.mean(a / b)), new, PARAMS)
    assert ratio["layer"] == {"kernel": pytest.approx(0.95), "bias": 1.0}
    assert ratio["norm"]["scale"] == ratio["temperature"] == 1.0
    assert ratio["embed"]["embedding"] == pytest.approx(0.95)
    spared = plain(weight_decay=0.5, no_decay=("embedding$", "(^|/)(bias|scale)$"))
    new, _ = run(spared, [zero], PARAMS)
    assert new["embed"]["embedding"][0, 0] == 0.5


def test_groups_have_their_own_rate_decay_and_clipping():
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    groups = (
        ParamGroup("^embed/", learning_rate=1.0, clip=False, weight_decay=0.0),
        ParamGroup("kernel", learning_rate=0.0),
    )
    config = plain(name="sgd", b1=0.0, weight_decay=0.0, clip_norm=1.0, groups=groups)
    new, _ = run(config, [ones], PARAMS)
    moved = jax.tree.map(lambda a, b: float(jnp.mean(b - a)), new, PARAMS)
    assert moved["embed"]["embedding"] == pytest.approx(1.0)  # neither clipped
    assert moved["layer"]["kernel"] == 0.0  # frozen
    # the norm is over kernel (4), bias (2), scale (2), temperature (1)
    assert moved["layer"]["bias"] == pytest.approx(0.1 / 3)
    assert moved["temperature"] == pytest.approx(0.1 / 3)


def test_groups_that_decay():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    groups = (ParamGroup("^layer/", weight_decay=1.0),)
    new, _ = run(plain(weight_decay=0.5, groups=groups), [zero], PARAMS)
    assert float(new["layer"]["kernel"][0, 0]) == pytest.approx(2.0 * 0.9)
    assert float(new["embed"]["embedding"][0, 0]) == pytest.approx(0.5 * 0.95)
    assert float(new["layer"]["bias"][0]) == 1.0


def test_moving_average():
    params = {"kernel": jnp.zeros(())}
    config = plain(name="sgd", b1=0.0, weight_decay=0.0, clip_norm=None, ema_decay=0.5)
    gradient = {"kernel": jnp.full((), -10.0)}
    new, state = run(config, [gradient] * 3, params)
    assert float(new["kernel"]) == pytest.approx(3.0)
    average = averaged_params(state, new)["kernel"]
    assert float(average) == pytest.approx(0.5 * 3 + 0.25 * 2 + 0.125 * 1)
    assert averaged_params(optax.EmptyState(), new) is new


def test_paths():
    assert param_paths(PARAMS)[:2] == ["embed/embedding", "layer/bias"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adam"}, "name: 'adam'; expected adamw | adafactor"),
        ({"schedule": "step"}, "schedule: 'step'; expected constant"),
        ({"warmup": 11}, "warmup: 11; expected a fraction below 1 or 0 to 10"),
        ({"warmup": 1.5}, "warmup: 1.5"),
        ({"learning_rate": float("nan")}, "learning_rate: nan; expected 0 or more"),
        ({"clip_norm": 0.0}, "clip_norm: 0.0; expected above 0"),
        ({"ema_decay": 1.0}, "ema_decay: 1.0; expected 0 to below 1"),
        ({"no_decay": ("(",)}, "expected a regular expression"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(InputError) as error:
        make_optimizer(plain(**changes), 10)
    assert message in str(error.value)


def test_a_group_without_parameters():
    optimizer = make_optimizer(plain(groups=(ParamGroup("codebook"),)), 10)
    with pytest.raises(InputError, match=r"'codebook' matches no parameter"):
        optimizer.init(PARAMS)
