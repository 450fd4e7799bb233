"""Block scanning with a score function of its own: one result three ways, or a refusal.

The searches of the families are tested with their families.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from ranked import ranked

from jaxir.blocks import (
    open_vectors,
    programs,
    resident_search,
    sharded_search,
    stream_search,
)
from jaxir.errors import InputError
from jaxir.vectors import device_blocks


class Point(NamedTuple):
    """A query that is a pytree: near ``at``, by a weight."""

    at: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class Nearness:
    """Negated squared distance to the power of ``p``, weighted."""

    p: int = 1

    def __call__(self, queries: Point, block: jax.Array) -> jax.Array:
        difference = queries.at[:, None, :] - block[None, :, :].astype(jnp.float32)
        return -queries.weight[:, None] * jnp.sum(difference**2, axis=-1) ** self.p


def whole_numbers(num_docs, num_queries=3, seed=0):
    """Exact in any order, with many ties."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, size=(num_docs, 4)).astype(np.float32)
    at = rng.integers(-2, 3, size=(num_queries, 4)).astype(np.float32)
    return Point(at, np.arange(1.0, num_queries + 1, dtype=np.float32)), vectors


def brute_force(queries, vectors, k):
    distance = np.square(queries.at[:, None] - vectors[None]).sum(-1)
    return ranked(-queries.weight[:, None] * distance, k)


def every_search(score, queries, vectors, k):
    """The result of each way through, by name."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    shards = np.split(vectors, [len(vectors) // 3])
    some = jax.devices()[:2]  # each device compiles a program of its own
    sharded = device_blocks(shards, mesh=mesh, block_rows=64)
    resident = device_blocks(vectors, block_rows=64)
    size = vectors.nbytes
    return {
        "resident": lambda: resident_search(score, queries, resident, k),
        "sharded": lambda: sharded_search(score, queries, sharded, k, mesh=mesh),
        "stream": lambda: stream_search(
            score, queries, shards, k, block_rows=64, devices=some
        ),
        "open, resident": lambda: open_vectors(score, shards, budget=size).search(
            queries, k
        ),
        "open, stream": lambda: open_vectors(
            score, shards, budget=0, block_rows=384
        ).search(queries, k),
    }


@pytest.mark.parametrize(("num_docs", "k"), [(3, 5), (500, 40)])
def test_every_way_gives_the_same(num_docs, k):
    queries, vectors = whole_numbers(num_docs)
    doc_ids, scores = brute_force(queries, vectors, k)
    for way, search in every_search(Nearness(), queries, vectors, k).items():
        found = search()
        np.testing.assert_array_equal(found.doc_ids, doc_ids, err_msg=way)
        np.testing.assert_array_equal(found.scores, scores, err_msg=way)


@pytest.mark.parametrize("device", [0, 1])
def test_queries_that_lie_on_one_device(device):
    """As an encoder leaves them; the blocks lie on all devices."""
    if jax.device_count() < 2:
        pytest.skip("needs simulated devices")
    queries, vectors = whole_numbers(100)
    doc_ids, _ = brute_force(queries, vectors, 5)
    queries = jax.device_put(queries, jax.devices()[device])
    for way, search in every_search(Nearness(), queries, vectors, 5).items():
        if way != "resident":  # its vectors lie on the first device
            np.testing.assert_array_equal(search().doc_ids, doc_ids, err_msg=way)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(value):
    """Also where the score would put the document last, or nowhere."""
    queries, vectors = whole_numbers(300)
    vectors[170, 2] = value
    for way, search in every_search(Nearness(), queries, vectors, 2).items():
        row = 70 if way in ("stream", "open, resident", "open, stream") else 170
        expected = f"vectors, row {row}: NaN or infinity; expected finite numbers; enco"
        with pytest.raises(InputError, match=expected):
            search()


def test_the_file_of_a_broken_vector_is_named(tmp_path):
    queries, vectors = whole_numbers(50)
    vectors[33] = np.nan
    np.save(tmp_path / "b.npy", vectors[30:])
    shards = [vectors[:30], np.load(tmp_path / "b.npy", mmap_mode="r")]
    with pytest.raises(InputError, match=r"b\.npy, row 3: NaN or infinity"):
        stream_search(Nearness(), queries, shards, 2, devices=jax.devices()[:1])


@pytest.mark.parametrize("leaf", ["at", "weight"])
def test_queries_that_are_not_finite_are_refused(leaf):
    queries, vectors = whole_numbers(300)
    getattr(queries, leaf)[1] = np.nan
    for search in every_search(Nearness(), queries, vectors, 2).values():
        with pytest.raises(InputError, match="query 1: NaN or infinity; expected fin"):
            search()


def test_scores_beyond_float32_are_refused():
    queries, vectors = whole_numbers(300)
    vectors[5] = 1e30
    with pytest.raises(InputError, match="row 5: its score is not a finite number"):
        stream_search(Nearness(), queries, vectors, 2)


def test_padding_is_no_document():
    """Its score would be the best, and that of a broken one does not matter."""
    queries, vectors = whole_numbers(70)
    queries = Point(np.zeros_like(queries.at), queries.weight)
    vectors = vectors[np.abs(vectors).sum(-1) > 0]

    def reciprocal(queries: Point, block: jax.Array) -> jax.Array:
        return -1 / Nearness()(queries, block)  # +inf at the zeros of padding

    for way, search in every_search(reciprocal, queries, vectors, 100).items():
        found = search()
        assert (found.doc_ids.max(), np.isfinite(found.scores).sum()) == (
            len(vectors) - 1,
            len(vectors) * 3,
        ), way


def test_equal_score_functions_share_their_programs():
    queries, vectors = whole_numbers(300)
    assert programs(Nearness(2)) is programs(Nearness(2))
    assert programs(Nearness(2)) is not programs(Nearness(3))
    before = None
    for seed in range(3):
        queries, vectors = whole_numbers(300, seed=seed)
        for search in every_search(Nearness(2), queries, vectors, 7).values():
            search()
        sizes = [program._cache_size() for program in programs(Nearness(2))]
        assert before in (None, sizes)
        before = sizes


def test_inside_a_compiled_function_nothing_is_refused():
    """There are no numbers to look at: what is not finite comes first, with +inf."""
    queries, vectors = whole_numbers(30)
    vectors[7] = np.nan
    search = jax.jit(lambda q, v: resident_search(Nearness(), q, v, 2))
    found = search(queries, vectors)
    assert (found.doc_ids[:, 0] == 7).all()
    assert np.isposinf(found.scores[:, 0]).all()
