"""RankT5's losses: the property matrix, hand values, Rax and torch as oracles."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rax
from properties import LENGTH, PROPERTIES, Case, draw_grades, draw_scores

from jaxir.errors import InputError
from jaxir.rank.losses import KINDS, LAMBDA_WEIGHTS, RankLoss, rank_loss

RAX = {
    "softmax": rax.softmax_loss,
    "poly1": rax.poly1_softmax_loss,
    "pair": rax.pairwise_logistic_loss,
    "pointce": rax.pointwise_sigmoid_loss,
}


def draw_one_positive(rng, *shape):
    """One positive a list, the first, as in the paper: all lists have as many pairs."""
    del rng
    labels = np.zeros(shape, np.float32)
    labels[..., 0] = 1
    return labels


def apply(loss):
    return lambda scores, labels, where: rank_loss(loss, scores, labels, where=where)


# Scores 0, log 2, 0 make p = 1/4, 1/2, 1/4 and sigmoids 1/2, 2/3, 1/2.
SCORES = [0.0, math.log(2.0), 0.0]
GRADED = [2.0, 1.0, 0.0]
SOFTMAX = 2 * math.log(4) + math.log(2)
PAIRS = [math.log(3), math.log(2), math.log(1.5)]  # (0, 1), (0, 2), (1, 2)
POINTS = [math.log(2), math.log(1.5), math.log(2)]

# (loss, hand-computed value on GRADED, draws labels of equal numbers of terms)
ROWS = [
    (RankLoss("softmax"), SOFTMAX, draw_grades),
    (RankLoss("softmax", reduction="rax"), SOFTMAX, draw_grades),
    # sum_j y_j (1 - p_j) = 2 * 3/4 + 1/2
    (RankLoss("poly1"), SOFTMAX + 2.0, draw_grades),
    (RankLoss("poly1", epsilon=3.0), SOFTMAX + 6.0, draw_grades),
    # 1 - sum_j q_j p_j = 1 - (2/3 * 1/4 + 1/3 * 1/2)
    (RankLoss("poly1", reduction="rax"), SOFTMAX + 2 / 3, draw_grades),
    (RankLoss("pair"), sum(PAIRS), draw_grades),
    (RankLoss("pair", reduction="rax"), sum(PAIRS) / 3, draw_one_positive),
    (
        RankLoss("pair", lambda_weights="labeldiff"),
        PAIRS[0] + 2 * PAIRS[1] + PAIRS[2],
        draw_grades,
    ),
    (RankLoss("pointce", balance=False), sum(POINTS), draw_grades),
    # Two positives against one negative: each weighs a half.
    (RankLoss("pointce"), (POINTS[0] + POINTS[1]) / 2 + POINTS[2], draw_grades),
    (
        RankLoss("pointce", reduction="rax"),
        ((POINTS[0] + POINTS[1]) / 2 + POINTS[2]) / 3,
        draw_one_positive,
    ),
    (
        RankLoss("pointce", balance=False, reduction="rax"),
        sum(POINTS) / 3,
        draw_one_positive,
    ),
]


def name_of(loss):
    changed = [
        f"{field.name}={getattr(loss, field.name)}"
        for field in dataclasses.fields(loss)
        if getattr(loss, field.name) != field.default and field.name != "kind"
    ]
    return "-".join([loss.kind, *changed])


CASES = [
    Case(name_of(loss), apply(loss), hand=(SCORES, GRADED, value), labels=labels)
    for loss, value, labels in ROWS
]


@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_property(case, check):
    check(case)


def kind_of(kind, **options):
    """The kind with those of the options that it takes."""
    taken = {"poly1": ("epsilon",), "pointce": ("balance",)}.get(kind, ())
    kept = {k: v for k, v in options.items() if k == "reduction" or k in taken}
    return RankLoss(kind, **kept)


def lists(seed=3, batch=5, labels=draw_grades):
    """Padded lists; the first item is a positive, the second is there too."""
    rng = np.random.default_rng(seed)
    where = rng.random((batch, LENGTH)) < 0.6
    where[:, :2] = True
    return tuple(
        jnp.asarray(x)
        for x in (draw_scores(rng, batch, LENGTH), labels(rng, batch, LENGTH), where)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [draw_grades, draw_one_positive])
def test_rax_reduction_is_what_rax_does(kind, labels):
    scores, labels, where = lists(labels=labels)
    loss = kind_of(kind, reduction="rax", balance=False)
    np.testing.assert_allclose(
        rank_loss(loss, scores, labels, where=where),
        RAX[kind](scores, labels, where=where),
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", LAMBDA_WEIGHTS)
@pytest.mark.parametrize("reduction", ["paper", "rax"])
def test_lambda_weights_are_those_of_rax(name, reduction):
    scores, labels, where = lists()
    loss = RankLoss("pair", lambda_weights=name, reduction=reduction)
    weights = getattr(rax, LAMBDA_WEIGHTS[name])
    expected = rax.pairwise_logistic_loss(
        scores,
        labels,
        where=where,
        lambdaweight_fn=weights,
        reduce_fn=jnp.sum if reduction == "paper" else jnp.mean,
    )
    if reduction == "paper":
        expected = expected / scores.shape[0]
    found = rank_loss(loss, scores, labels, where=where)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def by_hand(kind, s, y, epsilon=2.0):
    """The paper's equations over one list, in loops and float64."""
    p = np.exp(s) / np.exp(s).sum()
    n = range(len(s))
    if kind == "pair":
        return sum(np.log1p(np.exp(s[k] - s[j])) for j in n for k in n if y[j] > y[k])
    if kind == "pointce":
        y = np.minimum(y, 1.0)
        sigmoid = 1 / (1 + np.exp(-s))
        return -(y * np.log(sigmoid) + (1 - y) * np.log(1 - sigmoid)).sum()
    softmax = -(y * np.log(p)).sum()
    return softmax + (epsilon * (y * (1 - p)).sum() if kind == "poly1" else 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_paper_reduction_by_brute_force(kind):
    scores, labels, where = lists()
    expected = np.mean(
        [
            by_hand(kind, np.float64(s[w]), np.float64(y[w]))
            for s, y, w in zip(*map(np.asarray, (scores, labels, where)), strict=True)
        ]
    )
    loss = kind_of(kind, epsilon=2.0, balance=False)
    found = rank_loss(loss, scores, labels, where=where)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["paper", "rax"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("labels", "where"),
    [
        ([1, 0, 0], [False, False, False]),
        ([1, 0, 0], [True, False, False]),
        ([0, 0, 0], [True, True, True]),
        ([-1, 0, -2], [True, True, True]),
        ([1, 0, 0], [False, True, True]),
    ],
    ids=["all padding", "single item", "no positive", "below 0", "positive masked"],
)
def test_lists_with_nothing_to_tell_apart(kind, reduction, labels, where):
    loss = RankLoss(kind, reduction=reduction)
    scores = jnp.array([3.0, -1.0, 0.5])
    labels, where = jnp.array(labels, jnp.float32), jnp.array(where)
    value, slope = jax.value_and_grad(apply(loss))(scores, labels, where)
    assert float(value) == 0.0
    assert not np.any(slope)
    # Beside a list that counts they change nothing.
    good = jnp.array([1.0, 0.0, 0.0]), jnp.ones(3, dtype=bool)
    both = apply(loss)(
        jnp.stack([scores, scores]),
        jnp.stack([labels, good[0]]),
        jnp.stack([where, good[1]]),
    )
    np.testing.assert_allclose(both, apply(loss)(scores, *good), rtol=1e-6)


@pytest.mark.parametrize("kind", ["pair", "pointce"])
def test_equal_scores_have_torchs_slope(kind):
    torch = pytest.importorskip("torch")
    scores, labels = np.zeros((1, 4), np.float32), np.float32([[1, 0, 0, 0]])
    leaf = torch.tensor(scores, requires_grad=True)
    if kind == "pointce":
        value = torch.nn.functional.binary_cross_entropy_with_logits(
            leaf, torch.tensor(labels), reduction="sum"
        )
    else:
        value = torch.nn.functional.softplus(leaf[:, 1:] - leaf[:, :1]).sum()
    value.backward()
    loss = kind_of(kind, balance=False)
    found, slope = jax.value_and_grad(apply(loss))(
        jnp.asarray(scores), jnp.asarray(labels), None
    )
    np.testing.assert_allclose(found, value.item(), rtol=1e-6)
    np.testing.assert_allclose(slope, leaf.grad.numpy(), atol=1e-6)


def test_balance_is_the_paper_s_upsampling_in_expectation():
    scores, _, _ = lists(batch=1)
    labels = jnp.array([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    # Each of two positives drawn twice stands opposite four negatives.
    drawn = jnp.concatenate([scores[:, :2], scores], axis=1)
    drawn_labels = jnp.concatenate([labels[:, :2], labels], axis=1)
    np.testing.assert_allclose(
        rank_loss(RankLoss("pointce"), scores, labels),
        rank_loss(RankLoss("pointce", balance=False), drawn, drawn_labels),
        rtol=1e-6,
    )


def test_published_value_of_rax():
    # The example of Rax's documentation of softmax_loss.
    scores, labels = jnp.array([2.0, 1.0, 3.0]), jnp.array([1.0, 0.0, 0.0])
    found = rank_loss(RankLoss("softmax"), scores, labels)
    np.testing.assert_allclose(found, 1.4076059, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "hinge"}, "RankLoss.kind: 'hinge'; expected one of softmax, poly1"),
        ({"reduction": "sum"}, "RankLoss.reduction: 'sum'; expected one of paper, rax"),
        (
            {"kind": "pair", "lambda_weights": "ndcg"},
            "lambda_weights: 'ndcg'; expected one of None, labeldiff, dcg, dcg2",
        ),
        ({"labels": "clicks"}, "labels: 'clicks'; expected one of judgments, teacher"),
        ({"epsilon": -1.0}, "epsilon: -1.0; expected a number of at least 0"),
        ({"chunk_size": 0}, "chunk_size: 0; expected a number above 0, or None"),
        (
            {"lambda_weights": "dcg"},
            "'dcg' with kind 'softmax'; expected kind 'pair'; leave lambda_weights out",
        ),
        (
            {"kind": "softmax", "epsilon": 2.0},
            "2.0 with kind 'softmax'; expected kind 'poly1'; leave epsilon out",
        ),
        (
            {"kind": "pair", "balance": False},
            "False with kind 'pair'; expected kind 'pointce'; leave balance out",
        ),
        (
            {"kind": "pair", "labels": "teacher"},
            "'teacher' with kind 'pair'; expected kind 'softmax'; leave labels out",
        ),
    ],
)
def test_refuses_what_is_no_loss(fields, message):
    with pytest.raises(InputError, match=message):
        RankLoss(**fields)
