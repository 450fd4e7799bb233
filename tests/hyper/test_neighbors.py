"""The neighbour graph against numpy and Faiss; interrupted, damaged, refused."""

import json

import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.hyper import neighbors as module
from jaxir.hyper.neighbors import (
    build_neighbors,
    open_neighbors,
    vectors_fingerprint,
)


def integer_vectors(num_docs, width=4, seed=0):
    """Small integers: distances are exact, tie heavily, and duplicates abound."""
    rng = np.random.default_rng(seed)
    return rng.integers(-2, 3, (num_docs, width)).astype(np.float32)


def brute_force(vectors, degree):
    vectors, num_docs = vectors.astype(np.float64), len(vectors)
    distances = np.square(vectors[:, None] - vectors[None]).sum(-1)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, : num_docs - 1]
    return order[:, :degree] if num_docs > 1 else np.ones((1, 1))


CASES = [
    (300, 7, 64, 100),
    (300, 30, 7, 300),
    (65, 1, 64, 64),
    (9, 8, 4, 4),
    (9, 10**12, 4, 4),
    (1, 3, 9, 9),
]


@pytest.mark.parametrize(("num_docs", "degree", "block_rows", "piece_rows"), CASES)
def test_equals_brute_force(tmp_path, num_docs, degree, block_rows, piece_rows):
    vectors = integer_vectors(num_docs)
    parts = np.split(vectors, [num_docs // 3, num_docs // 2])
    for name, shards in (("g", vectors), ("s", [part for part in parts if len(part)])):
        place = tmp_path / name
        graph = build_neighbors(
            shards, degree, place, block_rows=block_rows, piece_rows=piece_rows
        )
        assert isinstance(graph, np.memmap)
        assert graph.dtype == np.int32
        np.testing.assert_array_equal(graph, brute_force(vectors, degree))
        files = sorted(path.name for path in place.iterdir())
        assert files == ["neighbors.json", "neighbors.npy"]
    assert {path.name for path in tmp_path.iterdir()} == {"g", "s"}


def test_a_document_is_not_its_neighbour_among_many_duplicates(tmp_path):
    vectors = np.repeat(integer_vectors(3), 20, axis=0)
    graph = build_neighbors(vectors, 5, tmp_path / "g", block_rows=16)
    assert not (graph == np.arange(60)[:, None]).any()
    np.testing.assert_array_equal(graph, brute_force(vectors, 5))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_real_numbers_to_the_precision_of_float32(tmp_path, dtype):
    rng = np.random.default_rng(1)
    vectors = (rng.standard_normal((400, 24)) + 3).astype(dtype)
    graph = build_neighbors(vectors, 12, tmp_path / "g")
    expected = brute_force(vectors, 12)

    def distances(rows):
        return np.square(vectors[:, None].astype(np.float64) - vectors[rows]).sum(-1)

    np.testing.assert_allclose(distances(graph), distances(expected), rtol=1e-4)
    assert (graph == expected).mean() > 0.99


def test_faiss_finds_the_same_up_to_ties(tmp_path):
    pytest.importorskip("faiss")
    vectors = np.concatenate([integer_vectors(200, seed=2), integer_vectors(100)])
    graph = build_neighbors(vectors, 9, tmp_path / "g", backend="faiss")
    expected = brute_force(vectors, 9)
    for row in range(300):
        assert row not in graph[row]
        assert len(set(graph[row].tolist())) == 9
    distances = [
        np.square(vectors[:, None] - vectors[rows]).sum(-1)
        for rows in (graph, expected)
    ]
    np.testing.assert_array_equal(*distances)


def interrupted(monkeypatch, after):
    """Fails as the next piece begins, once so many are done; counts the pieces."""
    made, real = [], module._rows

    def rows(nearest, shards, piece, *rest):
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(piece.start)
        return real(nearest, shards, piece, *rest)

    monkeypatch.setattr(module, "_rows", rows)
    return made


def test_an_interrupted_build_goes_on(tmp_path, monkeypatch):
    vectors, place = integer_vectors(100), tmp_path / "deep" / "g"
    first = interrupted(monkeypatch, after=2)
    with pytest.raises(KeyboardInterrupt):
        build_neighbors(vectors, 5, place, piece_rows=30)
    assert first == [0, 30]
    assert not place.exists()
    monkeypatch.undo()
    second = interrupted(monkeypatch, after=9)
    graph = build_neighbors(vectors, 5, place, piece_rows=30)
    assert second == [60, 90]
    np.testing.assert_array_equal(graph, brute_force(vectors, 5))
    assert [path.name for path in place.parent.iterdir()] == ["g"]


def test_other_settings_or_vectors_start_over(tmp_path, monkeypatch):
    vectors, place = integer_vectors(100), tmp_path / "g"
    others = [
        {"degree": 6},
        {"backend": "faiss"},
        {"shards": vectors + 1},
        {"shards": vectors + 2, "fingerprint": "the same"},
    ]
    for other in others:
        arguments = {"shards": vectors, "degree": 5, "fingerprint": "the same"}
        interrupted(monkeypatch, after=2)
        with pytest.raises(KeyboardInterrupt):
            build_neighbors(**arguments, directory=place, piece_rows=30)
        monkeypatch.undo()
        made = interrupted(monkeypatch, after=9)
        build_neighbors(**arguments | other, directory=place, piece_rows=30)
        assert made == [0, 30, 60, 90]
        monkeypatch.undo()


def test_a_graph_that_stands_is_not_built_again(tmp_path, monkeypatch):
    vectors, place = integer_vectors(100), tmp_path / "g"
    arguments = {"shards": vectors, "degree": 5, "fingerprint": "the same"}
    graph = build_neighbors(**arguments, directory=place)
    made = interrupted(monkeypatch, after=9)
    again = build_neighbors(**arguments, directory=place, piece_rows=30)
    np.testing.assert_array_equal(again, graph)
    assert made == []
    for other in (
        {"degree": 6},
        {"backend": "faiss"},
        {"shards": vectors + 2},
        {"fingerprint": "another"},
    ):
        build_neighbors(**arguments | other, directory=place)
        assert made == [0]
        made.clear()
        build_neighbors(**arguments, directory=place)
        made.clear()
    (place / "neighbors.npy").write_bytes(b"")
    build_neighbors(**arguments, directory=place)
    assert made == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["g"]


@pytest.mark.parametrize("name", ["g", "g.partial"])
def test_what_is_no_graph_is_left_alone(tmp_path, name):
    vectors, foreign = integer_vectors(40), tmp_path / name
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    message = f"{name}: something that is not a neighbour graph stands here; expected"
    with pytest.raises(InputError, match=message):
        build_neighbors(vectors, 3, tmp_path / "g")
    assert (foreign / "thesis.txt").read_text() == "years of work"
    (foreign / "thesis.txt").unlink()
    build_neighbors(vectors, 3, tmp_path / "g")  # an empty folder is no obstacle
    assert [path.name for path in tmp_path.iterdir()] == ["g"]


def test_fingerprint_is_of_numbers_type_and_shape():
    vectors = integer_vectors(50)
    whole = vectors_fingerprint(vectors)
    assert whole == vectors_fingerprint([vectors[:3], vectors[3:40], vectors[40:]])
    changed = vectors.copy()
    changed[49, 3] += 1
    for other in (changed, vectors[:-1], vectors.astype(np.float16),
                  vectors.reshape(25, 8)):  # fmt: skip
        assert vectors_fingerprint(other) != whole


def test_a_graph_of_another_corpus_is_refused(tmp_path):
    vectors, place = integer_vectors(40), tmp_path / "g"
    build_neighbors(vectors, 3, place)
    name = vectors_fingerprint(vectors)
    assert open_neighbors(place, 40, name).shape == (40, 3)
    with pytest.raises(InputError, match="a graph of 40 vectors with fingerprint"):
        open_neighbors(place, 41, name)
    with pytest.raises(InputError, match="expected 40 with abc, those of the index"):
        open_neighbors(place, 40, "abc")
    build_neighbors(vectors, 3, place, fingerprint="abc")
    assert open_neighbors(place, 40, "abc").shape == (40, 3)


def test_a_missing_or_damaged_graph_is_refused(tmp_path):
    place = tmp_path / "g"
    with pytest.raises(InputError, match="no neighbour graph here; build the graph"):
        open_neighbors(place, 40, "abc")
    build_neighbors(integer_vectors(40), 3, place, fingerprint="abc")
    whole, note = (place / "neighbors.npy").read_bytes(), place / "neighbors.json"
    for damage in (whole[:50], whole[:-8], b""):
        (place / "neighbors.npy").write_bytes(damage)
        with pytest.raises(InputError, match="a damaged neighbour graph; build the"):
            open_neighbors(place, 40, "abc")
    (place / "neighbors.npy").write_bytes(whole)
    settings = json.loads(note.read_text())
    for damage in (settings | {"degree": 4}, {"degree": 3}, []):
        note.write_text(json.dumps(damage))
        with pytest.raises(InputError, match="a damaged neighbour graph"):
            open_neighbors(place, 40, "abc")


def test_what_cannot_be_built_is_refused(tmp_path):
    vectors, place = integer_vectors(40), tmp_path / "g"
    for name in ("degree", "block_rows", "piece_rows"):
        with pytest.raises(InputError, match=f"{name}: 0; expected at least 1"):
            build_neighbors(vectors, **{"degree": 3, name: 0}, directory=place)
    with pytest.raises(InputError, match="backend: 'hnsw'; expected jax or faiss"):
        build_neighbors(vectors, 3, place, backend="hnsw")
    with pytest.raises(InputError, match="vectors: no documents"):
        build_neighbors(vectors[:0], 3, place)
    with pytest.raises(InputError, match="float16 of width 4 from row 40 on; expected"):
        build_neighbors([vectors, vectors.astype(np.float16)], 3, place)
    for value in (np.nan, np.inf):
        broken = vectors.copy()
        broken[33, 2] = value
        with pytest.raises(InputError, match="vectors: NaN or infinity in row 33"):
            build_neighbors([broken[:20], broken[20:]], 3, place)
        np.save(tmp_path / "v.npy", broken)
        with pytest.raises(InputError, match=r"v\.npy: NaN or infinity in row 33"):
            build_neighbors(np.load(tmp_path / "v.npy", mmap_mode="r"), 3, place)
    assert not place.exists()
