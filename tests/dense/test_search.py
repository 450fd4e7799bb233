"""Exact search against numpy and Faiss, on one device and several, and its memory."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ranked import mesh_of, ranked

from jaxir.dense.search import (
    device_blocks,
    exact_search,
    sharded_search,
    stream_search,
)


def brute_force(queries, vectors, k):
    queries, vectors = (np.asarray(x, np.float32) for x in (queries, vectors))
    return ranked(queries @ vectors.T, k)


def integer_vectors(num_docs, num_queries, width=16, seed=0):
    """Small integers: inner products are exact in any order and tie heavily."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, size=(num_docs, width)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(num_queries, width)).astype(np.float32)
    return queries, vectors


CASES = [(1, 1, 1), (40, 3, 60), (1000, 5, 10), (5000, 2, 100)]


@pytest.mark.parametrize(("num_docs", "num_queries", "k"), CASES)
def test_exact_search_equals_brute_force(num_docs, num_queries, k):
    queries, vectors = integer_vectors(num_docs, num_queries)
    doc_ids, scores = brute_force(queries, vectors, k)
    shards = np.split(vectors, [num_docs // 3, num_docs // 2])
    for blocks in (
        jnp.asarray(vectors),
        device_blocks(vectors, block_rows=384),
        device_blocks(shards, block_rows=100),
    ):
        found = exact_search(jnp.asarray(queries), blocks, k)
        np.testing.assert_array_equal(found.doc_ids, doc_ids)
        np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize(("num_docs", "num_queries", "k"), CASES)
def test_stream_search_equals_brute_force(num_docs, num_queries, k):
    queries, vectors = integer_vectors(num_docs, num_queries)
    doc_ids, scores = brute_force(queries, vectors, k)
    shards = np.split(vectors, [num_docs // 3, num_docs // 2])
    for source in (vectors, shards):
        found = stream_search(queries, source, k, block_rows=256)
        np.testing.assert_array_equal(found.doc_ids, doc_ids)
        np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize("num_devices", [1, 2, 8])
@pytest.mark.parametrize(("num_docs", "num_queries", "k"), CASES)
def test_sharded_search_equals_one_device(num_devices, num_docs, num_queries, k):
    queries, vectors = integer_vectors(num_docs, num_queries)
    doc_ids, scores = brute_force(queries, vectors, k)
    mesh = mesh_of(num_devices)
    blocks = device_blocks(vectors, mesh=mesh, block_rows=100)
    found = sharded_search(jnp.asarray(queries), blocks, k, mesh=mesh)
    np.testing.assert_array_equal(found.doc_ids, doc_ids)
    np.testing.assert_array_equal(found.scores, scores)


def test_an_array_larger_than_a_block():
    queries, vectors = integer_vectors(17_000, 2)
    found = exact_search(jnp.asarray(queries), jnp.asarray(vectors), 50)
    doc_ids, _ = brute_force(queries, vectors, 50)
    np.testing.assert_array_equal(found.doc_ids, doc_ids)


@pytest.mark.parametrize("cuts", [[300], [100, 164], [512, 513], [0, 700]])
def test_shards_of_any_length(cuts):
    """Last blocks reach back over rows already seen; short shards are padded."""
    queries, vectors = integer_vectors(1000, 3)
    found = stream_search(queries, np.split(vectors, cuts), 60, block_rows=128)
    doc_ids, scores = brute_force(queries, vectors, 60)
    np.testing.assert_array_equal(found.doc_ids, doc_ids)
    np.testing.assert_array_equal(found.scores, scores)


def test_no_documents():
    found = stream_search(np.ones((2, 4), np.float32), np.ones((0, 4), np.float32), 3)
    assert (found.doc_ids == -1).all()
    assert (found.scores == -np.inf).all()


def test_equals_faiss():
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20_000, 64), dtype=np.float32)
    queries = rng.standard_normal((9, 64), dtype=np.float32)
    index = faiss.IndexFlatIP(64)
    index.add(vectors)
    scores, doc_ids = index.search(queries, 100)
    found = stream_search(queries, vectors, 100)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5, atol=1e-4)
    # Rounding may swap neighbours whose scores differ in the last bit only.
    assert np.mean(found.doc_ids == doc_ids) > 0.999


def test_bfloat16_storage_accumulates_in_float32():
    queries, vectors = integer_vectors(3000, 4, width=256)
    blocks = device_blocks(vectors, dtype="bfloat16", block_rows=512)
    assert blocks.blocks.dtype == jnp.bfloat16
    found = exact_search(jnp.asarray(queries), blocks, 20)
    doc_ids, scores = brute_force(queries, vectors, 20)
    # Integers up to 256 * 4 need more bits than bfloat16 has, and float32 has them.
    np.testing.assert_array_equal(found.scores, scores)
    np.testing.assert_array_equal(found.doc_ids, doc_ids)


def test_float16_shards_stream():
    queries, vectors = integer_vectors(1000, 2)
    found = stream_search(queries, vectors.astype(np.float16), 10)
    doc_ids, _ = brute_force(queries, vectors, 10)
    np.testing.assert_array_equal(found.doc_ids, doc_ids)


def test_scan_memory_does_not_grow_with_the_corpus():
    from jaxir.dense.search import _exact

    def temporary(num_blocks):
        shape = jax.ShapeDtypeStruct((num_blocks, 512, 32), jnp.float32)
        queries = jax.ShapeDtypeStruct((8, 32), jnp.float32)
        lowered = _exact.lower(queries, shape, num_blocks * 512, 10)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(64) < 2 * temporary(4)


def test_no_recompilation_over_shards_of_any_length():
    from jaxir.dense.search import _fold, _fold_partial

    queries, vectors = integer_vectors(3000, 2)
    device = jax.devices()[:1]
    stream_search(queries, vectors, 5, block_rows=512, devices=device)
    before = _fold._cache_size(), _fold_partial._cache_size()
    for cut in (700, 1024, 2999):
        shards = np.split(vectors, [cut])
        stream_search(queries, shards, 5, block_rows=512, devices=device)
    assert (_fold._cache_size(), _fold_partial._cache_size()) == before


MEMORY = """
    import os, resource, sys, threading, time
    os.environ["JAX_PLATFORMS"] = "cpu"
    import numpy as np
    import jax
    from jaxir.dense.search import stream_search

    def resident():
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[1]) * resource.getpagesize()

    vectors = np.load(sys.argv[1], mmap_mode="r")
    queries = np.ones((64, vectors.shape[1]), np.float32)
    stream_search(queries, np.ones((20_000, vectors.shape[1]), np.float32), 100)
    before, peak, done = resident(), 0, False

    def watch():
        global peak
        while not done:
            peak = max(peak, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(3):
        stream_search(queries, vectors, 100)
    done = True
    watcher.join()
    print(peak - before, vectors.nbytes)
"""


@pytest.mark.slow
def test_memory_of_search_is_that_of_the_vectors(tmp_path):
    """Peak resident memory above the warm process: vectors' bytes + 20 % at most."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc/self/statm")
    path = tmp_path / "vectors.npy"
    np.save(path, np.ones((120_000, 384), np.float32))
    script = textwrap.dedent(MEMORY)
    out = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"},
    )
    grown, size = map(int, out.stdout.split())
    assert grown <= 1.2 * size


@pytest.mark.parametrize("num_queries", [1, 8, 64])
def test_float32_is_not_cut_short_on_accelerators(num_queries):
    queries, vectors = jnp.ones((num_queries, 4)), jnp.ones((20, 4))
    program = str(jax.make_jaxpr(lambda q, v: exact_search(q, v, 2))(queries, vectors))
    products = program.count("dot_general[")
    assert 0 < 2 * products == program.count("Precision.HIGHEST")
