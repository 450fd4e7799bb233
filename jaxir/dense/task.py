"""Training the bi-encoder: contrast within the batch, and imitation of a teacher."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxir.dense.model import DenseConfig, encode_doc, encode_query, init_params
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

__all__ = ["CANDIDATES", "Contrast", "DenseLoss", "make_task"]

Encode = Callable[[Params, TokenBatch, Any], Array]


class Contrast(NamedTuple):
    """What each query is contrasted with.

    Attributes:
      scores: ``[B, N]`` similarities.
      labels: ``[B, N]`` 1 at the query's positives.
      where: ``[B, N]`` which documents take part.
    """

    scores: Float[Array, "B N"]
    labels: Float[Array, "B N"]
    where: Bool[Array, "B N"]


def _own_positives(batch: RankBatch) -> Array:
    """``[B, L]``: the first document of a list, and every other that is judged so."""
    first = jnp.arange(batch.labels.shape[1])[None, :] == 0
    return (first | (batch.labels > 0)) & batch.where


def _every_document(batch: RankBatch, scores: Array) -> Contrast:
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
    return Contrast(scores, labels.astype(jnp.float32), where)


def _first_documents(batch: RankBatch, scores: Array) -> Contrast:
    """A query against the first document of every list: its own and the others'."""
    list_size = batch.labels.shape[1]
    everything = _every_document(batch, scores)
    return Contrast(*(x[:, ::list_size] for x in everything))


def _own_list(batch: RankBatch, scores: Array) -> Contrast:
    """A query against the documents of its own list only."""
    shape = batch.labels.shape
    everything = _every_document(batch, scores)
    return Contrast(*(_own_block(x, *shape) for x in everything))


CANDIDATES: Mapping[str, Callable[[RankBatch, Array], Contrast]] = MappingProxyType(
    {"all": _every_document, "first": _first_documents, "own": _own_list}
)
"""Which documents a query is contrasted with, by name."""


@dataclasses.dataclass(frozen=True)
class DenseLoss:
    """A weighted sum of contrast and distillation; a weight of 0 leaves a term out.

    ``BE-Base`` of the Hypencoder paper is ``DenseLoss(contrastive=1, margin_mse=1,
    temperature=1, candidates="first")`` over separate towers with ``dot``.

    Attributes:
      contrastive: weight of the contrastive loss.
      margin_mse: weight of the margin-MSE over each query's own list.
      kl: weight of the KL distillation over each query's own list.
      temperature: divides the scores of the contrast; 0.05 suits cosines.
      candidates: what a query is contrasted with: ``all`` documents of the batch,
        the ``first`` document of every list, or its ``own`` list.
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
        if self.candidates not in CANDIDATES:
            expected = "one of " + ", ".join(CANDIDATES)
            raise InputError("DenseLoss.candidates", repr(self.candidates), expected)
        weights = (self.contrastive, self.margin_mse, self.kl)
        if min(weights) < 0 or max(weights) == 0:
            found = (
                f"contrastive {weights[0]}, margin_mse {weights[1]}, kl {weights[2]}"
            )
            raise InputError("DenseLoss", found, "weights >= 0, one of them above 0")
        for name in ("temperature", "kl_temperature", "student_scale"):
            if not getattr(self, name) > 0:
                found = str(getattr(self, name))
                raise InputError(f"DenseLoss.{name}", found, "a number above 0")


def make_task(config: DenseConfig, losses: DenseLoss | None = None) -> Task:
    """The bi-encoder's task over :class:`RankBatch` with separate texts.

    Under a data-parallel mesh the batch is the global one: a query is contrasted with
    documents of every device.  A document that is a known positive of the query takes
    no part except as a positive of its own list, nor does one that another list brings
    and that stands in its own list.

    Metrics: ``accuracy`` (queries whose best candidate is a positive),
    ``positive_score``, ``negative_score`` (mean similarities over the candidates), and
    each term of the loss under its name.

    Args:
      config: the model.
      losses: the terms; the in-batch contrast by default.

    Raises:
      InputError: from ``loss``: a batch of joint texts, or distillation without
        teacher scores.
    """
    losses = DenseLoss() if losses is None else losses

    def init(rng: jax.Array, batch: RankBatch | None = None) -> Params:
        del batch  # shapes follow from the configuration
        return init_params(config, rng)

    def loss(
        params: Params, batch: RankBatch, rng: jax.Array | None
    ) -> tuple[Float[Array, ""], Metrics]:
        # [B, T], [B, L, T] -> [B, B * L]
        scores = _score_batch(config, losses, params, batch, rng)
        contrast = CANDIDATES[losses.candidates](batch, scores)
        terms = {}
        if losses.contrastive:
            terms["contrastive"] = losses.contrastive * contrastive_loss(
                contrast.scores / losses.temperature,
                contrast.labels,
                where=contrast.where,
            )
        if losses.margin_mse or losses.kl:
            teacher = _teacher_scores(batch)
            own = losses.student_scale * _own_block(scores, *batch.labels.shape)
        if losses.margin_mse:
            terms["margin_mse"] = losses.margin_mse * margin_mse_loss(
                own, teacher, where=batch.where
            )
        if losses.kl:
            terms["kl"] = losses.kl * kl_distillation_loss(
                own,
                teacher,
                where=batch.where,
                temperature=losses.kl_temperature,
            )
        total = sum(terms.values(), start=jnp.zeros(()))
        measured = jax.lax.stop_gradient(_measure(contrast) | terms)
        return total, measured

    return Task(init, loss)


def _score_batch(
    config: DenseConfig,
    losses: DenseLoss,
    params: Params,
    batch: RankBatch,
    rng: jax.Array | None,
) -> Float[Array, "B N"]:
    """Similarity of every query with every document of the batch."""
    if batch.query is None:
        raise InputError(
            "batch",
            "joint texts of query and document",
            "separate texts",
            'use the pipeline\'s encode="separate" for a bi-encoder',
        )
    query_rng, doc_rng = (None, None) if rng is None else jax.random.split(rng)

    def query_encoder(params: Params, tokens: TokenBatch, key: Any) -> Array:
        return encode_query(config, params, tokens, rng=key)

    def doc_encoder(params: Params, tokens: TokenBatch, key: Any) -> Array:
        return encode_doc(config, params, tokens, rng=key)

    encode_queries: Encode = query_encoder
    encode_docs: Encode = doc_encoder

    # [B, L, T] -> [B * L, T]
    docs = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.doc)
    size = losses.chunk_size
    if size is not None:
        encode_docs = in_chunks(doc_encoder, size)
        if batch.query.ids.shape[0] % size == 0:
            encode_queries = in_chunks(query_encoder, size)
    queries = encode_queries(params, batch.query, query_rng)
    vectors = encode_docs(params, docs, doc_rng)
    return jnp.einsum("BE,NE->BN", queries, vectors, precision="highest")


def _own_block(values: Array, num_queries: int, list_size: int) -> Array:
    """``[B, B * L] -> [B, L]``: each query with its own list."""
    cube = values.reshape(num_queries, num_queries, list_size)
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


def _measure(contrast: Contrast) -> Metrics:
    """How well the candidates are told apart."""
    scores, positive = contrast.scores, (contrast.labels > 0) & contrast.where
    negative = contrast.where & ~positive
    best = jnp.argmax(where_score(scores, contrast.where), axis=-1)
    right = jnp.take_along_axis(positive, best[:, None], axis=-1)[:, 0]
    return {
        "accuracy": masked_mean(right.astype(jnp.float32), jnp.any(positive, axis=-1)),
        "positive_score": masked_mean(scores, positive),
        "negative_score": masked_mean(scores, negative),
    }
