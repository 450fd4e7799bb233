"""Rename tables: both ways, and one error for everything that is wrong."""

import numpy as np
import pytest

from jaxir.checkpoints.rules import (
    TRANSPOSE,
    Rule,
    apply_rules,
    check_shapes,
    flatten,
    invert,
    unflatten,
)
from jaxir.errors import InputError

RULES = (
    Rule("emb.weight", "embedding"),
    Rule("h.{i}.w", "layer_{i}/kernel", TRANSPOSE),
    Rule("h.{i}.b", "layer_{i}/bias"),
)
SHAPES = {
    "embedding": (5, 2),
    "layer_0": {"kernel": (2, 3), "bias": (3,)},
    "layer_10": {"kernel": (2, 3), "bias": (3,)},
}


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"emb.weight": (5, 2)}
    for i in (0, 10):
        shapes |= {f"h.{i}.w": (3, 2), f"h.{i}.b": (3,)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def test_there_and_back():
    source = arrays()
    tree = apply_rules(source, RULES, SHAPES, where="x")
    assert tree["layer_10"]["kernel"].shape == (2, 3)
    np.testing.assert_array_equal(tree["layer_10"]["kernel"], source["h.10.w"].T)
    back = invert(tree, RULES, where="x")
    assert back.keys() == source.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, source[name])
        assert array.flags.c_contiguous


def test_everything_wrong_is_told_at_once_and_nothing_is_read():
    class Unreadable:
        def __init__(self, *shape):
            self.shape = shape

    source = {name: Unreadable(*x.shape) for name, x in arrays().items()}
    del source["h.0.b"]
    source["h.1.w"] = Unreadable(3, 2)
    source["head.weight"] = Unreadable(7)
    source["emb.weight"] = Unreadable(4, 2)
    with pytest.raises(InputError) as caught:
        apply_rules(source, RULES, SHAPES, where="w.bin")
    assert str(caught.value) == (
        "w.bin: weights do not fit: - h.0.b (for layer_0/bias), + h.1.w [3, 2], "
        "+ head.weight [7], ≠ emb.weight gives [4, 2], not [5, 2]"
    )


def test_ignored_names_must_match_as_a_whole():
    source = arrays() | {"head.weight": np.zeros(1), "head.weights": np.zeros(1)}
    with pytest.raises(InputError, match=r"do not fit: \+ head.weights \[1\]$"):
        apply_rules(source, RULES, SHAPES, where="w", ignore=[r"head\.weight"])


def test_layers_are_told_together():
    source = arrays() | {f"g.{i}.x2": np.zeros(1) for i in (0, 1, 2, 5, 9)}
    source |= {"g.7.x2": np.zeros(3), "g{.x": np.zeros(3)}
    del source["h.0.b"], source["h.10.b"]
    with pytest.raises(InputError) as caught:
        apply_rules(source, RULES, SHAPES, where="w")
    assert str(caught.value) == (
        "w: weights do not fit: - h.{0,10}.b (for layer_{0,10}/bias), "
        "+ g.{0-2,5,9}.x2 [1], + g.7.x2 [3], + g{.x [3]"
    )


def test_a_parameter_without_a_rule_cannot_be_written():
    with pytest.raises(InputError, match=r"out: weights do not fit: \+ odd/x \[2\]"):
        invert({"odd": {"x": np.zeros(2)}}, RULES, where="out")


def test_trees_are_compared_by_name_and_shape():
    check_shapes({"a": np.zeros((2, 3))}, {"a": (2, 3)}, where="p")
    with pytest.raises(InputError, match=r"p: .* - b, \+ c \[1\], ≠ a gives \[2\]"):
        check_shapes({"a": (2,), "c": (1,)}, {"a": (3,), "b": (1,)}, where="p")


def test_flatten_is_undone():
    tree = {"b": {"d": 1, "c": 2}, "a": 3}
    assert unflatten(flatten(tree)) == tree
