"""Faiss's files: against Faiss both ways, byte for byte, and damaged in every place."""

import os
import struct

import faiss
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.export.faiss_io import LAYOUTS, FaissCodes, read_faiss, write_faiss
from jaxir.pq.codec import Codec, lookup, quantize, tables

WIDTH, DOCS = 8, 300
_rng = np.random.default_rng(0)
VECTORS = _rng.normal(size=(DOCS, WIDTH)).astype(np.float32)
QUERIES = _rng.normal(size=(5, WIDTH)).astype(np.float32)

ONE_INDEX = [
    "OPQ4,PQ4x8", "OPQ4,IVF1,PQ4x8", "PQ4x8", "IVF1,PQ4x8", "RR8,PQ4x8", "OPQ4,PQ4x4",
    "OPQ4,IVF1,PQ4x4", "OPQ4,IVF1,PQ2x4", "PQ8x8", "IDMap,OPQ4,PQ4x8",
    "IDMap,OPQ4,IVF1,PQ4x4",
]  # fmt: skip


def quickly_trained(index):
    """Leaves k-means and OPQ two rounds; gives what is inside the index."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        for i in range(index.chain.size()):
            transform = faiss.downcast_VectorTransform(index.chain.at(i))
            if isinstance(transform, faiss.OPQMatrix):
                transform.niter = transform.niter_pq = transform.niter_pq_0 = 2
    if hasattr(index, "do_polysemous_training"):
        index.pq.cp.niter, index.do_polysemous_training = 2, False
    return getattr(index, "index", getattr(index, "base_index", None))


def built(factory: str, metric: int = faiss.METRIC_INNER_PRODUCT):
    index = faiss.index_factory(WIDTH, factory, metric)
    inner = index
    while inner is not None:
        inner = quickly_trained(inner)
    index.train(VECTORS)
    if factory.startswith("IDMap"):
        index.add_with_ids(VECTORS, np.arange(DOCS)[::-1] * 3 + 1)
    else:
        index.add(VECTORS)
    return index


@pytest.fixture(scope="module")
def index_of():
    """Each index is trained once."""
    faiss.omp_set_num_threads(1)
    made: dict = {}

    def get(factory: str, metric: int = faiss.METRIC_INNER_PRODUCT):
        key = (factory, metric)
        if key not in made:
            made[key] = built(factory, metric)
        return made[key]

    return get


@pytest.fixture
def save(index_of, tmp_path):
    def write(factory: str, metric: int = faiss.METRIC_INNER_PRODUCT):
        path = tmp_path / f"{factory}.faiss"
        faiss.write_index(index_of(factory, metric), str(path))
        return path

    return write


def our_search(found: FaissCodes, k: int):
    scores = lookup(tables(found.codec, jnp.asarray(QUERIES)), jnp.asarray(found.codes))
    scores = np.asarray(scores)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), found.ids[rows]


def zero_coarse(index) -> None:
    """Makes the coarse centroid zero, as training leaves it."""
    ivf = faiss.extract_index_ivf(index)
    faiss.downcast_index(ivf.quantizer).reset()
    ivf.quantizer.add(np.zeros((1, WIDTH), np.float32))


def codec_of(bits: int = 8, rotated: bool = True) -> Codec:
    rng = np.random.default_rng(bits)
    turned = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    rotation = turned if rotated else np.eye(WIDTH, dtype=np.float32)
    centroids = rng.normal(size=(4, 1 << bits, 2)).astype(np.float32)
    centroids[0, 0, 0] = -0.0  # which adding a coarse centroid of 0 would change
    return Codec(jnp.asarray(rotation), jnp.asarray(centroids))


def packed_of(bits: int, docs: int = DOCS) -> np.ndarray:
    shape = (4 * bits // 8, docs)
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)


# --- what Faiss wrote ----------------------------------------------------------------


@pytest.mark.parametrize("factory", ONE_INDEX)
def test_scores_and_ids_are_faisss_own(save, index_of, factory):
    found = read_faiss(save(factory))
    scores, ids = our_search(found, 20)
    wanted, wanted_ids = index_of(factory).search(QUERIES, 20)
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    # Documents of equal codes have equal scores: in which order is nobody's affair.
    for one, other in zip(ids, wanted_ids, strict=True):
        assert len(set(one[:15]) - set(other)) == 0
    assert found.layout == ("ivf" if "IVF" in factory else "flat")
    assert found.rotated == ("OPQ" in factory or "RR" in factory)
    assert found.codes.shape == (found.codec.spec.subvectors, DOCS)


def test_codes_are_of_the_nearest_folded_centroids(save):
    """What Faiss assigned to a residual is what our codec assigns to the vector."""
    found = read_faiss(save("OPQ4,IVF1,PQ4x8"))
    ours = np.asarray(quantize(found.codec, jnp.asarray(VECTORS)))
    assert (found.codes == ours.T).mean() > 0.999  # but for equally near ones


@pytest.mark.parametrize("factory", ["OPQ4,PQ4x8", "PQ4x8", "OPQ4,PQ4x4", "PQ8x8"])
def test_a_flat_file_is_written_again_byte_for_byte(save, tmp_path, factory):
    path = save(factory)
    found = read_faiss(path)
    write_faiss(tmp_path / "again", found.codec, found.packed)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "factory", ["OPQ4,IVF1,PQ4x8", "IVF1,PQ4x8", "OPQ4,IVF1,PQ4x4"]
)
def test_a_list_with_a_zero_centroid_is_written_again_byte_for_byte(tmp_path, factory):
    index = built(factory)
    zero_coarse(index)
    faiss.write_index(index, str(tmp_path / "a"))
    found = read_faiss(tmp_path / "a")
    write_faiss(tmp_path / "b", found.codec, found.packed, layout="ivf")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_ids_of_a_map_and_of_a_list(save, tmp_path, index_of):
    assert read_faiss(save("IDMap,OPQ4,PQ4x8")).ids.tolist() == list(
        range(3 * DOCS - 2, 0, -3)
    )
    index = faiss.clone_index(index_of("OPQ4,IVF1,PQ4x8"))
    faiss.extract_index_ivf(index).remove_ids(np.arange(0, DOCS, 2))
    index.ntotal = DOCS // 2
    faiss.write_index(index, str(tmp_path / "halved"))
    found = read_faiss(tmp_path / "halved")
    assert sorted(found.ids.tolist()) == list(range(1, DOCS, 2))
    np.testing.assert_allclose(
        our_search(found, 9)[0], index.search(QUERIES, 9)[0], atol=1e-5
    )


@pytest.mark.parametrize("kind", [faiss.DirectMap.Array, faiss.DirectMap.Hashtable])
def test_a_direct_map_is_passed_over(tmp_path, kind):
    index = built("OPQ4,IVF1,PQ4x8")
    faiss.extract_index_ivf(index).set_direct_map_type(kind)
    faiss.write_index(index, str(tmp_path / "a"))
    assert read_faiss(tmp_path / "a").codes.shape == (4, DOCS)


def test_codes_without_residuals_have_no_centroid_added(tmp_path):
    quantizer = faiss.IndexFlatIP(WIDTH)
    inner_product = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFPQ(quantizer, WIDTH, 1, 4, 8, inner_product)
    index.by_residual = False
    index.train(VECTORS)
    index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "a"))
    found = read_faiss(tmp_path / "a")
    wanted = index.search(QUERIES, 9)[0]
    np.testing.assert_allclose(our_search(found, 9)[0], wanted, atol=1e-5)


# --- what we write -------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rotated", [True, False])
def test_out_and_in_again_bit_for_bit(tmp_path, layout, bits, rotated):
    codec, packed = codec_of(bits, rotated), packed_of(bits)
    write_faiss(tmp_path / "a", codec, packed, layout=layout)
    found = read_faiss(tmp_path / "a")
    for mine, theirs in zip(codec, found.codec, strict=True):
        assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()
    np.testing.assert_array_equal(found.packed, packed)
    np.testing.assert_array_equal(found.ids, np.arange(DOCS))
    assert (found.layout, found.rotated) == (layout, rotated)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [8, 4])
def test_faiss_searches_what_we_write(tmp_path, layout, bits):
    codec, packed = codec_of(bits), packed_of(bits)
    write_faiss(tmp_path / "a", codec, packed, layout=layout)
    index = faiss.read_index(str(tmp_path / "a"))
    scores, ids = index.search(QUERIES, 30)
    ours, our_ids = our_search(read_faiss(tmp_path / "a"), 30)
    np.testing.assert_allclose(ours, scores, atol=1e-5)
    apart = np.abs(np.diff(ours, axis=1)).min(axis=1) > 1e-5
    np.testing.assert_array_equal(our_ids[apart], ids[apart])
    faiss.write_index(index, str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_documents(tmp_path, layout):
    write_faiss(tmp_path / "a", codec_of(), packed_of(8, 0), layout=layout)
    assert faiss.read_index(str(tmp_path / "a")).ntotal == 0
    found = read_faiss(tmp_path / "a")
    assert found.packed.shape == (4, 0)
    assert found.ids.tolist() == []


def test_more_documents_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxir.export.faiss_io._BLOCK", 64)
    write_faiss(tmp_path / "a", codec_of(), packed_of(8), layout="ivf")
    np.testing.assert_array_equal(read_faiss(tmp_path / "a").packed, packed_of(8))


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="layout: 'hnsw'; expected one of flat, ivf"):
        write_faiss(tmp_path / "a", codec_of(), packed_of(8), layout="hnsw")
    with pytest.raises(InputError, match="codes of 4 bytes a document; expected 2"):
        write_faiss(tmp_path / "a", codec_of(4), packed_of(8))
    assert not list(tmp_path.iterdir())


# --- what we refuse ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "found"),
    [
        ("Flat", "byte 0: IndexFlatIP; expected IndexPQ, or IndexIVFPQ of one list"),
        ("OPQ4,PQ4x4fs", "IndexPQFastScan"),
        ("OPQ4,IVF1,PQ4x4fs", "IndexIVFPQFastScan"),
        ("OPQ4,IVF4,PQ4x8", "4 inverted lists; expected one"),
        ("OPQ4,PQ4x8,RFlat", "IndexRefine"),
        ("HNSW8", "IndexHNSWFlat"),
        ("SQ8", "IndexScalarQuantizer"),
        ("OPQ4_4,PQ4x8", "a map of 8 to 4 with 32 numbers; expected a rotation"),
        ("PCA8,PQ4x8", "a transform of type 'Pcam'; expected a rotation"),
        ("L2norm,PQ4x8", "a transform of type 'VNrm'"),
        ("OPQ4,PQ4x6", "bits: 6; expected 8 or 4"),
        ("PQ1x4", "1 parts of 4 bits; expected an even number"),
        ("OPQ4,IVF1_HNSW8,PQ4x8", "a coarse quantizer of type 'IHNf'"),
        ("RQ2x4", "an index of type 'IxRq'"),
    ],
)
def test_other_indexes(save, factory, found):
    path = save(factory)
    with pytest.raises(InputError, match=found) as caught:
        read_faiss(path)
    assert str(caught.value).startswith(f"{path}: byte ")
    assert "\n" not in str(caught.value)


def test_the_metric_l2_is_refused(save):
    with pytest.raises(InputError, match="metric L2; expected the inner product"):
        read_faiss(save("OPQ4,PQ4x8", faiss.METRIC_L2))


def test_no_file_and_an_empty_one(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_faiss(tmp_path / "a")
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match="byte 0: 0 bytes left for the type of the"):
        read_faiss(tmp_path / "a")


def small(tmp_path, layout: str = "ivf", bits: int = 4) -> bytes:
    write_faiss(tmp_path / "whole", codec_of(bits), packed_of(bits, 3), layout=layout)
    return (tmp_path / "whole").read_bytes()


def patched(tmp_path, content: bytes, at: int, new: bytes):
    path = tmp_path / "damaged"
    path.write_bytes(content[:at] + new + content[at + len(new) :])
    return path


def read_or_refused(path) -> FaissCodes | None:
    """What a damaged file gives, None where it is refused in one line."""
    line = ""
    try:
        return read_faiss(path)
    except InputError as error:
        line = str(error)
    assert line.startswith(str(path))
    assert "\n" not in line
    return None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_anywhere(tmp_path, layout):
    content = small(tmp_path, layout)
    path = tmp_path / "cut"
    path.write_bytes(content)
    for length in range(len(content) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(InputError, match=r"byte [\d,]+: .* (left for|behind)"):
            read_faiss(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(InputError, match="1 bytes behind the index"):
        read_faiss(path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [0x00, 0x7F, 0x80, 0xFF])
def test_any_byte_changed_is_refused_or_read(tmp_path, layout, value):
    """Never another error than ours, and never more memory than the file's size."""
    content = small(tmp_path, layout)
    path, refused = tmp_path / "flipped", 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
        found = read_or_refused(path)
        refused += found is None
        if found is not None:
            assert found.packed.shape == (2, 3)
            assert np.isfinite(np.asarray(found.codec.centroids)).all()
    assert refused > 100  # the fields among the numbers


def test_many_bytes_changed(tmp_path):
    content = np.frombuffer(small(tmp_path), np.uint8)
    rng, path = np.random.default_rng(0), tmp_path / "noise"
    for _ in range(300):
        noisy = content.copy()
        places = rng.integers(0, len(noisy), rng.integers(1, 20))
        noisy[places] = rng.integers(0, 256, places.size)
        path.write_bytes(noisy.tobytes())
        read_or_refused(path)


ROTATION = 4 + 33 + 4  # where LTra stands: behind IxPT, its header and the count
LIST = ROTATION + 4 + 1 + 8 + 4 * WIDTH**2 + 8 + 9  # and IwPQ behind it
COARSE = LIST + 4 + 33 + 16
QUANTIZER = COARSE + 4 + 33 + 8 + 4 * WIDTH + 9 + 9
LISTS = QUANTIZER + 24 + 8 + 4 * WIDTH * 16


@pytest.mark.parametrize(
    ("at", "new", "found"),
    [
        (0, b"TPxI", "an index of type 'TPxI', written in big endian"),
        (0, b"\xff\0\0\0", "an index of type"),
        (4, struct.pack("<i", 9), "map of 8 to 8 .* expected a rotation of width 9"),
        (LIST + 4, struct.pack("<i", 9), "3 vectors of width 9; expected 3 of width 8"),
        (4, struct.pack("<i", -1), "width -1; expected a trained index"),
        (4, struct.pack("<i", 1 << 30), "of widths up to 8,192"),
        (8, struct.pack("<q", 1 << 60), "expected 1,152,921,504,606,846,976 of width"),
        (8, struct.pack("<q", -3), "-3 vectors"),
        (32, b"\0", "not trained"),
        (33, struct.pack("<i", 23), "metric number 23|left for"),
        (37, struct.pack("<i", 2), "2 transforms; expected one rotation"),
        (ROTATION + 4, b"\1", "a map with a bias"),
        (ROTATION + 5, struct.pack("<Q", 1 << 61), "left for numbers of the rotation"),
        (ROTATION + 13, struct.pack("<f", 2.0), "off the identity by"),
        (ROTATION + 13, struct.pack("<f", np.nan), "NaN or infinity in the rotation"),
        (LIST + 37, struct.pack("<Q", 2), "2 inverted lists; expected one"),
        (COARSE, b"IHNf", "a coarse quantizer of type 'IHNf'"),
        (COARSE + 8, struct.pack("<q", 2), "coarse quantizer of 2 vectors"),
        (COARSE + 37, struct.pack("<Q", 9), "9 numbers of the coarse centroid"),
        (COARSE + 45, struct.pack("<f", np.inf), "infinity in the coarse centroid"),
        (QUANTIZER - 18, b"\3", "a direct map of type 3; expected 0, 1 or 2"),
        (QUANTIZER - 9, b"\2", "codes of 2 bytes"),
        (QUANTIZER - 8, struct.pack("<Q", 3), "codes of 3 bytes; expected 2"),
        (QUANTIZER, struct.pack("<Q", 16), "product quantizer of width 16; expected 8"),
        (QUANTIZER + 8, struct.pack("<Q", 3), "3 parts of vectors of width 8"),
        (QUANTIZER + 8, struct.pack("<Q", 0), "0 parts of vectors of width 8"),
        (QUANTIZER + 16, struct.pack("<Q", 1 << 40), "bits: 1099511627776"),
        (QUANTIZER + 16, struct.pack("<Q", 8), "128 numbers of centroids; expected"),
        (QUANTIZER + 40, struct.pack("<f", np.nan), "NaN or infinity in the centroids"),
        (LISTS, b"ilod", "inverted lists of type 'ilod'"),
        (LISTS + 4, struct.pack("<Q", 1 << 50), "lists of codes of 2 bytes"),
        (LISTS + 20, b"half", "1 lists of codes of 2 bytes; expected one"),
        (LISTS + 24, struct.pack("<Q", 1 << 61), "left for sizes of lists"),
        (LISTS + 32, struct.pack("<Q", 4), r"lists of sizes \[4\]; expected \[3\]"),
        (LISTS + 46, struct.pack("<q", 1), "ids that are negative or occur twice"),
        (LISTS + 46, struct.pack("<q", -1), "ids that are negative or occur twice"),
    ],
)
def test_every_field_is_checked(tmp_path, at, new, found):
    path = patched(tmp_path, small(tmp_path), at, new)
    with pytest.raises(InputError, match=found) as caught:
        read_faiss(path)
    assert str(caught.value).startswith(str(path))


def test_ids_beyond_the_map_around_them(tmp_path, save):
    content = save("IDMap,OPQ4,IVF1,PQ4x4").read_bytes()
    # The list's own ids stand before the map's, a count between them.
    at = len(content) - 8 * DOCS - 8 - 8
    path = patched(tmp_path, content, at, struct.pack("<q", DOCS))
    with pytest.raises(InputError, match="ids beyond the map around them; expected 0"):
        read_faiss(path)
