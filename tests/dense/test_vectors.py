"""Vectors on the devices and on the host give one result."""

import numpy as np

from jaxir.dense.vectors import device_budget, open_vectors


def test_resident_equals_streamed():
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, size=(700, 8)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(3, 8)).astype(np.float32)
    shards = np.split(vectors, [300, 600])
    streamed = open_vectors(shards, budget=0)
    resident = open_vectors(shards, budget=vectors.nbytes)
    assert (streamed.num_docs, streamed.width) == (700, 8)
    for k in (5, 900):
        a, b = streamed.search(queries, k), resident.search(queries, k)
        np.testing.assert_array_equal(a.doc_ids, b.doc_ids)
        np.testing.assert_array_equal(a.scores, b.scores)
        order = np.lexsort((np.arange(700), -(vectors @ queries[0])))
        np.testing.assert_array_equal(a.doc_ids[0, : min(k, 700)], order[:k])


def test_a_cpu_reads_vectors_where_they_lie():
    assert device_budget() == 0
