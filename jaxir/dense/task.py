"""Training the bi-encoder: contrast within the batch, and imitation of a teacher."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float

from jaxir.dense.model import (
    DenseConfig,
    encode_doc,
    encode_query,
    init_params,
    match,
)
from jaxir.objective import RetrievalLoss, encode_batch, own_block, retrieval_loss
from jaxir.types import Metrics, Params, RankBatch, Task, TokenBatch

__all__ = ["DenseLoss", "make_task"]


@dataclasses.dataclass(frozen=True)
class DenseLoss(RetrievalLoss):
    """A bi-encoder's losses: :class:`jaxir.objective.RetrievalLoss` has the fields.

    ``BE-Base`` of the Hypencoder paper is ``DenseLoss(contrastive=1, margin_mse=1,
    temperature=1, candidates="first")`` over separate towers with ``dot``.
    """


def make_task(config: DenseConfig, losses: DenseLoss | None = None) -> Task:
    """The bi-encoder's task over :class:`RankBatch` with separate texts.

    Under a data-parallel mesh the batch is the global one: a query is contrasted with
    documents of every device.  A document that is a known positive of the query takes
    no part except as a positive of its own list, nor does one that another list brings
    and that stands in its own list.

    Metrics: see :func:`jaxir.objective.retrieval_loss`.

    Args:
      config: the model.
      losses: the terms; the in-batch contrast by default.

    Raises:
      InputError: from ``loss``: a batch of joint texts, or distillation without
        teacher scores.
    """
    chosen = DenseLoss() if losses is None else losses

    def init(rng: jax.Array, batch: RankBatch | None = None) -> Params:
        del batch  # shapes follow from the configuration
        return init_params(config, rng)

    def query_encoder(params: Params, tokens: TokenBatch, key: Any) -> Array:
        return encode_query(config, params, tokens, rng=key)

    def doc_encoder(params: Params, tokens: TokenBatch, key: Any) -> Array:
        return encode_doc(config, params, tokens, rng=key)

    def loss(
        params: Params, batch: RankBatch, rng: jax.Array | None
    ) -> tuple[Float[Array, ""], Metrics]:
        queries, docs = encode_batch(
            chosen, batch, query_encoder, doc_encoder, params, rng
        )
        # [B, E], [B * L, E] -> [B, B * L]: one product, cheaper than its parts apart
        scores = match(config, queries, docs.reshape(-1, docs.shape[-1]))
        parts = {
            "all": lambda: scores,
            "first": lambda: scores[:, :: docs.shape[1]],
            "own": lambda: own_block(scores),
        }
        return retrieval_loss(chosen, batch, lambda name: parts[name]())

    return Task(init, loss)
