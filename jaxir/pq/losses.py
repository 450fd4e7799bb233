"""What is minimised over a query's positives and negatives, each with its rank.

LambdaRank as JPQ's released training has it (Zhan et al. 2021, section 4.3, names it;
weights and cut are the code's), and the plain contrast that it is compared with.
Positives ``[B, P]`` and negatives ``[B, N]`` stand apart: a query may have several of
the former, and a pair is one of each.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxir.numerics import masked_log_softmax, masked_mean

__all__ = ["list_contrast", "rank_weights", "weighted_pairs"]


def rank_weights(
    ranks: Int[Array, "*shape"], cut: int | None = None
) -> Float[Array, "*shape"]:
    """``1 / rank``, the reciprocal rank that a document at this rank would give.

    Args:
      ranks: from 1.
      cut: the last rank of any weight; None for no cut.

    Example::

      >>> rank_weights(jnp.array([1, 2, 4]), cut=2).tolist()
      [1.0, 0.5, 0.0]
    """
    weights = 1.0 / ranks.astype(jnp.float32)
    return weights if cut is None else jnp.where(ranks <= cut, weights, 0.0)


def weighted_pairs(
    positives: Float[Array, "B P"],
    negatives: Float[Array, "B N"],
    *,
    positive_weights: Float[Array, "B P"],
    negative_weights: Float[Array, "B N"],
    where_positive: Bool[Array, "B P"],
    where_negative: Bool[Array, "B N"],
) -> Float[Array, " B"]:
    """LambdaRank's loss of each query: pairs weigh what exchanging them would change.

    Equation, over positives ``i`` and negatives ``j`` that are there::

      l = mean_ij |w_i - w_j| log(1 + exp(s_j - s_i))

    with the weights of :func:`rank_weights`, which are constants.  Its slope is
    ``dl/ds_j = -dl/ds_i = |w_i - w_j| sigmoid(s_j - s_i) >= 0``, the ``alpha`` of JPQ's
    equation 17.

    Args:
      positives: scores.
      negatives: scores.
      positive_weights: of their ranks.
      negative_weights: of their ranks.
      where_positive: false at padding.
      where_negative: false at padding.

    Returns:
      ``[B]``; 0 for a query without a pair.

    Example::

      >>> here = jnp.ones((1, 1), bool)
      >>> loss = weighted_pairs(
      ...     jnp.zeros((1, 1)), jnp.zeros((1, 1)), where_positive=here,
      ...     positive_weights=jnp.full((1, 1), 0.5), where_negative=here,
      ...     negative_weights=jnp.ones((1, 1)))
      >>> round(float(loss[0]), 4)  # log 2 / 2
      0.3466
    """
    above = jnp.expand_dims(negatives, 1) - jnp.expand_dims(positives, 2)  # [B, P, N]
    gain = jnp.abs(
        jnp.expand_dims(negative_weights, 1) - jnp.expand_dims(positive_weights, 2)
    )
    pairs = jax.lax.stop_gradient(gain) * jax.nn.softplus(above)
    return masked_mean(pairs, _pairs(where_positive, where_negative), axis=(1, 2))


def list_contrast(
    positives: Float[Array, "B P"],
    negatives: Float[Array, "B N"],
    *,
    where_positive: Bool[Array, "B P"],
    where_negative: Bool[Array, "B N"],
) -> Float[Array, " B"]:
    """Softmax cross entropy of each positive among the negatives, ranks unknown.

    Equation: ``l = mean_i -log(exp(s_i) / (exp(s_i) + sum_j exp(s_j)))``.

    Args:
      positives: scores.
      negatives: scores.
      where_positive: false at padding.
      where_negative: false at padding.

    Returns:
      ``[B]``; 0 for a query without a positive.

    Example::

      >>> here = jnp.ones((1, 1), bool)
      >>> loss = list_contrast(
      ...     jnp.zeros((1, 1)), jnp.zeros((1, 1)), where_positive=here,
      ...     where_negative=here)
      >>> round(float(loss[0]), 4)  # log 2
      0.6931
    """
    shape = (*positives.shape, negatives.shape[1])
    others = jnp.broadcast_to(jnp.expand_dims(negatives, 1), shape)
    scores = jnp.concatenate([jnp.expand_dims(positives, 2), others], axis=2)
    itself = jnp.expand_dims(where_positive, 2)
    where = jnp.concatenate([itself, _pairs(where_positive, where_negative)], axis=2)
    log_probs = masked_log_softmax(scores, where)[:, :, 0]
    return masked_mean(-log_probs, where_positive, axis=1)


def _pairs(
    where_positive: Bool[Array, "B P"], where_negative: Bool[Array, "B N"]
) -> Bool[Array, "B P N"]:
    return jnp.expand_dims(where_positive, 2) & jnp.expand_dims(where_negative, 1)
