"""Training of codecs, codes of a corpus, figures: against Faiss and loops."""

import faiss
import jax
import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.mesh import make_mesh
from jaxir.pq import fit_codec as module
from jaxir.pq.codec import CodecSpec, reconstruct
from jaxir.pq.fit_codec import (
    fit_codec,
    quantize_shards,
    sample_vectors,
    statistics,
)


@pytest.fixture(scope="module")
def vectors():
    """Of dependent dimensions, so that a rotation has something to gain."""
    draw = np.random.default_rng(0)
    mixed = draw.normal(size=(400, 16)) * np.linspace(3, 0.1, 16)
    return (mixed @ np.linalg.qr(draw.normal(size=(16, 16)))[0]).astype(np.float32)


CASES = [(bits, rotation) for bits in (8, 4) for rotation in ("opq", "none")]


@pytest.fixture(scope="module")
def codecs(vectors):
    return {
        (bits, rotation): fit_codec(
            vectors, CodecSpec(16, 4, bits), rotation=rotation, iterations=10
        )
        for bits, rotation in CASES
    }


def faiss_codes(codec, vectors):
    """As an index of Faiss makes them: ``[N, M]``."""
    spec = codec.spec
    quantizer = faiss.ProductQuantizer(spec.width, spec.subvectors, spec.bits)
    faiss.copy_array_to_vector(np.asarray(codec.centroids).ravel(), quantizer.centroids)
    turn = faiss.LinearTransform(spec.width, spec.width, False)
    faiss.copy_array_to_vector(np.asarray(codec.rotation).ravel(), turn.A)
    turn.is_trained = True
    codes = quantizer.compute_codes(turn.apply(vectors))
    if spec.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1)
    return codes


@pytest.mark.parametrize("case", CASES)
def test_codes_are_those_of_faiss(case, codecs, vectors):
    codec = codecs[case]
    assert codec.spec == CodecSpec(16, 4, case[0])
    turn = np.asarray(codec.rotation)
    np.testing.assert_allclose(turn @ turn.T, np.eye(16), atol=1e-5)
    if case[1] == "none":
        np.testing.assert_array_equal(turn, np.eye(16))
    codes = np.empty((4, 400), np.uint8)
    quantize_shards(codec, vectors, codes)
    expected = faiss_codes(codec, vectors)
    for row, part in zip(*np.nonzero(expected != codes.T), strict=True):
        # equally near, but for the last digits
        both = [codes[part, row], expected[row, part]]
        block = slice(4 * part, 4 * part + 4)
        near = np.asarray(codec.centroids)[part, both] - (turn @ vectors[row])[block]
        distances = (near**2).sum(1)
        assert distances[0] == pytest.approx(distances[1], rel=1e-4)
    assert np.mean(expected != codes.T) < 0.01


def test_fewer_vectors_than_numbers_of_one(vectors, monkeypatch):
    """Given as they are, Faiss's rotation would write beyond its memory."""
    rows, train = [], faiss.OPQMatrix.train

    def seen(matrix, given):
        rows.append(len(given))
        train(matrix, given)

    monkeypatch.setattr(faiss.OPQMatrix, "train", seen)
    wide = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    codec = fit_codec(wide, CodecSpec(64, subvectors=4, bits=4), iterations=3)
    assert rows == [80]
    product = codec.rotation @ codec.rotation.T
    np.testing.assert_allclose(product, np.eye(64), atol=1e-4)
    fit_codec(vectors[:64], CodecSpec(vectors.shape[1], 2, 4), iterations=1)
    assert rows[1:] == [64]  # enough of them are taken as they are


def test_a_codec_is_the_same_again(codecs, vectors):
    """For a seed; and another seed gives another one."""
    spec = CodecSpec(16, 4, 4)
    again = fit_codec(vectors, spec, iterations=10)
    for found, expected in zip(again, codecs[4, "opq"], strict=True):
        np.testing.assert_array_equal(found, expected)
    other = fit_codec(vectors, spec, iterations=10, seed=7)
    assert not np.array_equal(other.centroids, again.centroids)
    half = fit_codec(vectors.astype(np.float16), spec, rotation="none")
    assert half.centroids.dtype == np.float32


def test_centroids_are_means_and_a_rotation_helps(codecs, vectors):
    errors = {case: statistics(codec, vectors).relative_error
              for case, codec in codecs.items()}  # fmt: skip
    assert errors[8, "opq"] < errors[4, "opq"] < errors[4, "none"]
    assert errors[8, "none"] < errors[4, "none"]
    codec = codecs[4, "none"]
    codes = np.empty((4, 400), np.uint8)
    quantize_shards(codec, vectors, codes)
    for part in range(4):
        for centroid in range(16):
            own = vectors[codes[part] == centroid, 4 * part : 4 * part + 4]
            mean = own.mean(0, dtype=np.float64)
            # k-means ends after so many turns, at rest or nearly so
            np.testing.assert_allclose(codec.centroids[part, centroid], mean, atol=0.3)


def test_faiss_warns_of_nothing(vectors, capfd):
    fit_codec(vectors[:256], CodecSpec(16, 2), iterations=2)  # a vector a centroid
    fit_codec(vectors[:257], CodecSpec(16, 2), rotation="none")
    assert capfd.readouterr().err == ""


def test_blocks_and_devices_do_not_matter(codecs, vectors, monkeypatch):
    codec = codecs[8, "opq"]
    whole = np.empty((4, 400), np.uint8)
    quantize_shards(codec, vectors, whole, mesh=make_mesh(1))
    monkeypatch.setattr(module, "_CELLS", 4 * 256 * 10)  # blocks of 10 on each device
    for shards in (
        vectors,
        [vectors[:3], vectors[3:250], vectors[250:]],
        [vectors[:200].copy(), vectors[200:].copy()],
    ):
        for devices in (1, 8):
            out = np.full((4, 400), 255, np.uint8)
            quantize_shards(codec, shards, out, mesh=make_mesh(devices))
            np.testing.assert_array_equal(out, whole)


def test_statistics(codecs, vectors):
    codec = codecs[8, "opq"]
    codes = np.empty((4, 400), np.uint8)
    quantize_shards(codec, vectors, codes)
    stats = statistics(codec, vectors)
    rebuilt = np.asarray(reconstruct(codec, jax.numpy.asarray(codes.T)))
    error = ((rebuilt - vectors) ** 2).sum() / (vectors**2).sum()
    assert stats.relative_error == pytest.approx(error, rel=1e-4)
    for part, row in enumerate(codes):
        counts = np.array([np.sum(row == code) for code in range(256)])
        shares = counts[counts > 0] / 400
        entropy = -(shares * np.log2(shares)).sum()
        assert stats.entropy[part] == pytest.approx(entropy)
        assert stats.unused[part] == np.sum(counts == 0)
    zeros = statistics(codec, np.zeros((3, 16), np.float32))
    assert zeros.relative_error == 0.0  # of nothing there is no share
    with pytest.raises(InputError, match="vectors: none; expected at least one"):
        statistics(codec, vectors[:0])


def test_a_sample():
    rows = np.repeat(np.arange(50, dtype=np.float16)[:, None], 2, axis=1)
    shards = [rows[:7], rows[7:8], rows[8:]]
    found = sample_vectors(shards, 20, seed=3)
    assert found.dtype == np.float32
    drawn = found[:, 0].astype(int).tolist()
    assert len(set(drawn)) == 20
    assert drawn == sorted(drawn)
    np.testing.assert_array_equal(found, sample_vectors(rows, 20, seed=3))
    assert not np.array_equal(found, sample_vectors(rows, 20, seed=4))
    np.testing.assert_array_equal(sample_vectors(shards, 50, seed=3), rows)


def test_vectors_that_are_not_finite(codecs, vectors, tmp_path):
    spec, codec = CodecSpec(16, 4, 4), codecs[4, "none"]
    out = np.empty((4, 400), np.uint8)
    for wrong in (np.nan, np.inf):
        bad = vectors.copy()
        bad[[123, 200], 5] = wrong
        message = "vectors, row 123: NaN or infinity; expected finite numbers"
        with pytest.raises(InputError, match=message):
            fit_codec(bad, spec)
        with pytest.raises(InputError, match=message):
            quantize_shards(codec, bad, out)
        with pytest.raises(InputError, match=message):
            sample_vectors(bad, 400, seed=0)
        with pytest.raises(InputError, match=message):
            statistics(codec, bad)
    np.save(tmp_path / "second.npy", bad[100:])
    shards = [bad[:100], np.load(tmp_path / "second.npy", mmap_mode="r")]
    for check in (
        lambda: sample_vectors(shards, 399, seed=0),
        lambda: quantize_shards(codec, shards, out),
    ):
        with pytest.raises(InputError, match=r"second\.npy, row 23: NaN or infinity"):
            check()


def test_mistakes(codecs, vectors):
    spec = CodecSpec(16, 4)
    message = "255 training vectors for 256 centroids; expected at least 256; .*bits 4"
    with pytest.raises(InputError, match=message):
        fit_codec(vectors[:255], spec)
    with pytest.raises(InputError, match="rotation: 'pca'; expected opq or none"):
        fit_codec(vectors, spec, rotation="pca")
    with pytest.raises(InputError, match="vectors: of width 8; expected width 16"):
        fit_codec(vectors[:, :8], spec)
    with pytest.raises(InputError, match="seed: -1; expected 0 or more"):
        fit_codec(vectors, spec, seed=-1)
    with pytest.raises(InputError, match="iterations: 0; expected 1 or more"):
        fit_codec(vectors, spec, iterations=0)
    with pytest.raises(InputError, match=r"of shape \[4, 399\]; expected \[4, 400\]"):
        quantize_shards(codecs[8, "opq"], vectors, np.empty((4, 399), np.uint8))
