"""What retrievers are trained by, whatever a query is matched with documents by.

A query is contrasted with documents of the whole batch, and its scores of its own list
imitate a teacher's.  A family encodes the texts and scores them; the terms are here.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxir.errors import InputError
from jaxir.losses import (
    contrastive_loss,
    duplicate_mask,
    kl_distillation_loss,
    margin_mse_loss,
)
from jaxir.nn.chunks import in_chunks
from jaxir.numerics import masked_mean, where_score
from jaxir.types import Metrics, Params, RankBatch, Task, TokenBatch

__all__ = [
    "CANDIDATES",
    "Contrast",
    "RetrievalLoss",
    "encode_batch",
    "own_block",
    "retrieval_loss",
    "retrieval_task",
]

Encode = Callable[[Params, TokenBatch, Any], Any]


class Contrast(NamedTuple):
    """What each query is contrasted with.

    Attributes:
      labels: ``[B, N]`` 1 at the query's positives.
      where: ``[B, N]`` which documents take part.
    """

    labels: Float[Array, "B N"]
    where: Bool[Array, "B N"]


def _own_positives(batch: RankBatch) -> Array:
    """``[B, L]``: the first document of a list, and every other that is judged so."""
    first = jnp.arange(batch.labels.shape[1])[None, :] == 0
    return (first | (batch.labels > 0)) & batch.where


def _every_document(batch: RankBatch) -> Contrast:
    """A query against all documents of all lists of the batch."""
    num_queries = batch.labels.shape[0]
    own = jnp.arange(num_queries)[:, None] == jnp.arange(num_queries)[None, :]
    # [B, L] -> [B, B, L] -> [B, B * L]: each list's positives stand in its own row.
    labels = own[:, :, None] & _own_positives(batch)[None, :, :]
    labels = labels.reshape(num_queries, -1)
    where = batch.where.reshape(1, -1) & jnp.ones((num_queries, 1), dtype=bool)
    if batch.doc_index is not None:
        where = duplicate_mask(batch.doc_index, where=batch.where)
    if batch.known_positive is not None:
        # Also in its own list, where a teacher's scores keep it for distillation.
        where = where & (labels | ~batch.known_positive)
    return Contrast(labels.astype(jnp.float32), where)


def _first_documents(batch: RankBatch) -> Contrast:
    """A query against the first document of every list: its own and the others'."""
    list_size = batch.labels.shape[1]
    return Contrast(*(x[:, ::list_size] for x in _every_document(batch)))


def _own_list(batch: RankBatch) -> Contrast:
    """A query against the documents of its own list only."""
    return Contrast(*(own_block(x) for x in _every_document(batch)))


def _all_negatives(batch: RankBatch) -> Contrast:
    """A query against its own list, and what others' lists have beside positives."""
    labels, where = _every_document(batch)
    theirs = _own_positives(batch).reshape(1, -1) & ~(labels > 0)
    return Contrast(labels, where & ~theirs)


CANDIDATES: Mapping[str, Callable[[RankBatch], Contrast]] = MappingProxyType(
    {
        "all": _every_document,
        "first": _first_documents,
        "negatives": _all_negatives,
        "own": _own_list,
    }
)
"""Which documents a query is contrasted with, by name."""


@dataclasses.dataclass(frozen=True)
class RetrievalLoss:
    """A weighted sum of contrast and distillation; a weight of 0 leaves a term out.

    Attributes:
      contrastive: weight of the contrastive loss.
      margin_mse: weight of the margin-MSE over each query's own list.
      kl: weight of the KL distillation over each query's own list.
      temperature: divides the scores of the contrast; 0.05 suits cosines.
      candidates: what a query is contrasted with: ``all`` documents of the batch,
        the ``first`` document of every list, its own list and the ``negatives`` of
        every other, or its ``own`` list.
      kl_temperature: divides student's and teacher's scores in the KL.
      student_scale: multiplies the student's scores in margin-MSE and KL, for cosines
        do not reach a teacher's logits.
      chunk_size: texts encoded at a time (gradient caching), so that memory does not
        grow with the batch; None encodes the batch at once.  It must divide the
        number of documents; queries are cut as well where it divides them.

    Raises:
      InputError: for no term at all, an unknown name, or a number out of range.
    """

    contrastive: float = 1.0
    margin_mse: float = 0.0
    kl: float = 0.0
    temperature: float = 0.05
    candidates: str = "all"
    kl_temperature: float = 1.0
    student_scale: float = 1.0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        name = type(self).__name__
        if self.candidates not in CANDIDATES:
            expected = "one of " + ", ".join(CANDIDATES)
            raise InputError(f"{name}.candidates", repr(self.candidates), expected)
        weights = (self.contrastive, self.margin_mse, self.kl)
        if min(weights) < 0 or max(weights) == 0:
            found = (
                f"contrastive {weights[0]}, margin_mse {weights[1]}, kl {weights[2]}"
            )
            raise InputError(name, found, "weights >= 0, one of them above 0")
        for field in ("temperature", "kl_temperature", "student_scale"):
            if not getattr(self, field) > 0:
                found = str(getattr(self, field))
                raise InputError(f"{name}.{field}", found, "a number above 0")


def retrieval_loss(
    losses: RetrievalLoss, batch: RankBatch, score: Callable[[str], Array]
) -> tuple[Float[Array, ""], Metrics]:
    """The weighted sum of the terms, and the metrics of a batch.

    Equation, over scores ``s`` and teacher's scores ``t``::

      l = contrastive * InfoNCE(s / temperature)
          + margin_mse * MarginMSE(student_scale * s, t)
          + kl * KL(student_scale * s, t)

    with the losses of :mod:`jaxir.losses`: the first over the ``candidates``, the
    others over each query's own list.

    Source: Killingback et al. 2025, "Hypencoder", section 4.2.1, whose loss is
    ``contrastive=1, margin_mse=1, temperature=1, candidates="first"``.

    Metrics: ``accuracy`` (queries whose best candidate is a positive),
    ``positive_score``, ``negative_score`` (mean scores over the candidates), and each
    term of the loss under its name.

    Args:
      losses: the terms.
      batch: lists ``[B, L]``; of its texts nothing is read.
      score: ``score("own")`` gives the scores ``[B, L]`` of each query's list,
        ``score("first")`` those ``[B, B]`` of the first document of every list,
        ``score("all")`` and ``score("negatives")`` those ``[B, B * L]`` of every
        document.  Only what is needed is asked for.

    Raises:
      InputError: distillation without teacher scores.

    Example::

      >>> tokens = TokenBatch(jnp.ones((2, 1), jnp.int32), jnp.ones((2, 1), bool))
      >>> labels, where = jnp.array([[1.0, 0.0]] * 2), jnp.ones((2, 2), bool)
      >>> batch = RankBatch(tokens, tokens, labels, where)
      >>> losses = RetrievalLoss(temperature=1.0, candidates="first")
      >>> total, _ = retrieval_loss(losses, batch, lambda name: jnp.zeros((2, 2)))
      >>> round(float(total), 4)  # log 2
      0.6931
    """
    scores = score(losses.candidates)
    contrast = CANDIDATES[losses.candidates](batch)
    terms = {}
    if losses.contrastive:
        terms["contrastive"] = losses.contrastive * contrastive_loss(
            scores / losses.temperature, contrast.labels, where=contrast.where
        )
    if losses.margin_mse or losses.kl:
        teacher = _teacher_scores(batch)
        whole = losses.candidates in ("all", "negatives")
        own = own_block(scores) if whole else score("own")
        own = losses.student_scale * own
    if losses.margin_mse:
        terms["margin_mse"] = losses.margin_mse * margin_mse_loss(
            own, teacher, where=batch.where
        )
    if losses.kl:
        terms["kl"] = losses.kl * kl_distillation_loss(
            own, teacher, where=batch.where, temperature=losses.kl_temperature
        )
    total = sum(terms.values(), start=jnp.zeros(()))
    return total, jax.lax.stop_gradient(_measure(scores, contrast) | terms)


def retrieval_task(
    losses: RetrievalLoss,
    *,
    init: Callable[[jax.Array], Params],
    encode_query: Callable[..., Any],
    encode_doc: Callable[..., Any],
    match: Callable[[Any, Array], Array],
    match_own: Callable[[Any, Array], Array],
) -> Task:
    """The task of a retriever over :class:`RankBatch` with separate texts.

    Under a data-parallel mesh the batch is the global one: a query is contrasted with
    documents of every device.  A document that is a known positive of the query takes
    no part except as a positive of its own list, nor does one that another list brings
    and that stands in its own list.

    Args:
      losses: the terms; metrics as in :func:`retrieval_loss`.
      init: ``init(rng) -> params``.
      encode_query: ``encode_query(params, tokens, rng=key)`` of texts ``[B, T]`` gives
        a pytree whose arrays have the batch as first axis.
      encode_doc: ``encode_doc(params, tokens, rng=key) -> [B, E]``.
      match: ``match(queries, docs) -> [B, N]``: scores of every query with each of the
        documents ``[N, E]``.
      match_own: ``match_own(queries, docs) -> [B, L]``: scores of each query with its
        own documents ``[B, L, E]``.

    Raises:
      InputError: from ``loss``: a batch of joint texts, or distillation without
        teacher scores.
    """

    def start(rng: jax.Array, batch: RankBatch | None = None) -> Params:
        del batch  # shapes follow from the configuration
        return init(rng)

    def loss(
        params: Params, batch: RankBatch, rng: jax.Array | None
    ) -> tuple[Float[Array, ""], Metrics]:
        queries, docs = encode_batch(
            losses,
            batch,
            lambda params, tokens, key: encode_query(params, tokens, rng=key),
            lambda params, tokens, key: encode_doc(params, tokens, rng=key),
            params,
            rng,
        )

        def score(candidates: str) -> Array:
            if candidates == "own":
                return match_own(queries, docs)
            chosen = docs[:, :1] if candidates == "first" else docs
            # [B, n, E] -> [B * n, E]
            return match(queries, chosen.reshape(-1, docs.shape[-1]))

        return retrieval_loss(losses, batch, score)

    return Task(start, loss)


def encode_batch(
    losses: RetrievalLoss,
    batch: RankBatch,
    encode_query: Encode,
    encode_doc: Encode,
    params: Params,
    rng: jax.Array | None,
) -> tuple[Any, Float[Array, "B L E"]]:
    """What the queries of a batch become, and the vectors of its documents.

    Args:
      losses: says in ``chunk_size`` how many texts are encoded at a time.
      batch: separate texts of queries ``[B, T]`` and documents ``[B, L, T]``.
      encode_query: ``encode_query(params, tokens, rng)`` of texts ``[B, T]`` gives a
        pytree whose arrays have the batch as first axis.
      encode_doc: ``encode_doc(params, tokens, rng) -> [B, E]``.
      params: of both.
      rng: draws dropout when given.

    Raises:
      InputError: a batch of joint texts, or a chunk that does not divide the documents.
    """
    if batch.query is None:
        raise InputError(
            "batch",
            "joint texts of query and document",
            "separate texts",
            'use the pipeline\'s encode="separate" for a retriever',
        )
    query_rng, doc_rng = (None, None) if rng is None else jax.random.split(rng)
    # [B, L, T] -> [B * L, T]
    docs = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.doc)
    size = losses.chunk_size
    if size is not None:
        encode_doc = in_chunks(encode_doc, size)
        if batch.query.ids.shape[0] % size == 0:
            encode_query = in_chunks(encode_query, size)
    queries = encode_query(params, batch.query, query_rng)
    vectors = encode_doc(params, docs, doc_rng)
    # [B * L, E] -> [B, L, E]
    return queries, vectors.reshape(*batch.labels.shape, -1)


def own_block(values: Array) -> Array:
    """``[B, B * L] -> [B, L]``: each query with its own list.

    Example::

      >>> own_block(jnp.arange(8).reshape(2, 4)).tolist()
      [[0, 1], [6, 7]]
    """
    num_queries = values.shape[0]
    cube = values.reshape(num_queries, num_queries, -1)
    return jnp.swapaxes(jnp.diagonal(cube), 0, 1)  # [L, B] -> [B, L]


def _teacher_scores(batch: RankBatch) -> Array:
    """The teacher's scores ``[B, L]``, which must be there."""
    if batch.teacher_scores is None:
        raise InputError(
            "batch",
            "no teacher scores for margin-MSE or KL distillation",
            "a score at every item of the training lists",
            "make them with `jaxir label`, or train with the contrastive term alone",
        )
    return batch.teacher_scores


def _measure(scores: Array, contrast: Contrast) -> Metrics:
    """How well the candidates are told apart."""
    positive = (contrast.labels > 0) & contrast.where
    negative = contrast.where & ~positive
    best = jnp.argmax(where_score(scores, contrast.where), axis=-1)
    right = jnp.take_along_axis(positive, best[:, None], axis=-1)[:, 0]
    return {
        "accuracy": masked_mean(right.astype(jnp.float32), jnp.any(positive, axis=-1)),
        "positive_score": masked_mean(scores, positive),
        "negative_score": masked_mean(scores, negative),
    }
