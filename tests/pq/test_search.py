"""Search in codes against numpy and Faiss, on one device and several, packed or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ranked import mesh_of, ranked

from jaxir.errors import InputError
from jaxir.openers import BACKENDS as OPENERS_BACKENDS
from jaxir.pq import search as pq_search
from jaxir.pq.codec import Codec, pack, unpack
from jaxir.pq.faiss_search import faiss_index, faiss_search
from jaxir.pq.score import default_block_rows, multiplies, score_codes
from jaxir.pq.search import (
    BACKENDS,
    BATCHES,
    Products,
    exhaustive_search,
    make_queries,
    open_codes,
    place_codes,
    sharded_search,
    stream_search,
)


def make(num_docs, num_queries, *, bits=8, parts=4, width=2, whole=True, seed=0):
    """A codec, query vectors and codes ``[M, N]``; whole numbers or normal ones."""
    rng = np.random.default_rng(seed)
    size, shape = parts * width, (parts, 1 << bits, width)
    if whole:  # exact in any order, with many ties
        rotation = np.eye(size)[rng.permutation(size)] * rng.choice([-1, 1], (size, 1))
        centroids = rng.integers(-2, 3, shape)
        vectors = rng.integers(-2, 3, (num_queries, size))
    else:
        rotation, _ = np.linalg.qr(rng.standard_normal((size, size)))
        centroids = rng.standard_normal(shape)
        vectors = rng.standard_normal((num_queries, size))
    codes = rng.integers(0, 1 << bits, (parts, num_docs), dtype=np.uint8)
    codec = Codec(
        jnp.asarray(rotation, jnp.float32), jnp.asarray(centroids, jnp.float32)
    )
    return codec, vectors.astype(np.float32), codes


def scores_of(codec, vectors, codes):
    """By hand, in float64: ``[B, N]``."""
    rotation, centroids = (np.asarray(part, np.float64) for part in codec)
    docs = [centroids[part][row] for part, row in enumerate(codes)]
    return vectors.astype(np.float64) @ rotation.T @ np.concatenate(docs, axis=1).T


def brute_force(codec, vectors, codes, k):
    return ranked(scores_of(codec, vectors, codes), k)


def check(found, doc_ids, scores, way=""):
    np.testing.assert_array_equal(found.doc_ids, doc_ids, err_msg=way)
    np.testing.assert_array_equal(found.scores, scores, err_msg=way)


def near(found, codec, vectors, codes, tolerance):
    """The best scores, of documents that have them: equal but for ties."""
    _, scores = brute_force(codec, vectors, codes, found.scores.shape[1])
    np.testing.assert_allclose(found.scores, scores, rtol=tolerance, atol=tolerance)
    own = np.take_along_axis(scores_of(codec, vectors, codes), found.doc_ids, axis=1)
    np.testing.assert_allclose(own, scores, rtol=tolerance, atol=tolerance)


CASES = [(1, 1, 3), (40, 2, 60), (700, 3, 50)]


@pytest.mark.parametrize(("num_docs", "num_queries", "k"), CASES)
@pytest.mark.parametrize("layout", ["8 bits", "4 bits", "packed"])
def test_every_way_equals_brute_force(num_docs, num_queries, k, layout):
    bits = 8 if layout == "8 bits" else 4
    codec, vectors, codes = make(num_docs, num_queries, bits=bits)
    doc_ids, scores = brute_force(codec, vectors, codes, k)
    if num_docs > k:  # what is cut off ties with what stays
        everything = scores_of(codec, vectors, codes)
        assert (everything == scores[:, -1:]).sum() > (scores == scores[:, -1:]).sum()
    held = pack(codes) if layout == "packed" else codes
    queries = make_queries(codec, jnp.asarray(vectors))
    one = jax.devices()[:1]  # each device compiles a program of its own
    resident = exhaustive_search(queries, jnp.asarray(held), k, block_rows=64)
    check(resident, doc_ids, scores, "resident")
    streamed = stream_search(queries, held, k, block_rows=128, devices=one)
    assert isinstance(streamed.scores, np.ndarray)
    check(streamed, doc_ids, scores, "stream")


@pytest.mark.parametrize("num_devices", [1, 4, 8])
@pytest.mark.parametrize("split", [True, False])
def test_devices_do_not_change_the_result(num_devices, split):
    mesh = mesh_of(num_devices)
    for num_docs, num_queries, k in CASES[1:]:
        codec, vectors, codes = make(num_docs, num_queries)
        doc_ids, scores = brute_force(codec, vectors, codes, k)
        placed = place_codes(codes, mesh=mesh, split=split)
        for multiply in (False, True):
            queries = make_queries(codec, jnp.asarray(vectors), multiply=multiply)
            found = sharded_search(queries, placed, k, block_rows=100)
            check(found, doc_ids, scores)


def test_streaming_takes_devices_in_turn():
    mesh = mesh_of(3)
    codec, vectors, codes = make(900, 2)
    queries = make_queries(codec, jnp.asarray(vectors))
    devices = list(mesh.devices.flat)
    found = stream_search(queries, codes, 30, block_rows=128, devices=devices)
    check(found, *brute_force(codec, vectors, codes, 30))


@pytest.mark.parametrize("bits", [8, 4])
def test_products_equal_lookups(bits):
    codec, vectors, codes = make(
        300, 5, bits=bits, parts=6, width=4, whole=False, seed=1
    )
    expected = scores_of(codec, vectors, codes)
    vectors = jnp.asarray(vectors)
    by_table = make_queries(codec, vectors)
    by_product = make_queries(codec, vectors, multiply=True)
    assert isinstance(by_product, Products)
    for held in (codes, pack(codes)) if bits == 4 else (codes,):
        looked_up = score_codes(by_table, jnp.asarray(held))
        multiplied = score_codes(by_product, jnp.asarray(held))
        np.testing.assert_allclose(looked_up, multiplied, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(looked_up, expected, rtol=1e-5, atol=1e-5)


def test_the_rule_of_products():
    assert not multiplies("cpu", 64)
    assert [multiplies("gpu", batch) for batch in BATCHES] == [False, False, True, True]
    codec, vectors, _ = make(1, 2)
    table, product = (
        make_queries(codec, jnp.asarray(vectors), multiply=multiply)
        for multiply in (False, True)
    )
    assert default_block_rows("cpu", table) <= default_block_rows("gpu", product)
    assert default_block_rows("gpu", product) < default_block_rows("gpu", table)
    many = jnp.zeros((64, 2, 256))
    assert default_block_rows("cpu", many) < default_block_rows("cpu", table)


@pytest.mark.parametrize("multiply", [False, True])
def test_open_codes_multiplies_by_its_rule(monkeypatch, multiply):
    seen = []

    def rule(platform, batch):
        seen.append((platform, batch))
        return multiply

    monkeypatch.setattr(pq_search, "multiplies", rule)
    codec, vectors, codes = make(100, 5)
    found = open_codes(codec, codes).search(vectors, 7)
    check(found, *brute_force(codec, vectors, codes, 7))
    assert seen == [("cpu", 4), ("cpu", 1)]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("budget", [None, 0])
def test_memory_mapped_codes(tmp_path, bits, budget):
    codec, vectors, codes = make(500, 6, bits=bits)
    np.save(tmp_path / "codes.npy", pack(codes) if bits == 4 else codes)
    held = np.load(tmp_path / "codes.npy", mmap_mode="r")
    opened = open_codes(codec, held, bits, budget=budget, block_rows=192)
    assert opened.num_docs == 500
    for count in (0, 1, 6):
        found = opened.search(vectors[:count], 20)
        assert found.doc_ids.shape == found.scores.shape == (count, 20)
        assert isinstance(found.scores, np.ndarray)
        check(found, *brute_force(codec, vectors[:count], codes, 20))


def test_a_cpu_reads_the_file_where_it_lies(tmp_path):
    np.save(tmp_path / "codes.npy", make(500, 1)[2])
    held = np.load(tmp_path / "codes.npy", mmap_mode="r")
    placed = place_codes(held, mesh=mesh_of(2))
    for shard in placed.codes.addressable_shards:
        assert shard.data.unsafe_buffer_pointer() == held.ctypes.data


def test_no_recompilation():
    """Over queries, their number, and codecs and codes of like shape."""
    programs = (pq_search._from_vectors, pq_search._fold, make_queries)
    compiled = None
    for seed in range(3):
        codec, vectors, codes = make(300, 70, seed=seed)
        opened = [open_codes(codec, codes, budget=budget) for budget in (None, 0)]
        for count in (64, 16, 4, 1, 3, 70, 22):
            for held in opened:
                held.search(vectors[:count], 5)
            sizes = [program._cache_size() for program in programs]
            if count == 1 and compiled is None:
                compiled = sizes
            assert compiled in (None, sizes)


def test_memory_does_not_grow_with_the_corpus():
    def temporary(num_docs):
        queries = jax.ShapeDtypeStruct((4, 8, 256), jnp.float32)
        codes = jax.ShapeDtypeStruct((8, num_docs), jnp.uint8)
        lowered = pq_search._resident.lower(queries, codes, 10, 256)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(100_000) < 1.5 * temporary(1_000)


def test_inside_a_compiled_function():
    codec, vectors, codes = make(120, 2)

    @jax.jit
    def search(codec, vectors, codes):
        return exhaustive_search(make_queries(codec, vectors), codes, 9)

    found = search(codec, jnp.asarray(vectors), jnp.asarray(codes))
    check(found, *brute_force(codec, vectors, codes, 9))
    broken = search(codec, jnp.asarray(vectors * np.nan), jnp.asarray(codes))
    assert np.isposinf(broken.scores).all()  # to be seen by the caller


# --- Faiss ----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
def test_scores_are_those_of_faiss(bits):
    """The same codes and centroids in a ``faiss.IndexPQ``."""
    codec, vectors, codes = make(2000, 7, bits=bits, parts=8, whole=False)
    held = pack(codes) if bits == 4 else codes
    rotated = vectors @ np.asarray(codec.rotation).T
    theirs, rows = faiss_index(codec, held).search(rotated, 50)
    found = open_codes(codec, held, bits).search(vectors, 50)
    np.testing.assert_allclose(found.scores, theirs, rtol=1e-4, atol=1e-4)
    near(found, codec, vectors, codes, 1e-4)
    differ = found.doc_ids != rows
    gaps = np.abs(np.diff(theirs, axis=1, append=-np.inf))
    assert (gaps[differ] < 1e-4).all()


def test_the_codes_of_faiss_are_ours():
    """A vector that Faiss encodes with our centroids has our bytes."""
    for bits in (8, 4):
        codec, _, codes = make(300, 1, bits=bits, whole=False)
        index = faiss_index(codec, pack(codes) if bits == 4 else codes)
        vectors = index.reconstruct_n(0, 300)
        parts = [np.asarray(codec.centroids)[i][row] for i, row in enumerate(codes)]
        np.testing.assert_array_equal(vectors, np.concatenate(parts, axis=1))
        own = index.sa_encode(vectors).T
        np.testing.assert_array_equal(unpack(own) if bits == 4 else own, codes)


@pytest.mark.parametrize(("num_docs", "num_queries", "k"), CASES)
@pytest.mark.parametrize("packed", [False, True])
def test_fast_scan_with_enough_candidates_is_exact(num_docs, num_queries, k, packed):
    codec, vectors, codes = make(num_docs, num_queries, bits=4)
    held = pack(codes) if packed else codes
    opened = open_codes(codec, held, 4, backend="faiss", rescore=num_docs)
    check(opened.search(vectors, k), *brute_force(codec, vectors, codes, k))


@pytest.mark.parametrize(("num_docs", "num_queries", "k"), CASES)
def test_faiss_with_8_bits(num_docs, num_queries, k):
    codec, vectors, codes = make(num_docs, num_queries)
    doc_ids, scores = brute_force(codec, vectors, codes, k)
    found = open_codes(codec, codes, backend="faiss").search(vectors, k)
    np.testing.assert_array_equal(found.scores, scores)
    clear = scores > scores[:, -1:]  # which of the last ties are found is Faiss's
    np.testing.assert_array_equal(found.doc_ids[clear], doc_ids[clear])


def test_fast_scan_of_a_query_of_zeros():
    """Its tables are all 0, for which Faiss finds nothing."""
    codec, vectors, codes = make(300, 2, bits=4)
    vectors[1] = 0
    for rescore in (0, 1):
        opened = open_codes(codec, codes, 4, backend="faiss", rescore=rescore)
        found = opened.search(vectors, 5)
        assert (found.doc_ids[0] >= 0).all()
        assert found.doc_ids[1].tolist() == [0, 1, 2, 3, 4]
        assert found.scores[1].tolist() == [0.0] * 5


def test_a_rescore_that_nothing_reads():
    codec, _, codes = make(20, 1)
    with pytest.raises(InputError, match="rescore: given with backend 'jax'; expected"):
        open_codes(codec, codes, rescore=1)
    with pytest.raises(InputError, match="rescore: 2 for codes of 8 bits; expected 0,"):
        open_codes(codec, codes, backend="faiss", rescore=2)
    codec, _, codes = make(20, 1, bits=4)
    with pytest.raises(InputError, match="rescore: -1; expected 0 or more"):
        open_codes(codec, codes, 4, backend="faiss", rescore=-1)


def test_recall_of_fast_scan():
    codec, vectors, codes = make(
        20_000, 8, bits=4, parts=16, whole=False, width=4, seed=2
    )
    doc_ids, _ = brute_force(codec, vectors, codes, 50)
    everything = scores_of(codec, vectors, codes)
    recall = {}
    for rescore in (0, 1, 4):
        search = faiss_search(codec, pack(codes), rescore=rescore)
        found = search(vectors, 50)
        hits = [
            np.isin(*pair).mean() for pair in zip(found.doc_ids, doc_ids, strict=True)
        ]
        recall[rescore] = np.mean(hits)
        exact = np.take_along_axis(everything, found.doc_ids, axis=1)
        if rescore:
            np.testing.assert_allclose(found.scores, exact, rtol=1e-4, atol=1e-4)
        else:  # rounded tables
            assert 1e-4 < np.abs(found.scores - exact).max() < 1
    assert recall[0] == recall[1] > 0.9
    assert recall[4] > 0.999


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_that_are_not_finite(value, backend):
    codec, vectors, codes = make(50, 6)
    vectors[4, 1] = value
    opened = open_codes(codec, codes, backend=backend)
    with pytest.raises(InputError, match="query 4: NaN or infinity; expected finite"):
        opened.search(vectors, 3)
    with pytest.raises(InputError, match="query river: NaN or infinity; expected fin"):
        opened.search(vectors, 3, names=["a", "b", "c", "d", "river", "e"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_that_overflow(backend):
    codec, vectors, codes = make(50, 6)
    vectors[5] = 3e38
    found = "query f: a score that is not a finite number; expected finite vectors"
    with pytest.raises(InputError, match=found):
        open_codes(codec, codes, backend=backend).search(vectors, 3, names="abcdef")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tables_that_are_not_finite(value):
    codec, vectors, codes = make(200, 3)
    tables = np.array(make_queries(codec, jnp.asarray(vectors)))
    tables[2, 1, codes[1, 77]] = value
    tables, mesh = jnp.asarray(tables), mesh_of(2)
    for search in (
        lambda: exhaustive_search(tables, jnp.asarray(codes), 2, block_rows=64),
        lambda: sharded_search(tables, place_codes(codes, mesh=mesh), 2),
        lambda: stream_search(tables, codes, 2, devices=jax.devices()[:1]),
    ):
        with pytest.raises(InputError, match="query 2: a score that is not a finite"):
            search()


def test_a_codec_that_is_not_finite():
    codec, _, codes = make(20, 1)
    broken = codec._replace(centroids=codec.centroids.at[0, 3, 1].set(jnp.nan))
    with pytest.raises(InputError, match="codec: NaN or infinity; expected finite num"):
        open_codes(broken, codes)


def test_codes_of_another_codec():
    codec, vectors, codes = make(20, 1)
    with pytest.raises(InputError, match="codes: 3 rows of bytes; expected 4, the co"):
        open_codes(codec, codes[:3])
    queries = make_queries(codec, jnp.asarray(vectors))
    with pytest.raises(InputError, match="codes: 2 parts; expected 4, the codec's"):
        exhaustive_search(queries, jnp.asarray(codes[:2]), 3)
    with pytest.raises(InputError, match="bits: 4 with a codec of 8; expected 8"):
        open_codes(codec, codes, 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_codes_out_of_range(backend):
    """They would be read beyond their part's table."""
    codec, vectors, codes = make(20, 1, bits=4)
    open_codes(codec, codes, 4, backend=backend).search(vectors, 3)
    codes[2, 7] = 16
    with pytest.raises(InputError, match="codes: code 16 of part 2, document 7; exp"):
        open_codes(codec, codes, 4, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_of_another_width(backend):
    codec, _, codes = make(20, 1)
    opened = open_codes(codec, codes, backend=backend)
    with pytest.raises(InputError, match="queries: width 7; expected 8, the codec's"):
        opened.search(np.ones((2, 7)), 3)


def test_unknown_backend():
    codec, _, codes = make(20, 1)
    with pytest.raises(InputError, match="backend: 'gpu'; expected jax or faiss"):
        open_codes(codec, codes, backend="gpu")
    assert BACKENDS == OPENERS_BACKENDS


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_documents(backend):
    codec, vectors, _ = make(1, 2)
    nothing = np.zeros((4, 0), np.uint8)
    queries = make_queries(codec, jnp.asarray(vectors))
    for found in (
        open_codes(codec, nothing, backend=backend).search(vectors, 3),
        open_codes(codec, nothing, backend=backend, budget=-1).search(vectors, 3),
        exhaustive_search(queries, jnp.asarray(nothing), 3),
    ):
        assert found.doc_ids.shape == (2, 3)
        assert (found.doc_ids == -1).all()
        assert np.isneginf(found.scores).all()
