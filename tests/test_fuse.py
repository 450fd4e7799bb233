"""Fusion against hand values and a dense numpy computation."""

import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.fuse import METHODS, fuse, min_max, z_score

A = {"q": {"a": 9.0, "b": 6.0, "c": 3.0}}
B = {"q": {"c": 0.9, "d": 0.5}}


def test_reciprocal_ranks_by_hand():
    fused = fuse([A, B])["q"]
    assert fused == pytest.approx(
        {"c": 1 / 63 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "d": 1 / 62}
    )
    assert list(fused) == ["c", "a", "b", "d"]
    assert fuse([A, B], rrf_k=0.0, weights=[0.0, 2.0])["q"]["c"] == 2.0


def test_scores_by_hand():
    # min-max: A gives a 1, b .5, c 0; B gives c 1, d 0
    assert fuse([A, B], method="combsum")["q"] == {"a": 1, "c": 1, "b": 0.5, "d": 0}
    assert fuse([A, B], method="combmnz")["q"] == {"c": 2, "a": 1, "b": 0.5, "d": 0}
    mixed = fuse([A, B], method="interpolation", weights=[3.0, 1.0])["q"]
    assert mixed == {"a": 0.75, "b": 0.375, "c": 0.25, "d": 0.0}


def test_unlisted_documents_get_the_lowest_z_score():
    fused = fuse([A, B], method="combsum", normalization="z-score")["q"]
    low_a, low_b = z_score(np.array([9.0, 6.0, 3.0]))[-1], -1.0
    assert fused["d"] == pytest.approx(low_a + low_b)
    assert fused["c"] == pytest.approx(low_a + 1.0)
    assert min(fused.values()) == fused["d"]


@pytest.mark.parametrize("method", METHODS)
def test_against_dense_numpy(method):
    rng = np.random.default_rng(0)
    docs, weights = [f"d{i}" for i in range(30)], np.array([0.5, 2.0, 1.0])
    runs = []
    for _ in range(3):
        chosen = rng.permutation(30)[:20]
        runs.append({"q": {docs[i]: float(rng.normal()) for i in chosen}})
    points, listed = np.zeros((3, 30)), np.zeros((3, 30), bool)
    for i, run in enumerate(runs):
        scores = np.array([run["q"].get(d, -np.inf) for d in docs])
        listed[i] = np.isfinite(scores)
        if method == "rrf":
            points[i, np.argsort(-scores)[:20]] = 1 / (60 + np.arange(1, 21))
        else:
            points[i, listed[i]] = min_max(scores[listed[i]])
    total = weights @ points
    if method == "interpolation":
        total = total / 3.5
    if method == "combmnz":
        total = total * listed.sum(0)
    fused = fuse(runs, method=method, weights=weights.tolist())["q"]
    expected = {d: total[i] for i, d in enumerate(docs) if listed[:, i].any()}
    assert fused == pytest.approx(expected)
    values = list(fused.values())
    assert values == sorted(values, reverse=True)


def test_ties_go_to_the_better_rank_then_the_earlier_run():
    first = {"q": {"x": 2.0, "y": 1.0}}
    second = {"q": {"y": 2.0, "x": 1.0, "w": 0.5}}
    assert list(fuse([first, second])["q"]) == ["x", "y", "w"]
    assert list(fuse([second, first])["q"]) == ["y", "x", "w"]


def test_depth_and_queries_of_one_run_only():
    fused = fuse([A, {"p": {"z": 1.0}}], depth=2)
    assert {query: list(docs) for query, docs in fused.items()} == {
        "q": ["a", "b"], "p": ["z"],
    }  # fmt: skip
    assert fuse([{"q": {}}]) == {"q": {}}


def test_equal_and_extreme_scores_stay_finite():
    np.testing.assert_array_equal(min_max(np.array([5.0, 5.0])), [1.0, 1.0])
    np.testing.assert_array_equal(min_max(np.array([-1.7e308, 1.7e308])), [0.0, 1.0])
    np.testing.assert_array_equal(z_score(np.array([5.0, 5.0])), [0.0, 0.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": []}, "runs: no run"),
        ({"method": "mean"}, "method: 'mean'; expected one of rrf, interpolation"),
        ({"normalization": "l2"}, "normalization: 'l2'; expected one of min-max"),
        ({"weights": [1.0]}, "weights: 1 for 2 runs; expected one for each run"),
        ({"weights": [1.0, -1.0]}, "expected numbers of at least 0, not all 0"),
        ({"weights": [0.0, 0.0]}, "expected numbers of at least 0, not all 0"),
        ({"rrf_k": -1.0}, "rrf_k: -1.0; expected a number of at least 0"),
        ({"depth": 0}, "depth: 0; expected at least 1"),
        ({"runs": [{"q": {"a": float("nan")}}]}, "score of 'a' for query 'q' is nan"),
    ],
)
def test_mistakes(changes, message):
    given = {"runs": [A, B]} | changes
    with pytest.raises(InputError, match=message):
        fuse(given.pop("runs"), **given)
