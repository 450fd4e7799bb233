"""The cross-encoder's task: lists by hand, groups, chunks, devices, errors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig
from jaxir.nn.t5 import T5Config
from jaxir.rank import task as rank_task
from jaxir.rank.losses import KINDS, rank_loss
from jaxir.rank.model import CrossEncoderConfig, RankT5Config, logit
from jaxir.rank.task import RankLoss, make_task
from jaxir.types import RankBatch, TokenBatch, TokenGroups

B, L, T = 4, 6, 8
VOCAB = 24
BERT = CrossEncoderConfig(
    BertConfig(
        vocab_size=VOCAB, hidden_size=8, num_layers=1, num_heads=2,
        intermediate_size=16, max_positions=16,
    ),
    max_length=16,
)  # fmt: skip
TINY_T5 = T5Config(
    vocab_size=VOCAB, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16,
    num_encoder_layers=1, num_decoder_layers=1,
)  # fmt: skip
ENCDEC = RankT5Config(TINY_T5, target_id=21)
ENC = RankT5Config(TINY_T5, head="enc")


def batch_of(num_queries=B, list_size=L, seed=0) -> RankBatch:
    """Graded lists, padded, the last without a positive."""
    rng = np.random.default_rng(seed)
    shape = (num_queries, list_size)
    lengths = rng.integers(2, T + 1, size=(*shape, 1))
    mask = np.arange(T) < lengths
    ids = np.where(mask, rng.integers(1, VOCAB, size=(*shape, T)), 0)
    where = rng.random(shape) < 0.8
    where[:, :2] = True
    labels = rng.integers(0, 2, size=shape).astype(np.float32)
    labels[:, 0], labels[:, 1], labels[-1] = 2, 0, 0
    return RankBatch(
        query=None,
        doc=TokenBatch(jnp.asarray(ids, jnp.int32), jnp.asarray(mask)),
        labels=jnp.asarray(labels),
        where=jnp.asarray(where),
        teacher_scores=jnp.asarray(rng.normal(size=shape), jnp.float32),
    )


def grouped(batch, num_groups=2) -> RankBatch:
    """The same pairs sorted by length into groups, each cut to its longest."""
    ids, mask = (np.asarray(x).reshape(-1, T) for x in batch.doc[:2])
    order = np.argsort(mask.sum(axis=1), kind="stable")
    groups = []
    for rows in np.split(order, num_groups):
        longest = mask[rows].sum(axis=1).max()
        parts = (jnp.asarray(x[rows][:, :longest]) for x in (ids, mask))
        groups.append(TokenBatch(*parts))
    position = np.argsort(order).astype(np.int32).reshape(batch.labels.shape)
    return batch._replace(doc=TokenGroups(tuple(groups), jnp.asarray(position)))


def start(config=BERT, loss=None, batch=None):
    batch = batch_of() if batch is None else batch
    return make_task(config, loss), initial(config), batch


@functools.cache
def initial(config):
    return jax.jit(make_task(config).init)(jax.random.key(0), None)


@functools.cache
def differentiated(task):
    return jax.jit(jax.value_and_grad(task.loss, has_aux=True))


def differentiate(task, params, batch):
    return differentiated(task)(params, batch, None)


def assert_same(found, expected, tolerance=1e-5):
    """Values, metrics and gradients, to a part of the largest gradient."""
    (value, metrics), slope = found
    (value_e, metrics_e), slope_e = expected
    np.testing.assert_allclose(value, value_e, rtol=tolerance)
    for name in metrics_e:
        np.testing.assert_allclose(metrics[name], metrics_e[name], atol=tolerance)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slope_e))
    assert largest > 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance * largest),
        slope,
        slope_e,
    )


@pytest.mark.parametrize(
    ("config", "kind"),
    [(BERT, "poly1"), (ENC, "pair"), (ENCDEC, "softmax"), (ENCDEC, "pointce")],
)
def test_loss_is_that_of_each_pairs_score(config, kind):
    loss = RankLoss(kind)
    task, params, batch = start(config, loss)
    each = [
        jax.jit(logit, static_argnums=0)(config, params, TokenBatch(*pairs))
        for pairs in zip(*batch.doc[:2], strict=True)
    ]
    expected = rank_loss(loss, jnp.stack(each), batch.labels, where=batch.where)
    value, metrics = jax.jit(task.loss)(params, batch, None)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["lists_used"], (B - 1) / B)


@pytest.mark.parametrize("config", [BERT, pytest.param(ENCDEC, marks=pytest.mark.slow)])
def test_groups_and_chunks_equal_the_plain_batch(config):
    task, params, batch = start(config)
    plain = differentiate(task, params, batch)
    chunked = make_task(config, RankLoss(chunk_size=4))
    assert_same(differentiate(chunked, params, batch), plain)
    assert_same(differentiate(chunked, params, grouped(batch)), plain)


def test_chunks_larger_than_a_group_are_the_group():
    task, params, batch = start(ENC)
    plain = differentiate(task, params, batch)
    chunked = make_task(ENC, RankLoss(chunk_size=1000))
    assert_same(differentiate(chunked, params, grouped(batch)), plain)


def test_the_gradient_of_groups_has_no_scatter():
    def loss(values, order):
        return jnp.sum(jnp.sin(rank_task._permute(values, order)))

    values = jnp.arange(6.0)
    order = jnp.asarray([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(jax.grad(loss)(values, order), jnp.cos(values))
    jaxpr = str(jax.make_jaxpr(jax.grad(loss))(values, order))
    assert "gather" in jaxpr
    assert "scatter" not in jaxpr


def test_memory_is_that_of_one_chunk():
    batch = batch_of(8, 16)

    def temporary_bytes(loss):
        task, params, _ = start(BERT, loss, batch)
        step = jax.jit(jax.grad(lambda p: task.loss(p, batch, None)[0]))
        return step.lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(RankLoss(chunk_size=4)) < temporary_bytes(RankLoss()) / 3


@pytest.mark.parametrize(
    ("arrange", "chunk_size"), [(lambda batch: batch, None), (grouped, 4)]
)
def test_dropout_is_drawn_from_the_key(arrange, chunk_size):
    task, params, batch = start(BERT, RankLoss(chunk_size=chunk_size))
    loss = jax.jit(task.loss)
    values = [
        float(loss(params, arrange(batch), rng)[0])
        for rng in map(jax.random.key, (1, 1, 2))
    ]
    assert values[0] == values[1] != values[2]


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
    batch = batch_of(8, L)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    task, params, _ = start(ENCDEC, RankLoss(), batch)
    expected = differentiate(task, params, batch)
    replicated = jax.device_put(params, whole)
    spread = jax.device_put(batch, split)
    assert_same(differentiate(task, replicated, spread), expected)
    chunked = make_task(ENCDEC, RankLoss(chunk_size=8))
    spread = jax.device_put(grouped(batch, 2), split)
    assert_same(differentiate(chunked, replicated, spread), expected)


def test_metrics_by_hand():
    batch = batch_of()
    scores = np.random.default_rng(1).normal(size=(B, L)).astype(np.float32)
    metrics = rank_task._measure(jnp.asarray(scores), batch)
    ndcg, reciprocal, positives, others = [], [], [], []
    for q in range(B - 1):  # the last list has no positive
        kept = np.asarray(batch.where[q])
        s, y = scores[q][kept], np.asarray(batch.labels[q])[kept]
        ranked, best = y[np.argsort(-s)], np.sort(y)[::-1]
        discounts = 1 / np.log2(np.arange(len(s)) + 2)
        ndcg.append(((2**ranked - 1) @ discounts) / ((2**best - 1) @ discounts))
        reciprocal.append(1 / (1 + np.flatnonzero(ranked > 0)[0]))
        positives += list(s[y > 0])
        others += list(s[y <= 0])
    np.testing.assert_allclose(metrics["ndcg_10"], np.mean(ndcg), rtol=1e-5)
    np.testing.assert_allclose(metrics["mrr"], np.mean(reciprocal), rtol=1e-5)
    margin = np.mean(positives) - np.mean(others)
    np.testing.assert_allclose(metrics["margin"], margin, rtol=1e-4)


def test_a_collapsed_model_is_not_perfect():
    labels = jnp.zeros((2, 10)).at[:, 0].set(1.0)
    batch = RankBatch(None, batch_of().doc, labels, jnp.ones((2, 10), dtype=bool))
    metrics = rank_task._measure(jnp.zeros((2, 10)), batch)
    np.testing.assert_allclose(metrics["mrr"], 0.1)


def test_a_batch_of_padding_is_zero_everywhere():
    batch = batch_of()
    batch = batch._replace(where=jnp.zeros_like(batch.where))
    task, params, _ = start(BERT, RankLoss("poly1"), batch)
    (value, metrics), slope = differentiate(task, params, batch)
    assert float(value) == 0.0
    assert not any(map(np.any, jax.tree.leaves(slope)))
    assert not any(map(np.any, metrics.values()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_down_the_gradient_lowers_the_loss(kind):
    task, params, batch = start(BERT, RankLoss(kind))
    (value, _), slope = differentiate(task, params, batch)
    size = sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(slope))
    rate = min(1e-2, 1e-3 * float(value) / size)
    moved = jax.tree.map(lambda p, g: p - rate * g, params, slope)
    assert float(differentiate(task, moved, batch)[0][0]) < float(value)


def test_teachers_scores_as_labels():
    task, params, batch = start(BERT, RankLoss(labels="teacher"))
    flat = TokenBatch(*(x.reshape(-1, T) for x in batch.doc[:2]))
    scores = jax.jit(logit, static_argnums=0)(BERT, params, flat)
    expected = []
    for s, t, w in zip(
        *map(np.asarray, (scores.reshape(B, L), batch.teacher_scores, batch.where)),
        strict=True,
    ):
        p, q = (np.exp(x[w]) / np.exp(x[w]).sum() for x in (t, s))
        expected.append(-(p * np.log(q)).sum())
    value, _ = jax.jit(task.loss)(params, batch, None)
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)
    with pytest.raises(InputError, match=r"no teacher scores for RankLoss.labels"):
        task.loss(params, batch._replace(teacher_scores=None), None)


def test_monot5_trains_on_the_odds_of_its_words():
    config = dataclasses.replace(ENCDEC, contrast_id=3)
    loss = RankLoss("pointce", balance=False, reduction="rax")
    task, params, batch = start(config, loss)
    flat = TokenBatch(*(x.reshape(-1, T) for x in batch.doc[:2]))
    odds = jax.jit(logit, static_argnums=0)(config, params, flat)
    odds = np.asarray(odds).reshape(B, L)
    used = np.asarray(batch.where).copy()
    used[-1] = False
    y = np.minimum(np.asarray(batch.labels), 1)
    true = 1 / (1 + np.exp(-odds))
    entropy = -(y * np.log(true) + (1 - y) * np.log(1 - true))
    value, _ = jax.jit(task.loss)(params, batch, None)
    np.testing.assert_allclose(value, entropy[used].mean(), rtol=1e-5)


def test_refuses_batches_it_cannot_score():
    task, params, batch = start()
    separate = batch._replace(
        query=TokenBatch(batch.doc.ids[:, 0], batch.doc.mask[:, 0])
    )
    with pytest.raises(InputError, match=r"separate texts .*; expected joint texts"):
        task.loss(params, separate, None)
    groups = grouped(batch)
    fewer = groups._replace(doc=groups.doc._replace(groups=groups.doc.groups[:1]))
    with pytest.raises(
        InputError, match="groups of 12 rows in all; expected 24, a row"
    ):
        task.loss(params, fewer, None)
    with pytest.raises(InputError, match="5 for a batch of 24; expected a divisor"):
        make_task(BERT, RankLoss(chunk_size=5)).loss(params, batch, None)
