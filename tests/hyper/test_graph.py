"""Graph search against Algorithm 1 in plain Python: the same ids, as many scored."""

import dataclasses
import random
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hyper.algorithm1 import RULES
from hyper.test_search import SATURATING, make

from jaxir.cli.config import configured, parse_gin
from jaxir.errors import InputError
from jaxir.hyper.graph import GraphSearchConfig, entry_rows, graph_search
from jaxir.hyper.neighbors import build_neighbors
from jaxir.hyper.qnet import QNetSpec, QNetWeights, apply_all
from jaxir.hyper.search import exhaustive_search, stream_search
from jaxir.hyper.walk import walk

WIDTH, HIDDEN, BATCH = 3, 4, 4


class Problem(NamedTuple):
    """Small integers: scores are exact in any order, and tie heavily."""

    spec: QNetSpec
    weights: QNetWeights
    vectors: jax.Array
    neighbors: np.ndarray
    scores: np.ndarray


def integers(rng, *shape):
    return rng.integers(-2, 3, shape).astype(np.float32)


def random_graph(rng, num_docs, degree):
    """Far and near, with padding, duplicates, loops, and documents nobody reaches."""
    near = np.arange(num_docs)[:, None] + rng.integers(-3, 4, (num_docs, degree))
    far = rng.integers(0, num_docs, (num_docs, degree))
    graph = np.where(rng.random((num_docs, degree)) < 0.6, near % num_docs, far)
    padding = rng.choice([-1, num_docs, num_docs + 7], (num_docs, degree))
    return np.where(rng.random((num_docs, degree)) < 0.2, padding, graph).astype(int)


def make_problem(seed, num_docs, degree, num_vectors=1, batch=BATCH):
    rng = np.random.default_rng(seed)
    spec = QNetSpec(WIDTH, (HIDDEN,), layer_norm=False, num_vectors=num_vectors)
    vectors = integers(rng, num_docs, num_vectors * WIDTH)
    kernel, bias = integers(rng, batch, WIDTH, HIDDEN), integers(rng, batch, HIDDEN)
    output = integers(rng, batch, HIDDEN)
    # the q-net in numpy: the oracle shares nothing with what it judges
    inner = np.einsum("nd,bdh->bnh", vectors.reshape(-1, WIDTH), kernel)
    inner = np.maximum(inner + bias[:, None], 0)
    scores = np.einsum("bnh,bh->bn", inner, output)
    scores = scores.reshape(batch, num_docs, num_vectors).max(-1)
    weights = QNetWeights((jnp.asarray(kernel),), (jnp.asarray(bias),), output)
    graph = random_graph(rng, num_docs, degree)
    return Problem(spec, weights, jnp.asarray(vectors), graph, scores)


def search(problem, k, config, **options):
    neighbors = jnp.asarray(problem.neighbors, jnp.int32)
    return graph_search(
        problem.spec, problem.weights, problem.vectors, neighbors, k, config, **options
    )


def oracle(problem, query, k, config, entry=None):
    if entry is None:
        entry = entry_rows(len(problem.neighbors), config).tolist()
    scores = problem.scores[query].tolist()
    return RULES[config.rule](
        scores.__getitem__, problem.neighbors.tolist(), entry, k,
        explore=config.explore, iterations=config.iterations,
        early_stop=config.early_stop,
    )  # fmt: skip


def assert_same(problem, k, config, found, entry=None):
    for query in range(len(problem.scores)):
        expected = oracle(problem, query, k, config, entry)
        missing = k - len(expected.rows)
        rows = found.ranking.doc_ids[query].tolist()
        assert rows == expected.rows + [-1] * missing
        scores = problem.scores[query, expected.rows].tolist()
        assert found.ranking.scores[query].tolist() == scores + [-np.inf] * missing
        counts = (int(found.scored[query]), int(found.iterations[query]))
        assert counts == (expected.scored, expected.iterations)


# documents, degree, vectors of a document, k, entry points, explore, iterations, block
CASES = [
    (60, 5, 1, 8, 5, 4, 6, None),
    (60, 5, 1, 8, 5, 4, 6, 3),
    (60, 1, 1, 5, 3, 6, 20, None),  # one neighbour each
    (60, 4, 3, 6, 1, 9, 9, 16),  # three vectors a document, one entry point
    (60, 3, 1, 200, 4, 7, 9, None),  # k beyond what there is
    (60, 3, 1, 40, 2, 3, 4, None),  # k beyond what is reached
    (60, 6, 1, 10, 60, 5, 5, None),  # begins with every document
    (60, 6, 1, 3, 99, 70, 1, None),  # and cut to them; a single iteration
    (7, 9, 1, 4, 2, 3, 8, None),  # a degree above the documents
    (1, 2, 1, 3, 1, 1, 3, None),  # one document
    (30, 2, 1, 5, 1, 10**15, 10**12, None),  # as far as there is anything new
]


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("case", range(len(CASES)))
def test_equals_algorithm_1(case, rule):
    together = (case % 2 == 0) == (rule == "paper")
    check_case(CASES[case], rule, together)


@pytest.mark.slow
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("case", range(len(CASES)))
def test_equals_algorithm_1_the_other_way(case, rule):
    together = (case % 2 == 0) == (rule == "paper")
    check_case(CASES[case], rule, not together)


def check_case(case, rule, together):
    num_docs, degree, num_vectors, k, entry_points, explore, iterations, block = case
    for seed in range(12):
        problem = make_problem(seed, num_docs, degree, num_vectors)
        config = GraphSearchConfig(
            entry_points, explore, iterations, rule, seed % 3 > 0, seed
        )
        found = search(problem, k, config, block_rows=block, together=together)
        assert_same(problem, k, config, found)


def test_a_query_of_a_batch_goes_as_alone():
    problem = make_problem(3, 60, 5)
    config = GraphSearchConfig(4, 6, 9)
    whole = search(problem, 7, config, together=True)
    assert len(set(whole.iterations.tolist())) > 1  # they end at different times
    for query in range(BATCH):
        one = problem._replace(
            weights=jax.tree.map(lambda x, at=query: x[at : at + 1], problem.weights)
        )
        alone = search(one, 7, config)
        for mine, all_of_it in zip(
            jax.tree.leaves(alone), jax.tree.leaves(whole), strict=True
        ):
            np.testing.assert_array_equal(mine[0], all_of_it[query])


def test_early_stop_is_of_the_released_rule():
    """Line 6 of the algorithm as printed ends what has nowhere to go on to."""
    later = 0
    for seed in range(30):
        problem = make_problem(seed, 60, 5)
        config = GraphSearchConfig(3, 5, 12, "released")
        stops = search(problem, 3, config)
        goes = search(problem, 3, dataclasses.replace(config, early_stop=False))
        assert (stops.scored <= goes.scored).all()
        later += int((stops.iterations < goes.iterations).sum())
        found = search(problem, 3, dataclasses.replace(config, rule="paper"))
        for early in (True, False):
            said = dataclasses.replace(config, rule="paper", early_stop=early)
            assert_same(problem, 3, said, found)
    assert later


def test_entry_points_may_be_given():
    problem = make_problem(5, 60, 4)
    config, entry = GraphSearchConfig(999, 5, 4), [31, 2, 31, 17]
    found = search(problem, 6, config, entry=np.array(entry))
    assert_same(problem, 6, config, found, entry)
    for wrong in ([], [60], [-1]):
        with pytest.raises(InputError, match="entry: not rows of documents"):
            search(problem, 6, config, entry=np.array(wrong, int))


def test_default_entry_points_are_those_of_the_released_code():
    random.seed(43)
    sample = random.sample(range(25_000), 10_000)
    assert entry_rows(25_000, GraphSearchConfig()).tolist() == sorted(sample)
    assert entry_rows(3, GraphSearchConfig()).tolist() == [0, 1, 2]


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("k", [10, 60, 70])
def test_all_entry_points_make_the_search_exhaustive(rule, k):
    """However little is explored, nothing of what was scored is left out."""
    problem = make_problem(1, 60, 3, batch=6)
    found = search(problem, k, GraphSearchConfig(60, 4, 1, rule))
    order = [np.lexsort((np.arange(60), -row))[:k] for row in problem.scores]
    np.testing.assert_array_equal(found.ranking.doc_ids[:, :60], order)
    assert (found.ranking.doc_ids[:, 60:] == -1).all()
    assert found.scored.tolist() == [60] * 6


@pytest.mark.parametrize("rule", list(RULES))
def test_a_walk_finds_most_of_the_best_in_clusters(rule, tmp_path):
    """A graph of other neighbours, or none, gives 0.6 or less of them."""
    rng, num_docs = np.random.default_rng(1), 600

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    vectors = normal(12, 4)[rng.integers(0, 12, num_docs)] + 0.5 * normal(num_docs, 4)
    spec = QNetSpec(4, (16,), layer_norm=False)
    weights = QNetWeights((normal(8, 4, 16),), (normal(8, 16),), normal(8, 16))
    graph = build_neighbors(vectors, 10, tmp_path / "g")
    every = stream_search(spec, weights, vectors, 10)
    config = GraphSearchConfig(40, 10, 6, rule)
    found = graph_search(spec, weights, vectors, graph, 10, config)
    pairs = zip(every.doc_ids.tolist(), found.ranking.doc_ids.tolist(), strict=True)
    assert sum(len(set(a) & set(b)) for a, b in pairs) > 0.8 * 80
    assert found.scored.max() < 0.4 * num_docs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scores_are_those_of_the_exhaustive_search(dtype):
    """Products of the same type, whatever the vectors are stored in."""
    weights, vectors = make(SATURATING, 50, 3, whole=False)
    stored, graph = jnp.asarray(vectors, dtype), np.zeros((50, 2), np.int32)
    every = exhaustive_search(SATURATING, weights, stored, 50)
    found = graph_search(SATURATING, weights, stored, graph, 50).ranking
    np.testing.assert_array_equal(found.doc_ids, every.doc_ids)
    np.testing.assert_allclose(found.scores, every.scores, atol=1e-4)


def test_numpy_arrays():
    problem = make_problem(4, 60, 5)
    config = GraphSearchConfig(4, 6, 9)
    weights = jax.tree.map(np.asarray, problem.weights)
    vectors, graph = np.asarray(problem.vectors), problem.neighbors
    found = graph_search(problem.spec, weights, vectors, graph, 7, config)
    assert_same(problem, 7, config, found)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_random_qnets_of_two_blocks(dtype):
    rng, num_docs = np.random.default_rng(0), 400
    spec = QNetSpec(8, (8, 8))
    weights = QNetWeights(
        tuple(jnp.asarray(rng.standard_normal((3, 8, 8)), "float32") for _ in range(2)),
        tuple(jnp.asarray(rng.standard_normal((3, 8)), "float32") for _ in range(2)),
        jnp.asarray(rng.standard_normal((3, 8)), "float32"),
    )
    vectors = jnp.asarray(rng.standard_normal((num_docs, 8)), dtype)
    graph = rng.integers(0, num_docs, (num_docs, 6))
    scores = np.asarray(apply_all(spec, weights, vectors.astype("float32")))
    problem = Problem(spec, weights, vectors, graph, scores)
    config = GraphSearchConfig(20, 10, 8)
    found = search(problem, 30, config)
    assert found.ranking.scores.dtype == np.float32
    for query in range(3):
        expected = oracle(problem, query, 30, config)
        assert found.scored[query] == expected.scored
        assert found.ranking.doc_ids[query].tolist() == expected.rows


def test_nothing_is_compiled_again_for_other_numbers():
    def run(seed):
        config = GraphSearchConfig(11, 5, 7, seed=seed)
        search(make_problem(seed, 50, 3), 9, config)

    run(0)
    compiled = walk._cache_size()
    for seed in range(1, 4):
        run(seed)
    assert walk._cache_size() == compiled


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_refused(value, together):
    problem, start = make_problem(2, 60, 4), np.array([3])
    problem.neighbors[:] = 8  # reached by a neighbour, not at the start

    def refused(problem, match):
        with pytest.raises(InputError, match=match):
            search(problem, 50, GraphSearchConfig(), entry=start, together=together)

    vectors = problem.vectors.at[8, 1].set(value)
    refused(problem._replace(vectors=vectors), "vectors, row 8: NaN or infinity; exp")
    weights = problem.weights._replace(output=problem.weights.output.copy())
    weights.output[2, 1] = value
    refused(problem._replace(weights=weights), "query 2: NaN or infinity in its q-net")
    weights = problem.weights._replace(output=problem.weights.output * 1e38)
    refused(problem._replace(weights=weights), "scores that are not finite numbers")


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_an_activation_would_hide_is_refused(value, together):
    """As the exhaustive search does: tanh makes an ordinary number of infinity."""
    graph = np.full((20, 1), 13, np.int32)  # reached by a neighbour, not at the start

    def refused(weights, vectors, match):
        with pytest.raises(InputError, match=match):
            graph_search(
                SATURATING, weights, vectors, graph, 3,
                entry=np.array([2]), together=together,
            )  # fmt: skip

    # no zeros, whose product with infinity is NaN
    weights, vectors = make(SATURATING, 20, 4, whole=False)
    for leaf in (weights.kernels[0], weights.biases[0], weights.output):
        whole = leaf.copy()
        leaf[3] = value
        refused(weights, vectors, "query 3: NaN or infinity in its q-net; expected fin")
        leaf[:] = whole
    for row in (2, 13):
        broken = vectors.copy()
        broken[row, 3] = value
        refused(weights, broken, f"vectors, row {row}: NaN or infinity; expected finit")


def test_what_does_not_fit_is_refused():
    problem, config = make_problem(0, 60, 4), GraphSearchConfig()
    with pytest.raises(InputError, match="k: 0; expected at least 1"):
        search(problem, 0, config)
    with pytest.raises(InputError, match="vectors: width 2; expected width 3"):
        search(problem._replace(vectors=problem.vectors[:, :2]), 5, config)
    with pytest.raises(InputError, match="neighbors: a graph of 59 documents; expecte"):
        search(problem._replace(neighbors=problem.neighbors[:59]), 5, config)
    for name in ("entry_points", "explore", "iterations"):
        with pytest.raises(InputError, match=f"{name}: 0; expected at least 1"):
            GraphSearchConfig(**{name: 0})
    with pytest.raises(InputError, match="rule: 'greedy'; expected paper or released"):
        GraphSearchConfig(rule="greedy")


@pytest.mark.parametrize(
    ("name", "values"), [("1", (10_000, 64, 16)), ("2", (100_000, 328, 20))]
)
def test_gin_files_hold_the_settings_of_the_paper(name, values):
    parse_gin([f"search/hyper_efficient{name}.gin"], ["RULE = 'released'"])
    config = configured(GraphSearchConfig)()
    assert config == GraphSearchConfig(*values, rule="released")
