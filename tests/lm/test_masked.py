"""BERT's task: only what was hidden counts, and only it has logits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxir.data.masking import MaskBatch
from jaxir.errors import InputError
from jaxir.lm.masked import (
    MaskedLMConfig,
    MaskedLoss,
    adapt_params,
    init_params,
    make_task,
    params_from_backbone,
    vocabulary_logits,
)
from jaxir.nn import bert
from jaxir.types import TokenBatch

BACKBONE = bert.BertConfig(
    vocab_size=30, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32,
    max_positions=16, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


@functools.cache
def initial(config):
    return jax.jit(lambda: init_params(config, jax.random.key(0)))()


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    ids = random.integers(5, 30, (4, 12)).astype(np.int32)
    mask = np.arange(12)[None, :] < np.array([12, 9, 12, 5])[:, None]
    positions = np.stack([np.sort(random.permutation(5)[:3]) for _ in range(4)])
    where = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    targets = random.integers(5, 30, (4, 3)).astype(np.int32)
    return MaskBatch(ids, mask, positions.astype(np.int32), targets, where)


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_the_mean_over_predictions(batch, tied):
    config = MaskedLMConfig(BACKBONE, tied)
    params = jax.tree.map(lambda x: x * 5, initial(config))

    def plain(params):
        tokens = TokenBatch(jnp.asarray(batch.ids), jnp.asarray(batch.mask))
        logits = vocabulary_logits(config, params, tokens)
        chosen = jnp.take_along_axis(
            logits, jnp.asarray(batch.positions)[:, :, None], axis=1
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(
            chosen, jnp.asarray(batch.targets)
        )
        return jnp.sum(losses * batch.where) / batch.where.sum()

    task = make_task(config, MaskedLoss(block_size=4))
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    (loss, metrics), slope = function(params, batch, None)
    wanted, other = jax.jit(jax.value_and_grad(plain))(params)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    assert float(metrics["tokens"]) == batch.where.sum()
    for one, two in zip(jax.tree.leaves(slope), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


@pytest.mark.slow
def test_learns_by_heart(batch):
    config = MaskedLMConfig(BACKBONE)
    task = make_task(config)
    params = task.init(jax.random.key(0), batch)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        (_, metrics), slope = jax.value_and_grad(task.loss, has_aux=True)(
            params, batch, jax.random.key(0)
        )
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state, metrics

    state = optimizer.init(params)
    for _ in range(100):
        params, state, metrics = step(params, state)
    assert float(metrics["accuracy"]) == 1


def test_an_encoder_s_parameters_stay(batch):
    encoder = bert.init_params(BACKBONE, jax.random.key(3))
    tied = params_from_backbone(MaskedLMConfig(BACKBONE), encoder, jax.random.key(0))
    assert tied["backbone"] is encoder
    assert "decoder" not in tied["head"]
    config = MaskedLMConfig(BACKBONE, tied=False)
    free = params_from_backbone(config, encoder, jax.random.key(0))
    tokens = TokenBatch(jnp.asarray(batch.ids), jnp.asarray(batch.mask))
    # an untied head begins as the table: nothing changes
    logits = jax.jit(vocabulary_logits, static_argnums=0)
    np.testing.assert_allclose(
        logits(MaskedLMConfig(BACKBONE), tied, tokens),
        logits(config, free, tokens),
        atol=1e-5,
    )
    shapes = jax.tree.map(jnp.shape, initial(config))
    assert shapes == jax.tree.map(jnp.shape, free)


def test_adapting():
    tied, free = MaskedLMConfig(BACKBONE), MaskedLMConfig(BACKBONE, tied=False)
    params = initial(tied)
    shapes = jax.tree.map(jnp.shape, adapt_params(tied, params, free))
    assert shapes == jax.tree.map(jnp.shape, initial(free))
    back = adapt_params(free, initial(free), tied)
    assert "decoder" not in back["head"]
    wider = MaskedLMConfig(dataclasses.replace(BACKBONE, hidden_size=32))
    with pytest.raises(InputError, match="backbone: sizes that the parameters do not"):
        adapt_params(tied, params, wider)
    assert tied.max_length == 16


def test_mistakes(batch):
    task = make_task(MaskedLMConfig(BACKBONE))
    params = initial(MaskedLMConfig(BACKBONE))
    with pytest.raises(InputError, match="batch: tuple; expected MaskBatch"):
        task.loss(params, tuple(batch), None)
    for change, message in (
        ({"label_smoothing": 1.0}, r"MaskedLoss\.label_smoothing: 1\.0"),
        ({"block_size": 0}, r"MaskedLoss\.block_size: 0; expected 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            MaskedLoss(**change)
