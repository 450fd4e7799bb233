"""Training the Hypencoder: as a bi-encoder is trained, with q-nets in place of queries.

Killingback et al. 2025, "Hypencoder", section 4.2.1: margin-MSE over each query's list,
and cross entropy of each query's first document against those of the other queries.
"""

import dataclasses
from functools import partial

from jaxir.hyper.model import (
    HypencoderConfig,
    encode_doc,
    encode_query,
    init_params,
    match,
)
from jaxir.hyper.qnet import apply_own
from jaxir.objective import RetrievalLoss, retrieval_task
from jaxir.types import Task

__all__ = ["HyperLoss", "make_task"]


@dataclasses.dataclass(frozen=True)
class HyperLoss(RetrievalLoss):
    """A Hypencoder's losses; the defaults are the paper's.

    :class:`jaxir.objective.RetrievalLoss` has the fields.  ``candidates="all"`` has
    every q-net score every document of the batch, ``L`` times the work of the paper's
    ``first``.
    """

    margin_mse: float = 1.0
    temperature: float = 1.0
    candidates: str = "first"


def make_task(config: HypencoderConfig, losses: HyperLoss | None = None) -> Task:
    """The Hypencoder's task: :func:`jaxir.objective.retrieval_task` says what it is.

    On several devices it is the documents that travel, ``[B, E]``; q-nets, a thousand
    times larger, stay where their queries are.

    Args:
      config: the model.
      losses: the terms; the paper's by default.

    Example::

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxir.hyper.qnet import QNetSpec
      >>> from jaxir.nn.bert import BertConfig
      >>> from jaxir.types import RankBatch, TokenBatch
      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = HypencoderConfig(tiny, QNetSpec(8, (8, 8)))
      >>> task = make_task(config, HyperLoss(margin_mse=0.0))
      >>> query = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> doc = TokenBatch(jnp.ones((2, 1, 4), jnp.int32), jnp.ones((2, 1, 4), bool))
      >>> batch = RankBatch(query, doc, jnp.ones((2, 1)), jnp.ones((2, 1), bool))
      >>> value, _ = task.loss(task.init(jax.random.key(0), batch), batch, None)
      >>> round(float(value), 4)  # log 2: two equal texts
      0.6931
    """
    return retrieval_task(
        HyperLoss() if losses is None else losses,
        init=partial(init_params, config),
        encode_query=partial(encode_query, config),
        encode_doc=partial(encode_doc, config),
        match=partial(match, config),
        match_own=partial(apply_own, config.qnet),
    )
