"""Losses that Rax does not have: distillation, in-batch contrast, sparsity.

All share Rax's signature ``loss(scores, labels, *, where, weights, reduce_fn)`` over
the last axis and can stand wherever a Rax loss stands.  Scores and labels are taken to
float32; entries with ``where`` false have neither value nor gradient, and a list
without anything to learn from gives 0 and does not dilute the mean.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxir.numerics import (
    masked_log_softmax,
    masked_mean,
    mean_over_queries,
    safe_divide,
    where_score,
)

__all__ = [
    "contrastive_loss",
    "duplicate_mask",
    "flops_loss",
    "kl_distillation_loss",
    "margin_mse_loss",
]

Reduce = Callable[..., Array] | None


def margin_mse_loss(
    scores: Float[Array, "*batch list"],
    labels: Float[Array, "*batch list"],
    *,
    where: Bool[Array, "*batch list"] | None = None,
    weights: Float[Array, "*batch list"] | None = None,
    reduce_fn: Reduce = mean_over_queries,
) -> Float[Array, "..."]:
    """Margin mean squared error: imitate the teacher's lead of the first document.

    Equation, for each ``j >= 1``::

      l_j = w_j * ((s_0 - s_j) - (t_0 - t_j))^2

    averaged over all pairs ``(0, j)`` of all queries.  Only differences count, so
    a constant added to a query's scores changes nothing.

    Source: Hofstätter et al., "Improving Efficient Neural Ranking Models with
    Cross-Architecture Knowledge Distillation" (2020), eq. 4; with several negatives as
    in the Hypencoder paper, section 4.2.

    Args:
      scores: the student's scores ``[*batch, list]``; the first is the positive's.
      labels: the teacher's scores, in the student's scale.
      where: false at padding; a list whose first item is padding has no pairs.
      weights: weight of the pair ``(0, j)``, at ``j``.
      reduce_fn: ``reduce_fn(losses, where=pairs)`` over ``[*batch, list - 1]``; None
        returns those losses, 0 where there is no pair.

    Example::

      >>> scores, teacher = jnp.array([3.0, 1.0, 0.0]), jnp.array([9.0, 8.0, 4.0])
      >>> float(margin_mse_loss(scores, teacher))  # ((2 - 1)^2 + (3 - 5)^2) / 2
      2.5
      >>> where = jnp.array([True, True, False])
      >>> float(margin_mse_loss(scores, teacher, where=where))
      1.0
      >>> jax.grad(margin_mse_loss)(scores, teacher).tolist()
      [-1.0, -1.0, 2.0]
    """
    error = scores.astype(jnp.float32) - labels.astype(jnp.float32)
    if where is None:
        where = jnp.ones(scores.shape, dtype=bool)
    # Masked first, squared after: what padding holds may be infinite.
    error = jnp.where(where, error, 0.0)
    losses = jnp.square(error[..., :1] - error[..., 1:])
    if weights is not None:
        losses = losses * weights[..., 1:].astype(jnp.float32)
    return _reduce(losses, where[..., :1] & where[..., 1:], reduce_fn)


def kl_distillation_loss(
    scores: Float[Array, "*batch list"],
    labels: Float[Array, "*batch list"],
    *,
    where: Bool[Array, "*batch list"] | None = None,
    weights: Float[Array, "*batch list"] | None = None,
    temperature: float = 1.0,
    reduce_fn: Reduce = mean_over_queries,
) -> Float[Array, "..."]:
    """Kullback-Leibler divergence from the teacher's distribution over the list.

    Equation, with ``p = softmax(t / T)`` and ``q = softmax(s / T)``::

      l = sum_i w_i * p_i * (log p_i - log q_i)

    averaged over queries.  There is no factor ``T^2``.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015); over
    lists as in Lin et al., "In-Batch Negatives for Knowledge Distillation with
    Tightly-Coupled Teachers" (2021), eq. 4.

    Args:
      scores: the student's scores ``[*batch, list]``.
      labels: the teacher's scores.
      where: false at padding.
      weights: weight of each document's term.
      temperature: ``T``, above 0; dividing both sides' scores.
      reduce_fn: ``reduce_fn(losses, where=queries)`` over ``[*batch]``; None returns
        one value a query.

    Example::

      >>> scores = jnp.array([[2.0, 1.0, 0.0], [0.0, 0.0, 7.0]])
      >>> float(kl_distillation_loss(scores, scores + 5.0))
      0.0
      >>> teacher = jnp.log(jnp.array([[0.5, 0.25, 0.25], [1.0, 3.0, 1.0]]))
      >>> where = jnp.array([[True, True, True], [True, True, False]])
      >>> losses = kl_distillation_loss(scores, teacher, where=where, reduce_fn=None)
      >>> [f"{loss:.3f}" for loss in losses]
      ['0.118', '0.131']
    """
    student = masked_log_softmax(scores.astype(jnp.float32) / temperature, where)
    teacher = masked_log_softmax(labels.astype(jnp.float32) / temperature, where)
    terms = jnp.exp(teacher) * (teacher - student)
    if weights is not None:
        terms = terms * weights.astype(jnp.float32)
    if where is None:
        where = jnp.ones(scores.shape, dtype=bool)
    losses = jnp.sum(jnp.where(where, terms, 0.0), axis=-1)
    return _reduce(losses, jnp.any(where, axis=-1), reduce_fn)


def contrastive_loss(
    scores: Float[Array, "*batch list"],
    labels: Float[Array, "*batch list"],
    *,
    where: Bool[Array, "*batch list"] | None = None,
    weights: Float[Array, "*batch list"] | None = None,
    reduce_fn: Reduce = mean_over_queries,
) -> Float[Array, "..."]:
    """InfoNCE: tell each positive apart from all negatives, positives not from another.

    Equation, with positives ``P = {i: y_i > 0}`` and negatives ``N``::

      l = sum_{p in P} w_p y_p * -log(e^{s_p} / (e^{s_p} + sum_{n in N} e^{s_n}))
          / sum_{p in P} y_p

    averaged over queries.  With one positive this is softmax cross entropy.  A second
    positive does not stand in the first one's denominator, so the two do not compete.
    A temperature is the caller's: divide the scores by it.

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive
    Coding" (2018), eq. 4; Karpukhin et al., "Dense Passage Retrieval" (2020), eq. 2.

    Args:
      scores: scores ``[*batch, list]``, mostly ``[B, B * L]`` for in-batch negatives.
      labels: above 0 at positives, where it weighs them; 0 at negatives.
      where: false at padding and at documents that must be neither rewarded nor
        punished, see :func:`duplicate_mask`.
      weights: weight of each positive's term; those of negatives are not read.
      reduce_fn: ``reduce_fn(losses, where=queries)`` over ``[*batch]``; queries without
        a positive do not count.  None returns one value a query.

    Example::

      >>> scores, labels = jnp.array([1.0, 1.0, 1.0]), jnp.array([1.0, 0.0, 0.0])
      >>> round(float(contrastive_loss(scores, labels)), 4)  # log 3
      1.0986
      >>> where = jnp.array([True, True, False])
      >>> round(float(contrastive_loss(scores, labels, where=where)), 4)  # log 2
      0.6931
      >>> [f"{slope:.3f}" for slope in jax.grad(contrastive_loss)(scores, labels)]
      ['-0.667', '0.333', '0.333']
    """
    scores = scores.astype(jnp.float32)
    if where is None:
        where = jnp.ones(scores.shape, dtype=bool)
    positive = where & (labels > 0)
    negative = where & ~(labels > 0)
    gain = jnp.where(positive, labels, 0.0).astype(jnp.float32)
    scores = jnp.where(where, scores, 0.0)
    rival = jnp.any(negative, axis=-1, keepdims=True)
    # A row without negatives is computed as if all were, and then discarded.
    rivals = jax.nn.logsumexp(
        where_score(scores, negative | ~rival), axis=-1, keepdims=True
    )
    terms = jnp.where(positive & rival, jax.nn.softplus(rivals - scores), 0.0)
    if weights is not None:
        terms = terms * jnp.where(positive, weights, 0.0).astype(jnp.float32)
    losses = safe_divide(jnp.sum(gain * terms, axis=-1), jnp.sum(gain, axis=-1))
    return _reduce(losses, jnp.any(positive, axis=-1), reduce_fn)


def flops_loss(
    activations: Float[Array, "*batch rows vocabulary"],
    *,
    where: Bool[Array, "*batch rows"] | None = None,
) -> Float[Array, "*batch"]:
    """The expected floating-point operations of a sparse dot product, as a smooth loss.

    Equation, over ``R`` texts::

      l = sum_v (1 / R * sum_r |a_rv|)^2

    It pushes mass away from the terms that many texts use, hence to even posting lists.
    A weight of 0 has no slope.

    Source: Paria et al., "Minimizing FLOPs to Learn Efficient Sparse Representations"
    (2020), eq. 4; Formal et al., "SPLADE" (2021), eq. 4.

    Args:
      activations: term weights of texts.
      where: false at texts that are padding.

    Example::

      >>> float(flops_loss(jnp.array([[1.0, 0.0], [1.0, 2.0]])))  # 1^2 + 1^2
      2.0
      >>> where = jnp.array([True, False])
      >>> float(flops_loss(jnp.array([[1.0, 0.0], [1.0, 2.0]]), where=where))
      1.0
    """
    activations = activations.astype(jnp.float32)
    sizes = activations * jnp.sign(activations)  # jnp.abs has the slope 1 at 0
    if where is not None:
        where = where[..., None]
    return jnp.sum(jnp.square(masked_mean(sizes, where, axis=-2)), axis=-1)


def duplicate_mask(
    doc_index: Int[Array, "B L"],
    known_positive: Bool[Array, "B B*L"] | None = None,
    *,
    where: Bool[Array, "B L"] | None = None,
) -> Bool[Array, "B B*L"]:
    """Which documents of the whole batch may stand in each query's contrast.

    A query's own list always counts.  A document of another query's list counts unless
    it is a judged positive of this query, or the very document that the own list holds
    already: both are no negatives, whatever list brought them.

    Args:
      doc_index: rows of the documents in their collection, -1 at padding.
      known_positive: judged positives among the flattened documents.
      where: false at padding.

    Returns:
      ``where`` for :func:`contrastive_loss` over scores ``[B, B * L]``.

    Example::

      >>> duplicate_mask(jnp.array([[4, 7], [7, 9]])).tolist()
      [[True, True, False, True], [True, False, True, True]]
    """
    num_queries, list_size = doc_index.shape
    flat = doc_index.reshape(-1)
    exists = flat >= 0 if where is None else where.reshape(-1) & (flat >= 0)
    own_index = doc_index if where is None else jnp.where(where, doc_index, -1)
    own_list = (
        jnp.arange(num_queries)[:, None]
        == (jnp.arange(num_queries * list_size) // list_size)[None, :]
    )
    taken = jnp.any(flat[None, :, None] == own_index[:, None, :], axis=-1)
    if known_positive is not None:
        taken = taken | known_positive
    return exists[None, :] & (own_list | ~taken)


def _reduce(losses: Array, where: Array, reduce_fn: Reduce) -> Array:
    """Applies ``reduce_fn`` so that even ``jnp.mean`` of nothing is 0."""
    losses = jnp.where(where, losses, 0.0)
    if reduce_fn is None:
        return losses
    return reduce_fn(losses, where=where | ~jnp.any(where))
