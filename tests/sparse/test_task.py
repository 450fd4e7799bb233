"""The sparse encoder's task: every equation by hand, and through the compiled step."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxir.errors import InputError
from jaxir.mesh import make_mesh, put_batch
from jaxir.nn.bert import BertConfig
from jaxir.sparse.model import SparseConfig, encode_doc, encode_query
from jaxir.sparse.task import (
    SparseLoss,
    flops_weight,
    make_task,
    sparse_loss,
    sparsity_loss,
)
from jaxir.train.config import TrainConfig
from jaxir.train.loop import train
from jaxir.train.optimizers import OptimizerConfig
from jaxir.train.step import make_train_step, plan_state
from jaxir.types import RankBatch, TokenBatch

B, L, V = 4, 3, 20
TINY = BertConfig(
    vocab_size=V, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=16,
    max_positions=16, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
CONFIG = SparseConfig(TINY, special_ids=(0, 1), query_length=8, doc_length=16)
IDF = np.linspace(0.1, 4.0, V).astype(np.float32)


def token_batch(rng, *shape) -> TokenBatch:
    ids = rng.integers(1, V, size=shape).astype(np.int32)
    mask = np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, size=(*shape[:-1], 1))
    return TokenBatch(ids, mask)


def batch_of(num_queries=B, seed=0, padded=True) -> RankBatch:
    rng = np.random.default_rng(seed)
    shape = (num_queries, L)
    where = rng.random(shape) < (0.8 if padded else 2.0)
    where[:, 0] = True
    labels = np.zeros(shape, np.float32)
    labels[:, 0] = 1
    rows = np.arange(num_queries * L, dtype=np.int32).reshape(shape)
    batch = RankBatch(
        query=token_batch(rng, num_queries, 5),
        doc=token_batch(rng, num_queries, L, 7),
        labels=labels,
        where=where,
        teacher_scores=rng.normal(size=shape).astype(np.float32),
        doc_index=np.where(where, rows, -1),
        known_positive=np.zeros((num_queries, num_queries * L), bool),
    )
    return jax.tree.map(jnp.asarray, batch)


def params_of(config=CONFIG):
    params = make_task(config).init(jax.random.key(0), None)
    return params | {"idf": {"scale": jnp.asarray(IDF)}}


def weights_of(num_queries=B, seed=3):
    """Queries and documents whose weights are given, many of them 0."""
    rng = np.random.default_rng(seed)
    queries = (rng.random((num_queries, V)) < 0.3).astype(np.float32)
    docs = np.maximum(rng.normal(size=(num_queries, L, V)), 0).astype(np.float32)
    return queries, docs


def loss_of(losses, batch, queries, docs):
    return sparse_loss(losses, batch, jnp.asarray(queries), jnp.asarray(docs))


def softmax(x):
    x = np.asarray(x, np.float64)
    exp = np.exp(x - x.max())
    return exp / exp.sum()


def divergence(queries, docs, batch):
    """Equation 1 over the scores of equations 2 and 5."""
    values = []
    for q, query in enumerate(np.asarray(queries, np.float64)):
        kept = np.asarray(batch.where[q])
        scores = np.array([sum(query * doc) for doc in docs[q][kept]])
        p = softmax(np.asarray(batch.teacher_scores[q])[kept])
        values.append(np.sum(p * np.log(p / softmax(scores))))
    return np.mean(values)


def flops(docs, where, divisors=None):
    """Equation 3 of each slot, summed."""
    total = 0.0
    for slot in range(docs.shape[1]):
        rows = np.asarray(docs[:, slot], np.float64)[where[:, slot]]
        divisor = len(rows) if divisors is None else divisors[slot]
        total += np.sum((np.abs(rows).sum(axis=0) / divisor) ** 2)
    return total


# The equations -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["idf", "binary", "encoder"])
def test_kl_and_flops_of_what_the_model_gives(kind):
    config, batch = dataclasses.replace(CONFIG, query=kind), batch_of()
    params = params_of(config)
    bag = np.zeros((B, V), np.float32)
    for q in range(B):
        ids = np.asarray(batch.query.ids[q])[np.asarray(batch.query.mask[q])]
        bag[q, ids[ids > 1]] = 1
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.doc)
    docs = np.asarray(encode_doc(config, params, flat)).reshape(B, L, V)
    queries = {"idf": bag * IDF, "binary": bag}.get(kind)
    if queries is None:
        queries = np.asarray(encode_doc(config, params, batch.query))
    np.testing.assert_allclose(
        encode_query(config, params, batch.query), queries, rtol=1e-6
    )
    losses = SparseLoss(flops=0.3, query_flops=0.2 if kind == "encoder" else 0.0)
    task = make_task(config, losses)
    value, metrics = jax.jit(task.loss)(params, batch, None, step=0)
    expected = divergence(queries, docs, batch)
    np.testing.assert_allclose(metrics["kl"], expected, rtol=1e-4)
    where = np.asarray(batch.where)
    paid = 0.3 * flops(docs, where)
    if kind == "encoder":
        paid += 0.2 * flops(queries[:, None], np.ones((B, 1), bool))
    np.testing.assert_allclose(metrics["flops"], paid, rtol=1e-4)
    np.testing.assert_allclose(value, expected + paid, rtol=1e-4)
    counted = (docs > 0).sum(axis=-1)[where].mean()
    np.testing.assert_allclose(metrics["doc_tokens"], counted, rtol=1e-6)
    np.testing.assert_allclose(metrics["query_tokens"], (queries > 0).sum() / B)


def test_the_slope_is_that_of_equation_7():
    """IDF times the error of the softmax, and apart from it an even pull to 0."""
    batch, (queries, docs) = batch_of(), weights_of()
    weighted = queries * IDF

    def ranking(docs):
        return loss_of(SparseLoss(flops=0.0), batch, weighted, docs)[0]

    slope = jax.grad(ranking)(jnp.asarray(docs))
    expected, where = np.zeros_like(docs), np.asarray(batch.where)
    for q in range(B):
        kept = where[q]
        error = softmax(docs[q][kept] @ weighted[q]) - softmax(
            np.asarray(batch.teacher_scores[q])[kept]
        )
        expected[q][kept] = error[:, None] * (IDF * queries[q])[None, :] / B
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)

    def whole(docs):
        return loss_of(SparseLoss(flops=0.5), batch, weighted, docs)[0]

    pull = jax.grad(whole)(jnp.asarray(docs)) - slope
    for slot in range(L):
        mean = docs[where[:, slot], slot].mean(axis=0)
        for q in range(B):
            even = 0.5 * 2 * mean / where[:, slot].sum() * where[q, slot]
            # |w| has no slope at 0
            even = np.where(docs[q, slot] > 0, even, 0.0)
            np.testing.assert_allclose(pull[q, slot], even, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("l0_threshold", [0, 9])
def test_torch_gives_the_same_value_and_slopes(l0_threshold):
    """As the released training code has it, in its order of operations."""
    torch = pytest.importorskip("torch")
    batch, (queries, docs) = batch_of(padded=False), weights_of()
    losses = SparseLoss(flops=0.7, l0_threshold=l0_threshold)

    def value(docs):
        return loss_of(losses, batch, queries * IDF, docs)[0]

    found, slope = jax.value_and_grad(value)(jnp.asarray(docs))
    d = torch.tensor(docs, requires_grad=True)
    q = torch.tensor(queries) * torch.tensor(IDF)
    scores = torch.bmm(d, q.unsqueeze(-1)).squeeze(-1)
    teacher = torch.softmax(torch.tensor(np.array(batch.teacher_scores)), dim=-1)
    ranking = torch.nn.functional.kl_div(
        torch.log_softmax(scores, dim=-1), teacher, reduction="none"
    )
    ranking = ranking.sum(dim=-1).mean()
    reps = d
    if l0_threshold:
        mask = (d.abs() > 0).sum(dim=-1, keepdim=True) > l0_threshold
        assert mask.any()
        assert not mask.all()
        reps = d * mask
    paid = (reps.abs().mean(dim=0) ** 2).sum()
    total = ranking + 0.7 * paid
    total.backward()
    np.testing.assert_allclose(found, total.item(), rtol=1e-5)
    np.testing.assert_allclose(slope, d.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_every_slot_pays_for_itself():
    _, docs = weights_of()
    where = np.asarray(batch_of().where)
    found = sparsity_loss(jnp.asarray(docs), jnp.asarray(where))
    np.testing.assert_allclose(found, flops(docs, where), rtol=1e-5)
    pooled = flops(docs.reshape(-1, 1, V), where.reshape(-1, 1))
    assert found > pooled  # one mean over all documents is less


def test_short_documents_pay_nothing_but_count():
    _, docs = weights_of()
    where = np.asarray(batch_of().where)
    kept = (docs > 0).sum(axis=-1, keepdims=True) > 9
    assert 0 < (kept[..., 0] & where).sum() < where.sum()
    found, slope = jax.value_and_grad(sparsity_loss)(
        jnp.asarray(docs), jnp.asarray(where), 9
    )
    expected = flops(docs * kept, where, divisors=where.sum(axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.any(np.asarray(slope)[~kept[..., 0]])


def test_padding_says_nothing():
    batch, (queries, docs) = batch_of(), weights_of()
    assert not batch.where.all()
    value, metrics = loss_of(SparseLoss(margin_mse=0.1), batch, queries, docs)
    where = batch.where[..., None]
    other = batch._replace(
        teacher_scores=jnp.where(batch.where, batch.teacher_scores, jnp.nan)
    )
    again, others = loss_of(
        SparseLoss(margin_mse=0.1), other, queries, np.where(where, docs, 7.0)
    )
    np.testing.assert_allclose(again, value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), others, metrics
    )


def test_info_nce_has_all_negatives_and_no_other_positives():
    batch, (queries, docs) = batch_of(), weights_of()
    losses = SparseLoss(
        contrastive=1.0, kl=0.0, candidates="negatives", flops=0.0, temperature=2.0
    )
    scores = np.einsum("bv,nv->bn", queries, docs.reshape(-1, V)) / 2
    values = []
    for q in range(B):
        allowed = np.array(batch.where)
        allowed[:, 0] = False
        rivals = scores[q][allowed.reshape(-1)]
        right = scores[q, q * L]
        values.append(np.log(np.exp(right) + np.exp(rivals).sum()) - right)
    value, _ = loss_of(losses, batch._replace(teacher_scores=None), queries, docs)
    np.testing.assert_allclose(value, np.mean(values), rtol=1e-5)


# The weight of FLOPS rises -----------------------------------------------------


def test_the_weight_rises_with_the_square_of_the_step():
    found = [float(flops_weight(0.08, 4, step)) for step in range(6)]
    np.testing.assert_allclose(found, 0.08 * np.array([1, 4, 9, 16, 16, 16]) / 16)
    assert float(flops_weight(0.08, 0, 0)) == np.float32(0.08)


def begin(losses, num_devices=1, num_queries=8, **options):
    mesh = make_mesh(num_devices)
    task, optimizer = make_task(CONFIG, losses), optax.sgd(0.0)  # nothing moves
    batch = batch_of(num_queries)
    plan = plan_state(
        task, optimizer, batch, jax.random.key(0), mesh=mesh,
        initial_params=params_of(),
    )  # fmt: skip
    step = make_train_step(task, optimizer, mesh=mesh, **options)
    return plan.make(), step, put_batch(batch, mesh)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_compiled_step_knows_how_far_it_is(accumulate):
    losses = SparseLoss(flops=0.4, flops_warmup=3)
    state, step, batch = begin(losses, accumulate=accumulate)
    paid = []
    for _ in range(5):
        state, metrics = step(state, batch)
        paid.append(float(metrics["flops"]))
    assert step._cache_size() == 1
    np.testing.assert_allclose(
        np.array(paid) / paid[-1], np.array([1, 4, 9, 9, 9]) / 9, rtol=1e-5
    )


def test_accumulation_pays_the_flops_of_each_part():
    losses = SparseLoss(flops=1.0)
    state, step, batch = begin(losses, accumulate=2)
    params = params_of()
    flat = jax.tree.map(
        lambda x: np.asarray(x).reshape(-1, x.shape[-1]), jax.device_get(batch.doc)
    )
    docs = np.asarray(encode_doc(CONFIG, params, flat)).reshape(8, L, V)
    where = np.asarray(batch.where)
    parts = [flops(docs[i::2], where[i::2]) for i in range(2)]
    _, metrics = step(state, batch)
    np.testing.assert_allclose(metrics["flops"], np.mean(parts), rtol=1e-4)
    assert np.mean(parts) > flops(docs, where)


class Batches:
    """Batches that are a function of the position."""

    steps_per_epoch = 10

    def __init__(self):
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        return batch_of(8, seed=self.position)

    def state(self):
        return {"position": self.position}

    def restore(self, state):
        self.position = state["position"]


@pytest.mark.slow
def test_a_resumed_run_goes_on_at_the_right_weight(tmp_path, stop_training):
    def run(place):
        task = make_task(CONFIG, SparseLoss(flops=0.4, flops_warmup=5))
        return train(
            task, Batches(), TrainConfig(total_steps=6, save_every=2, log_every=1),
            optimizer=OptimizerConfig(learning_rate=1e-2, warmup=0),
            work_dir=tmp_path / place, mesh=make_mesh(1),
        )  # fmt: skip

    whole = run("whole")
    with stop_training():
        run("stopped")
    resumed = run("stopped")
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)

    def rows(place):
        lines = (tmp_path / place / "metrics.jsonl").read_text().splitlines()
        found = map(json.loads, lines)
        return [(row["step"], row["flops"]) for row in found if "flops" in row]

    assert [step for step, _ in rows("whole")] == [1, 2, 3, 4, 5, 6]
    assert rows("stopped") == rows("whole")


# Chunks, devices ---------------------------------------------------------------


def value_and_grad_of(losses, params, batch):
    loss = make_task(CONFIG, losses).loss

    def of(params, batch):
        return loss(params, batch, None, step=1)

    (value, metrics), slope = jax.jit(jax.value_and_grad(of, has_aux=True))(
        params, batch
    )
    return value, metrics, slope


def assert_same(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for name in expected[1]:
        np.testing.assert_allclose(found[1][name], expected[1][name], rtol=1e-4)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected[2]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale),
        found[2], expected[2],
    )  # fmt: skip


LOSSES = SparseLoss(
    contrastive=1.0, candidates="negatives", flops=0.4, flops_warmup=4, l0_threshold=3
)


def test_gradient_caching_keeps_the_flops_of_the_batch():
    batch, params = batch_of(8), params_of()
    cached = dataclasses.replace(LOSSES, chunk_size=4)
    assert_same(
        value_and_grad_of(cached, params, batch),
        value_and_grad_of(LOSSES, params, batch),
    )


def test_eight_devices_give_the_loss_and_slope_of_one():
    batch, params = batch_of(16), params_of()
    expected = value_and_grad_of(LOSSES, params, batch)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    assert_same(value_and_grad_of(LOSSES, params, batch), expected, 1e-4)


def test_the_table_never_moves(tmp_path):
    """Nor by weight decay: its name keeps it out."""
    _, _, slope = value_and_grad_of(LOSSES, params_of(), batch_of())
    assert not np.any(slope["idf"]["scale"])
    task = make_task(CONFIG, LOSSES)
    result = train(
        task, Batches(), TrainConfig(total_steps=2), work_dir=tmp_path,
        optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.5, warmup=0),
        initial_params=params_of(), mesh=make_mesh(1),
    )  # fmt: skip
    np.testing.assert_array_equal(result.params["idf"]["scale"], IDF)
    kernel = result.params["head"]["transform"]["kernel"]
    assert np.any(kernel != params_of()["head"]["transform"]["kernel"])


# Mistakes ----------------------------------------------------------------------


def test_the_losses_are_the_papers_and_mistakes_are_named():
    losses = SparseLoss()
    assert (losses.contrastive, losses.kl, losses.flops) == (0, 1, 0.02)
    assert (losses.temperature, losses.kl_temperature) == (1.0, 1.0)
    for name in ("flops", "query_flops", "flops_warmup", "l0_threshold"):
        low = type(getattr(losses, name))(-1)
        with pytest.raises(InputError, match=rf"SparseLoss.{name}: {low}; expected a"):
            SparseLoss(**{name: low})
    with pytest.raises(InputError, match=r"SparseLoss.candidates: 'x'; expected"):
        SparseLoss(candidates="x")


@pytest.mark.parametrize("kind", ["idf", "binary"])
def test_flops_of_queries_that_nothing_trains(kind):
    config, losses = (
        dataclasses.replace(CONFIG, query=kind),
        SparseLoss(query_flops=0.5),
    )
    with pytest.raises(
        InputError, match=f"query_flops: 0.5 for queries of sort '{kind}"
    ):
        make_task(config, losses)


def test_a_batch_that_does_not_fit_says_so():
    task, params, batch = make_task(CONFIG), params_of(), batch_of()

    def loss(batch):
        return jax.eval_shape(lambda p: task.loss(p, batch, None, step=0), params)

    with pytest.raises(InputError, match=r"joint texts .* separate texts"):
        loss(batch._replace(query=None))
    with pytest.raises(InputError, match=r"no teacher scores .*`jaxir label`"):
        loss(batch._replace(teacher_scores=None))
