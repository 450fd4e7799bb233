"""T5's task: packed texts count as separate ones, and a tiny model learns by heart."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_rerankers import t5_tokenizer

from jaxir.data.packing import open_chunks
from jaxir.data.spans import SpanBatch, SpanConfig, make_span_batches
from jaxir.errors import InputError
from jaxir.lm.t5 import SpanLoss, adapt_params, decoder_inputs, make_task
from jaxir.nn.t5 import T5, T5Config, init_params
from jaxir.types import TokenBatch

CONFIG = T5Config(
    vocab_size=83, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
    num_encoder_layers=1, num_decoder_layers=1, mlp_activations=("gelu", "linear"),
    logits_via_embedding=False,
)  # fmt: skip
DATA = SpanConfig(batch_size=4, input_length=24, target_length=16, min_tokens=2)


@functools.cache
def initial(config):
    return jax.jit(lambda: init_params(config, jax.random.key(0)))()


@pytest.fixture
def batch(tmp_path, tiny_collection):
    tokenizer = t5_tokenizer(tmp_path / "t5")
    assert tokenizer.vocab_size == CONFIG.vocab_size
    chunks = open_chunks(str(tiny_collection), tokenizer, chunk_length=9, min_tokens=2)
    made = next(make_span_batches(chunks, tokenizer, DATA))
    assert made.input_segments.max() > 1  # some texts share a row
    return made


def separated(batch):
    """The texts of a batch, a row each."""
    rows = []
    for row in range(len(batch.inputs)):
        for segment in range(1, batch.input_segments[row].max() + 1):
            parts = []
            for ids, segments in (batch[:2], batch[2:]):
                mine = ids[row][segments[row] == segment]
                padded = np.pad(mine, (0, ids.shape[1] - len(mine)))
                parts += [padded, (np.arange(len(padded)) < len(mine)).astype(np.int32)]
            rows.append(parts)
    return SpanBatch(*(np.stack(column) for column in zip(*rows, strict=True)))


@pytest.mark.parametrize("tied", [False, True])
def test_packed_texts_count_as_separate_ones(batch, tied):
    config = dataclasses.replace(CONFIG, logits_via_embedding=tied)
    task = make_task(config, SpanLoss(z_loss=1e-3, block_size=16))
    params = initial(config)
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    (packed, metrics), slope = function(params, batch, None)
    (apart, others), wanted = function(params, separated(batch), None)
    assert float(packed) == pytest.approx(float(apart), rel=1e-5)
    assert metrics.keys() == {"accuracy", "tokens", "z_loss"}
    for name, value in metrics.items():
        assert float(value) == pytest.approx(float(others[name]), rel=1e-5)
    for one, two in zip(jax.tree.leaves(slope), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_is_the_mean_over_target_tokens(batch, tied):
    config = dataclasses.replace(CONFIG, logits_via_embedding=tied)
    params = initial(config)
    ours = jax.jit(make_task(config).loss)(params, batch, None)[0]
    logits = jax.jit(T5(config).apply)(
        {"params": params},
        TokenBatch(jnp.asarray(batch.inputs), jnp.asarray(batch.inputs > 0)),
        decoder_inputs(jnp.asarray(batch.targets), jnp.asarray(batch.target_segments)),
        segments=jnp.asarray(batch.input_segments),
        decoder_segments=jnp.asarray(batch.target_segments),
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.asarray(batch.targets)
    )
    kept = batch.target_segments > 0
    assert float(ours) == pytest.approx(float(losses[kept].mean()), rel=1e-5)


def test_a_row_without_texts_changes_nothing(batch):
    task = make_task(CONFIG)
    params = initial(CONFIG)
    more = SpanBatch(*(np.concatenate([x, np.zeros_like(x[:1])]) for x in batch))
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    (one, _), slope = function(params, batch, None)
    (two, _), other = function(params, more, None)
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_a_tiny_model_learns_by_heart(batch):
    task = make_task(dataclasses.replace(CONFIG, dropout_rate=0.0))
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
    for _ in range(300):
        params, state, metrics = step(params, state)
    assert float(metrics["accuracy"]) > 0.95


def test_dropout_follows_the_key(batch):
    task = make_task(dataclasses.replace(CONFIG, dropout_rate=0.5))
    params = initial(CONFIG)
    loss = jax.jit(lambda key: task.loss(params, batch, key)[0])
    one, two = float(loss(jax.random.key(1))), float(loss(jax.random.key(2)))
    assert one != two
    assert one == float(loss(jax.random.key(1)))


def test_a_text_begins_with_the_start_token():
    targets = jnp.array([[5, 1, 7, 1, 2]])
    segments = jnp.array([[1, 1, 2, 2, 0]])
    shifted = decoder_inputs(targets, segments, start_id=3)
    assert shifted.tolist() == [[3, 5, 3, 7, 3]]


def test_mistakes(batch):
    task = make_task(CONFIG)
    with pytest.raises(InputError, match="batch: tuple; expected SpanBatch"):
        task.loss(initial(CONFIG), tuple(batch), None)
    for change, message in (
        ({"z_loss": -1.0}, r"SpanLoss\.z_loss: -1\.0; expected 0 or more"),
        ({"label_smoothing": 1.0}, r"SpanLoss\.label_smoothing: 1\.0"),
        ({"block_size": 0}, r"SpanLoss\.block_size: 0; expected 1 or more"),
    ):
        with pytest.raises(InputError, match=message):
            SpanLoss(**change)


def test_adapting_keeps_the_sizes():
    params = initial(CONFIG)
    other = dataclasses.replace(CONFIG, dropout_rate=0.2, dtype="bfloat16")
    assert adapt_params(CONFIG, params, other) is params
    looped = dataclasses.replace(CONFIG, scan_layers=True)
    stacked = adapt_params(CONFIG, params, looped)
    shapes = jax.eval_shape(lambda: init_params(looped, jax.random.key(0)))
    assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, shapes)
    jax.tree.map(
        np.testing.assert_array_equal, adapt_params(looped, stacked, CONFIG), params
    )
    with pytest.raises(InputError, match="emb_dim: 16 cannot become 8"):
        adapt_params(CONFIG, params, dataclasses.replace(CONFIG, emb_dim=8))
