"""Masked language modelling as a task: BERT learns to say what was hidden."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxir.data.masking import MaskBatch
from jaxir.errors import InputError
from jaxir.lm.cross_entropy import token_cross_entropy
from jaxir.nn import bert
from jaxir.nn.masked_lm import (
    adapt_masked_lm,
    init_masked_lm,
    vocabulary_head,
    with_fresh_head,
)
from jaxir.types import Metrics, Params, Task, TokenBatch

__all__ = [
    "MaskedLMConfig",
    "MaskedLoss",
    "adapt_params",
    "init_params",
    "make_task",
    "params_from_backbone",
    "vocabulary_logits",
]


@dataclasses.dataclass(frozen=True)
class MaskedLMConfig:
    """A BERT and its head over the vocabulary.

    Attributes:
      backbone: the encoder.
      tied: the head's last matrix is the encoder's word table, as BERT's.
    """

    backbone: bert.BertConfig = dataclasses.field(default_factory=bert.BertConfig)
    tied: bool = True

    @property
    def max_length(self) -> int:
        """The most tokens of a text."""
        return self.backbone.max_length


@dataclasses.dataclass(frozen=True)
class MaskedLoss:
    """How predictions are judged.

    Attributes:
      label_smoothing: what the target gives to the other tokens.
      block_size: predictions whose logits exist at a time, None for 512 on a CPU and
        4096 elsewhere; does not change the result.

    Raises:
      InputError: a number out of range.
    """

    label_smoothing: float = 0.0
    block_size: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0 <= self.label_smoothing < 1:
            found = str(self.label_smoothing)
            raise InputError("MaskedLoss.label_smoothing", found, "0 to below 1")
        if self.block_size is not None and self.block_size < 1:
            raise InputError("MaskedLoss.block_size", str(self.block_size), "1 or more")


def init_params(config: MaskedLMConfig, rng: jax.Array) -> Params:
    """Fresh parameters ``{"backbone": …, "head": …}``.

    Args:
      config: the model.
      rng: a random key.
    """
    return init_masked_lm(config, rng)


def params_from_backbone(
    config: MaskedLMConfig, backbone_params: Params, rng: jax.Array
) -> Params:
    """An encoder's parameters with a fresh head, as ``nn.masked_lm`` makes it.

    Args:
      config: the model.
      backbone_params: of a ``BertEncoder``, such as a sentence encoder's.
      rng: a random key.
    """
    return with_fresh_head(config, backbone_params, rng)


def adapt_params(
    config: MaskedLMConfig, params: Params, target: MaskedLMConfig
) -> Params:
    """Parameters of another configuration that starts from these.

    Args:
      config: of ``params``.
      params: to begin from.
      target: sizes as in ``config``; an untied head begins as the word table.

    Raises:
      InputError: the parameters would have other shapes.
    """
    return adapt_masked_lm(config, params, target)


def _logits_params(config: MaskedLMConfig, params: Params) -> Params:
    part = {"head": params["head"]}
    if config.tied:
        part["table"] = params["backbone"]["embeddings"]["word"]["embedding"]
    return part


def _logits(config: MaskedLMConfig, part: Params, states: Array) -> Array:
    return vocabulary_head(config).apply(
        {"params": part["head"]}, states, part.get("table")
    )


def vocabulary_logits(
    config: MaskedLMConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B T V"]:
    """Float32 logits of every token of texts ``[B, T]``.

    Args:
      config: the model.
      params: of :func:`init_params`.
      tokens: the texts.
      rng: draws dropout when given.

    Example::

      >>> config = MaskedLMConfig(bert.BertConfig(
      ...     vocab_size=9, hidden_size=8, num_layers=1, num_heads=2))
      >>> params = init_params(config, jax.random.key(0))
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> vocabulary_logits(config, params, tokens).shape
      (2, 4, 9)
    """
    states = _states(config, params, tokens, rng)
    return _logits(config, _logits_params(config, params), states)


def _states(
    config: MaskedLMConfig, params: Params, tokens: TokenBatch, rng: jax.Array | None
) -> Array:
    encoder: Any = bert.BertEncoder(config.backbone)
    mode: dict[str, Any] = {"deterministic": rng is None}
    if rng is not None:
        mode["rngs"] = {"dropout": rng}
    return encoder.apply({"params": params["backbone"]}, tokens, **mode).states


def make_task(config: MaskedLMConfig, loss: MaskedLoss | None = None) -> Task:
    """The task over :class:`jaxir.data.masking.MaskBatch`.

    The loss is the mean over the predictions of the global batch; only they have
    logits.  Metrics: ``accuracy`` and ``tokens`` (predictions of the batch).

    Args:
      config: the model.
      loss: how predictions are judged.

    Raises:
      InputError: from ``loss``: a batch of another objective.
    """
    judged = MaskedLoss() if loss is None else loss

    def logits_of(part: Params, states: Array) -> Array:
        return _logits(config, part, states)

    def init(rng: jax.Array, batch: Any = None) -> Params:
        del batch  # shapes follow from the configuration
        return init_params(config, rng)

    def compute(
        params: Params, batch: Any, rng: jax.Array | None
    ) -> tuple[Float[Array, ""], Metrics]:
        if not isinstance(batch, MaskBatch):
            raise InputError(
                "batch", type(batch).__name__, "MaskBatch", "use make_mask_batches"
            )
        tokens = TokenBatch(batch.ids, batch.mask)
        states = _states(config, params, tokens, rng)
        # A product, for the gradient of a look-up would be a scatter-add.
        at = jax.nn.one_hot(batch.positions, states.shape[1], dtype=states.dtype)
        # [B, M, T], [B, T, D] -> [B, M, D]
        chosen = jnp.einsum("BMT,BTD->BMD", at, states)
        said = token_cross_entropy(
            logits_of, _logits_params(config, params), chosen,
            jnp.asarray(batch.targets), jnp.asarray(batch.where),
            label_smoothing=judged.label_smoothing, block_size=judged.block_size,
        )  # fmt: skip
        metrics = {"accuracy": said.accuracy, "tokens": said.tokens}
        return said.loss, jax.lax.stop_gradient(metrics)

    return Task(init, compute)
