"""The scan of documents against the search in lists, on one device and eight."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from tiny_postings import built, draw, rows_of

from jaxir.errors import InputError
from jaxir.sparse.postings import DTYPES
from jaxir.sparse.scan import forward_index, open_scan, scan_search
from jaxir.sparse.search import SparseQueries, search


def mesh_of(count):
    return Mesh(np.array(jax.devices()[:count]), ("data",))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_search_in_lists(tmp_path, dtype, devices):
    rng = np.random.default_rng(devices)
    postings = built(tmp_path, draw(rng, 300, 60, 12), dtype=dtype)
    queries = SparseQueries(*rows_of(draw(rng, 6, 60, 8)))
    index = forward_index(postings, mesh_of(devices))
    expected = search(postings, queries, 10)
    found = scan_search(index, queries, 10)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    # Only scores that are as good as equal may change places.
    moved = found.doc_ids != expected.doc_ids
    gaps = np.abs(np.diff(expected.scores, axis=1)).min(1, initial=1)
    assert not moved[gaps > 1e-4].any()


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize(("num_docs", "k"), [(1, 3), (70, 5), (70, 100)])
def test_ties_and_missing_results(tmp_path, devices, num_docs, k):
    rng = np.random.default_rng(num_docs)
    docs = draw(rng, num_docs, 20, 4, whole=True)
    docs[::5] = 0  # documents without a token
    postings = built(tmp_path, docs)
    queries = draw(rng, 5, 20, 4, whole=True)
    queries[2] = 0
    queries = SparseQueries(*rows_of(queries))
    found = open_scan(postings, mesh_of(devices)).search(queries, k)
    expected = search(postings, queries, k)
    np.testing.assert_array_equal(found.doc_ids, expected.doc_ids)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_batches_of_any_size(tmp_path):
    rng = np.random.default_rng(3)
    postings = built(tmp_path, draw(rng, 40, 20, 5, whole=True))
    queries = SparseQueries(*rows_of(draw(rng, 70, 20, 4, whole=True)))
    scan = open_scan(postings, mesh_of(1))
    assert scan.num_docs == 40
    found, expected = scan.search(queries, 3), search(postings, queries, 3)
    np.testing.assert_array_equal(found.doc_ids, expected.doc_ids)
    none = SparseQueries(np.zeros(1, np.int64), *(part[:0] for part in queries[1:]))
    assert scan.search(none, 3).doc_ids.shape == (0, 3)


def test_an_index_without_postings(tmp_path):
    postings = built(tmp_path, np.zeros((3, 9), np.float32))
    queries = SparseQueries(*rows_of(np.ones((2, 9), np.float32)))
    found = open_scan(postings, mesh_of(1)).search(queries, 2)
    assert (found.doc_ids == -1).all()
    assert (found.scores == -np.inf).all()


def test_refuses_what_the_index_cannot_answer(tmp_path):
    scan = open_scan(built(tmp_path, np.eye(9, dtype=np.float32)), mesh_of(1))
    queries = SparseQueries(*rows_of(np.ones((1, 12), np.float32)))
    with pytest.raises(InputError, match="token 9; expected 0 to 8"):
        scan.search(queries, 2)
    with pytest.raises(InputError, match="k: 0; expected at least 1"):
        scan.search(queries, 0)
