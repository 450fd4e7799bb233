"""Training a cross-encoder on lists: flatten to pairs, score, and rank each list."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxir.errors import InputError
from jaxir.nn.chunks import Encode, in_chunks
from jaxir.numerics import masked_mean, masked_softmax
from jaxir.rank.config import CrossEncoderConfig, RankT5Config
from jaxir.rank.losses import RankLoss, lists_that_count, rank_loss
from jaxir.rank.metrics import list_metric
from jaxir.rank.model import init_params, logit
from jaxir.types import Metrics, Params, RankBatch, Task, TokenBatch, TokenGroups

__all__ = ["RankLoss", "make_task"]

Config = RankT5Config | CrossEncoderConfig


def make_task(config: Config, loss: RankLoss | None = None) -> Task:
    """The task of a cross-encoder over :class:`RankBatch` with joint texts.

    A batch's lists ``[B, L]`` are scored as ``B * L`` independent pairs, in one array
    ``[B, L, T]`` or in :class:`TokenGroups` of like length, which saves the padding.
    With ``RankLoss.chunk_size`` no more pairs than that are in memory at once: each
    chunk is computed again in the backward pass.

    Metrics, over the lists that count (see ``rank.losses``): ``ndcg_10`` and ``mrr``
    (equal scores are ranked against the first document, a list's positive, so that a
    model that collapses is seen), ``margin`` (mean score of positives minus that of
    the others), and ``lists_used``, the fraction of the batch's lists that count.

    Args:
      config: the model.
      loss: the loss; the paper's softmax by default.

    Raises:
      InputError: from ``loss``: a batch of separate texts, groups that do not hold each
        pair once, a chunk that does not divide the pairs, or ``labels="teacher"``
        without teacher scores.

    Example::

      >>> from jaxir.nn.bert import BertConfig
      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> task = make_task(CrossEncoderConfig(tiny), RankLoss("poly1"))
      >>> pairs = TokenBatch(jnp.ones((1, 2, 4), jnp.int32), jnp.ones((1, 2, 4), bool))
      >>> where = jnp.ones((1, 2), bool)
      >>> batch = RankBatch(None, pairs, jnp.array([[1.0, 0.0]]), where)
      >>> value, metrics = task.loss(task.init(jax.random.key(0), batch), batch, None)
      >>> round(float(value), 4), float(metrics["mrr"])  # two equal texts
      (1.1931, 0.5)
    """
    chosen = RankLoss() if loss is None else loss

    def init(rng: jax.Array, batch: RankBatch | None = None) -> Params:
        del batch  # shapes follow from the configuration
        return init_params(config, rng)

    def loss_of(
        params: Params, batch: RankBatch, rng: jax.Array | None
    ) -> tuple[Float[Array, ""], Metrics]:
        scores = _score_lists(config, chosen.chunk_size, params, batch, rng)
        labels = _labels(chosen, batch)
        value = rank_loss(chosen, scores, labels, where=batch.where)
        return value, jax.lax.stop_gradient(_measure(scores, batch))

    return Task(init, loss_of)


def _score_lists(
    config: Config,
    chunk_size: int | None,
    params: Params,
    batch: RankBatch,
    rng: jax.Array | None,
) -> Float[Array, "B L"]:
    """The score of every pair of the batch."""
    if batch.query is not None:
        raise InputError(
            "batch",
            "separate texts of query and document",
            "joint texts",
            'use the pipeline\'s encode="joint" or "template" for a cross-encoder',
        )

    def score_pairs(params: Params, tokens: TokenBatch, key: Array | None) -> Array:
        return logit(config, params, tokens, rng=key)

    def score_rows(tokens: TokenBatch, key: Array | None) -> Array:
        scorer: Encode = score_pairs
        if chunk_size is not None:
            scorer = in_chunks(score_pairs, min(chunk_size, tokens.ids.shape[0]))
        return scorer(params, tokens, key)

    shape = batch.labels.shape
    if not isinstance(batch.doc, TokenGroups):
        # [B, L, T] -> [B * L, T] -> [B * L] -> [B, L]
        rows = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch.doc)
        return score_rows(rows, rng).reshape(shape)
    _check_groups(batch.doc, batch.labels.size)
    # [rows, T_g] for each group g -> [B * L] -> [B, L]
    parts = [
        score_rows(group, None if rng is None else jax.random.fold_in(rng, number))
        for number, group in enumerate(batch.doc.groups)
    ]
    order = batch.doc.position.reshape(-1)
    return _permute(jnp.concatenate(parts), order).reshape(shape)


def _check_groups(groups: TokenGroups, num_pairs: int) -> None:
    """As many rows as pairs: the positions are then a permutation."""
    rows = sum(group.ids.shape[0] for group in groups.groups)
    if rows != num_pairs:
        raise InputError(
            "batch.doc",
            f"groups of {rows} rows in all",
            f"{num_pairs}, a row for each pair, padding included",
        )


@jax.custom_vjp
def _permute(values: Float[Array, " N"], order: Int[Array, " N"]) -> Float[Array, " N"]:
    """``values[order]`` for a permutation, whose gradient is a look-up as well.

    Derived automatically it would be a scatter, which an accelerator must serialise to
    be deterministic.
    """
    return values.at[order].get(mode="promise_in_bounds", unique_indices=True)


def _permute_forward(values: Array, order: Array) -> tuple[Array, Array]:
    return _permute(values, order), order


def _permute_backward(order: Array, gradient: Array) -> tuple[Array, None]:
    return _permute(gradient, jnp.argsort(order)), None  # argsort is the inverse


_permute.defvjp(_permute_forward, _permute_backward)


def _labels(loss: RankLoss, batch: RankBatch) -> Float[Array, "B L"]:
    """What the scores are fitted to: judgments, or a teacher's distribution."""
    if loss.labels == "judgments":
        return batch.labels
    if batch.teacher_scores is None:
        raise InputError(
            "batch",
            'no teacher scores for RankLoss.labels = "teacher"',
            "a score at every item of the training lists",
            'make them with `jaxir label`, or train with labels="judgments"',
        )
    return masked_softmax(batch.teacher_scores, batch.where)


def _measure(scores: Float[Array, "B L"], batch: RankBatch) -> Metrics:
    """How well the lists that count are ranked."""
    counts = lists_that_count(batch.labels, batch.where)
    where = batch.where & counts[:, None]
    positive = batch.labels > 0
    clean = jnp.where(where, scores, 0.0)
    ndcg = list_metric("ndcg", scores, batch.labels, where=where, topn=10)
    mrr = list_metric("mrr", scores, batch.labels, where=where)
    return {
        "ndcg_10": masked_mean(ndcg, counts),
        "mrr": masked_mean(mrr, counts),
        "margin": masked_mean(clean, where & positive)
        - masked_mean(clean, where & ~positive),
        "lists_used": jnp.mean(counts.astype(jnp.float32)),
    }
