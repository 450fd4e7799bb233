"""The codec's functions against loops over documents and parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.pq.codec import (
    Codec,
    CodecSpec,
    check_codes,
    decode,
    lookup,
    pack,
    quantize,
    reconstruct,
    rotate,
    tables,
    unpack,
)


def random_codec(seed=0, width=12, subvectors=4, bits=4):
    spec = CodecSpec(width, subvectors, bits)
    draw = np.random.default_rng(seed)
    rotation = np.linalg.qr(draw.normal(size=(width, width)))[0].astype(np.float32)
    centroids = draw.normal(size=spec.shape).astype(np.float32)
    return Codec(jnp.asarray(rotation), jnp.asarray(centroids))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
def test_against_loops(bits):
    codec, docs, queries = random_codec(bits=bits), normal(1, 30, 12), normal(2, 5, 12)
    rotation, centroids = map(np.asarray, codec)
    assert codec.spec == CodecSpec(12, 4, bits)
    turned = np.stack([rotation @ doc for doc in docs])
    np.testing.assert_allclose(rotate(codec, jnp.asarray(docs)), turned, atol=1e-5)
    codes = np.zeros((30, 4), np.uint8)
    decoded = np.zeros((30, 12), np.float32)
    for n, doc in enumerate(turned.astype(np.float64)):
        for m in range(4):
            part = doc[3 * m : 3 * m + 3]
            codes[n, m] = np.argmin(((part - centroids[m]) ** 2).sum(1))
            decoded[n, 3 * m : 3 * m + 3] = centroids[m, codes[n, m]]
    np.testing.assert_array_equal(quantize(codec, jnp.asarray(docs)), codes)
    np.testing.assert_array_equal(decode(codec, jnp.asarray(codes)), decoded)
    whole = np.stack([rotation.T @ doc for doc in decoded])
    found = reconstruct(codec, jnp.asarray(codes))
    np.testing.assert_allclose(found, whole, atol=1e-5)
    table = np.zeros((5, 4, 2**bits), np.float32)
    scores = np.zeros((5, 30), np.float32)
    for b, query in enumerate(queries):
        parts = (rotation @ query).reshape(4, 3)
        for m in range(4):
            for c in range(2**bits):
                table[b, m, c] = parts[m] @ centroids[m, c]
        for n in range(30):
            scores[b, n] = sum(table[b, m, codes[n, m]] for m in range(4))
    found = tables(codec, jnp.asarray(queries))
    np.testing.assert_allclose(found, table, atol=1e-5)
    found = jax.jit(lookup)(found, jnp.asarray(codes.T))
    np.testing.assert_allclose(found, scores, atol=1e-5)
    # the scores that a search in codes promises: those of what the codes stand for
    np.testing.assert_allclose(found, queries @ whole.T, atol=1e-5)


def test_of_equally_near_centroids_the_first_one():
    centroids = jnp.zeros((1, 16, 2)).at[0, 3:].set(1.0)
    codec = Codec(jnp.eye(2), centroids)
    vectors = jnp.array([[0.0, 0.0], [1.0, 1.0], [0.1, 0.2]])
    assert quantize(codec, vectors).tolist() == [[0], [3], [0]]


def test_tables_and_lookups_have_gradients():
    """That of a centroid is the sum of its documents', as training needs it."""
    codec, queries = random_codec(), jnp.asarray(normal(2, 3, 12))
    codes = quantize(codec, jnp.asarray(normal(1, 7, 12)))
    weights = jnp.asarray(normal(3, 3, 7))

    def by_table(codec):
        return jnp.sum(weights * lookup(tables(codec, queries), codes.T))

    def by_vector(codec):
        return jnp.sum(weights * (queries @ reconstruct(codec, codes).T))

    found, expected = jax.grad(by_table)(codec), jax.grad(by_vector)(codec)
    np.testing.assert_allclose(found.centroids, expected.centroids, atol=1e-4)
    np.testing.assert_allclose(found.rotation, expected.rotation, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_two_codes_share_a_byte(count):
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 16, (6, count)).astype(np.uint8)
    packed = pack(codes)
    assert (packed.shape, packed.dtype) == ((3, count), np.uint8)
    for row in range(3):
        low, high = codes[2 * row], codes[2 * row + 1]
        np.testing.assert_array_equal(packed[row], low + 16 * high)
    np.testing.assert_array_equal(unpack(packed), codes)
    np.testing.assert_array_equal(unpack(jnp.asarray(packed)), codes)


def test_shapes():
    spec = CodecSpec(768, 96)
    assert (spec.centroids, spec.part_width, spec.doc_bytes) == (256, 8, 96)
    assert CodecSpec(768, 192, 4).doc_bytes == 96
    assert CodecSpec(768, 192, 4).shape == (192, 16, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((12, 4, 6), "bits: 6; expected 8 or 4"),
        ((12, 5), "5 parts of vectors of width 12; expected a divisor of 12"),
        ((12, 0), "0 parts of vectors of width 12"),
        ((12, 3, 4), "3 parts of 4 bits; expected an even number: two codes share"),
    ],
)
def test_mistaken_shapes(values, message):
    with pytest.raises(InputError, match=message):
        CodecSpec(*values)


def test_codes_from_elsewhere():
    small, large = CodecSpec(12, 4, 4), CodecSpec(12, 4)
    codes = np.zeros((4, 9), np.uint8)
    check_codes(codes, small, "file")
    check_codes(codes[:, :0], small, "file")
    check_codes(codes + np.uint8(255), large, "file")
    codes[2, 5] = 16
    with pytest.raises(InputError, match=r"file: code 16 of part 2, document 5; .*16"):
        check_codes(codes, small, "file")
    with pytest.raises(InputError, match=r"codes of uint8 \[3, 9\]; expected uint8 \["):
        check_codes(codes[:3], small, "file")
