"""Training a sparse encoder: imitate teachers, or contrast; and stay sparse."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxir.errors import InputError
from jaxir.losses import flops_loss
from jaxir.numerics import masked_mean
from jaxir.objective import RetrievalLoss, encode_batch, retrieval_loss
from jaxir.sparse.model import (
    SparseConfig,
    encode_doc,
    encode_query,
    init_params,
)
from jaxir.types import Metrics, Params, RankBatch, Task

__all__ = [
    "SparseLoss",
    "flops_weight",
    "make_task",
    "sparse_loss",
    "sparsity_loss",
]


@dataclasses.dataclass(frozen=True)
class SparseLoss(RetrievalLoss):
    """Ranking losses, and what keeps the vectors sparse.

    The paper's loss is the default: ``KL(teacher, student) + flops * FLOPS`` (arXiv
    2411.04403, eq. 6).  InfoNCE, its baseline, is ``SparseLoss(contrastive=1, kl=0,
    candidates="negatives")``.

    FLOPS is no mean over queries: of half a batch it is larger, since what different
    texts use does not cancel.  With ``TrainConfig.accumulate`` it is that of each
    micro-batch, averaged over them; ``chunk_size`` bounds the memory and keeps the
    FLOPS of the batch.

    Attributes:
      contrastive: weight of the contrast, over scores as they are.
      kl: weight of the KL distillation, over each query's own list.
      temperature: divides the scores of the contrast.
      candidates: as ``RetrievalLoss``'s; also what ``accuracy`` is over.
      flops: weight of the documents' FLOPS.
      query_flops: weight of the queries' FLOPS, for a query encoder.
      flops_warmup: updates over which both weights rise with the square of the step.
      l0_threshold: documents of so few tokens or fewer pay no FLOPS; 0 for all do.

    Raises:
      InputError: as ``RetrievalLoss``; a weight below 0.
    """

    contrastive: float = 0.0
    kl: float = 1.0
    temperature: float = 1.0
    candidates: str = "own"
    flops: float = 0.02
    query_flops: float = 0.0
    flops_warmup: int = 0
    l0_threshold: int = 0

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        super().__post_init__()
        for name in ("flops", "query_flops", "flops_warmup", "l0_threshold"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                found = str(value)
                raise InputError(f"SparseLoss.{name}", found, "a number from 0")


def flops_weight(weight: float, warmup: int, step: Array | int) -> Float[Array, ""]:
    """The regulariser's weight at a step: it rises with the square of the step.

    Equation: ``weight * min(1, (step + 1) / warmup)^2``.

    Source: Paria et al. (2020), section 5; Formal et al., "SPLADE" (2021), section 4.

    Args:
      weight: at the end of the warm-up.
      warmup: updates that it takes; 0 for the weight at once.
      step: updates done.

    Example::

      >>> [float(flops_weight(4.0, 2, step)) for step in (0, 1, 2)]
      [1.0, 4.0, 4.0]
    """
    if warmup == 0:
        return jnp.float32(weight)
    done = jnp.minimum(1.0, (jnp.asarray(step, jnp.float32) + 1.0) / warmup)
    return weight * jnp.square(done)


def sparsity_loss(
    docs: Float[Array, "B L V"],
    where: Bool[Array, "B L"],
    l0_threshold: int = 0,
) -> Float[Array, ""]:
    """FLOPS of each slot of the lists, summed over the slots.

    Equation: ``sum_l sum_v (1 / B sum_b d_blv)^2``: positives and negatives have
    posting lists of their own, as in the released training code; over one slot it is
    the paper's eq. 3.  ``B`` are the lists that have a document in the slot.  With a
    threshold, texts of so few tokens count as empty.

    Args:
      docs: weights of the documents.
      where: false at padding.
      l0_threshold: see :class:`SparseLoss`.

    Example::

      >>> docs = jnp.array([[[1.0, 0.0]], [[1.0, 2.0]]])
      >>> float(sparsity_loss(docs, jnp.ones((2, 1), bool)))
      2.0
    """
    if l0_threshold:
        tokens = jnp.sum(docs > 0, axis=-1, keepdims=True)
        docs = jnp.where(tokens > l0_threshold, docs, 0.0)
    # [B, L, V] -> [L, B, V]
    slots = flops_loss(jnp.swapaxes(docs, 0, 1), where=jnp.swapaxes(where, 0, 1))
    return jnp.sum(slots)


def sparse_loss(
    losses: SparseLoss,
    batch: RankBatch,
    queries: Float[Array, "B V"],
    docs: Float[Array, "B L V"],
    step: Array | int = 0,
) -> tuple[Float[Array, ""], Metrics]:
    """The loss of a batch whose texts are vectors already.

    Equation: ``ranking + flops_weight(step) * (flops * FLOPS(docs) + query_flops *
    FLOPS(queries))`` with the ranking of ``objective.retrieval_loss`` over the inner
    products (arXiv 2411.04403, eq. 6).  By a document's weight ``d_it`` the KL term
    has the slope ``idf(t) q_t (student_i - teacher_i) / B``, with both softmaxed, and
    slot ``l``'s FLOPS ``2 mean_b(d_blt) / B`` (eq. 7).

    Metrics are those of ``objective.retrieval_loss``, ``flops`` (the weighted term),
    ``doc_tokens`` and ``query_tokens`` (mean weights above 0).

    Args:
      losses: the terms.
      batch: labels, teacher scores and masks; of its texts nothing is read.
      queries: as the model weighs them, IDF included.
      docs: weights of the documents.
      step: updates done.

    Raises:
      InputError: distillation without teacher scores.

    Example::

      >>> labels, where = jnp.array([[1.0, 0.0]]), jnp.ones((1, 2), bool)
      >>> batch = RankBatch(None, None, labels, where, teacher_scores=labels)
      >>> docs = jnp.array([[[1.0, 3.0], [0.0, 0.0]]])
      >>> value, metrics = sparse_loss(
      ...     SparseLoss(flops=0.1), batch, jnp.array([[1.0, 0.0]]), docs)
      >>> float(value), float(metrics["kl"])  # as the teacher: only FLOPS is left
      (1.0, 0.0)
    """

    def score(candidates: str) -> Array:
        if candidates == "own":
            return jnp.einsum("BV,BLV->BL", queries, docs, precision="highest")
        chosen = docs[:, :1] if candidates == "first" else docs
        flat = chosen.reshape(-1, docs.shape[-1])
        return jnp.einsum("BV,NV->BN", queries, flat, precision="highest")

    ranking, metrics = retrieval_loss(losses, batch, score)
    where = jnp.asarray(batch.where)
    paid = losses.flops * sparsity_loss(docs, where, losses.l0_threshold)
    if losses.query_flops:
        paid = paid + losses.query_flops * flops_loss(queries)
    flops = flops_weight(1.0, losses.flops_warmup, step) * paid
    own = {
        "flops": flops,
        "doc_tokens": masked_mean(jnp.sum(docs > 0, -1).astype(jnp.float32), where),
        "query_tokens": jnp.mean(jnp.sum(queries > 0, -1).astype(jnp.float32)),
    }
    return ranking + flops, metrics | jax.lax.stop_gradient(own)


def make_task(config: SparseConfig, losses: SparseLoss | None = None) -> Task:
    """The sparse encoder's task over :class:`RankBatch` with separate texts.

    Under a data-parallel mesh the batch is the global one, and so is its FLOPS.
    Loss and metrics are those of :func:`sparse_loss`; the step is that of training, a
    resumed one's too.

    Args:
      config: the model.
      losses: the terms; the paper's by default.

    Raises:
      InputError: FLOPS of queries that no model makes; from ``loss``: as
        ``objective.retrieval_task``'s.
    """
    terms = SparseLoss() if losses is None else losses
    if terms.query_flops and config.query != "encoder":
        raise InputError(
            "SparseLoss.query_flops", f"{terms.query_flops} for queries of sort "
            f"{config.query!r}, which nothing trains", "0, or query 'encoder'",
        )  # fmt: skip

    def init(rng: jax.Array, batch: RankBatch | None = None) -> Params:
        del batch  # shapes follow from the configuration
        return init_params(config, rng)

    def loss(
        params: Params, batch: RankBatch, rng: jax.Array | None, *, step: Array | int
    ) -> tuple[Float[Array, ""], Metrics]:
        queries, docs = encode_batch(
            terms, batch,
            lambda params, tokens, key: encode_query(config, params, tokens, rng=key),
            lambda params, tokens, key: encode_doc(config, params, tokens, rng=key),
            params, rng,
        )  # fmt: skip
        return sparse_loss(terms, batch, queries, docs, step)

    return Task(init, loss, stepwise=True)
