"""Training the Hypencoder: as a bi-encoder is trained, with q-nets in place of queries.

Killingback et al. 2025, "Hypencoder", section 4.2.1: margin-MSE over each query's list,
and cross entropy of each query's first document against those of the other queries.
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float

from jaxir.hyper.model import (
    HypencoderConfig,
    encode_doc,
    encode_query,
    init_params,
    match,
)
from jaxir.hyper.qnet import QNetWeights, apply_own
from jaxir.objective import RetrievalLoss, encode_batch, retrieval_loss
from jaxir.types import Metrics, Params, RankBatch, Task, TokenBatch

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
    """The Hypencoder's task over :class:`RankBatch` with separate texts.

    Under a data-parallel mesh the batch is the global one: a q-net is contrasted with
    documents of every device.  It is the documents that travel, ``[B, E]``; q-nets,
    a thousand times larger, stay where their queries are.

    Metrics: see :func:`jaxir.objective.retrieval_loss`.

    Args:
      config: the model.
      losses: the terms; the paper's by default.

    Raises:
      InputError: from ``loss``: a batch of joint texts, or distillation without
        teacher scores.

    Example::

      >>> import jax.numpy as jnp
      >>> from jaxir.hyper.qnet import QNetSpec
      >>> from jaxir.nn.bert import BertConfig
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
    chosen = HyperLoss() if losses is None else losses

    def init(rng: jax.Array, batch: RankBatch | None = None) -> Params:
        del batch  # shapes follow from the configuration
        return init_params(config, rng)

    def query_encoder(params: Params, tokens: TokenBatch, key: Any) -> QNetWeights:
        return encode_query(config, params, tokens, rng=key)

    def doc_encoder(params: Params, tokens: TokenBatch, key: Any) -> Array:
        return encode_doc(config, params, tokens, rng=key)

    def loss(
        params: Params, batch: RankBatch, rng: jax.Array | None
    ) -> tuple[Float[Array, ""], Metrics]:
        queries, docs = encode_batch(
            chosen, batch, query_encoder, doc_encoder, params, rng
        )
        # [B, L, W] -> [B, B * L], [B, B], [B, L]
        parts = {
            "all": lambda: match(config, queries, docs.reshape(-1, docs.shape[-1])),
            "first": lambda: match(config, queries, docs[:, 0]),
            "own": lambda: apply_own(config.qnet, queries, docs),
        }
        return retrieval_loss(chosen, batch, lambda name: parts[name]())

    return Task(init, loss)
