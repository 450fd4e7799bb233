"""Training query tower and centroids together, on the scores that the index gives.

Zhan et al. 2021, "Jointly Optimizing Query Encoder and Product Quantization", section
3: the loss is computed from the codes' own scores (3.2), moves centroids but no code
(3.3), and its negatives are what a search of the current index finds (3.4).

A batch has the tokens of queries and the rows of documents; no document is read.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxir.errors import InputError
from jaxir.numerics import INVALID_ID, masked_mean
from jaxir.pq.codec import Codec, tables
from jaxir.pq.gather import chosen_codes, chosen_scores
from jaxir.pq.losses import list_contrast, rank_weights, weighted_pairs
from jaxir.pq.model import JpqConfig, init_params, query_vectors, searching_codec
from jaxir.pq.score import make_queries, multiplies
from jaxir.pq.search import exhaustive_search
from jaxir.types import Metrics, Params, RankBatch, Task, TokenBatch

__all__ = [
    "JpqLoss",
    "RankedLists",
    "given_lists",
    "live_lists",
    "live_search",
    "make_task",
]

_CHOICES = {
    "negatives": ("live", "given"),
    "loss": ("lambdarank", "contrastive"),
    "scores": ("codes", "vectors"),
}


@dataclasses.dataclass(frozen=True)
class JpqLoss:
    """What is learned from; the defaults are the paper's for passages.

    The rungs of the paper's Figure 7: ``scores="vectors", train_centroids=False`` is
    "+JPQ Neg", ``train_centroids=False`` is "+JPQ Loss", the defaults "+Train PQ".

    Attributes:
      negatives: ``live``, the best that a search of the index as it is in this step
        finds; or ``given``, those of the batch's lists (BM25's, or the first search's).
      loss: ``lambdarank`` (:func:`jaxir.pq.losses.weighted_pairs`) or ``contrastive``
        (:func:`jaxir.pq.losses.list_contrast`).
      num_negatives: documents that a live search finds, relevant ones among them; or
        those that a list gives beside its positive.
      cut: last rank of any weight in LambdaRank: 200 for passages, 10 for documents in
        the released code; None for no cut.
      train_centroids: whether centroids move with the query tower.
      scores: what the loss compares: those of ``codes``, which the index ranks by, or
        of the ``vectors`` that the codes stand for.
      temperature: divides scores; 1 in the paper, for inner products; 0.05 suits
        cosines.

    Raises:
      InputError: an unknown name, or a number out of range.
    """

    negatives: str = "live"
    loss: str = "lambdarank"
    num_negatives: int = 200
    cut: int | None = 200
    train_centroids: bool = True
    scores: str = "codes"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                expected = " or ".join(map(repr, choices))
                raise InputError(f"JpqLoss.{name}", repr(value), expected)
        for name in ("num_negatives", "cut"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"JpqLoss.{name}", str(value), "at least 1")
        if not self.temperature > 0:
            found = str(self.temperature)
            raise InputError("JpqLoss.temperature", found, "a number above 0")
        if self.scores == "vectors" and self.train_centroids:
            raise InputError(
                "JpqLoss.scores", "'vectors' while centroids are trained", "'codes'",
                "set train_centroids=False: vectors say nothing about centroids",
            )  # fmt: skip


class RankedLists(NamedTuple):
    """Positives and negatives of each query, with their ranks in one list.

    Attributes:
      positives: int32 ``[B, P]`` rows; -1 at padding.
      positive_ranks: int32 ``[B, P]``, from 1.
      negatives: int32 ``[B, N]`` rows; -1 at padding.
      negative_ranks: int32 ``[B, N]``, from 1.
      found: bool ``[B, P]``, whether the list had the positive by itself.
    """

    positives: Int[Array, "B P"]
    positive_ranks: Int[Array, "B P"]
    negatives: Int[Array, "B N"]
    negative_ranks: Int[Array, "B N"]
    found: Bool[Array, "B P"]


def live_lists(ranked: Int[Array, "B N"], positives: Int[Array, "B P"]) -> RankedLists:
    """The lists of a search: what it found that is not relevant, and every positive.

    A positive that was found keeps its rank there.  Those that were not come after the
    list, in their own order, at ranks ``N + 1, N + 2, ...``

    Args:
      ranked: documents of a search, best first; -1 where there are no more.
      positives: all that are known of each query; -1 at padding.

    Example::

      >>> lists = live_lists(jnp.array([[7, 3, 5]]), jnp.array([[3, 9, -1]]))
      >>> lists.negatives.tolist(), lists.negative_ranks.tolist()
      ([[7, -1, 5]], [[1, 2, 3]])
      >>> lists.positive_ranks[:, :2].tolist(), lists.found.tolist()
      ([[2, 4]], [[True, False, False]])
    """
    length = ranked.shape[1]
    same = jnp.expand_dims(ranked, 2) == jnp.expand_dims(positives, 1)  # [B, N, P]
    same &= jnp.expand_dims(positives >= 0, 1)
    found = jnp.any(same, axis=1)
    missing = (positives >= 0) & ~found
    after = length + jnp.cumsum(missing.astype(jnp.int32), axis=1)
    ranks = jnp.where(found, jnp.argmax(same, axis=1).astype(jnp.int32) + 1, after)
    places = jnp.arange(1, length + 1, dtype=jnp.int32)
    return RankedLists(
        positives,
        ranks,
        jnp.where(jnp.any(same, axis=2), INVALID_ID, ranked),
        jnp.broadcast_to(places, ranked.shape),
        found,
    )


def given_lists(
    positives: Int[Array, "B P"],
    negatives: Int[Array, "B N"],
    positive_scores: Float[Array, "B P"],
    negative_scores: Float[Array, "B N"],
) -> RankedLists:
    """The lists of a batch, each query's ranked together by the scores of this step.

    Args:
      positives: rows; -1 at padding.
      negatives: rows; -1 at padding.
      positive_scores: theirs; equal ones are ordered by the lower row.
      negative_scores: theirs.

    Example::

      >>> lists = given_lists(
      ...     jnp.array([[4]]), jnp.array([[2, -1]]),
      ...     jnp.array([[1.0]]), jnp.array([[3.0, 9.0]]))
      >>> lists.positive_ranks.tolist(), lists.negative_ranks[:, :1].tolist()
      ([[2]], [[1]])
    """
    docs = jnp.concatenate([positives, negatives], axis=1)
    scores = jnp.concatenate([positive_scores, negative_scores], axis=1)
    mine, other = jnp.expand_dims(scores, 2), jnp.expand_dims(scores, 1)
    lower = jnp.expand_dims(docs, 1) < jnp.expand_dims(docs, 2)
    before = (other > mine) | ((other == mine) & lower)  # [B, P + N, P + N]
    before &= jnp.expand_dims(docs >= 0, 1)
    ranks = 1 + jnp.sum(before, axis=2, dtype=jnp.int32)
    of_positives, of_negatives = jnp.split(ranks, [positives.shape[1]], axis=1)
    return RankedLists(positives, of_positives, negatives, of_negatives, positives >= 0)


def live_search(
    codec: Codec,
    vectors: Float[Array, "B E"],
    codes: UInt8[Array, "P N"],
    k: int,
    *,
    mesh: Mesh | None = None,
) -> Int[Array, "B K"]:
    """Rows of the best documents of each query, -1 where there are no more.

    Args:
      codec: as it is in this step.
      vectors: of queries, not rotated; of a whole batch, or split over the mesh.
      codes: of all documents, ``[M, N]`` or packed ``[M/2, N]``, on every device.
      k: documents.
      mesh: devices, each of which searches for its own queries; None for one device.
    """
    shards = 1 if mesh is None else mesh.shape["data"]
    multiply = multiplies(jax.default_backend(), vectors.shape[0] // shards)

    def search(vectors: Array, codec: Codec, codes: Array) -> Array:
        queries = make_queries(codec, vectors, multiply=multiply)
        return exhaustive_search(queries, codes, k).doc_ids

    if mesh is not None:
        split, whole = PartitionSpec("data"), PartitionSpec()
        search = jax.shard_map(
            search, mesh=mesh, in_specs=(split, whole, whole), out_specs=split,
            check_vma=False,
        )  # fmt: skip
    return search(vectors, codec, codes)


def make_task(
    config: JpqConfig,
    losses: JpqLoss | None = None,
    codes: UInt8[Array, "P N"] | UInt8[np.ndarray, "P N"] | None = None,
    *,
    vectors: Float[Array, "N E"] | np.ndarray | None = None,
    mesh: Mesh | None = None,
) -> Task:
    """The task over :class:`RankBatch` with ``doc=None``.

    Of ``doc_index`` the documents with a label are the query's positives: all that are
    known, since a live search would take others for negatives.  Given negatives stand
    in the last ``num_negatives`` columns.  The loss is the mean over the queries.

    Metrics: ``positive_rank`` (mean over positives), ``reciprocal_rank`` (of each
    query's best positive, 0 where the list did not have it), ``positive_score``,
    ``negative_score``, and with live negatives ``found``, the share of positives that
    the search found.

    Args:
      config: the model.
      losses: what is learned from; the paper's by default.
      codes: of all documents, ``[M, N]``, or packed ``[M/2, N]``: the task's constants.
      vectors: of all documents, for ``scores="vectors"``.
      mesh: devices that the batch is split over; None for one device.

    Raises:
      InputError: no codes, or no vectors of these documents where they are wanted; from
        ``loss``: a batch without queries of their own, or without room for negatives.
    """
    losses = JpqLoss() if losses is None else losses
    if codes is None:
        raise InputError(
            "task", "a JPQ model without the codes of its documents", "those of an "
            "index", "train it with jaxir train --gin_file experiments/jpq_small.gin",
        )  # fmt: skip
    constants: dict[str, Any] = {"codes": codes}
    if losses.scores == "vectors":
        if vectors is None or len(vectors) != codes.shape[1]:
            raise InputError(
                "vectors", "none" if vectors is None else f"{len(vectors):,}",
                f"those of the {codes.shape[1]:,} documents",
                "name the dense index that the codes were made from (VECTORS)",
            )  # fmt: skip
        constants["vectors"] = vectors

    def start(rng: jax.Array, batch: RankBatch | None = None) -> Params:
        del batch  # shapes follow from the configuration
        return init_params(config, rng)

    def loss(
        params: Params, batch: RankBatch, rng: jax.Array | None, constants: Any
    ) -> tuple[Float[Array, ""], Metrics]:
        query, relevant, others = _parts(losses, batch)
        queries = query_vectors(config, params, query, rng=rng)
        codec = jax.lax.stop_gradient(searching_codec(params))
        score = _scorer(losses, config, params, queries, constants)
        if losses.negatives == "given":
            positives, negatives = score(relevant), score(others)
            fixed = jax.lax.stop_gradient((positives, negatives))
            lists = given_lists(relevant, others, *fixed)
        else:
            ranked = live_search(
                codec, jax.lax.stop_gradient(queries), constants["codes"],
                losses.num_negatives, mesh=mesh,
            )  # fmt: skip
            lists = live_lists(ranked, relevant)
            positives, negatives = score(lists.positives), score(lists.negatives)
        total = jnp.mean(_each(losses, lists, positives, negatives))
        return total, _measure(losses, lists, positives, negatives)

    return Task(start, loss, constants)


def _parts(losses: JpqLoss, batch: RankBatch) -> tuple[TokenBatch, Array, Array]:
    """Queries, rows of positives ``[B, P]`` and of given negatives ``[B, N]``."""
    if batch.query is None or batch.doc_index is None:
        raise InputError(
            "batch", "no queries, or no rows of documents", "both",
            'use the pipeline\'s encode="query"',
        )  # fmt: skip
    docs = batch.doc_index
    count = losses.num_negatives if losses.negatives == "given" else 0
    if docs.shape[1] <= count:
        raise InputError(
            "batch", f"{docs.shape[1]} documents of a query", f"more than the {count} "
            "that are negatives", "give the pipeline list_size = num_negatives + 1",
        )  # fmt: skip
    positive = batch.where & (batch.labels > 0)
    negative = batch.where & (batch.labels <= 0)
    first = docs.shape[1] - count
    return (
        batch.query,
        jnp.where(positive, docs, INVALID_ID)[:, :first],
        jnp.where(negative, docs, INVALID_ID)[:, first:],
    )


def _scorer(
    losses: JpqLoss, config: JpqConfig, params: Params, queries: Array, constants: Any
) -> Any:
    """``score(docs [B, K]) -> [B, K]``, differentiable."""
    codec = params["codec"]
    centroids = codec["centroids"]
    if not losses.train_centroids:
        centroids = jax.lax.stop_gradient(centroids)
    codec = Codec(jax.lax.stop_gradient(codec["rotation"]), centroids)

    def by_codes(docs: Int[Array, "B K"]) -> Float[Array, "B K"]:
        chosen = chosen_codes(constants["codes"], docs, config.subvectors)
        return chosen_scores(tables(codec, queries), chosen)

    def by_vectors(docs: Int[Array, "B K"]) -> Float[Array, "B K"]:
        # [N, E] -> [B, K, E]
        chosen = jnp.take(constants["vectors"], jnp.maximum(docs, 0), axis=0)
        chosen = chosen.astype(jnp.float32)
        return jnp.einsum("BE,BKE->BK", queries, chosen, precision="highest")

    return by_codes if losses.scores == "codes" else by_vectors


def _each(
    losses: JpqLoss, lists: RankedLists, positives: Array, negatives: Array
) -> Float[Array, " B"]:
    """The loss of each query."""
    where = {
        "where_positive": lists.positives >= 0,
        "where_negative": lists.negatives >= 0,
    }
    positives, negatives = (x / losses.temperature for x in (positives, negatives))
    if losses.loss == "contrastive":
        return list_contrast(positives, negatives, **where)
    weigh = partial(rank_weights, cut=losses.cut)
    return weighted_pairs(
        positives, negatives, **where,
        positive_weights=weigh(lists.positive_ranks),
        negative_weights=weigh(lists.negative_ranks),
    )  # fmt: skip


def _measure(
    losses: JpqLoss, lists: RankedLists, positives: Array, negatives: Array
) -> Metrics:
    there = lists.positives >= 0
    ranks = lists.positive_ranks.astype(jnp.float32)
    found = jnp.where(lists.found, 1.0 / ranks, 0.0)
    metrics = {
        "positive_rank": masked_mean(ranks, there),
        "reciprocal_rank": jnp.mean(jnp.max(found, axis=1)),
        "positive_score": masked_mean(positives, there),
        "negative_score": masked_mean(negatives, lists.negatives >= 0),
    }
    if losses.negatives == "live":
        metrics["found"] = masked_mean(lists.found.astype(jnp.float32), there)
    return jax.lax.stop_gradient(metrics)
