"""The retrievers' loss: a plain-Python oracle over any scores; what is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.objective import (
    CANDIDATES,
    RetrievalLoss,
    encode_batch,
    own_block,
    retrieval_loss,
)
from jaxir.types import RankBatch, TokenBatch

B, L = 4, 3
PAPER = RetrievalLoss(margin_mse=1.0, temperature=1.0, candidates="first")


def tokens_of(*shape) -> TokenBatch:
    return TokenBatch(
        jnp.arange(np.prod(shape), dtype=jnp.int32).reshape(shape),
        jnp.ones(shape, bool),
    )


def batch_of(seed=0, padded=True) -> RankBatch:
    rng = np.random.default_rng(seed)
    where = rng.random((B, L)) < 0.7 if padded else np.ones((B, L), bool)
    where[:, 0] = True
    return RankBatch(
        query=tokens_of(B, 2),
        doc=tokens_of(B, L, 2),
        labels=jnp.zeros((B, L)).at[:, 0].set(1),
        where=jnp.asarray(where),
        teacher_scores=jnp.asarray(rng.normal(size=(B, L)), jnp.float32),
    )


def scores_of(seed=1):
    scores = np.random.default_rng(seed).normal(size=(B, B * L)).astype(np.float32)
    parts = {"all": scores, "first": scores[:, ::L], "own": own_rows(scores)}
    parts["negatives"] = scores
    asked = []

    def score(name):
        asked.append(name)
        return jnp.asarray(parts[name])

    return score, parts, asked


def own_rows(scores):
    return np.stack([scores[q, q * L : (q + 1) * L] for q in range(B)])


def infonce(scores, right, allowed):
    return np.log(np.exp(scores[allowed]).sum()) - scores[right]


def negatives_and(query, where):
    """Every list but its first document, and the query's own first."""
    allowed = where.copy()
    allowed[np.arange(B) != query, 0] = False
    return allowed.reshape(-1)


def margins(own, batch):
    teacher, where = np.asarray(batch.teacher_scores), np.asarray(batch.where)
    errors = [
        ((own[q, 0] - own[q, j]) - (teacher[q, 0] - teacher[q, j])) ** 2
        for q in range(B)
        for j in range(1, L)
        if where[q, j]
    ]
    return np.mean(errors)


def divergence(own, batch, temperature):
    values = []
    for q in range(B):
        kept = np.asarray(batch.where[q])
        s, t = own[q][kept], np.asarray(batch.teacher_scores[q])[kept]
        p, r = (np.exp(x / temperature) / np.exp(x / temperature).sum() for x in (t, s))
        values.append(np.sum(p * np.log(p / r)))
    return np.mean(values)


@pytest.mark.parametrize("candidates", CANDIDATES)
def test_every_term_by_hand(candidates):
    batch, (score, parts, asked) = batch_of(), scores_of()
    losses = RetrievalLoss(
        contrastive=0.5, margin_mse=2.0, kl=3.0, temperature=0.7, kl_temperature=1.5,
        student_scale=1.3, candidates=candidates,
    )  # fmt: skip
    total, metrics = retrieval_loss(losses, batch, score)
    where = np.asarray(batch.where)
    each = []
    for q in range(B):
        allowed, right = {
            "all": (where.reshape(-1), q * L),
            "first": (np.ones(B, bool), q),
            "negatives": (negatives_and(q, where), q * L),
            "own": (where[q], 0),
        }[candidates]
        each.append(infonce(parts[candidates][q] / 0.7, right, allowed))
    own = 1.3 * parts["own"]
    expected = {
        "contrastive": 0.5 * np.mean(each),
        "margin_mse": 2.0 * margins(own, batch),
        "kl": 3.0 * divergence(own, batch, 1.5),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    np.testing.assert_allclose(total, sum(expected.values()), rtol=1e-5)
    # The own block of what is there already is not scored once more.
    whole = candidates in ("all", "negatives")
    assert asked == ([candidates] if whole else [candidates, "own"])


def test_the_contrast_alone_asks_for_no_more():
    score, _, asked = scores_of()
    losses = RetrievalLoss(candidates="first")
    total, metrics = retrieval_loss(losses, batch_of(), score)
    assert asked == ["first"]
    np.testing.assert_allclose(total, metrics["contrastive"])
    assert "margin_mse" not in metrics


def test_metrics_tell_the_candidates_apart():
    batch, (score, parts, _) = batch_of(), scores_of()
    _, metrics = retrieval_loss(PAPER, batch, score)
    first = parts["first"]
    right = first.argmax(axis=1) == np.arange(B)
    np.testing.assert_allclose(metrics["accuracy"], right.mean())
    np.testing.assert_allclose(metrics["positive_score"], np.diag(first).mean(), 1e-5)
    others = first[~np.eye(B, dtype=bool)]
    np.testing.assert_allclose(metrics["negative_score"], others.mean(), rtol=1e-4)


def test_what_others_judged_is_no_negative_either():
    """Not their first document alone: every positive of another list."""
    batch, (score, parts, _) = batch_of(padded=False), scores_of()
    batch = batch._replace(labels=batch.labels.at[1, 2].set(1.0))
    losses = RetrievalLoss(temperature=1.0, candidates="negatives")
    total, _ = retrieval_loss(losses, batch, score)
    each = []
    for q in range(B):
        rivals = negatives_and(q, np.asarray(batch.where))
        rivals[[q * L, L + 2]] = False
        rights = [q * L, L + 2] if q == 1 else [q * L]
        scores = parts["all"][q]
        rest = np.exp(scores[rivals]).sum()
        each.append(
            np.mean([np.log(np.exp(scores[r]) + rest) - scores[r] for r in rights])
        )
    np.testing.assert_allclose(total, np.mean(each), rtol=1e-5)


def test_no_gradient_through_the_metrics_and_none_from_padding():
    batch, (_, parts, _) = batch_of(), scores_of()

    def total(scores):
        pick = {"first": scores[:, ::L], "own": own_block(scores)}
        return retrieval_loss(PAPER, batch, pick.__getitem__)

    scores = jnp.asarray(parts["all"])
    slope = np.asarray(jax.grad(lambda s: total(s)[0])(scores))
    assert np.isfinite(slope).all()
    padding = ~np.asarray(batch.where)
    assert padding.any()
    assert (own_rows(slope)[padding] == 0).all()
    measured = jax.grad(lambda s: sum(total(s)[1].values()))(scores)
    assert not np.asarray(measured).any()


def test_padding_may_hold_anything():
    batch, (_, parts, _) = batch_of(), scores_of()
    padding = ~np.asarray(batch.where)
    parts = {name: jnp.asarray(scores) for name, scores in parts.items()}
    clean = retrieval_loss(PAPER, batch, parts.__getitem__)[0]
    spoilt = parts | {"own": jnp.where(padding, jnp.inf, parts["own"])}
    np.testing.assert_array_equal(
        retrieval_loss(PAPER, batch, spoilt.__getitem__)[0], clean
    )


def encode_tokens(params, tokens, rng):
    noise = 0.0 if rng is None else jax.random.uniform(rng)
    return params * tokens.ids[:, :1] + tokens.ids + noise


def encode_net(params, tokens, rng):
    vectors = encode_tokens(params, tokens, rng)
    return {"kernel": vectors[:, :, None] * jnp.ones((1, 1, 3)), "bias": vectors}


@pytest.mark.parametrize("chunk_size", [None, 2, 6])
def test_encoding_by_chunks_is_encoding_at_once(chunk_size):
    losses = RetrievalLoss(chunk_size=chunk_size)
    batch = batch_of()
    queries, docs = encode_batch(
        losses, batch, encode_net, encode_tokens, jnp.float32(2), None
    )
    assert {name: x.shape for name, x in queries.items()} == {
        "kernel": (B, 2, 3), "bias": (B, 2),
    }  # fmt: skip
    ids = np.asarray(batch.query.ids, np.float32)
    np.testing.assert_array_equal(queries["bias"], 2 * ids[:, :1] + ids)
    ids = np.asarray(batch.doc.ids, np.float32)
    np.testing.assert_array_equal(docs, 2 * ids[..., :1] + ids)


def test_chunks_that_do_not_fit_and_joint_texts_say_so():
    batch, ones = batch_of(), jnp.float32(1)
    with pytest.raises(InputError, match="chunk_size: 5 for a batch of 12; expected"):
        encode_batch(
            RetrievalLoss(chunk_size=5), batch, encode_tokens, encode_tokens, ones, None
        )
    joint = batch._replace(query=None)
    with pytest.raises(InputError, match=r"joint texts .* separate texts"):
        encode_batch(RetrievalLoss(), joint, encode_tokens, encode_tokens, ones, None)


def test_texts_on_both_sides_draw_apart():
    batch = batch_of()
    batch = batch._replace(doc=jax.tree.map(lambda x: x[:, None], batch.query))
    batch = batch._replace(labels=jnp.ones((B, 1)))
    queries, docs = encode_batch(
        PAPER, batch, encode_tokens, encode_tokens, jnp.float32(0), jax.random.key(0)
    )
    assert not np.allclose(queries, docs[:, 0])


def test_teacher_scores_that_are_missing_say_so():
    batch, (score, _, _) = batch_of()._replace(teacher_scores=None), scores_of()
    for losses in (PAPER, RetrievalLoss(contrastive=0.0, kl=1.0)):
        with pytest.raises(InputError, match=r"no teacher scores .*`jaxir label`"):
            retrieval_loss(losses, batch, score)
    assert np.isfinite(retrieval_loss(RetrievalLoss(), batch, score)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": "x"}, "RetrievalLoss.candidates: 'x'; expected one of all"),
        ({"contrastive": 0.0}, r"RetrievalLoss: contrastive 0.0, .* one of them above"),
        ({"margin_mse": -1.0}, "margin_mse -1.0"),
        ({"student_scale": 0.0}, "RetrievalLoss.student_scale: 0.0; expected a number"),
    ],
)
def test_what_cannot_be_a_loss_says_so(changes, message):
    with pytest.raises(InputError, match=message):
        RetrievalLoss(**changes)
