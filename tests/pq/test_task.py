"""JPQ's loss against loops over documents, pairs and centroids; its negatives alive."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxir.errors import InputError
from jaxir.mesh import make_mesh, put_batch, replicated
from jaxir.nn.bert import BertConfig
from jaxir.pq import task as jpq_task
from jaxir.pq.codec import Codec, pack
from jaxir.pq.model import JpqConfig
from jaxir.pq.task import JpqLoss, given_lists, live_lists, live_search, make_task
from jaxir.train.optimizers import OptimizerConfig, ParamGroup, make_optimizer
from jaxir.train.step import make_train_step, plan_state
from jaxir.types import RankBatch, TokenBatch

E, M, C, W, N, B = 16, 4, 16, 4, 60, 8
BERT = BertConfig(
    vocab_size=30, hidden_size=E, num_layers=1, num_heads=2, intermediate_size=32,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
CONFIG = JpqConfig(BERT, subvectors=M, bits=4)
CODES = np.random.default_rng(0).integers(0, C, (M, N)).astype(np.uint8)
POSITIVES = np.full((B, 3), -1, np.int32)
POSITIVES[:, 0] = np.arange(B) * 7
POSITIVES[::2, 1] = 59
POSITIVES[3] = [21, 4, 30]
SMALL = JpqLoss(num_negatives=20, cut=15)


def batch_of(positives=POSITIVES, others=None):
    tokens = np.random.default_rng(1).integers(0, 30, (B, 6)).astype(np.int32)
    tokens[:, 0] = np.arange(B)
    docs = positives if others is None else np.concatenate([positives, others], axis=1)
    labels = np.zeros(docs.shape, np.float32)
    labels[:, : positives.shape[1]] = positives >= 0
    query = TokenBatch(tokens, np.ones(tokens.shape, bool))
    return RankBatch(query, None, labels, docs >= 0, doc_index=docs)


def table_params(seed=0):
    """Parameters of a model whose queries are rows of a table: no tower to compile."""
    draw = np.random.default_rng(seed)
    rotation = np.linalg.qr(draw.normal(size=(E, E)))[0]
    arrays = {
        "query": draw.normal(size=(B, E)),
        "codec": {"rotation": rotation, "centroids": draw.normal(size=(M, C, W))},
    }
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrays)


@pytest.fixture
def tables_for_towers(monkeypatch):
    def rows(config, params, tokens, *, rng=None):
        return params["query"][tokens.ids[:, 0]]

    monkeypatch.setattr(jpq_task, "query_vectors", rows)


def all_scores(params):
    """``[B, N]`` scores of every document, and the rotated queries, float64."""
    codec = jax.tree.map(lambda x: np.asarray(x, np.float64), params["codec"])
    turned = np.asarray(params["query"], np.float64) @ codec["rotation"].T
    parts = turned.reshape(B, M, W)
    scores = np.zeros((B, N))
    for m in range(M):
        scores += parts[:, m] @ codec["centroids"][m][CODES[m]].T
    return scores, turned


def lists_of(scores, positives, losses):
    """Of each query: its positives with ranks, its negatives with ranks."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, : losses.num_negatives]
    for b in range(B):
        mine = [int(doc) for doc in positives[b] if doc >= 0]
        place = {int(doc): i + 1 for i, doc in enumerate(order[b])}
        late = [doc for doc in mine if doc not in place]
        ranks = place | {
            doc: losses.num_negatives + 1 + i for i, doc in enumerate(late)
        }
        others = [doc for doc in place if doc not in mine]
        yield b, mine, others, ranks


def weight(rank, cut):
    return 1 / rank if cut is None or rank <= cut else 0.0


def oracle(params, losses, positives=POSITIVES):
    """Loss and gradients of queries and centroids, pair by pair (equations 17-19)."""
    scores, turned = all_scores(params)
    total, slopes = 0.0, np.zeros((M, C, W))
    turned_slopes = np.zeros((B, E))
    centroids = np.asarray(params["codec"]["centroids"], np.float64)
    for b, mine, others, ranks in lists_of(scores, positives, losses):
        pairs = [(i, j) for i in mine for j in others]
        for i, j in pairs:
            gain = abs(weight(ranks[i], losses.cut) - weight(ranks[j], losses.cut))
            above = (scores[b, j] - scores[b, i]) / losses.temperature
            share = gain / len(pairs) / B
            total += share * np.log1p(np.exp(above))
            alpha = share / (1 + np.exp(-above)) / losses.temperature
            for m in range(M):
                part = slice(W * m, W * m + W)
                slopes[m, CODES[m, i]] -= alpha * turned[b, part]
                slopes[m, CODES[m, j]] += alpha * turned[b, part]
                turned_slopes[b, part] += alpha * (
                    centroids[m, CODES[m, j]] - centroids[m, CODES[m, i]]
                )
    rotation = np.asarray(params["codec"]["rotation"], np.float64)
    return total, turned_slopes @ rotation, slopes


def slopes_of(losses, params=None, batch=None, codes=CODES, **options):
    params = table_params() if params is None else params
    task = make_task(CONFIG, losses, codes, **options)
    gradient = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    batch = batch_of() if batch is None else batch
    (value, metrics), slopes = gradient(params, batch, None, task.constants)
    return float(value), metrics, slopes


# --- lists ----------------------------------------------------------------------------


def test_live_lists_keep_ranks_and_append_what_is_missing():
    ranked = jnp.array([[7, 3, 5, -1], [1, 2, 3, 4]])
    lists = live_lists(ranked, jnp.array([[9, 3, 8], [4, -1, -1]]))
    assert lists.positive_ranks[0].tolist() == [5, 2, 6]
    assert lists.positive_ranks[1, 0] == 4
    assert lists.negatives.tolist() == [[7, -1, 5, -1], [1, 2, 3, -1]]
    assert lists.negative_ranks.tolist() == [[1, 2, 3, 4]] * 2
    assert lists.found.tolist() == [[False, True, False], [True, False, False]]


def test_given_lists_are_ranked_by_score_then_row():
    lists = given_lists(
        jnp.array([[9, -1]]), jnp.array([[4, 2, 6, -1]]),
        jnp.array([[1.0, 99.0]]), jnp.array([[1.0, 3.0, 1.0, 99.0]]),
    )  # fmt: skip
    assert lists.positive_ranks[0, 0] == 4  # of equals, rows 4 and 6 come first
    assert lists.negative_ranks[0, :3].tolist() == [2, 1, 3]
    assert lists.found.tolist() == [[True, False]]


@pytest.mark.parametrize("devices", [None, 2])
def test_live_search_against_brute_force(devices):
    params = table_params()
    mesh = None if devices is None else make_mesh(devices)
    codec = Codec(params["codec"]["rotation"], params["codec"]["centroids"])
    found = live_search(codec, params["query"], jnp.asarray(CODES), 70, mesh=mesh)
    expected = np.argsort(-all_scores(params)[0], axis=1, kind="stable")
    np.testing.assert_array_equal(found[:, :N], expected)
    assert (np.asarray(found)[:, N:] == -1).all()


# --- the loss -------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [None, 3, 15, 200])
def test_loss_and_slopes_of_equations_17_to_19(tables_for_towers, cut):
    losses = dataclasses.replace(SMALL, cut=cut)
    value, metrics, slopes = slopes_of(losses)
    expected, of_queries, of_centroids = oracle(table_params(), losses)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slopes["query"], of_queries, atol=1e-6)
    np.testing.assert_allclose(slopes["codec"]["centroids"], of_centroids, atol=1e-6)
    assert not slopes["codec"]["rotation"].any()
    found, ranks, best = [], [], []
    for _, mine, _, places in lists_of(
        all_scores(table_params())[0], POSITIVES, losses
    ):
        found += [places[i] <= 20 for i in mine]
        ranks += [places[i] for i in mine]
        best.append(max((1 / places[i]) * (places[i] <= 20) for i in mine))
    np.testing.assert_allclose(metrics["found"], np.mean(found), rtol=1e-6)
    np.testing.assert_allclose(metrics["positive_rank"], np.mean(ranks), rtol=1e-6)
    np.testing.assert_allclose(metrics["reciprocal_rank"], np.mean(best), rtol=1e-6)
    assert 0 < metrics["found"] < 1  # both sorts of positives were tested


def test_slopes_against_finite_differences(tables_for_towers):
    params = table_params()
    _, of_queries, of_centroids = oracle(params, SMALL)
    scores = all_scores(params)[0]
    ranked = list(lists_of(scores, POSITIVES, SMALL))

    def fixed(params):
        """The loss with ranks and negatives as they are: both are constants of it."""
        scores, total = all_scores(params)[0], 0.0
        for b, mine, others, ranks in ranked:
            for i in mine:
                for j in others:
                    gain = abs(weight(ranks[i], 15) - weight(ranks[j], 15))
                    above = scores[b, j] - scores[b, i]
                    total += (
                        gain * np.log1p(np.exp(above)) / len(mine) / len(others) / B
                    )
        return total

    draw, step = np.random.default_rng(5), 1e-5
    for name, slopes in (("query", of_queries), ("centroids", of_centroids)):
        direction = draw.normal(size=slopes.shape)
        ends = []
        for sign in (1, -1):
            moved = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
            place = moved if name == "query" else moved["codec"]
            place[name] = place[name] + sign * step * direction
            ends.append(fixed(moved))
        expected = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose((slopes * direction).sum(), expected, rtol=1e-5)


def test_contrast_over_the_live_list(tables_for_towers):
    losses = dataclasses.replace(SMALL, loss="contrastive", temperature=0.5)
    value, *_ = slopes_of(losses)
    scores, each = all_scores(table_params())[0] / 0.5, []
    for b, mine, others, _ in lists_of(scores, POSITIVES, SMALL):
        rest = np.exp(scores[b, others]).sum()
        own = np.exp(scores[b, mine])
        each.append(np.mean(-np.log(own / (own + rest))))
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-5)


def test_given_negatives(tables_for_towers):
    others = np.random.default_rng(3).integers(40, 58, (B, 5)).astype(np.int32)
    others = np.sort(others, axis=1)
    others[:, 1:][others[:, 1:] == others[:, :-1]] = -1
    others[0] = -1  # a query without negatives
    losses = JpqLoss(negatives="given", cut=4, num_negatives=5)
    value, metrics, _ = slopes_of(losses, batch=batch_of(others=others))
    scores, total = all_scores(table_params())[0], 0.0
    for b in range(1, B):
        mine = [d for d in POSITIVES[b] if d >= 0]
        rest = [d for d in others[b] if d >= 0 and d not in mine]
        order = sorted([*mine, *rest], key=lambda d: (-scores[b, d], d))
        weights = {d: weight(i + 1, 4) for i, d in enumerate(order)}
        terms = [
            abs(weights[i] - weights[j]) * np.log1p(np.exp(scores[b, j] - scores[b, i]))
            for i in mine
            for j in rest
        ]
        total += np.mean(terms) / B
    np.testing.assert_allclose(value, total, rtol=1e-5)
    assert "found" not in metrics


def test_the_rungs_below_trained_centroids(tables_for_towers):
    losses = dataclasses.replace(SMALL, train_centroids=False)
    value, _, slopes = slopes_of(losses)
    expected, of_queries, _ = oracle(table_params(), SMALL)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slopes["query"], of_queries, atol=1e-6)
    assert not slopes["codec"]["centroids"].any()

    vectors = np.random.default_rng(4).normal(size=(N, E)).astype(np.float32)
    losses = dataclasses.replace(losses, scores="vectors")
    value, *_ = slopes_of(losses, vectors=vectors)
    exact, total = np.asarray(table_params()["query"], np.float64) @ vectors.T, 0.0
    # the codes choose and rank, the vectors are compared
    for b, mine, others, ranks in lists_of(
        all_scores(table_params())[0], POSITIVES, losses
    ):
        terms = [
            abs(weight(ranks[i], 15) - weight(ranks[j], 15))
            * np.log1p(np.exp(exact[b, j] - exact[b, i]))
            for i in mine
            for j in others
        ]
        total += np.mean(terms) / B
    np.testing.assert_allclose(value, total, rtol=1e-5)


def test_packed_codes_and_few_documents(tables_for_towers):
    value, _, slopes = slopes_of(SMALL)
    packed, _, of_packed = slopes_of(SMALL, codes=pack(CODES))
    np.testing.assert_allclose(packed, value, rtol=1e-5)
    np.testing.assert_allclose(
        of_packed["codec"]["centroids"], slopes["codec"]["centroids"], atol=1e-6
    )
    more = dataclasses.replace(SMALL, num_negatives=100)  # of 60 documents
    found, metrics, _ = slopes_of(more)
    np.testing.assert_allclose(found, oracle(table_params(), more)[0], rtol=1e-5)
    assert metrics["found"] == 1.0


# --- a step ---------------------------------------------------------------------------


def step_of(losses, mesh, accumulate=1, params=None):
    task = make_task(CONFIG, losses, CODES, mesh=mesh)
    groups = (
        ParamGroup("^doc/|^codec/(rotation|assignment)$", 0.0, clip=False),
        ParamGroup("^codec/", 0.5, weight_decay=0.0, clip=False),
    )
    config = OptimizerConfig(learning_rate=1e-3, warmup=0, groups=groups)
    optimizer = make_optimizer(config, 10)
    plan = plan_state(
        task, optimizer, batch_of(), jax.random.key(0), mesh=mesh, initial_params=params
    )
    step = make_train_step(task, optimizer, mesh=mesh, accumulate=accumulate)
    constants = jax.device_put(task.constants, replicated(mesh))
    return plan.make(), step, constants


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_devices_and_parts_give_the_step_of_one(accumulate):
    found = []
    for devices in (1, 2, 8 // accumulate):
        mesh = make_mesh(devices)
        state, step, constants = step_of(SMALL, mesh, accumulate)
        for _ in range(2):
            state, metrics = step(state, put_batch(batch_of(), mesh), constants)
        found.append((jax.device_get(metrics), jax.device_get(state.params)))
    for metrics, params in found[1:]:
        for name, value in metrics.items():
            np.testing.assert_allclose(value, found[0][0][name], rtol=1e-4)
        np.testing.assert_allclose(
            params["codec"]["centroids"], found[0][1]["codec"]["centroids"], atol=1e-4
        )


def test_negatives_are_those_of_the_step(tables_for_towers, monkeypatch):
    seen = []

    def recorded(ranked, positives):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), ranked)
        return live_lists(ranked, positives)

    monkeypatch.setattr(jpq_task, "live_lists", recorded)
    task = make_task(CONFIG, SMALL, CODES)
    optimizer = optax.multi_transform(
        {"moves": optax.sgd(200.0), "stays": optax.set_to_zero()},
        {"query": "stays", "codec": {"rotation": "stays", "centroids": "moves"}},
    )
    task = task._replace(init=lambda rng, batch: table_params())
    mesh = make_mesh(1)
    plan = plan_state(task, optimizer, batch_of(), jax.random.key(0), mesh=mesh)
    step = make_train_step(task, optimizer, mesh=mesh)
    state, constants = plan.make(), jax.device_put(task.constants, replicated(mesh))
    expected = []
    for _ in range(3):
        scores = all_scores(jax.device_get(state.params))[0]
        expected.append(np.argsort(-scores, axis=1, kind="stable")[:, :20])
        state, _ = step(state, put_batch(batch_of(), mesh), constants)
    jax.effects_barrier()
    # Queries stayed: it was the centroids that changed what is found.
    assert np.array_equal(
        jax.device_get(state.params)["query"], table_params()["query"]
    )
    for ranked, wanted in zip(seen, expected, strict=True):
        assert (ranked == wanted).mean() > 0.98  # float32 may exchange near equals
    assert (expected[0] != expected[1]).mean() > 0.2
    assert (expected[1] != expected[2]).mean() > 0.05


def test_a_step_keeps_no_scores_of_all_documents_and_stays_on_the_device():
    many = np.zeros((M, 300_000), np.uint8)
    task = make_task(CONFIG, SMALL, many)
    params = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    gradient = jax.jit(jax.grad(task.loss, has_aux=True))
    constants = {"codes": jnp.asarray(many)}
    text = gradient.lower(params, batch_of(), None, constants).as_text()
    assert "tensor<4x300000xui8>" in text
    assert f"tensor<{B}x300000" not in text
    assert "callback" not in text
    assert len(text) < many.nbytes  # codes are an argument, not written out


# --- mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"negatives": "hard"},
            "JpqLoss.negatives: 'hard'; expected 'live' or 'given'",
        ),
        (
            {"loss": "mse"},
            "JpqLoss.loss: 'mse'; expected 'lambdarank' or 'contrastive'",
        ),
        ({"scores": "x"}, "JpqLoss.scores: 'x'; expected 'codes' or 'vectors'"),
        ({"num_negatives": 0}, "JpqLoss.num_negatives: 0; expected at least 1"),
        ({"cut": 0}, "JpqLoss.cut: 0; expected at least 1"),
        ({"temperature": 0.0}, "JpqLoss.temperature: 0.0; expected a number above 0"),
        ({"scores": "vectors"}, "'vectors' while centroids are trained"),
    ],
)
def test_what_cannot_be_a_loss_says_so(changes, message):
    with pytest.raises(InputError, match=message):
        JpqLoss(**changes)


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match="without the codes of its documents"):
        make_task(CONFIG)
    losses = JpqLoss(scores="vectors", train_centroids=False)
    with pytest.raises(InputError, match="vectors: none; expected those of the 60"):
        make_task(CONFIG, losses, CODES)
    with pytest.raises(InputError, match="vectors: 3; expected those of the 60"):
        make_task(CONFIG, losses, CODES, vectors=np.zeros((3, E), np.float32))
    task = make_task(CONFIG, SMALL, CODES)
    params = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    for missing in ("query", "doc_index"):
        batch = batch_of()._replace(**{missing: None})
        with pytest.raises(InputError, match="batch: no queries, or no rows"):
            jax.eval_shape(task.loss, params, batch, None, task.constants)
    task = make_task(CONFIG, JpqLoss(negatives="given", num_negatives=3), CODES)
    with pytest.raises(InputError, match="batch: 3 documents of a query; expected mor"):
        jax.eval_shape(task.loss, params, batch_of(), None, task.constants)
