"""What stands beside exported programs: a description, the tokenizer, the ids."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxir import __version__
from jaxir.export.lower import Lowered
from jaxir.export.programs import Exportable, Program
from jaxir.files import atomic_file

__all__ = ["DESCRIPTION", "DOC_IDS", "describe", "write_description"]

DESCRIPTION = "jaxir.json"
"""The file that says what the programs are."""

DOC_IDS = "doc_ids.txt"
"""The file of an index's ids: line ``p`` is the document at position ``p``, from 0."""


def describe(
    exportable: Exportable, lowered: Mapping[str, Lowered], platforms: Sequence[str]
) -> dict[str, Any]:
    """What the programs are, of JSON's own types.

    Args:
      exportable: what is written.
      lowered: its programs by name.
      platforms: they run on.
    """
    (version,) = {low.version for low in lowered.values()}
    return {
        "kind": exportable.kind,
        "source": exportable.source,
        "fingerprint": exportable.fingerprint,
        "jaxir_version": __version__,
        "jax_version": jax.__version__,
        "stablehlo_version": version,
        "platforms": list(platforms),
        "default": exportable.default,
        **exportable.details,
        "programs": {
            program.name: _program(program, lowered[program.name])
            for program in exportable.programs
        },
    }


def _program(program: Program, lowered: Lowered) -> dict[str, Any]:
    outputs = zip(lowered.outputs, lowered.exported.out_avals, strict=True)
    return {
        "inputs": {x.name: [x.dtype, *x.shape] for x in program.inputs},
        "outputs": {
            name: [
                x.dtype.name,
                *(s if isinstance(s, int) else str(s) for s in x.shape),
            ]
            for name, x in outputs
        },
        "template": program.template,
        "tokens": program.tokens,
        "max_length": program.max_length,
    }


def write_description(
    exportable: Exportable, description: Mapping[str, Any], folder: Path
) -> None:
    """Writes the description, the tokenizer's files and the ids into one folder.

    Args:
      exportable: what is written.
      description: of :func:`describe`.
      folder: made if absent.
    """
    folder.mkdir(exist_ok=True)
    exportable.tokenizer.save(folder)
    with atomic_file(folder / DESCRIPTION) as out:
        out.write(json.dumps(description, indent=2) + "\n")
    if exportable.doc_ids is not None:
        with atomic_file(folder / DOC_IDS) as out:
            out.writelines(f"{doc_id}\n" for doc_id in exportable.doc_ids)
