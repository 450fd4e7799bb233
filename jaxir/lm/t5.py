"""Span corruption as a task: T5 learns to say what was cut out of its texts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxir.data.spans import SpanBatch
from jaxir.errors import InputError
from jaxir.lm.cross_entropy import token_cross_entropy
from jaxir.nn.t5 import T5, T5Config, init_params, with_layers
from jaxir.types import Metrics, Params, Task, TokenBatch

__all__ = ["SpanLoss", "adapt_params", "decoder_inputs", "make_task"]


@dataclasses.dataclass(frozen=True)
class SpanLoss:
    """How the decoder's words are judged.

    Attributes:
      z_loss: weight of the squared log-normaliser; 1e-4 as T5X pre-trains, 0 for none.
      label_smoothing: what the target gives to the other tokens.
      block_size: tokens whose logits exist at a time, None for 512 on a CPU and 4096
        elsewhere; does not change the result.

    Raises:
      InputError: a number out of range.
    """

    z_loss: float = 0.0
    label_smoothing: float = 0.0
    block_size: int | None = None

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.z_loss < 0:
            raise InputError("SpanLoss.z_loss", str(self.z_loss), "0 or more")
        if not 0 <= self.label_smoothing < 1:
            found = str(self.label_smoothing)
            raise InputError("SpanLoss.label_smoothing", found, "0 to below 1")
        if self.block_size is not None and self.block_size < 1:
            raise InputError("SpanLoss.block_size", str(self.block_size), "1 or more")


def decoder_inputs(
    targets: Int[Array, "B S"], segments: Int[Array, "B S"], *, start_id: int = 0
) -> Int[Array, "B S"]:
    """What the decoder reads: targets one place later, the start where a text begins.

    Args:
      targets: ``[B, S]`` ids.
      segments: ``[B, S]`` number of each token's text, 0 at padding.
      start_id: the start token, T5's is its padding.

    Example::

      >>> decoder_inputs(jnp.array([[5, 1, 7, 1, 0]]), jnp.array([[1, 1, 2, 2, 0]]))
      Array([[0, 5, 0, 7, 0]], dtype=int32)
    """
    earlier = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    before = jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    return jnp.where((segments == before) & (segments > 0), earlier, start_id)


def _logits_params(config: T5Config, params: Params) -> Params:
    """The part of the parameters that makes logits of states."""
    if config.logits_via_embedding:
        return {"token_embedder": params["token_embedder"]}
    return {"decoder": {"logits_dense": params["decoder"]["logits_dense"]}}


def make_task(config: T5Config, loss: SpanLoss | None = None) -> Task:
    """The task of span corruption over :class:`jaxir.data.spans.SpanBatch`.

    The loss is the mean over the target tokens of the global batch (T5X divides by a
    constant instead); texts of one row do not see each other.

    Metrics: ``accuracy`` (target tokens whose own logit is the largest), ``tokens``
    (target tokens of the batch) and, if it is used, ``z_loss``.

    Args:
      config: the model.
      loss: how words are judged.

    Raises:
      InputError: from ``loss``: a batch of another objective.
    """
    judged = SpanLoss() if loss is None else loss
    model: Any = T5(config)  # linen's apply promises less than it gives

    def logits_of(params: Params, states: Array) -> Array:
        return model.apply({"params": params}, states, method="logits")

    def init(rng: jax.Array, batch: Any = None) -> Params:
        del batch  # shapes follow from the configuration
        return init_params(config, rng)

    def compute(
        params: Params, batch: Any, rng: jax.Array | None
    ) -> tuple[Float[Array, ""], Metrics]:
        if not isinstance(batch, SpanBatch):
            raise InputError(
                "batch", type(batch).__name__, "SpanBatch", "use make_span_batches"
            )
        mode: dict[str, Any] = {"deterministic": rng is None}
        if rng is not None:
            mode["rngs"] = {"dropout": rng}
        batch = SpanBatch(*map(jnp.asarray, batch))
        tokens = TokenBatch(batch.inputs, batch.input_segments > 0)
        shifted = decoder_inputs(
            batch.targets, batch.target_segments, start_id=config.pad_id
        )

        def states_of(module: Any, deterministic: bool) -> Array:
            encoded = module.encode(
                tokens, segments=batch.input_segments, deterministic=deterministic
            )
            return module.decode(
                shifted, encoded, segments=batch.target_segments,
                encoder_segments=batch.input_segments, deterministic=deterministic,
            )  # fmt: skip

        # [B, T], [B, S] -> [B, S, D]
        states = model.apply({"params": params}, method=states_of, **mode)
        said = token_cross_entropy(
            logits_of, _logits_params(config, params), states, batch.targets,
            batch.target_segments > 0, z_loss=judged.z_loss,
            label_smoothing=judged.label_smoothing, block_size=judged.block_size,
        )  # fmt: skip
        metrics = {"accuracy": said.accuracy, "tokens": said.tokens}
        if judged.z_loss:
            metrics["z_loss"] = said.z_loss
        return said.loss, jax.lax.stop_gradient(metrics)

    return Task(init, compute)


def adapt_params(config: T5Config, params: Params, target: T5Config) -> Params:
    """Parameters of another configuration of the same sizes.

    What has no parameters may differ, and ``scan_layers``, which arranges them.

    Args:
      config: of ``params``.
      params: to begin from.
      target: of the same sizes.

    Raises:
      InputError: the parameters would have other names or shapes.
    """
    free = {
        "dropout_rate",
        "dtype",
        "remat",
        "scan_layers",
        "pad_id",
        "relpos_max_distance",
        "norm_eps",
    }
    for field in dataclasses.fields(T5Config):
        now, then = getattr(config, field.name), getattr(target, field.name)
        if now != then and field.name not in free:
            raise InputError(
                field.name, f"{now} cannot become {then}", "the sizes of the checkpoint"
            )
    return with_layers(params, scanned=target.scan_layers)
