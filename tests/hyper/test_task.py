"""The Hypencoder's task: every query's q-net by hand, chunks, devices, ten steps."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxir import fit
from jaxir.checkpoints.model_dir import load_model, model_from_parts
from jaxir.data.collection import open_collection
from jaxir.data.lists import sample_lists, write_lists
from jaxir.data.pipeline import PipelineConfig
from jaxir.errors import InputError
from jaxir.hyper.model import HypencoderConfig, encode_doc, encode_query, init_params
from jaxir.hyper.qnet import QNetSpec
from jaxir.hyper.task import HyperLoss, make_task
from jaxir.nn.bert import BertConfig
from jaxir.text import load_tokenizer
from jaxir.train.config import TrainConfig
from jaxir.train.optimizers import OptimizerConfig, ParamGroup
from jaxir.types import RankBatch, TokenBatch
from jaxir.validate import ValidationConfig

B, L, W = 4, 3, 8
TINY = BertConfig(
    vocab_size=20, hidden_size=W, num_layers=1, num_heads=2, intermediate_size=16,
    max_positions=16,
)  # fmt: skip
CONFIG = HypencoderConfig(TINY, QNetSpec(W, (W, W)), query_length=8, doc_length=16)
WARM = dataclasses.replace(
    CONFIG,
    qnet=QNetSpec(W, (W, W), gated=True, residual_on_last=True),
    warm_start=True,
)


def token_batch(rng, *shape) -> TokenBatch:
    ids = rng.integers(1, 20, size=shape).astype(np.int32)
    mask = np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, size=(*shape[:-1], 1))
    return TokenBatch(jnp.asarray(ids), jnp.asarray(mask))


def batch_of(num_queries=B, list_size=L, seed=0) -> RankBatch:
    rng = np.random.default_rng(seed)
    shape = (num_queries, list_size)
    where = rng.random(shape) < 0.8
    where[:, 0] = True
    rows = np.arange(num_queries * list_size, dtype=np.int32).reshape(shape)
    return RankBatch(
        query=token_batch(rng, num_queries, 5),
        doc=token_batch(rng, num_queries, list_size, 7),
        labels=jnp.zeros(shape).at[:, 0].set(1),
        where=jnp.asarray(where),
        teacher_scores=jnp.asarray(rng.normal(size=shape), jnp.float32),
        query_index=jnp.arange(num_queries),
        doc_index=jnp.where(where, rows, -1),
        known_positive=jnp.zeros((num_queries, num_queries * list_size), bool),
    )


def start(losses=None, config=CONFIG, batch=None):
    batch = batch_of() if batch is None else batch
    task = make_task(config, losses)
    return task, jax.jit(task.init)(jax.random.key(0)), batch


def value_and_slope(task, params, batch, rng=None):
    (value, metrics), slope = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
        params, batch, rng
    )
    return value, metrics, slope


def assert_same_slope(found, expected, tolerance=1e-5):
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale),
        found,
        expected,
    )


def by_hand(config, params, batch):
    """Scores ``[B, B * L]``: one query after another, one layer after another."""
    weights = jax.jit(encode_query, static_argnums=0)(config, params, batch.query)
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.doc)
    docs = np.asarray(jax.jit(encode_doc, static_argnums=0)(config, params, flat))
    weights = jax.tree.map(lambda x: np.asarray(x, np.float64), weights)
    spec = config.qnet
    docs = docs.reshape(len(docs), spec.num_vectors, spec.input_width)
    scores = np.zeros((batch.labels.shape[0], len(docs)))
    for q in range(scores.shape[0]):
        for n, vectors in enumerate(docs):
            best = -np.inf
            for x in vectors.astype(np.float64):
                for i in range(spec.depth):
                    y = x @ weights.kernels[i][q] + weights.biases[i][q]
                    y = np.maximum(y, 0)
                    y = (y - y.mean()) / np.sqrt(y.var() + spec.norm_eps)
                    if weights.gates is not None:
                        y = weights.gates[q, i] * y
                    if i < spec.depth - 1 or spec.residual_on_last:
                        y = x + y
                    x = y
                best = max(best, x @ weights.output[q])
            scores[q, n] = best
    return scores


def infonce(scores, right, allowed):
    return np.log(np.exp(scores[allowed]).sum()) - scores[right]


def margins(scores, batch):
    teacher, where = np.asarray(batch.teacher_scores), np.asarray(batch.where)
    num_queries, list_size = where.shape
    errors = []
    for q in range(num_queries):
        own = scores[q, q * list_size : (q + 1) * list_size]
        for j in range(1, list_size):
            if where[q, j]:
                wanted = teacher[q, 0] - teacher[q, j]
                errors.append((own[0] - own[j] - wanted) ** 2)
    return np.mean(errors)


def moved(params):
    """Gates that have opened a little, for at first they say nothing."""
    gates, output_gate = params["head"]["gates"], params["head"]["output_gate"]
    return params | {
        "head": params["head"] | {"gates": gates + 0.5, "output_gate": output_gate + 1}
    }


# The paper's loss --------------------------------------------------------------


MANY = dataclasses.replace(CONFIG, qnet=QNetSpec(W, (W, W), num_vectors=2))
APART = dataclasses.replace(CONFIG, towers="separate", attention_scale="paper")


@pytest.mark.parametrize("config", [CONFIG, WARM, MANY, APART])
def test_margins_and_first_documents_by_hand(config):
    task, params, batch = start(None, config)
    if config.warm_start:
        params = moved(params)
    scores = by_hand(config, params, batch)
    first = scores[:, ::L]
    contrast = np.mean([infonce(first[q], q, [True] * B) for q in range(B)])
    value, metrics, slope = value_and_slope(task, params, batch)
    np.testing.assert_allclose(metrics["contrastive"], contrast, rtol=1e-4)
    margin = margins(scores, batch)
    np.testing.assert_allclose(metrics["margin_mse"], margin, rtol=1e-4)
    np.testing.assert_allclose(value, contrast + margin, rtol=1e-4)
    right = first.argmax(axis=1) == np.arange(B)
    np.testing.assert_allclose(metrics["accuracy"], right.mean())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


def test_every_document_of_the_batch_and_a_teachers_distribution():
    losses = HyperLoss(
        margin_mse=0.0, kl=2.0, candidates="all", temperature=0.5, kl_temperature=2.0
    )
    batch = batch_of()
    # Query 1's first document is query 0's as well; query 2 knows document (3, 0).
    index = batch.doc_index.at[1, 0].set(0)
    known = batch.known_positive.at[2, 3 * L].set(True)
    batch = batch._replace(doc_index=index, known_positive=known)
    task, params, _ = start(losses, batch=batch)
    scores = by_hand(CONFIG, params, batch)
    allowed = np.tile(np.asarray(batch.where).reshape(-1), (B, 1))
    allowed[0, L] = allowed[1, 0] = allowed[2, 3 * L] = False
    contrast = [infonce(scores[q] / 0.5, q * L, allowed[q]) for q in range(B)]
    kl = []
    for q in range(B):
        kept = np.asarray(batch.where[q])
        s = scores[q, q * L : q * L + L][kept] / 2
        t = np.asarray(batch.teacher_scores[q])[kept] / 2
        p, r = (np.exp(x) / np.exp(x).sum() for x in (t, s))
        kl.append(np.sum(p * np.log(p / r)))
    value, metrics, _ = value_and_slope(task, params, batch)
    np.testing.assert_allclose(metrics["contrastive"], np.mean(contrast), rtol=1e-4)
    np.testing.assert_allclose(metrics["kl"], 2 * np.mean(kl), rtol=1e-4)
    np.testing.assert_allclose(value, metrics["contrastive"] + metrics["kl"], rtol=1e-6)


def test_the_contrast_of_own_lists():
    """The hard tasks' setting: a query, its document and a hard negative."""
    batch = batch_of(list_size=2)
    task, params, _ = start(HyperLoss(margin_mse=0.0, candidates="own"), batch=batch)
    scores = by_hand(CONFIG, params, batch)
    each = [
        infonce(scores[q, 2 * q : 2 * q + 2], 0, np.asarray(batch.where[q]))
        for q in range(B)
    ]
    counted = [x for x, pair in zip(each, batch.where, strict=True) if pair.all()]
    value, metrics, _ = value_and_slope(task, params, batch)
    assert set(metrics) == {"accuracy", "positive_score", "negative_score"} | {
        "contrastive"
    }
    np.testing.assert_allclose(value, np.sum(counted) / B, rtol=1e-4)


def test_padding_of_lists_and_texts_says_nothing():
    batch = batch_of()
    assert not batch.where.all()
    task, params, _ = start(batch=batch)
    value, _, slope = value_and_slope(task, params, batch)
    ids = jnp.where(batch.doc.mask & batch.where[..., None], batch.doc.ids, 3)
    mask = batch.doc.mask | ~batch.where[..., None]
    teacher = jnp.where(batch.where, batch.teacher_scores, jnp.nan)
    query = TokenBatch(
        jnp.where(batch.query.mask, batch.query.ids, 5), batch.query.mask
    )
    other = batch._replace(
        query=query, doc=TokenBatch(ids, mask), teacher_scores=teacher
    )
    again, _, other_slope = value_and_slope(task, params, other)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    assert_same_slope(other_slope, slope)


def test_a_warm_start_begins_as_the_inner_product():
    batch = batch_of()
    task, params, _ = start(HyperLoss(kl=1.0), WARM, batch)
    scores = by_hand(WARM, params, batch)
    config = dataclasses.replace(WARM, qnet=QNetSpec(W, (W,)), warm_start=False)
    docs = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.doc)
    towers = {"shared": params["shared"]}
    queries, vectors = (
        np.asarray(encode_doc(config, towers, tokens)) for tokens in (batch.query, docs)
    )
    np.testing.assert_allclose(scores, queries @ vectors.T, rtol=1e-4, atol=1e-5)
    value, metrics, slope = value_and_slope(task, params, batch)
    np.testing.assert_allclose(metrics["margin_mse"], margins(scores, batch), rtol=1e-4)
    # Closed gates hide what they stand before; the gates themselves can move.
    head = slope["head"]
    assert np.abs(head["gates"]).min() > 0
    assert np.abs(head["output_gate"]) > 0
    assert not np.any(head["kernel_0"]["base"])
    assert np.isfinite(value)


# Chunks, devices, dropout ------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [4, pytest.param(6, marks=pytest.mark.slow)])
def test_gradient_caching_is_the_full_gradient(chunk_size):
    task, params, batch = start(HyperLoss(kl=1.0), batch=batch_of(num_queries=8))
    cached = make_task(CONFIG, HyperLoss(kl=1.0, chunk_size=chunk_size))
    value, _, slope = value_and_slope(task, params, batch)
    found, _, cached_slope = value_and_slope(cached, params, batch)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    assert_same_slope(cached_slope, slope)


def spread_over(batch, params, count=8):
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    return (
        jax.device_put(params, NamedSharding(mesh, PartitionSpec())),
        jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data"))),
    )


@pytest.mark.parametrize(
    ("candidates", "chunk_size"),
    [
        ("first", None),
        pytest.param("all", None, marks=pytest.mark.slow),
        pytest.param("first", 8, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_give_the_loss_and_slope_of_one(candidates, chunk_size):
    losses = HyperLoss(kl=1.0, candidates=candidates, chunk_size=chunk_size)
    task, params, batch = start(losses, batch=batch_of(num_queries=16))
    value, metrics, slope = value_and_slope(task, params, batch)
    params, batch = spread_over(batch, params)
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    compiled = step.lower(params, batch, None).compile()
    (found, spread_metrics), spread_slope = compiled(params, batch, None)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    for name in metrics:
        np.testing.assert_allclose(spread_metrics[name], metrics[name], rtol=1e-4)
    assert_same_slope(spread_slope, slope, 1e-4)
    # Documents travel, 16 * L * W numbers of them, and q-nets of 16 * 2 * W * W do not.
    text = compiled.as_text()
    sent = re.findall(r"= \w+\[([\d,]*)\]\S* (?:all-gather|all-to-all)\(", text)
    assert sent
    for shape in sent:
        assert np.prod([int(n) for n in shape.split(",") if n]) <= 16 * L * W


def test_dropout_is_drawn_from_the_key():
    drops = dataclasses.replace(TINY, dropout=0.5, attention_dropout=0.5)
    config = dataclasses.replace(CONFIG, backbone=drops)
    task, params, batch = start(None, config)
    value = jax.jit(lambda key: task.loss(params, batch, key)[0])
    first, again, other = (value(jax.random.key(i)) for i in (0, 0, 1))
    assert first == again
    assert first != other
    still = jax.jit(lambda: task.loss(params, batch, None)[0])()
    assert still not in (first, other)


# Training ----------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, WARM])
def test_ten_steps_descend(config):
    task, params, batch = start(None, config)
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state):
        (value, _), slope = jax.value_and_grad(task.loss, has_aux=True)(
            params, batch, None
        )
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state, value

    state, values = optimizer.init(params), []
    for _ in range(11):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < values[0]
    assert min(values[5:]) < min(values[:5])


def test_a_batch_that_does_not_fit_says_so():
    task, params, batch = start()
    with pytest.raises(InputError, match=r"joint texts .* separate texts"):
        jax.eval_shape(task.loss, params, batch._replace(query=None), None)
    with pytest.raises(InputError, match=r"no teacher scores .*`jaxir label`"):
        jax.eval_shape(task.loss, params, batch._replace(teacher_scores=None), None)
    with pytest.raises(InputError, match="chunk_size: 5 for a batch of 12; expected a"):
        cut = make_task(CONFIG, HyperLoss(chunk_size=5))
        jax.eval_shape(cut.loss, params, batch, None)


def test_the_losses_are_the_papers_and_named_after_the_family():
    losses = HyperLoss()
    assert (losses.contrastive, losses.margin_mse, losses.kl) == (1, 1, 0)
    assert (losses.temperature, losses.candidates) == (1.0, "first")
    with pytest.raises(InputError, match=r"HyperLoss.candidates: 'x'; expected"):
        HyperLoss(candidates="x")


def scored_lists(collection, path):
    lists = sample_lists(
        collection.qrels("train"), list_size=4, seed=0,
        doc_ids=collection.docs.doc_ids(), queries=collection.queries("train"),
    )  # fmt: skip
    lists = [item._replace(scores=tuple(map(float, item.labels))) for item in lists]
    write_lists(path, lists)
    return str(path)


@pytest.mark.slow
def test_a_small_collection_from_end_to_end(tiny_collection, tiny_tokenizer, tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer)
    backbone = dataclasses.replace(
        TINY, vocab_size=tokenizer.vocab_size, hidden_size=16, max_positions=32
    )
    config = HypencoderConfig(
        backbone, QNetSpec(16, (16, 16)), query_length=12, doc_length=16
    )
    params = init_params(config, jax.random.key(0))
    model = model_from_parts("hypencoder", config, params, tokenizer)
    collection = open_collection(str(tiny_collection))
    result = fit.fit(
        model,
        collection,
        model_dir=tmp_path / "out",
        loss=HyperLoss(),
        lists=fit.ListSource(path=scored_lists(collection, tmp_path / "lists.jsonl")),
        pipeline=PipelineConfig(
            batch_size=8, list_size=4, query_buckets=1, doc_buckets=1
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, groups=(ParamGroup("^head/", 3e-3),)
        ),
        loop=TrainConfig(total_steps=6, eval_every=3, eval_first=True, save_every=3),
        validation=ValidationConfig(split="test", metrics=("Rprec", "nDCG@10")),
    )
    assert result.step in (0, 3, 6)
    assert set(result.metrics) >= {"Rprec", "nDCG@10"}
    stored = load_model(tmp_path / "out")
    assert (stored.kind, stored.config) == ("hypencoder", config)
    jax.tree.map(np.testing.assert_array_equal, stored.params, result.model.params)
    assert stored.fingerprint == result.model.fingerprint
