"""RankT5's four losses over lists, computed by Rax, with its reductions or the paper's.

With scores ``s`` and labels ``y`` of one list, ``p = softmax(s)`` over its valid items:

======= ====================================================================== ======
kind    loss of one list, as the paper writes it (``reduction="paper"``)       source
======= ====================================================================== ======
softmax ``- sum_j y_j log p_j``                                                4.2
poly1   ``- sum_j y_j log p_j + epsilon sum_j y_j (1 - p_j)``                  4.2
pair    ``sum_{j, k: y_j > y_k} log(1 + e^(s_k - s_j))``                       4.2
pointce ``sum_j - y_j log sigmoid(s_j) - (1 - y_j) log sigmoid(-s_j)``         5
======= ====================================================================== ======

Sections are those of Zhuang et al., "RankT5: Fine-Tuning T5 for Text Ranking with
Ranking Losses" (2022, arXiv 2210.10634); the paper names the pointwise loss without
an equation, and this is its sum over the list.  The loss of a batch is the mean over
its lists.  ``reduction="rax"`` takes what Rax does by default instead:

======= ===================================================== ========================
kind    one value, as Rax writes it (``reduction="rax"``)     mean over
======= ===================================================== ========================
softmax the same                                              lists
poly1   ``- sum_j y_j log p_j + epsilon (1 - sum_j q_j p_j)`` lists
        with ``q_j = y_j / sum_k y_k``
pair    ``log(1 + e^(s_k - s_j))`` of one pair                all pairs of the batch
pointce the term of one item                                  all items of the batch
======= ===================================================== ========================

So ``softmax`` has one reduction, ``poly1`` differs where the labels of a list do not
sum to 1, and ``pair`` and ``pointce`` differ in scale and in the weight of long lists.

A list counts when it holds a positive (``y > 0``) and another valid item.  A list that
does not count (all padding, a single item, no positive) contributes 0, has no gradient
and does not dilute a mean, in either reduction; Rax alone would count the last two.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxir.errors import InputError
from jaxir.numerics import masked_mean, safe_divide

__all__ = ["KINDS", "LAMBDA_WEIGHTS", "RankLoss", "lists_that_count", "rank_loss"]

REDUCTIONS = ("paper", "rax")
LABELS = ("judgments", "teacher")

LAMBDA_WEIGHTS: Mapping[str, str] = MappingProxyType(
    {
        "labeldiff": "labeldiff_lambdaweight",
        "dcg": "dcg_lambdaweight",
        "dcg2": "dcg2_lambdaweight",
    }
)
"""Rax's weights of a pair by name: ``|y_j - y_k|``, LambdaRank's, LambdaLoss's."""


@dataclasses.dataclass(frozen=True)
class RankLoss:
    """Which loss a cross-encoder trains on, see the module's tables.

    The paper's best is ``RankLoss("poly1")`` or ``RankLoss("softmax")``.

    Attributes:
      kind: ``softmax``, ``poly1``, ``pair`` or ``pointce``.
      epsilon: for ``poly1``: weight of its extra term; the paper's is 1.
      reduction: ``paper`` or ``rax``.
      lambda_weights: weights of the pairs of ``pair``: None, ``labeldiff``, ``dcg``
        (Burges et al. 2006, LambdaRank) or ``dcg2`` (Wang et al. 2018, LambdaLoss).
        Rax multiplies the last two by the padded length of the list.
      balance: for ``pointce``: the positives of a list weigh as much together as its
        negatives, each ``num_negatives / num_positives``.  This is the expectation of
        the paper's upsampling of positives to 1:1 (section 5.1).
      labels: ``judgments``; or, for ``softmax``, ``teacher``: the softmax of the scores
        that ``jaxir label`` gave the list, for the cross entropy of distillation.
      chunk_size: pairs scored at a time (gradient caching), so that memory does not
        grow with the lists; None scores the batch at once.

    Raises:
      InputError: for an unknown name, a number out of range, or an option of another
        loss.

    Example::

      >>> RankLoss("poly1", epsilon=2.0).reduction
      'paper'
    """

    kind: str = "softmax"
    epsilon: float = 1.0
    reduction: str = "paper"
    lambda_weights: str | None = None
    balance: bool = True
    labels: str = "judgments"
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        """Checks names, ranges and what belongs together."""
        for name, value, known in (
            ("kind", self.kind, tuple(KINDS)),
            ("reduction", self.reduction, REDUCTIONS),
            ("lambda_weights", self.lambda_weights, (None, *LAMBDA_WEIGHTS)),
            ("labels", self.labels, LABELS),
        ):
            if value not in known:
                expected = "one of " + ", ".join(str(option) for option in known)
                raise InputError(f"RankLoss.{name}", repr(value), expected)
        if not self.epsilon >= 0:
            found = str(self.epsilon)
            raise InputError("RankLoss.epsilon", found, "a number of at least 0")
        if self.chunk_size is not None and self.chunk_size < 1:
            found = str(self.chunk_size)
            raise InputError("RankLoss.chunk_size", found, "a number above 0, or None")
        options: tuple[tuple[str, Any, Any, str], ...] = (
            ("epsilon", self.epsilon, 1.0, "poly1"),
            ("balance", self.balance, True, "pointce"),
            ("lambda_weights", self.lambda_weights, None, "pair"),
            ("labels", self.labels, "judgments", "softmax"),
        )
        for name, given, default, kind in options:
            if given != default and self.kind != kind:
                raise InputError(
                    f"RankLoss.{name}",
                    f"{given!r} with kind {self.kind!r}",
                    f"kind {kind!r}",
                    f"leave {name} out",
                )


def lists_that_count(
    labels: Float[Array, "*batch list"], where: Bool[Array, "*batch list"]
) -> Bool[Array, "*batch"]:
    """True for lists with a positive and another valid item.

    Example::

      >>> labels = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
      >>> where = jnp.array([[True, True], [True, False], [True, True]])
      >>> lists_that_count(labels, where).tolist()
      [True, False, False]
    """
    positive = jnp.any(where & (labels > 0), axis=-1)
    return positive & (jnp.sum(where, axis=-1) > 1)


def rank_loss(
    loss: RankLoss,
    scores: Float[Array, "*batch list"],
    labels: Float[Array, "*batch list"],
    *,
    where: Bool[Array, "*batch list"] | None = None,
) -> Float[Array, ""]:
    """The loss of lists, see the module's tables.

    Args:
      loss: its kind and reduction; ``labels`` and ``chunk_size`` are not read.
      scores: ``[*batch, list]``.
      labels: graded relevance, 0 for not relevant; a grade below 0 counts as 0.
        ``pointce`` takes grades above 1 as 1.
      where: false at padding.

    Returns:
      A float32 scalar.

    Example::

      >>> scores, labels = jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[1.0, 0.0, 0.0]])
      >>> for kind in KINDS:
      ...     paper = rank_loss(RankLoss(kind), scores, labels)
      ...     rax = rank_loss(RankLoss(kind, reduction="rax"), scores, labels)
      ...     print(f"{kind} {paper:.4f} {rax:.4f}")
      softmax 0.2395 0.2395
      poly1 0.4526 0.4526
      pair 0.2539 0.1269
      pointce 1.6402 0.5467
    """
    if where is None:
        where = jnp.ones(scores.shape, dtype=bool)
    counts = lists_that_count(labels, where)
    where = where & counts[..., None]
    # What padding holds may be infinite.
    scores = jnp.where(where, scores.astype(jnp.float32), 0.0)
    labels = jnp.where(where, jnp.maximum(labels.astype(jnp.float32), 0.0), 0.0)
    return KINDS[loss.kind](loss, scores, labels, where, counts)


def _softmax(
    loss: RankLoss, scores: Array, labels: Array, where: Array, counts: Array
) -> Array:
    """Listwise softmax cross entropy; Rax and the paper agree."""
    import rax

    del loss  # nothing to choose
    some = _never_empty(where, counts)
    values = rax.softmax_loss(scores, labels, where=some, reduce_fn=None)
    return masked_mean(values, counts)


def _poly1(
    loss: RankLoss, scores: Array, labels: Array, where: Array, counts: Array
) -> Array:
    """Softmax cross entropy with its first polynomial coefficient raised by epsilon."""
    import rax

    epsilon: Any = loss.epsilon
    if loss.reduction == "paper":
        # sum_j y_j (1 - p_j) = (sum_j y_j) (1 - sum_j q_j p_j), Rax having the latter.
        epsilon = loss.epsilon * jnp.sum(labels, axis=-1)
    some = _never_empty(where, counts)
    values = rax.poly1_softmax_loss(
        scores, labels, epsilon=epsilon, where=some, reduce_fn=None
    )
    return masked_mean(values, counts)


def _pair(
    loss: RankLoss, scores: Array, labels: Array, where: Array, counts: Array
) -> Array:
    """Pairwise logistic loss over the pairs of different grade."""
    import rax

    weights = None
    if loss.lambda_weights is not None:
        weights = getattr(rax, LAMBDA_WEIGHTS[loss.lambda_weights])

    def reduced(reduce_fn: Callable | None) -> Array:
        return rax.pairwise_logistic_loss(
            scores, labels, where=where, lambdaweight_fn=weights, reduce_fn=reduce_fn
        )

    if loss.reduction == "rax":
        return reduced(masked_mean)
    # [*batch, list * list] -> [*batch]
    return masked_mean(jnp.sum(reduced(None), axis=-1), counts)


def _pointce(
    loss: RankLoss, scores: Array, labels: Array, where: Array, counts: Array
) -> Array:
    """Sigmoid cross entropy of every item by itself."""
    import rax

    weights = _balance(labels, where) if loss.balance else None
    # At 0 exactly, Rax's slope is -1/2 - y where it should be 1/2 - y, which a head
    # that begins with zeros would meet everywhere.
    scores = scores + jax.lax.stop_gradient(jnp.where(scores == 0, 1e-30, 0.0))

    def reduced(reduce_fn: Callable | None) -> Array:
        return rax.pointwise_sigmoid_loss(
            scores, labels, where=where, weights=weights, reduce_fn=reduce_fn
        )

    if loss.reduction == "rax":
        return reduced(masked_mean)
    return masked_mean(jnp.sum(reduced(None), axis=-1), counts)


KINDS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {"softmax": _softmax, "poly1": _poly1, "pair": _pair, "pointce": _pointce}
)
"""The losses by name: ``kind(loss, scores, labels, where, counts) -> scalar``."""


def _never_empty(where: Array, counts: Array) -> Array:
    """Whole lists instead of empty ones, whose softmax would be 0 / 0."""
    return where | ~counts[..., None]


def _balance(labels: Array, where: Array) -> Array:
    """Weights ``[*batch, list]`` by which positives weigh as much as negatives."""
    positive = where & (labels > 0)
    num_positives = jnp.sum(positive, axis=-1, keepdims=True).astype(jnp.float32)
    num_negatives = jnp.sum(where & ~positive, axis=-1, keepdims=True)
    ratio = safe_divide(num_negatives.astype(jnp.float32), num_positives)
    return jnp.where(positive, ratio, 1.0)
