"""Exhaustive search with q-nets against numpy, on one device and several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ranked import mesh_of, ranked

from jaxir.blocks import programs
from jaxir.errors import InputError
from jaxir.hyper.graph import graph_search
from jaxir.hyper.qnet import QNetSpec, QNetWeights
from jaxir.hyper.search import (
    QNetScore,
    device_blocks,
    exhaustive_search,
    open_vectors,
    sharded_search,
    stream_search,
)

EXACT = QNetSpec(input_width=6, hidden=(6, 6), layer_norm=False)
"""Of whole numbers: the score is exact in any order."""

USUAL = QNetSpec(input_width=6, hidden=(6, 6, 6))
PAIRS = QNetSpec(input_width=3, hidden=(5, 3), layer_norm=False, num_vectors=2)


def make(spec, num_docs, num_queries, seed=0, *, whole=True):
    """Weights and vectors: small whole numbers, or normal ones."""
    rng = np.random.default_rng(seed)

    def numbers(*shape):
        if whole:
            return rng.integers(-1, 2, size=shape).astype(np.float32)
        return rng.standard_normal(shape, dtype=np.float32)

    pairs = list(zip(spec.widths[:-1], spec.widths[1:], strict=True))
    weights = QNetWeights(
        tuple(numbers(num_queries, *pair) for pair in pairs),
        tuple(numbers(num_queries, pair[1]) for pair in pairs),
        numbers(num_queries, spec.hidden[-1]),
    )
    return weights, numbers(num_docs, spec.row_width)


def scores_of(spec, weights, vectors):
    """Algorithm by hand, in float64: ``[B, N]``."""
    out = []
    for query in range(len(weights.output)):
        x = vectors.astype(np.float64).reshape(-1, spec.input_width)
        for i, (kernel, bias) in enumerate(
            zip(weights.kernels, weights.biases, strict=True)
        ):
            y = np.maximum(x @ kernel[query].astype(np.float64) + bias[query], 0)
            if spec.layer_norm:
                centred = y - y.mean(-1, keepdims=True)
                y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
            x = y + x if x.shape == y.shape and i < spec.depth - 1 else y
        scores = x @ weights.output[query].astype(np.float64)
        out.append(scores.reshape(-1, spec.num_vectors).max(-1))
    return np.stack(out)


def brute_force(spec, weights, vectors, k):
    return ranked(scores_of(spec, weights, vectors), k)


CASES = [(EXACT, 1, 1, 1), (EXACT, 40, 2, 60), (EXACT, 2500, 4, 90), (PAIRS, 300, 2, 9)]


@pytest.mark.parametrize(("spec", "num_docs", "num_queries", "k"), CASES)
def test_exhaustive_search_equals_brute_force(spec, num_docs, num_queries, k):
    weights, vectors = make(spec, num_docs, num_queries)
    doc_ids, scores = brute_force(spec, weights, vectors, k)
    if num_docs > k:  # what is cut off ties with what stays
        everything = scores_of(spec, weights, vectors)
        assert (everything == scores[:, -1:]).sum() > (scores == scores[:, -1:]).sum()
    shards = np.split(vectors, [num_docs // 3, num_docs // 2])
    for held in (
        jnp.asarray(vectors),
        device_blocks(vectors, block_rows=384),
        device_blocks(shards, block_rows=100),
    ):
        found = exhaustive_search(spec, weights, held, k)
        np.testing.assert_array_equal(found.doc_ids, doc_ids)
        np.testing.assert_array_equal(found.scores, scores)
    one = jax.devices()[:1]  # each device compiles a program of its own
    for source in (vectors, shards):
        found = stream_search(spec, weights, source, k, block_rows=128, devices=one)
        np.testing.assert_array_equal(found.doc_ids, doc_ids)
        np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
@pytest.mark.parametrize(("spec", "num_docs", "num_queries", "k"), CASES[1:3])
def test_devices_do_not_change_the_result(num_devices, spec, num_docs, num_queries, k):
    mesh = mesh_of(num_devices)
    weights, vectors = make(spec, num_docs, num_queries)
    doc_ids, scores = brute_force(spec, weights, vectors, k)
    held = device_blocks(vectors, mesh=mesh, block_rows=100)
    on_mesh = sharded_search(spec, weights, held, k, mesh=mesh)
    devices = jax.devices()[:num_devices]
    streamed = stream_search(spec, weights, vectors, k, block_rows=512, devices=devices)
    for found in (on_mesh, streamed):
        np.testing.assert_array_equal(found.doc_ids, doc_ids)
        np.testing.assert_array_equal(found.scores, scores)


def test_the_usual_network():
    weights, vectors = make(USUAL, 700, 3, whole=False)
    _, scores = brute_force(USUAL, weights, vectors, 20)
    held = device_blocks(vectors, block_rows=256)
    found = exhaustive_search(USUAL, weights, held, 20)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-4)
    everything = scores_of(USUAL, weights, vectors)
    of_found = np.take_along_axis(everything, np.asarray(found.doc_ids), axis=1)
    np.testing.assert_allclose(of_found, scores, rtol=1e-4, atol=1e-4)


def test_memory_mapped_shards_of_odd_sizes(tmp_path):
    weights, vectors = make(EXACT, 1000, 2)
    doc_ids, scores = brute_force(EXACT, weights, vectors, 30)
    shards = []
    for i, part in enumerate(np.split(vectors, [1, 130, 130, 517, 900])):
        np.save(tmp_path / f"{i}.npy", part)
        mode = "r" if len(part) else None  # nothing cannot be mapped
        shards.append(np.load(tmp_path / f"{i}.npy", mmap_mode=mode))
    for budget in (0, vectors.nbytes):
        held = open_vectors(EXACT, shards, budget=budget, block_rows=512)
        assert (held.num_docs, held.width) == (1000, 6)
        found = held.search(weights, 30)
        assert isinstance(found.scores, np.ndarray)
        np.testing.assert_array_equal(found.doc_ids, doc_ids)
        np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_storage_in_half_the_bytes(dtype):
    """Small whole numbers are exact in either, and sums are float32."""
    weights, vectors = make(EXACT, 500, 2)
    doc_ids, scores = brute_force(EXACT, weights, vectors, 20)
    stored = vectors.astype(jnp.dtype(dtype))
    held = device_blocks(vectors, dtype=dtype, block_rows=128)
    assert held.blocks.dtype == jnp.dtype(dtype)
    for found in (
        exhaustive_search(EXACT, weights, held, 20),
        stream_search(EXACT, weights, stored, 20),
        open_vectors(EXACT, [vectors], dtype=dtype, budget=stored.nbytes).search(
            weights, 20
        ),
    ):
        np.testing.assert_array_equal(found.doc_ids, doc_ids)
        np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_in_the_type_asked_for(dtype):
    weights, vectors = jax.tree.map(jnp.asarray, make(EXACT, 50, 2))
    scores = QNetScore(EXACT, dtype)(weights, vectors)
    assert scores.dtype == jnp.float32
    program = str(jax.make_jaxpr(QNetScore(EXACT, dtype))(weights, vectors))
    products = [line for line in program.splitlines() if "dot_general[" in line]
    assert len(products) == EXACT.depth + 1
    assert ("bf16" in program) == (dtype == "bfloat16")


@pytest.mark.parametrize("num_queries", [0, 1, 5, 8, 19])
def test_any_number_of_queries(num_queries):
    weights, vectors = make(EXACT, 60, num_queries)
    found = stream_search(EXACT, weights, vectors, 4, block_rows=64)
    held = device_blocks(vectors, block_rows=16)
    resident = exhaustive_search(EXACT, jax.tree.map(jnp.asarray, weights), held, 4)
    assert found.doc_ids.shape == found.scores.shape == (num_queries, 4)
    assert resident.doc_ids.shape == (num_queries, 4)
    if num_queries:
        doc_ids, _ = brute_force(EXACT, weights, vectors, 4)
        np.testing.assert_array_equal(found.doc_ids, doc_ids)
        np.testing.assert_array_equal(resident.doc_ids, doc_ids)


def test_no_recompilation():
    """Over queries, numbers of queries, and corpora of like shape."""
    compiled = None
    for seed, num_docs in enumerate((300, 310, 319, 300)):
        for num_queries in (3, 1, 4, 7, 8, 9, 16):
            weights, vectors = make(EXACT, num_docs, num_queries, seed)
            shards = np.split(vectors, [50 + seed])
            devices = jax.devices()[:1]
            stream_search(EXACT, weights, shards, 5, block_rows=16, devices=devices)
            held = device_blocks(vectors, block_rows=64)
            exhaustive_search(EXACT, weights, held, 5)
        sizes = [program._cache_size() for program in programs(QNetScore(EXACT))]
        assert compiled in (None, sizes)
        compiled = sizes


def test_scan_memory_does_not_grow_with_the_corpus():
    weights, _ = make(USUAL, 1, 8)

    def temporary(num_blocks):
        shape = jax.ShapeDtypeStruct((num_blocks, 256, 6), jnp.float32)
        program = programs(QNetScore(USUAL)).resident
        lowered = program.lower(weights, shape, num_blocks * 256, 10)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(64) < 2 * temporary(4)


SATURATING = QNetSpec(input_width=6, hidden=(6,), activation="tanh", residual=False)


@pytest.mark.parametrize("spec", [EXACT, USUAL, SATURATING])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_vectors_are_refused(spec, value):
    """Also where an activation would make an ordinary number of infinity again."""
    # without zeros, whose product with infinity is NaN
    weights, vectors = make(spec, 200, 2, whole=spec is not SATURATING)
    vectors[150, 3] = value
    for search in (
        lambda: exhaustive_search(spec, weights, jnp.asarray(vectors), 3),
        lambda: stream_search(spec, weights, vectors, 3),
        lambda: open_vectors(spec, [vectors], budget=vectors.nbytes).search(weights, 3),
    ):
        with pytest.raises(InputError, match="vectors, row 150: NaN or infinity; exp"):
            search()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [1, 4])
def test_one_broken_vector_of_several_is_refused(at, value):
    """The first or the second of a document's."""
    weights, vectors = make(PAIRS, 60, 2)
    vectors[31, at] = value
    refused_by_both(PAIRS, weights, vectors, *["vectors, row 31: NaN or infinity"] * 2)


@pytest.mark.parametrize("at", [slice(0, 3), slice(3, 6)])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_overflow_in_one_vector_of_several_is_refused(at, sign):
    """Of finite numbers; the largest score would hide the lowest of all."""
    ones = jax.tree.map(np.ones_like, make(PAIRS, 1, 2)[0])
    weights = ones._replace(output=ones.output * sign * 1e30)
    vectors = np.ones((60, 6), np.float32)
    vectors[31, at] = 1e20
    refused_by_both(
        PAIRS, weights, vectors, "vectors, row 31: its score is not a finite number",
        "query 0: scores that are not finite numbers",
    )  # fmt: skip


def refused_by_both(spec, weights, vectors, exhaustive, walking):
    with pytest.raises(InputError, match=exhaustive):
        exhaustive_search(spec, weights, jnp.asarray(vectors), 3)
    with pytest.raises(InputError, match=exhaustive):
        stream_search(spec, weights, vectors, 3)
    graph = np.full((len(vectors), 1), 31, np.int32)  # reached by a neighbour
    with pytest.raises(InputError, match=walking):
        graph_search(spec, weights, vectors, graph, 3, entry=np.array([2]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("leaf", ["kernels", "biases", "output"])
def test_broken_weights_are_refused(leaf, value):
    weights, vectors = make(SATURATING, 50, 11, whole=False)
    part = getattr(weights, leaf)
    (part if leaf == "output" else part[0])[9] = value
    expected = "query 9: NaN or infinity in its q-net; expected finite weights; the mod"
    with pytest.raises(InputError, match=expected):
        exhaustive_search(SATURATING, weights, jnp.asarray(vectors), 3)
    with pytest.raises(InputError, match=expected):
        stream_search(SATURATING, weights, vectors, 3)


def test_vectors_of_another_width():
    weights, _ = make(EXACT, 1, 1)
    vectors = np.ones((20, 7), np.float32)
    expected = "vectors: width 7; expected 6, the q-net's 1 x 6; search with the model"
    with pytest.raises(InputError, match=expected):
        open_vectors(EXACT, [vectors])
    with pytest.raises(InputError, match="vectors of width 7; expected 6"):
        stream_search(EXACT, weights, vectors, 3)
    with pytest.raises(InputError, match="vectors of width 7; expected 6"):
        exhaustive_search(EXACT, weights, jnp.asarray(vectors), 3)


def test_no_documents():
    weights, vectors = make(EXACT, 0, 2)
    found = stream_search(EXACT, weights, vectors, 3)
    assert (found.doc_ids == -1).all()
    assert (found.scores == -np.inf).all()
