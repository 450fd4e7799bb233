"""The bi-encoder's task: brute force, duplicates, chunks, devices, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxir.dense.model import DenseConfig, encode_doc, encode_query
from jaxir.dense.task import DenseLoss, make_task
from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig
from jaxir.objective import CANDIDATES
from jaxir.types import RankBatch, TokenBatch

B, L = 4, 3
TINY = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    intermediate_size=16,
    max_positions=16,
)
CONFIG = DenseConfig(TINY, query_length=8, doc_length=16)


def token_batch(rng, *shape) -> TokenBatch:
    ids = rng.integers(1, 20, size=shape).astype(np.int32)
    mask = np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, size=(*shape[:-1], 1))
    return TokenBatch(jnp.asarray(ids), jnp.asarray(mask))


def batch_of(num_queries=B, list_size=L, seed=0) -> RankBatch:
    rng = np.random.default_rng(seed)
    where = rng.random((num_queries, list_size)) < 0.8
    where[:, 0] = True
    labels = np.zeros((num_queries, list_size), np.float32)
    labels[:, 0] = 1
    index = np.arange(num_queries * list_size).reshape(num_queries, list_size)
    return RankBatch(
        query=token_batch(rng, num_queries, 5),
        doc=token_batch(rng, num_queries, list_size, 7),
        labels=jnp.asarray(labels),
        where=jnp.asarray(where),
        teacher_scores=jnp.asarray(
            rng.normal(size=(num_queries, list_size)), jnp.float32
        ),
        query_index=jnp.arange(num_queries),
        doc_index=jnp.where(where, jnp.asarray(index, jnp.int32), -1),
        known_positive=jnp.zeros((num_queries, num_queries * list_size), bool),
    )


def vectors(config, params, batch):
    queries = jax.jit(encode_query, static_argnums=0)(config, params, batch.query)
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.doc)
    docs = jax.jit(encode_doc, static_argnums=0)(config, params, flat)
    return np.asarray(queries), np.asarray(docs)


def start(losses=None, config=CONFIG, batch=None):
    batch = batch_of() if batch is None else batch
    task = make_task(config, losses)
    return task, task.init(jax.random.key(0), batch), batch


def cross_entropy(scores, right, allowed):
    allowed = np.asarray(allowed)
    return np.log(np.exp(scores[allowed]).sum()) - scores[right]


def test_in_batch_contrast_by_brute_force():
    losses = DenseLoss(temperature=0.1)
    task, params, batch = start(losses)
    queries, docs = vectors(CONFIG, params, batch)
    scores = queries @ docs.T / 0.1
    allowed = np.asarray(batch.where).reshape(-1)
    each = [cross_entropy(scores[q], q * L, allowed) for q in range(B)]
    value, metrics = jax.jit(task.loss)(params, batch, None)
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-4)
    best = np.where(allowed, scores, -np.inf).argmax(axis=1)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(best == np.arange(B) * L))
    positives = scores[np.arange(B), np.arange(B) * L] * 0.1
    np.testing.assert_allclose(metrics["positive_score"], positives.mean(), rtol=1e-4)


def test_be_base_sets_margins_and_first_documents_together():
    config = dataclasses.replace(
        CONFIG, pooling="cls", similarity="dot", towers="separate"
    )
    losses = DenseLoss(margin_mse=1.0, temperature=1.0, candidates="first")
    task, params, batch = start(losses, config)
    queries, docs = vectors(config, params, batch)
    scores = queries @ docs.T
    first = scores[:, ::L]
    contrast = np.mean([cross_entropy(first[q], q, [True] * B) for q in range(B)])
    teacher, where = np.asarray(batch.teacher_scores), np.asarray(batch.where)
    errors = [
        (scores[q, q * L] - scores[q, q * L + j] - teacher[q, 0] + teacher[q, j]) ** 2
        for q in range(B)
        for j in range(1, L)
        if where[q, j]
    ]
    value, metrics = jax.jit(task.loss)(params, batch, None)
    np.testing.assert_allclose(metrics["contrastive"], contrast, rtol=1e-4)
    np.testing.assert_allclose(metrics["margin_mse"], np.mean(errors), rtol=1e-4)
    np.testing.assert_allclose(value, contrast + np.mean(errors), rtol=1e-4)


def test_kl_over_the_own_list():
    losses = DenseLoss(contrastive=0.0, kl=2.0, kl_temperature=0.5, student_scale=3.0)
    task, params, batch = start(losses)
    queries, docs = vectors(CONFIG, params, batch)
    values = []
    for q in range(B):
        kept = np.asarray(batch.where[q])
        s = 3 * (docs[q * L : q * L + L] @ queries[q])[kept] / 0.5
        t = np.asarray(batch.teacher_scores[q])[kept] / 0.5
        p, r = (np.exp(x) / np.exp(x).sum() for x in (t, s))
        values.append(np.sum(p * np.log(p / r)))
    value, metrics = jax.jit(task.loss)(params, batch, None)
    np.testing.assert_allclose(value, 2 * np.mean(values), rtol=1e-4)
    assert set(metrics) == {"accuracy", "positive_score", "negative_score", "kl"}


def test_own_list_contrast_sees_no_other_list():
    losses = DenseLoss(candidates="own", temperature=1.0)
    task, params, batch = start(losses)
    queries, docs = vectors(CONFIG, params, batch)
    each = [
        cross_entropy(docs[q * L : q * L + L] @ queries[q], 0, batch.where[q])
        for q in range(B)
    ]
    np.testing.assert_allclose(
        jax.jit(task.loss)(params, batch, None)[0], np.mean(each), rtol=1e-4
    )


def test_duplicates_are_neither_rewarded_nor_punished():
    batch = batch_of()
    # Query 1's first document is query 0's as well; query 2 knows document (3, 0).
    index = batch.doc_index.at[1, 0].set(0)
    known = batch.known_positive.at[2, 3 * L].set(True)
    batch = batch._replace(doc_index=index, known_positive=known)
    task, params, _ = start(DenseLoss(temperature=1.0), batch=batch)
    queries, docs = vectors(CONFIG, params, batch)
    allowed = np.tile(np.asarray(batch.where).reshape(-1), (B, 1))
    allowed[0, L] = allowed[1, 0] = allowed[2, 3 * L] = False
    scores = queries @ docs.T
    each = [cross_entropy(scores[q], q * L, allowed[q]) for q in range(B)]
    value = jax.jit(task.loss)(params, batch, None)[0]
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-4)


@pytest.mark.parametrize("candidates", ["all", "own"])
def test_an_answer_among_the_own_negatives_is_distilled_and_not_punished(candidates):
    rows = jnp.arange(B * L).reshape(B, L)
    batch = batch_of()._replace(where=jnp.ones((B, L), bool), doc_index=rows)
    batch = batch._replace(known_positive=batch.known_positive.at[1, L + 1].set(True))
    contrast = CANDIDATES[candidates](batch)
    at = 1 if candidates == "own" else L + 1
    assert not contrast.where[1, at]
    assert contrast.where[1].sum() == contrast.where.shape[1] - 1
    assert contrast.where[0].all()
    task, params, _ = start(DenseLoss(contrastive=0.0, kl=1.0), batch=batch)
    apart = batch._replace(where=batch.where.at[1, 1].set(False))
    with_it, without = (jax.jit(task.loss)(params, b, None)[0] for b in (batch, apart))
    assert abs(with_it - without) > 1e-6


def test_a_batch_without_indices_trusts_known_positives():
    batch = batch_of()
    known = batch.known_positive.at[0, L].set(True).at[0, 0].set(True)
    task, params, _ = start(batch=batch)
    without = batch._replace(doc_index=None, known_positive=known)
    found = jax.jit(task.loss)(params, without, None)[0]
    expected = jax.jit(task.loss)(params, batch._replace(known_positive=known), None)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    plain = batch._replace(doc_index=None, known_positive=None)
    expected = jax.jit(task.loss)(params, batch, None)[0]
    np.testing.assert_allclose(
        jax.jit(task.loss)(params, plain, None)[0], expected, rtol=1e-6
    )


@pytest.mark.slow
def test_gradient_caching_is_the_full_gradient():
    batch = batch_of(num_queries=8)
    full, params, _ = start(DenseLoss(), batch=batch)
    cached = make_task(CONFIG, DenseLoss(chunk_size=4))

    def slope(task):
        grad = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
        (value, _), gradient = grad(params, batch, None)
        return value, gradient

    for a, b in zip(*(jax.tree.leaves(slope(t)) for t in (full, cached)), strict=True):
        assert np.max(np.abs(a - b)) <= 1e-6 * np.max(np.abs(a), initial=1.0)
    value = jax.jit(cached.loss)(params, batch, jax.random.key(3))[0]
    assert np.isfinite(value)


def test_chunks_that_fit_only_the_documents_leave_queries_whole():
    batch = batch_of(num_queries=4)
    full, params, _ = start(batch=batch)
    cached = make_task(CONFIG, DenseLoss(chunk_size=6))
    np.testing.assert_allclose(
        jax.jit(cached.loss)(params, batch, None)[0],
        jax.jit(full.loss)(params, batch, None)[0],
        rtol=1e-5,
    )


def test_eight_devices_give_the_loss_of_one():
    batch = batch_of(num_queries=8)
    losses = DenseLoss(margin_mse=1.0, kl=1.0)
    task, params, _ = start(losses, batch=batch)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    same = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    found = jax.jit(task.loss)(same, spread, None)[0]
    np.testing.assert_allclose(
        found, jax.jit(task.loss)(params, batch, None)[0], rtol=1e-5
    )


@pytest.mark.slow
def test_training_descends():
    losses = DenseLoss(margin_mse=0.1, kl=0.1)
    task, params, batch = start(losses)
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    values = []
    for i in range(20):
        (value, _), slope = step(params, batch, jax.random.key(i))
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, slope)
        values.append(float(value))
    assert np.mean(values[-5:]) < np.mean(values[:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": "some"}, "'some'; expected one of all, first, negatives, own"),
        ({"contrastive": 0.0}, r"contrastive 0.0, .*expected weights >= 0"),
        ({"kl": -1.0}, "kl -1.0; expected weights >= 0"),
        ({"temperature": 0.0}, r"temperature: 0.0; expected a number above 0"),
        ({"kl_temperature": float("nan")}, "DenseLoss.kl_temperature: nan"),
    ],
)
def test_what_cannot_be_a_loss_says_so(changes, message):
    with pytest.raises(InputError, match=message):
        DenseLoss(**changes)


def test_a_batch_that_does_not_fit_says_so():
    task, params, batch = start(DenseLoss(margin_mse=1.0))
    with pytest.raises(InputError, match=r"joint texts .* separate texts"):
        jax.eval_shape(task.loss, params, batch._replace(query=None), None)
    with pytest.raises(InputError, match=r"no teacher scores .*`jaxir label`"):
        jax.eval_shape(task.loss, params, batch._replace(teacher_scores=None), None)
