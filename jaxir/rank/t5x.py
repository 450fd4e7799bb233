"""The bridge to T5X: RankT5 as a model of ``t5x.train``, configured by ``gin/t5x/``.

T5X (https://github.com/google-research/t5x) is not on PyPI and is never required: this
module imports without it.  ``RankT5Model`` and ``RankingFeatureConverter`` subclass
T5X's and SeqIO's classes, so they are made when they are first looked up, and a missing
T5X is then one line that says how to get it.  ``docs/t5x.md`` shows a whole run.

The names of tensors are those of the T5X example in google/rax:

===================== ======= ============= ===========================================
name                  type    shape         content
===================== ======= ============= ===========================================
encoder_input_tokens  int32   ``[B, L, T]`` query and document as one text, 0 at padding
decoder_input_tokens  int32   ``[B, L, 1]`` the start token, 0
decoder_target_tokens int32   ``[B, L, 1]`` the token whose logit is the score
label                 float32 ``[B, L]``    graded relevance, 0 for not relevant
mask                  bool    ``[B, L]``    false at the padding of a list
===================== ======= ============= ===========================================

The EncDec model's parameters are T5X's own tree, so that any T5X checkpoint of T5 1.0
or 1.1 begins a training and any checkpoint of the training is read by
``jaxir.load_model("t5x:PATH")``.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxir.errors import InputError
from jaxir.nn.chunks import in_chunks
from jaxir.nn.t5 import T5Config
from jaxir.rank.losses import RankLoss, lists_that_count, rank_loss
from jaxir.rank.metrics import list_metric
from jaxir.rank.model import (
    RankT5Config,
    init_params,
    logical_axes,
    logit,
    score,
)
from jaxir.rank.t5x_features import feature_converter_class, imported
from jaxir.types import TokenBatch

__all__ = [
    "backbone_config",
    "feature_converter_class",
    "model_class",
    "ranking_metrics",
]

Batch = Mapping[str, Any]


def backbone_config(network: Any, **changes: Any) -> T5Config:
    """The sizes in T5X's ``network.T5Config``, as the backbone's configuration.

    Args:
      network: an object with the attributes of ``t5x.examples.t5.network.T5Config``.
      changes: further fields of :class:`jaxir.nn.t5.T5Config`, such as ``remat``.

    Example::

      >>> from types import SimpleNamespace
      >>> network = SimpleNamespace(
      ...     vocab_size=32128, dtype="bfloat16", emb_dim=512, num_heads=8, head_dim=64,
      ...     num_encoder_layers=6, num_decoder_layers=6, mlp_dim=2048,
      ...     mlp_activations=["relu"], dropout_rate=0.0, logits_via_embedding=True)
      >>> backbone_config(network).mlp_activations
      ('relu',)
    """
    same = (
        "vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim",
        "num_encoder_layers", "num_decoder_layers", "logits_via_embedding",
        "dropout_rate",
    )  # fmt: skip
    fields = {name: getattr(network, name) for name in same}
    fields["mlp_activations"] = tuple(network.mlp_activations)
    fields["dtype"] = jnp.dtype(network.dtype).name
    return T5Config(**{**fields, **changes})


def ranking_metrics(
    scores: Float[Array, "B L"],
    labels: Float[Array, "B L"],
    where: Bool[Array, "B L"],
) -> tuple[dict[str, Float[Array, ""]], Float[Array, ""]]:
    """Sums of Rax's metrics over the lists with a positive and another document.

    Returns:
      Each metric's sum, and the number of those lists.  The names are those of the T5X
      example in google/rax; equal scores are ranked as ``rank.metrics`` says.

    Example::

      >>> scores, labels = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0]])
      >>> sums, count = ranking_metrics(scores, labels, jnp.ones((1, 2), dtype=bool))
      >>> float(sums["mrr"]), float(count)
      (0.5, 1.0)
    """
    counts = lists_that_count(labels, where)
    sums = {}
    for name in ("ndcg", "mrr"):
        for suffix, topn in (("", None), ("_at_10", 10)):
            values = list_metric(name, scores, labels, where=where, topn=topn)
            sums[name + suffix] = jnp.sum(jnp.where(counts, values, 0.0))
    return sums, jnp.sum(counts).astype(jnp.float32)


def _named(axes: Any, metadata: Any) -> Any:
    """T5X's collection ``params_axes``: ``kernel`` becomes ``kernel_axes``."""
    return {
        name if isinstance(value, Mapping) else f"{name}_axes": _named(value, metadata)
        if isinstance(value, Mapping)
        else metadata(names=tuple(value))
        for name, value in axes.items()
    }


def _typed_key(rng: Any) -> Any:
    """T5X draws keys in JAX's older form, an array of integers."""
    if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
        return rng
    return jax.random.wrap_key_data(rng)


def _token_id(token: str | int, vocabulary: Any) -> int:
    """The id of a token given as such or by its text."""
    if isinstance(token, int):
        return token
    ids = list(vocabulary.encode(token))
    if len(ids) != 1 or ids[0] == vocabulary.unk_id:
        raise InputError(
            "target_token", f"{token!r} is {ids} in the output vocabulary",
            "one token", "name another token, or give its id",
        )  # fmt: skip
    return int(ids[0])


@functools.cache
def model_class() -> type:
    """The class ``RankT5Model``, a ``t5x.models.BaseTransformerModel``.

    Raises:
      InputError: T5X cannot be imported.
    """
    lib = imported()

    class RankT5Model(lib.models.BaseTransformerModel):
        """RankT5 (arXiv 2210.10634) for ``t5x.train``, over lists of documents.

        Args:
          module: T5X's ``network.Transformer()``; only its sizes are read, so that
            T5X's gin files of sizes serve unchanged.
          input_vocabulary, output_vocabulary: SeqIO vocabularies, those of the task.
          optimizer_def: T5X's optimizer.
          head: ``encdec`` (a logit of the first decoder step) or ``enc`` (a dense
            layer over the encoder).
          pooling: of ``enc``: ``cls`` (first token) or ``mean``.
          target_token: whose logit is the score of ``encdec``: a text, which is looked
            up in ``output_vocabulary``, or an id.
          contrast_token: the same; with it the score is the log-probability of the
            target against it, as monoT5's.
          loss: softmax by default.
          loss_normalizing_factor: None: the loss is the mean over the lists that count.
            A number: their sum divided by it, which adds up over microbatches; not for
            ``pair`` and ``pointce`` of ``reduction="rax"``, no means over lists.
          remat: recompute each layer in the backward pass, to save memory.

        Raises:
          InputError: a token that the vocabulary does not hold, or a wrong option.
        """

        FEATURE_CONVERTER_CLS = feature_converter_class()

        def __init__(
            self,
            module: Any,
            input_vocabulary: Any,
            output_vocabulary: Any,
            optimizer_def: Any,
            head: str = "encdec",
            pooling: str = "cls",
            target_token: str | int = "<extra_id_10>",
            contrast_token: str | int | None = None,
            loss: RankLoss | None = None,
            loss_normalizing_factor: float | None = None,
            remat: bool = False,
        ) -> None:
            super().__init__(
                module=module,
                input_vocabulary=input_vocabulary,
                output_vocabulary=output_vocabulary,
                optimizer_def=optimizer_def,
                loss_normalizing_factor=loss_normalizing_factor,
            )
            config = RankT5Config(
                backbone_config(module.config, remat=remat),
                head=head,
                pooling=pooling,
                target_id=0,  # read by "encdec" only
            )
            if head == "encdec":
                target_id = _token_id(target_token, output_vocabulary)
                contrast_id = None
                if contrast_token is not None:
                    contrast_id = _token_id(contrast_token, output_vocabulary)
                config = dataclasses.replace(
                    config, target_id=target_id, contrast_id=contrast_id
                )
            self.config = config
            self._loss = RankLoss() if loss is None else loss
            if self._loss.labels != "judgments":
                found = f"RankLoss.labels {self._loss.labels!r}"
                expected = "'judgments', all that a batch of T5X carries"
                raise InputError("RankT5Model.loss", found, expected)
            if (
                loss_normalizing_factor is not None
                and self._loss.reduction == "rax"
                and self._loss.kind in ("pair", "pointce")
            ):
                raise InputError(
                    "RankT5Model.loss_normalizing_factor", f"{loss_normalizing_factor} "
                    f"for {self._loss.kind!r} of reduction 'rax', a mean over pairs or "
                    "items", "None, or the reduction 'paper'",
                )  # fmt: skip

        def get_initial_variables(
            self, rng: Any, input_shapes: Any, input_types: Any = None
        ) -> dict[str, Any]:
            """Fresh parameters and their logical axes, whatever the batch's shapes."""
            del input_shapes, input_types
            axes = _named(logical_axes(self.config), lib.AxisMetadata)
            params = init_params(self.config, _typed_key(rng))
            return {"params": params, "params_axes": axes}

        def _compute_logits(
            self, params: Any, batch: Batch, dropout_rng: Any = None
        ) -> Any:
            """What the loss is taken of, ``[B, L]``; see ``rank.model.logit``."""
            return self._compute(logit, params, batch, dropout_rng)

        def _compute(
            self, read: Callable, params: Any, batch: Batch, dropout_rng: Any
        ) -> Any:
            """Float32 ``[B, L]``; no number where the target is another token.

            A task written for another token would otherwise train on the wrong logit.
            """

            def plain(params: Any, tokens: TokenBatch, rng: Any) -> Any:
                return read(self.config, params, tokens, rng=rng)

            chunk_size = self._loss.chunk_size
            compute = plain if chunk_size is None else in_chunks(plain, chunk_size)
            ids = batch["encoder_input_tokens"]
            # [B, L, T] -> [B * L, T] -> [B, L]
            flat = ids.reshape(-1, ids.shape[-1])
            rng = None if dropout_rng is None else _typed_key(dropout_rng)
            values = compute(params, TokenBatch(flat, flat > 0), rng)
            values = values.reshape(ids.shape[:-1])
            if self.config.head != "encdec":
                return values
            same = batch["decoder_target_tokens"][..., 0] == self.config.target_id
            return jnp.where(same | ~batch["mask"].astype(bool), values, jnp.nan)

        def loss_fn(
            self, params: Any, batch: Batch, dropout_rng: Any
        ) -> tuple[Any, dict[str, Any]]:
            """The ranking loss of a batch, and T5X's metrics."""
            scores = self._compute_logits(params, batch, dropout_rng)
            labels = batch["label"].astype(jnp.float32)
            where = batch["mask"].astype(bool)
            loss = rank_loss(self._loss, scores, labels, where=where)
            sums, count = ranking_metrics(scores, labels, where)
            if self._loss_normalizing_factor is not None:
                loss = loss * count / self._loss_normalizing_factor
            # Sums and counts, so that microbatches and devices merge exactly.
            averages = {
                f"metrics/{name}": lib.Average(total=total, count=count)
                for name, total in sums.items()
            }
            return loss, {
                "loss": lib.metrics.AveragePerStep(total=loss),
                "timing/steps_per_second": lib.metrics.StepsPerTime.from_model_output(),
                "timing/seconds": lib.metrics.Time(),
                **averages,
            }

        def predict_batch_with_aux(
            self, params: Any, batch: Batch, rng: Any = None
        ) -> tuple[Any, dict[str, Any]]:
            """Scores ``[B, L]``, and nothing beside them."""
            del rng  # nothing is drawn
            return self._compute(score, params, batch, None), {}

        def score_batch(
            self, params: Any, batch: Batch, return_intermediates: bool = False
        ) -> Any:
            """Scores ``[B, L]``."""
            scores = self._compute(score, params, batch, None)
            return (scores, {}) if return_intermediates else scores

    return RankT5Model


_CLASSES = {
    "RankT5Model": model_class,
    "RankingFeatureConverter": feature_converter_class,
}


def __getattr__(name: str) -> type:
    if name in _CLASSES:
        return _CLASSES[name]()
    raise AttributeError(f"module 'jaxir.rank.t5x' has no attribute {name!r}")
