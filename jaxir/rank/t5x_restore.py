"""What of a T5X checkpoint a reranker's training begins with."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxir.errors import InputError

__all__ = ["begin_from"]

_HEAD = "score_head"


def begin_from(
    checkpoint: Mapping[str, Any],
    state: Mapping[str, Any],
    *,
    is_resuming: bool = False,
) -> Mapping[str, Any]:
    """Bound as T5X's ``utils.RestoreCheckpointConfig.state_transformation_fns``.

    Parameters must be all there; only RankT5-Enc's head may be fresh, and a part that
    the model has not at all (its decoder) is left out.  The optimizer's slots and the
    step are kept when every slot is there; otherwise both begin anew, for Adafactor's
    decay rate depends on the step.  With ``fallback_to_scratch`` T5X supplies what is
    left out here.

    Args:
      checkpoint: T5X's state as it is stored, ``{"target": ..., "state": ...}``.
      state: the same of the model that is trained.
      is_resuming: true where T5X continues a training: everything is kept.

    Raises:
      InputError: another architecture, with the whole difference.

    Example::

      >>> stored = {"target": {"encoder": {"scale": 1}, "decoder": {"scale": 2}}}
      >>> model = {"target": {"encoder": {"scale": 0}, "score_head": {"bias": 0}}}
      >>> begin_from(stored, model)
      {'target': {'encoder': {'scale': 1}}}
    """
    if is_resuming:
        return checkpoint
    have, want = dict(_leaves(checkpoint["target"])), dict(_leaves(state["target"]))
    parts = set(state["target"])
    lines = [f"- {name}" for name in want if name not in have and _part(name) != _HEAD]
    lines += [f"+ {name}" for name in have if name not in want and _part(name) in parts]
    for name in sorted(want.keys() & have.keys()):
        found, expected = _shape(have[name]), _shape(want[name])
        if None not in (found, expected) and found != expected:
            lines.append(f"≠ {name} {found} for {expected}")
    if lines:
        raise InputError(
            "INITIAL_CHECKPOINT_PATH", "; ".join(sorted(lines)),
            "the model's parameters (- missing, + unexpected, ≠ shape)",
            "give a checkpoint of the sizes that the gin files say",
        )  # fmt: skip
    target = {name: checkpoint["target"][name] for name in checkpoint["target"]}
    result = {"target": {name: target[name] for name in target if name in parts}}
    slots = dict(_leaves(checkpoint.get("state", {})))
    if all(name in slots for name, _ in _leaves(state.get("state", {}))) and slots:
        result["state"] = checkpoint["state"]
    return result


def _part(name: str) -> str:
    return name.partition("/")[0]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        # A leaf on disk is a mapping too: what TensorStore reads it by.
        if isinstance(value, Mapping) and "kvstore" not in value:
            yield from _leaves(value, f"{prefix}{key}/")
        elif value is not None:
            yield f"{prefix}{key}", value


def _shape(leaf: Any) -> tuple[int, ...] | None:
    """The shape of an array or of what it is read by, where that is known."""
    if isinstance(leaf, Mapping):
        leaf = leaf.get("metadata", {})
        shape = leaf.get("shape")
    else:
        shape = getattr(leaf, "shape", None)
    return None if shape is None else tuple(shape)
