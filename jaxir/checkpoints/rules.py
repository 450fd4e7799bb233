"""Rename tables between other libraries' weights and ours, strict both ways.

A checkpoint is a flat mapping of names to arrays; our parameters are a tree whose
leaves have paths such as ``layer_3/mlp/wi/kernel``.  A table is a sequence of
:class:`Rule`, one line for each kind of parameter, read left to right by
:func:`apply_rules` and right to left by :func:`invert`.  Nothing is left over, nothing
is missing, and no array is touched before every name and shape has been checked.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxir.errors import InputError

__all__ = [
    "IDENTITY",
    "TRANSPOSE",
    "Rule",
    "Transform",
    "apply_rules",
    "check_shapes",
    "flatten",
    "invert",
    "unflatten",
]

Array = Any  # whatever has a shape: numpy, JAX, or a view of a file

_FIRST_NUMBER = re.compile(r"^([^\d\s]*)(\d+)")  # of a name, such as a layer's


class Transform(NamedTuple):
    """What becomes of an array on the way in, and on the way out.

    Attributes:
      read: their array to ours.
      write: our array to theirs.
      shape: their shape to ours.
    """

    read: Callable[[Array], Array]
    write: Callable[[Array], Array]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]


IDENTITY = Transform(lambda x: x, lambda x: x, tuple)
"""The array as it is."""

TRANSPOSE = Transform(
    lambda x: np.swapaxes(x, 0, 1),
    lambda x: np.swapaxes(x, 0, 1),
    lambda shape: tuple(reversed(shape)),
)
"""PyTorch's ``[out, in]`` to our ``[in, out]``."""


class Rule(NamedTuple):
    """One line of a rename table.

    Attributes:
      source: their name; ``{i}`` and ``{j}`` stand for numbers.
      target: our path, with the same placeholders.
      transform: what becomes of the array.

    Example::

      >>> rules = [Rule("h.{i}.w", "layer_{i}/kernel", TRANSPOSE)]
      >>> tree = apply_rules(
      ...     {"h.0.w": np.zeros((3, 2))}, rules, {"layer_0": {"kernel": (2, 3)}},
      ...     where="model.bin")
      >>> tree["layer_0"]["kernel"].shape
      (2, 3)
    """

    source: str
    target: str
    transform: Transform = IDENTITY


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as paths joined by ``/``, in sorted order.

    Example::

      >>> flatten({"b": 2, "a": {"c": 1}})
      {'a/c': 1, 'b': 2}
    """
    flat: dict[str, Any] = {}
    for key in sorted(tree):
        if isinstance(tree[key], Mapping):
            flat |= flatten(tree[key], f"{prefix}{key}/")
        else:
            flat[prefix + key] = tree[key]
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested mapping whose :func:`flatten` this is.

    Example::

      >>> unflatten({"a/c": 1, "b": 2})
      {'a': {'c': 1}, 'b': 2}
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def apply_rules(
    source: Mapping[str, Array],
    rules: Sequence[Rule],
    target_shapes: Mapping[str, Any],
    *,
    where: object,
    ignore: Iterable[str] = (),
) -> dict[str, Any]:
    """Their arrays as our tree.

    Args:
      source: arrays by their names.
      rules: the table.
      target_shapes: our tree, its leaves shapes or things with a ``shape``.
      where: the file or directory the arrays come from, for the error.
      ignore: regular expressions of names that we do not use, matched as a whole.

    Returns:
      The tree of ``target_shapes`` filled with arrays.

    Raises:
      InputError: names that are missing (``-``), names that nothing uses (``+``) and
        shapes that differ (``≠``), all in one.
    """
    ignored = [re.compile(pattern) for pattern in ignore]
    readers = [(_pattern(rule.source), rule) for rule in rules]
    found: dict[str, tuple[str, Transform]] = {}
    unexpected = []
    wanted = {name: _shape(leaf) for name, leaf in flatten(target_shapes).items()}
    for name in source:
        target = None
        for pattern, rule in readers:
            if match := pattern.fullmatch(name):
                target = rule.target.format(**match.groupdict())
                break
        if target in wanted and target not in found:
            found[target] = (name, rule.transform)
        elif not any(pattern.fullmatch(name) for pattern in ignored):
            unexpected.append(f"{name} {list(source[name].shape)}")
    missing = [
        f"{_reverse(rules, name)} (for {name})" for name in wanted if name not in found
    ]
    differing = []
    for target, (name, transform) in found.items():
        shape = transform.shape(tuple(source[name].shape))
        if shape != wanted[target]:
            differing.append(f"{name} gives {list(shape)}, not {list(wanted[target])}")
    _complain(where, missing, unexpected, differing)
    flat = {
        target: transform.read(source[name])
        for target, (name, transform) in found.items()
    }
    return unflatten({name: flat[name] for name in wanted})


def invert(
    tree: Mapping[str, Any], rules: Sequence[Rule], *, where: object
) -> dict[str, np.ndarray]:
    """Our tree as their arrays, in contiguous memory.

    Args:
      tree: our parameters.
      rules: the table, read right to left.
      where: what is being written, for the error.

    Raises:
      InputError: a parameter that no rule knows.
    """
    writers = [(_pattern(rule.target), rule) for rule in rules]
    named: dict[str, tuple[Array, Transform]] = {}
    unexpected = []
    for path, array in flatten(tree).items():
        for pattern, rule in writers:
            if match := pattern.fullmatch(path):
                name = rule.source.format(**match.groupdict())
                named[name] = (array, rule.transform)
                break
        else:
            unexpected.append(f"{path} {list(array.shape)}")
    _complain(where, [], unexpected, [])
    return {
        name: np.ascontiguousarray(transform.write(np.asarray(array)))
        for name, (array, transform) in named.items()
    }


def check_shapes(
    tree: Mapping[str, Any], target_shapes: Mapping[str, Any], *, where: object
) -> None:
    """Checks that a tree has exactly the names and shapes of another.

    Args:
      tree: what is there: arrays, shapes or things with a ``shape``.
      target_shapes: what should be there.
      where: the place, for the error.

    Raises:
      InputError: as :func:`apply_rules`.

    Example::

      >>> check_shapes({"a": (2,)}, {"a": (3,)}, where="params")
      Traceback (most recent call last):
      jaxir.errors.InputError: params: weights do not fit: ≠ a gives [2], not [3]
    """
    found = {name: _shape(leaf) for name, leaf in flatten(tree).items()}
    wanted = {name: _shape(leaf) for name, leaf in flatten(target_shapes).items()}
    _complain(
        where,
        [name for name in wanted if name not in found],
        [f"{name} {list(found[name])}" for name in found if name not in wanted],
        [
            f"{name} gives {list(found[name])}, not {list(wanted[name])}"
            for name in wanted
            if name in found and found[name] != wanted[name]
        ],
    )


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(getattr(leaf, "shape", leaf))


def _pattern(template: str) -> re.Pattern:
    """A name's template as a regular expression; placeholders match numbers."""
    escaped = re.escape(template)
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", escaped))


def _reverse(rules: Sequence[Rule], path: str) -> str:
    """Their name for our path, as far as the table knows it."""
    for rule in rules:
        if match := _pattern(rule.target).fullmatch(path):
            return rule.source.format(**match.groupdict())
    return path


def _together(names: Iterable[str]) -> list[str]:
    """Names that differ by their first number alone, as one: ``layers_{0-11}/kernel``.

    What stands in every layer is told once, and the whole difference stays readable.
    """
    found: dict[str, list[int]] = {}
    for name in names:
        # The same number in our name beside theirs, "(for layers_0/kernel)", as well.
        first = _FIRST_NUMBER.search(name)
        template = name.replace("{", "{{").replace("}", "}}")
        if first is not None:
            same = rf"(^|\(for )([^\d\s]*){first[2]}(?!\d)"
            template = re.sub(same, r"\1\2{0}", template)
        found.setdefault(template, []).append(int(first[2]) if first else 0)
    told = []
    for template, numbers in found.items():
        runs: list[list[int]] = []
        for number in sorted(numbers):
            if runs and number == runs[-1][1] + 1:
                runs[-1][1] = number
            else:
                runs.append([number, number])
        shown = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
        told.append(template.format(f"{{{shown}}}" if len(numbers) > 1 else shown))
    return told


def _complain(
    where: object, missing: list[str], unexpected: list[str], differing: list[str]
) -> None:
    """One error with everything that is wrong, or nothing."""
    parts = [
        f"{sign} {name}"
        for sign, names in (("-", missing), ("+", unexpected), ("≠", differing))
        for name in _together(names)
    ]
    if parts:
        raise InputError(where, "weights do not fit: " + ", ".join(parts))
