"""What an inner product cannot do: pairs of documents that are a query's first two.

The theory behind Hypencoder (arXiv 2502.05364, section 3) and behind the collection
LIMIT (arXiv 2508.21038): vectors of few dimensions have subsets that no query vector
puts first.  Encoders are let go of, as LIMIT's authors do for the best case: document
vectors and queries are free parameters, trained on the collection's own judgments.  A
query is a vector of the documents' dimension, or a q-net over it.  Counted are the
queries whose relevant documents all stand above every other one.

Nothing is timed: the cases are counts.  Without ``--queries`` the documents are 46 and
the queries all 1,035 pairs of them, of which LIMIT's small collection has 1,000.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from timing import versions

NAME = "limit"
DIMENSIONS = (2, 4, 8, 16, 32)
NUM_DOCS, WIDTH, STEPS = 46, 16, 2000
RATES = {"inner product": (0.03, 0.1, 0.3), "q-net": (0.01, 0.03, 0.1)}
"""Each system has its best of these rates."""


def _pairs(num_docs: int) -> np.ndarray:
    """``[B, N]``, true at the two relevant documents of each query."""
    pairs = np.array(list(itertools.combinations(range(num_docs), 2)))
    wanted = np.zeros((len(pairs), num_docs), bool)
    np.put_along_axis(wanted, pairs, True, axis=1)
    return wanted


def _judged(queries: str) -> np.ndarray:
    """The same of a collection's judgments, where all a query's documents are there."""
    from jaxir.data.collection import open_collection, split_spec
    from jaxir.errors import InputError

    name, split = split_spec(queries)
    collection = open_collection(name)
    rows = [
        collection.docs.rows([doc for doc, grade in judged.items() if grade > 0])
        for judged in collection.qrels(split).values()
    ]
    rows = [found for found in rows if len(found) and (found >= 0).all()]
    num_docs = len(collection.docs)
    if not rows or len(rows) * num_docs > 10**7:
        raise InputError(
            queries, f"{len(rows):,} judged queries over {num_docs:,} documents",
            "at least one, and at most ten million pairs of query and document",
            "take a small collection, as LIMIT's",
        )  # fmt: skip
    wanted = np.zeros((len(rows), num_docs), bool)
    for query, found in enumerate(rows):
        wanted[query, found] = True
    return wanted


def realised(scores: Any, wanted: np.ndarray) -> int:
    """Queries whose relevant documents all score above every other."""
    scores = np.asarray(scores)
    worst = np.min(scores, axis=1, where=wanted, initial=np.inf)
    best_other = np.max(scores, axis=1, where=~wanted, initial=-np.inf)
    return int(np.sum(worst > best_other))


def _optimised(score: Callable, params: Any, wanted: np.ndarray, rate: float) -> Any:
    """Scores after training: each relevant document against all that are not."""
    import jax
    import jax.numpy as jnp
    import optax

    def loss(params: Any) -> Any:
        scores = score(params)
        others = jax.nn.logsumexp(jnp.where(wanted, -jnp.inf, scores), axis=1)
        margin = scores - jnp.expand_dims(others, 1)
        return jnp.mean(jax.nn.softplus(-margin), where=wanted)

    adam = optax.adam(optax.cosine_decay_schedule(rate, STEPS))

    def step(carry: tuple, _: None) -> tuple:
        params, state = carry
        updates, state = adam.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params: Any) -> Any:
        start = params, adam.init(params)
        return score(jax.lax.scan(step, start, None, length=STEPS)[0][0])

    return run(params)


def _vectors(wanted: np.ndarray, dim: int) -> tuple[Callable, Any]:
    """Inner products of free vectors."""
    import jax

    keys = jax.random.split(jax.random.key(0))
    shapes = [(size, dim) for size in wanted.shape]
    queries, docs = map(jax.random.normal, keys, shapes)
    return lambda params: params[0] @ params[1].T, (queries, docs)


def _qnets(wanted: np.ndarray, dim: int) -> tuple[Callable, Any]:
    """Free q-nets of one block over free vectors."""
    import jax
    import jax.numpy as jnp

    from jaxir.hyper.qnet import QNetSpec, QNetWeights, apply_all

    spec = QNetSpec(input_width=dim, hidden=(WIDTH,))
    num_queries, num_docs = wanted.shape
    keys = jax.random.split(jax.random.key(0), 3)
    docs = jax.random.normal(keys[0], (num_docs, dim))
    kernel = jax.random.normal(keys[1], (num_queries, dim, WIDTH)) * (2 / dim) ** 0.5
    output = jax.random.normal(keys[2], (num_queries, WIDTH))
    weights = QNetWeights((kernel,), (jnp.zeros((num_queries, WIDTH)),), output)
    return lambda params: apply_all(spec, params[0], params[1]), (weights, docs)


SYSTEMS = {"inner product": _vectors, "q-net": _qnets}


def cases(wanted: np.ndarray, dimensions: tuple[int, ...]) -> Iterator[dict]:
    """Yields a case for each system and dimension, with the best of its rates."""
    for dim, (system, make) in itertools.product(dimensions, SYSTEMS.items()):
        score, params = make(wanted, dim)
        optimised = functools.partial(_optimised, score, params, wanted)
        counts = {rate: realised(optimised(rate), wanted) for rate in RATES[system]}
        rate = max(counts, key=counts.__getitem__)
        yield {
            "name": NAME, "case": f"{system}, dimension {dim}", "system": system,
            "dimension": dim, "realised": counts[rate], "queries": len(wanted),
            "rate": rate, "versions": versions(),
        }  # fmt: skip


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields the counts over all pairs of 46 documents, of 12 when quick."""
    yield from cases(_pairs(12 if quick else NUM_DOCS), DIMENSIONS[: 2 if quick else 5])


def study(*, queries: str, output: str) -> Iterator[dict]:
    """Yields the counts over a collection's judgments and draws them.

    Args:
      queries: ``COLLECTION:SPLIT``.
      output: the SVG file.
    """
    from jaxir.files import atomic_file
    from jaxir.plots import color_classes, line_plot
    from jaxir.style import svg_file

    curves: dict[str, tuple[list, list]] = {name: ([], []) for name in SYSTEMS}
    for case in cases(_judged(queries), DIMENSIONS):
        curves[case["system"]][0].append(case["dimension"])
        curves[case["system"]][1].append(case["realised"])
        yield case
    colors = color_classes(list(curves), "inner product")
    title, height = "queries whose relevant documents are the first", 320.0
    drawn = line_plot(title, curves, colors, x_label="dimension", height=height)
    with atomic_file(output) as out:
        out.write(svg_file([drawn], height))
