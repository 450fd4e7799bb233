"""Training the bi-encoder: contrast within the batch, and imitation of a teacher."""

import dataclasses
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxir.dense.model import (
    DenseConfig,
    encode_doc,
    encode_query,
    init_params,
    match,
)
from jaxir.objective import RetrievalLoss, retrieval_task
from jaxir.types import Task

__all__ = ["DenseLoss", "make_task"]


@dataclasses.dataclass(frozen=True)
class DenseLoss(RetrievalLoss):
    """A bi-encoder's losses: :class:`jaxir.objective.RetrievalLoss` has the fields.

    ``BE-Base`` of the Hypencoder paper is ``DenseLoss(contrastive=1, margin_mse=1,
    temperature=1, candidates="first")`` over separate towers with ``dot``.
    """


def make_task(config: DenseConfig, losses: DenseLoss | None = None) -> Task:
    """The bi-encoder's task: :func:`jaxir.objective.retrieval_task` says what it is.

    Args:
      config: the model.
      losses: the terms; the in-batch contrast by default.
    """
    return retrieval_task(
        DenseLoss() if losses is None else losses,
        init=partial(init_params, config),
        encode_query=partial(encode_query, config),
        encode_doc=partial(encode_doc, config),
        match=partial(match, config),
        match_own=_match_own,
    )


def _match_own(
    queries: Float[Array, "B E"], docs: Float[Array, "B L E"]
) -> Float[Array, "B L"]:
    """Inner products of each query with its own documents."""
    return jnp.einsum("BE,BLE->BL", queries, docs, precision="highest")
