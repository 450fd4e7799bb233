"""Codes searched by Faiss: ``IndexPQ`` for 8 bits, ``IndexPQFastScan`` for 4.

Nothing is encoded again: Faiss is given the centroids and the codes as they are, and
rotated query vectors.

``IndexPQFastScan`` keeps tables in the processor's registers (Andre et al. 2015, "Cache
Locality Is Not Enough"), for which it rounds their entries to 8 bits.  Its scores are
approximate and a document near the ``k``-th place may be missed.  With ``rescore=4`` it
finds ``4 k`` documents, they are scored again exactly, and the ``k`` best stay.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from jaxir.errors import InputError
from jaxir.pq.codec import Codec, pack, unpack
from jaxir.types import Ranking

__all__ = ["faiss_index", "faiss_search"]

_BLOCK_ROWS = 65_536

_ENTRIES = 1 << 20
"""Entries of tables that are looked up together, 16 MB with their places."""


def faiss_index(codec: Codec, codes: UInt8[np.ndarray, "P N"]) -> Any:
    """A ``faiss.IndexPQ`` by inner product over rotated vectors, with these codes.

    Args:
      codec: the centroids are its, the rotation is left to the caller.
      codes: ``[M, N]``, or packed ``[M/2, N]`` of 4 bits.
    """
    import faiss

    spec, (num_rows, num_docs) = codec.spec, codes.shape
    index = faiss.IndexPQ(
        spec.width, spec.subvectors, spec.bits, faiss.METRIC_INNER_PRODUCT
    )
    centroids = np.ascontiguousarray(codec.centroids, np.float32).ravel()
    faiss.copy_array_to_vector(centroids, index.pq.centroids)
    index.is_trained = True
    index.codes.resize(num_docs * spec.doc_bytes)
    if num_docs:
        # Written where Faiss keeps them, block by block: no second copy.
        place = faiss.rev_swig_ptr(index.codes.data(), num_docs * spec.doc_bytes)
        place = place.reshape(num_docs, spec.doc_bytes)
        for start in range(0, num_docs, _BLOCK_ROWS):
            block = np.asarray(codes[:, start : start + _BLOCK_ROWS])
            if num_rows != spec.doc_bytes:
                block = pack(block)
            place[start : start + _BLOCK_ROWS] = block.T
    index.ntotal = num_docs
    return index


def faiss_search(
    codec: Codec, codes: UInt8[np.ndarray, "P N"], *, rescore: int = 0
) -> Callable[[np.ndarray, int, Sequence[Any]], Ranking]:
    """A search of query vectors, not rotated, by Faiss.

    Args:
      codec: it is searched with.
      codes: ``[M, N]``, or packed ``[M/2, N]``; plain or memory-mapped.
      rescore: of codes of 4 bits: how many times ``k`` candidates are scored exactly;
        0 for Faiss's own scores.

    Returns:
      ``search(vectors [B, E], k, names=())``: rows and float32 scores ``[B, k]``, equal
      scores by the lower row; which of the documents that tie with the ``k``-th are
      found is Faiss's choice.

    Raises:
      InputError: a negative ``rescore``, or one for codes of 8 bits.
    """
    import faiss

    codec = jax.device_get(codec)
    four, num_docs = codec.spec.bits == 4, codes.shape[1]
    if rescore < 0:
        raise InputError("rescore", str(rescore), "0 or more")
    if rescore and not four:
        expected = "0, as their scores are exact"
        raise InputError("rescore", f"{rescore} for codes of 8 bits", expected)
    index, to_parts = faiss_index(codec, codes), np.asarray(codec.rotation).T
    if four:
        index = faiss.IndexPQFastScan(index)

    def search(vectors: np.ndarray, k: int, names: Sequence[Any] = ()) -> Ranking:
        wanted = min(k * max(rescore, 1), num_docs)
        if not (wanted and len(vectors)):
            nothing = np.zeros((len(vectors), 0), np.float32)
            return _best(nothing, nothing, k)
        rotated = np.ascontiguousarray(vectors @ to_parts)
        scores, rows = index.search(rotated, wanted)
        missing = rows.min() < 0
        if not (rescore or missing or wanted < k):
            return _ties_in_order(scores, rows)
        if rescore or (four and missing):
            _fill(rows)
            scores = _exact(codec, codes, rotated, rows)
        return _best(scores, rows, k)

    return search


def _fill(rows: np.ndarray) -> None:
    """Puts documents where fewer were found than there are.

    Fast scan leaves out those whose rounded score is the least that there can be (all
    of them for a query of zeros): as they are equal to it, the lower rows are taken.
    """
    for query in np.flatnonzero((rows < 0).any(axis=1)):
        missing = rows[query] < 0
        others = np.setdiff1d(np.arange(rows.shape[1]), rows[query])
        rows[query, missing] = others[: missing.sum()]


def _exact(
    codec: Codec, codes: np.ndarray, rotated: np.ndarray, rows: np.ndarray
) -> Float[np.ndarray, "B K"]:
    """Scores of a few documents for each query by the codec's own tables."""
    num_parts, count, width = codec.centroids.shape
    scores = np.empty(rows.shape, np.float32)
    step = max(1, _ENTRIES // (num_parts * max(1, rows.shape[1])))
    for start in range(0, len(rows), step):
        few = rows[start : start + step]
        found = codes[:, few.ravel()]
        if len(codes) != num_parts:
            found = np.asarray(unpack(found))
        parts = rotated[start : start + step].reshape(len(few), num_parts, width)
        # [M, b, W] x [M, W, C] -> [M, b, C], of which an entry for each part and row
        tables = parts.swapaxes(0, 1) @ codec.centroids.swapaxes(1, 2)
        first = count * np.arange(num_parts * len(few)).reshape(num_parts, -1, 1)
        entries = first + found.reshape(num_parts, *few.shape)
        scores[start : start + step] = tables.take(entries).sum(axis=0)
    return scores


def _best(scores: np.ndarray, rows: np.ndarray, k: int) -> Ranking:
    """The ``k`` best, ties by the lower row, missing ones with id -1 and -inf."""
    found = np.full((len(scores), k), -1, np.int32)
    best = np.full((len(scores), k), -np.inf, np.float32)
    scores = np.where(rows < 0, -np.inf, scores)
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    kept = order.shape[1]
    best[:, :kept] = np.take_along_axis(scores, order, axis=1)
    found[:, :kept] = np.take_along_axis(rows, order, axis=1)
    found[best == -np.inf] = -1
    return Ranking(found, best)


def _ties_in_order(scores: np.ndarray, rows: np.ndarray) -> Ranking:
    """What Faiss found, equal scores by the lower row; without sorting scores again."""
    group = np.zeros(rows.shape, np.int64)
    np.cumsum(scores[:, 1:] != scores[:, :-1], axis=1, out=group[:, 1:])
    key = (group << 32) | rows
    key.sort(axis=1)
    return Ranking(key.astype(np.int32), scores)  # the low half
