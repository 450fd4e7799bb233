"""The model card: one page for whoever finds a model directory years later."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxir import __version__
from jaxir.families import config_to_dict
from jaxir.types import Params

__all__ = ["write_card"]

_NO_LICENCE = (
    "Not stated.  The weights inherit the terms of the checkpoint they began from and "
    "of the data they were trained on: check both before passing them on."
)


def write_card(
    kind: str,
    config: Any,
    params: Params,
    fingerprint: str,
    *,
    metrics: Mapping[str, float],
    command: str,
    training_data: str,
    licence: str,
) -> str:
    """The text of ``MODEL_CARD.md``.

    Args:
      kind: the family.
      config: its configuration.
      params: its parameters, for their number.
      fingerprint: of the model.
      metrics: what it reaches, by name.
      command: the command that made it.
      training_data: what it was trained on or converted from.
      licence: of the weights.
    """
    count = sum(int(np.size(x)) for x in jax.tree.leaves(params))
    lines = [
        f"# A {kind} retrieval model",
        "",
        f"Written by jaxir {__version__}; {count:,} parameters; fingerprint",
        f"`{fingerprint}`.",
        "",
        "## Use",
        "",
        "```",
        "jaxir index  --model THIS_DIRECTORY --collection COLLECTION --index INDEX",
        "jaxir search --index INDEX --queries COLLECTION:test --output run.trec",
        "```",
        "",
        "## Architecture",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | `{value}` |" for name, value in _rows(config_to_dict(config))),
        "",
        "## Training data",
        "",
        training_data or "Not stated.",
        "",
        "## Made by",
        "",
        f"`{command}`" if command else "Not stated.",
        "",
        "## Results",
        "",
    ]
    if metrics:
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
    else:
        lines.append("Not measured.")
    lines += ["", "## Licence", "", licence or _NO_LICENCE]
    return "\n".join(lines) + "\n"


def _rows(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, value))
    return rows
