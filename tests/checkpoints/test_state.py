"""Train state on disk: exact, atomic, and clear about what does not fit."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxir.checkpoints import state as states
from jaxir.checkpoints.state import StateStore
from jaxir.errors import InputError
from jaxir.mesh import make_mesh, replicated


def sample(seed=0):
    key = jax.random.key(seed)
    params = {
        "dense": {"kernel": jax.random.normal(key, (3, 2))},
        "half": jnp.ones(2, jnp.bfloat16) / 3,
    }
    opt_state = optax.chain(optax.clip(1.0), optax.adamw(0.1)).init(params)
    return {"params": params, "opt": opt_state, "rng": jax.random.key_data(key)}


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_round_trip_is_exact_and_lies_where_asked(tmp_path):
    state = sample()
    record = {"position": 2**100, "list": [1, None, 0.1], "text": "π"}
    with StateStore(tmp_path / "c") as store:
        store.save(5, state, record)
    whole = replicated(make_mesh())
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state
    )
    with StateStore(tmp_path / "c") as store:
        restored = store.restore(5, like)
        assert store.record(5) == record
    assert_equal(restored.state, state)
    assert restored.record == record
    assert all(x.sharding == whole for x in jax.tree.leaves(restored.state))


def test_donated_after_save_is_still_saved_as_it_was(tmp_path):
    change = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    x = jnp.arange(1_000_000, dtype=jnp.float32)
    with StateStore(tmp_path, keep=10) as store:
        expected = []
        for step in range(5):
            expected.append(np.array(x, copy=True))
            store.save(step, {"x": x}, {})
            x = change(change(x))
        store.wait()
        for step, values in enumerate(expected):
            got = store.restore(step, {"x": x}).state["x"]
            np.testing.assert_array_equal(np.asarray(got), values)


def test_keeps_the_last_and_the_best(tmp_path):
    with StateStore(tmp_path, keep=2) as store:
        for step in range(1, 7):
            store.save(step, {"x": jnp.zeros(2)}, {}, best_step=2)
        store.wait()
        assert store.steps() == [2, 5, 6]
        store.save(7, {"x": jnp.zeros(2)}, {}, best_step=7)
        store.wait()
        assert store.steps() == [6, 7]
        assert store.latest() == 7


def test_a_step_is_saved_once(tmp_path):
    with StateStore(tmp_path) as store:
        store.save(1, {"x": jnp.zeros(2)}, {"a": 1})
        store.save(1, {"x": jnp.ones(2)}, {"a": 2})
        store.wait()
    with StateStore(tmp_path) as store:
        store.save(1, {"x": jnp.ones(2)}, {"a": 3})
        assert store.record(1) == {"a": 1}


def test_an_unfinished_save_does_not_exist(tmp_path):
    with StateStore(tmp_path) as store:
        store.save(1, {"x": jnp.zeros(2)}, {})
    torn = tmp_path / "2.orbax-checkpoint-tmp"
    torn.mkdir()
    (torn / "state").write_text("half")
    with StateStore(tmp_path) as store:
        assert store.latest() == 1
    assert not torn.exists()


def test_another_tree_is_told_leaf_by_leaf(tmp_path):
    with StateStore(tmp_path) as store:
        store.save(1, {"a": jnp.zeros(2), "b": jnp.zeros((2, 3))}, {})
        store.wait()
        with pytest.raises(InputError, match="another model or optimizer") as error:
            store.restore(1, {"b": jnp.zeros((3, 3)), "c": jnp.zeros(2)})
    assert "- c, + a, ≠ b float32[2, 3] for float32[3, 3]" in str(error.value)


def test_a_long_difference_is_cut(tmp_path):
    with StateStore(tmp_path) as store:
        store.save(1, {"a": jnp.zeros(2)}, {})
        store.wait()
        with pytest.raises(InputError, match=r"\.\.\. 11 more"):
            store.restore(1, {f"x{i:02}": jnp.zeros(1) for i in range(30)})


def test_no_such_step(tmp_path):
    with StateStore(tmp_path) as store:
        with pytest.raises(InputError, match=r"no checkpoint of step 3; .*one of: n"):
            store.record(3)
        assert store.latest() is None


def test_a_foreign_checkpoint(tmp_path):
    from orbax.checkpoint import v1 as ocp

    ocp.save(tmp_path / "4", {"x": jnp.zeros(2)})
    with (
        StateStore(tmp_path) as store,
        pytest.raises(InputError, match="not a checkpoint of a training run"),
    ):
        store.record(4)


def test_keep_and_record_are_checked(tmp_path):
    with pytest.raises(InputError, match="keep: 0; expected 1 or more"):
        StateStore(tmp_path, keep=0)
    with (
        StateStore(tmp_path) as store,
        pytest.raises(InputError, match=r"record: .*set.*; expected JSON values"),
    ):
        store.save(1, {"x": jnp.zeros(2)}, {"a": {1, 2}})


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), ValueError("RESOURCE_EXHAUSTED: write")],
)
def test_a_full_disk(tmp_path, error):
    with (
        pytest.raises(InputError, match="no space left on the device; free space"),
        states._save_errors(tmp_path),
    ):
        raise error


def test_other_failures_keep_their_type(tmp_path):
    with pytest.raises(KeyError), states._save_errors(tmp_path):
        raise KeyError("x")


def test_failures_are_raised_and_not_logged_as_well(tmp_path):
    logger = logging.getLogger("absl")

    def log(path):
        logger.handle(logger.makeRecord("absl", 40, path, 1, "told", (), None))

    told = []
    handler = logging.Handler()
    handler.emit = told.append
    logger.addHandler(handler)
    try:
        with StateStore(tmp_path):
            log("/site-packages/orbax/checkpoint/future.py")
            assert not told
            log("/elsewhere/module.py")
            assert len(told) == 1
        log("/site-packages/orbax/checkpoint/future.py")
        assert len(told) == 2
    finally:
        logger.removeHandler(handler)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "c").write_text("")
    with pytest.raises(InputError, match="cannot write here"):
        StateStore(tmp_path / "c")
