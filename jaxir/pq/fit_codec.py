"""Codecs from vectors: Faiss finds rotation and centroids, JAX assigns the codes.

Both minimise ``sum |x - x'|^2`` over training vectors ``x`` and what their codes stand
for, ``x'``: product quantization by k-means in every part (Jegou et al. 2011, section
2), optimized product quantization by turns with the rotation (Ge et al. 2013, section
3.1, the non-parametric solution).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, UInt8

from jaxir.errors import InputError
from jaxir.mesh import batch_sharding, make_mesh, num_shards, replicated
from jaxir.pq.codec import Codec, CodecSpec, quantize, reconstruct
from jaxir.progress import progress_bar
from jaxir.vectors import host_blocks, row_of_shards

__all__ = [
    "ROTATIONS",
    "CodecStats",
    "check_training_size",
    "fit_codec",
    "quantize_shards",
    "sample_vectors",
    "statistics",
]

ROTATIONS = ("opq", "none")
"""What turns vectors before they are cut: a trained rotation, or nothing."""

_CELLS = 1 << 23
"""Distances ``[N, M, C]`` of a block on one device: 32 MB."""

Shards = np.ndarray | Sequence[np.ndarray]


class CodecStats(NamedTuple):
    """How well a codec does on vectors.

    Attributes:
      relative_error: ``sum |x - x'|^2 / sum |x|^2``.
      entropy: bits ``[M]`` of each part's codes; all ``bits`` where centroids are used
        equally.
      unused: centroids ``[M]`` of each part that stand for no vector.
    """

    relative_error: float
    entropy: np.ndarray
    unused: np.ndarray


def check_training_size(count: int, spec: CodecSpec) -> None:
    """Checks that there is a training vector for every centroid.

    Raises:
      InputError: there are fewer.
    """
    if count < spec.centroids:
        raise InputError(
            "codec", f"{count} training vectors for {spec.centroids} centroids",
            f"at least {spec.centroids}",
            "take more documents or a larger --train_size"
            + ", or --bits 4" * (spec.bits == 8),
        )  # fmt: skip


def fit_codec(
    vectors: Float[np.ndarray, "N E"],
    spec: CodecSpec,
    *,
    rotation: str = "opq",
    seed: int = 0,
    iterations: int = 50,
) -> Codec:
    """Trains a codec with Faiss: ``OPQMatrix`` and ``ProductQuantizer``.

    The same vectors, seed, number of threads and Faiss give the same codec.

    Args:
      vectors: for training, ``[N, E]``; all of them are used.
      spec: the shape wanted.
      rotation: ``"opq"``, or ``"none"`` for plain product quantization.
      seed: of k-means.
      iterations: turns of the rotation and the centroids.

    Raises:
      InputError: an unknown rotation, a negative seed, vectors of another width, fewer
        of them than centroids, or one that is not finite.

    Example::

      >>> vectors = np.random.default_rng(0).normal(size=(99, 8)).astype(np.float32)
      >>> codec = fit_codec(vectors, CodecSpec(8, subvectors=2, bits=4), iterations=5)
      >>> codec.rotation.shape, codec.centroids.shape
      ((8, 8), (2, 16, 4))
    """
    import faiss

    if rotation not in ROTATIONS:
        raise InputError("rotation", repr(rotation), " or ".join(ROTATIONS))
    for name, value, least in (("seed", seed, 0), ("iterations", iterations, 1)):
        if not least <= value < 2**31:
            raise InputError(name, str(value), f"{least} or more, of 31 bits")
    if vectors.shape[1] != spec.width:
        raise InputError(
            "vectors", f"of width {vectors.shape[1]}", f"width {spec.width}"
        )
    check_training_size(len(vectors), spec)
    turned = np.ascontiguousarray(vectors, np.float32)
    _check_finite([vectors], turned, 0)
    matrix = np.eye(spec.width, dtype=np.float32)
    if rotation == "opq":
        opq = faiss.OPQMatrix(spec.width, spec.subvectors)
        # Faiss writes [width, width] numbers where it has room for [N, width]: of fewer
        # vectors it gets whole copies, which change neither centroids nor rotation.
        enough = np.tile(turned, (-(-spec.width // len(turned)), 1))
        trained = _quantizer(spec, len(enough), seed)
        opq.pq = trained  # Faiss keeps a bare pointer: `trained` must outlive the call
        opq.niter, opq.max_train_points = iterations, len(enough)
        opq.train(enough)
        matrix = faiss.vector_to_array(opq.A).reshape(matrix.shape)
        turned = opq.apply(turned)
    # Trained anew: OPQ's own centroids are those of the rotation before its last.
    quantizer = _quantizer(spec, len(vectors), seed)
    quantizer.train(turned)
    centroids = faiss.vector_to_array(quantizer.centroids).reshape(spec.shape)
    return Codec(jnp.asarray(matrix), jnp.asarray(centroids))


def _quantizer(spec: CodecSpec, count: int, seed: int) -> Any:
    """A Faiss quantizer that takes every vector and warns of nothing."""
    import faiss

    quantizer = faiss.ProductQuantizer(spec.width, spec.subvectors, spec.bits)
    quantizer.cp.seed = seed
    quantizer.cp.min_points_per_centroid = 1
    quantizer.cp.max_points_per_centroid = count
    return quantizer


def sample_vectors(shards: Shards, size: int, seed: int) -> Float32[np.ndarray, "N E"]:
    """Vectors drawn without repetition, in the order of their rows.

    Args:
      shards: ``[rows, E]`` in order, plain or memory-mapped.
      size: vectors; all of them if there are no more.
      seed: of the draw.

    Raises:
      InputError: one that was drawn is not finite.

    Example::

      >>> sample_vectors(np.arange(8.0).reshape(4, 2), 9, seed=0).shape
      (4, 2)
    """
    parts = _parts(shards)
    count = sum(map(len, parts))
    rows = np.arange(count)
    if size < count:
        draw = np.random.default_rng(seed)
        rows = np.sort(draw.choice(count, size, replace=False))
    out = np.empty((len(rows), parts[0].shape[1]), np.float32)
    first = 0
    for part in parts:
        start, stop = np.searchsorted(rows, (first, first + len(part)))
        out[start:stop] = part[rows[start:stop] - first]
        first += len(part)
    _check_finite(parts, out, rows)
    return out


def quantize_shards(
    codec: Codec,
    shards: Shards,
    out: UInt8[np.ndarray, "M N"],
    *,
    mesh: Mesh | None = None,
) -> None:
    """Codes of a corpus, block by block: only the codes need room for all of it.

    Args:
      codec: rotation and centroids.
      shards: ``[rows, E]`` in order, plain or memory-mapped.
      out: takes the codes ``[M, N]``, one byte each; a memory-mapped file, say.
      mesh: devices that share each block; by default all of this process.

    Raises:
      InputError: a vector that is not finite, or ``out`` of another shape.

    Example::

      >>> codec = Codec(jnp.eye(2), jnp.array([[[0.0], [1.0]], [[2.0], [3.0]]]))
      >>> codes = np.zeros((2, 3), np.uint8)
      >>> quantize_shards(codec, np.array([[0.9, 2.1], [0.1, 2.8], [0, 2]]), codes)
      >>> codes.tolist()
      [[1, 0, 0], [0, 1, 0]]
    """
    parts, mesh = _parts(shards), mesh or make_mesh()
    subvectors, centroids, _ = codec.centroids.shape
    if out.shape != (subvectors, sum(map(len, parts))):
        raise InputError(
            "out", f"of shape {list(out.shape)}",
            f"[{subvectors}, {sum(map(len, parts))}]",
        )  # fmt: skip
    devices = num_shards(mesh)
    rows = max(1, _CELLS // (subvectors * centroids))
    rows = devices * min(rows, -(-max(map(len, parts)) // devices))
    codec = jax.device_put(codec, replicated(mesh))
    with progress_bar(total=out.shape[1], label="quantize", unit="doc") as bar:
        for block in host_blocks(parts, rows):
            new = slice(block.valid_from, block.valid_to)
            vectors = np.asarray(block.vectors, np.float32)
            start = block.first_row + block.valid_from
            _check_finite(parts, vectors[new], start)
            placed = jax.device_put(vectors, batch_sharding(mesh))
            codes = np.asarray(_quantize(codec, placed))[new]
            out[:, start : start + len(codes)] = codes.T
            bar.update(len(codes))


_quantize = jax.jit(quantize)


def statistics(
    codec: Codec, vectors: Float[np.ndarray, "N E"], *, mesh: Mesh | None = None
) -> CodecStats:
    """How well a codec does on vectors.

    Args:
      codec: rotation and centroids.
      vectors: ``[N, E]``, a sample of a corpus.
      mesh: devices that quantize them; by default all of this process.

    Raises:
      InputError: no vectors, or one that is not finite.

    Example::

      >>> codec = Codec(jnp.eye(2), jnp.array([[[0.0], [1.0]], [[2.0], [3.0]]]))
      >>> stats = statistics(codec, np.array([[0.0, 2.0], [1.0, 2.0]], np.float32))
      >>> stats.relative_error, stats.entropy.tolist(), stats.unused.tolist()
      (0.0, [1.0, 0.0], [0, 1])
    """
    if not len(vectors):
        raise InputError("vectors", "none", "at least one")
    subvectors, centroids, _ = codec.centroids.shape
    codes = np.empty((subvectors, len(vectors)), np.uint8)
    quantize_shards(codec, vectors, codes, mesh=mesh)
    counts = np.stack([np.bincount(row, minlength=centroids) for row in codes])
    shares = counts / len(vectors)
    logs = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
    error = total = 0.0
    for start in range(0, len(vectors), 4096):
        block = np.asarray(vectors[start : start + 4096], np.float32)
        error += float(_squared_error(codec, codes[:, start : start + 4096].T, block))
        total += float(np.sum(np.square(block, dtype=np.float64)))
    relative = error / total if total else 0.0
    return CodecStats(relative, 0 - (shares * logs).sum(1), (counts == 0).sum(1))


@jax.jit
def _squared_error(
    codec: Codec, codes: UInt8[Array, "N M"], vectors: Float[Array, "N E"]
) -> Float[Array, ""]:
    return jnp.sum((reconstruct(codec, codes) - vectors) ** 2)


def _parts(shards: Shards) -> list[np.ndarray]:
    return [shards] if isinstance(shards, np.ndarray) else list(shards)


def _check_finite(
    shards: Sequence[np.ndarray], vectors: np.ndarray, rows: np.ndarray | int
) -> None:
    """Names the row of the first vector that is not finite.

    Args:
      shards: where the vectors are from.
      vectors: some of them.
      rows: of each in the shards together, or of the first, the others following.
    """
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        at = int(np.argmin(finite))
        row = rows + at if isinstance(rows, int) else int(rows[at])
        raise InputError(
            row_of_shards(shards, row)[0], "NaN or infinity", "finite numbers",
            "encode the documents again",
        )  # fmt: skip
