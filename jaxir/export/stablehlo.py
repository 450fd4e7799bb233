"""Programs for JAX alone: StableHLO, parameters as safetensors, and a small loader.

Layout::

    DIRECTORY/NAME.stablehlo      each program, as ``jax.export`` serialises it
              params.safetensors  the parameters of all programs, by path
              load.py             calls them; needs no jaxir
              jaxir.json          what the programs take and give
              tokenizer.json ...  the tokenizer
              doc_ids.txt         of an index
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.errors import InputError
from jaxir.export.description import DESCRIPTION, describe, write_description
from jaxir.export.lower import TARGET, Lowered, check_platforms, lower
from jaxir.export.programs import Exportable, parameters_of
from jaxir.export.verify import verify
from jaxir.files import atomic_directory, atomic_file
from jaxir.progress import say

__all__ = ["write_stablehlo"]

_LOADER = Path(__file__).with_name("stablehlo_loader.py")


def write_stablehlo(
    exportable: Exportable,
    directory: str | os.PathLike,
    *,
    platforms: Sequence[str] = ("cpu", "cuda"),
    target: str = TARGET,
) -> dict[str, Any]:
    """Writes programs and has another process call them before they stand.

    Args:
      exportable: of ``programs.model_programs`` or ``index_programs``.
      directory: new, empty, or an earlier export, which is replaced.
      platforms: what it shall run on; ``"cpu"``, on which it is compared, is always
        among them.
      target: StableHLO's version.

    Returns:
      ``path``, ``programs``, ``default``, ``platforms``, ``stablehlo_version``,
      ``bytes``, and ``differences`` by program and output.

    Raises:
      InputError: flatbuffers is not installed; the directory holds something else;
        what was written gives other numbers than the model.
    """
    directory = Path(directory)
    _check_place(directory)
    platforms = check_platforms(["cpu", *platforms])
    lowered = {
        program.name: lower(
            program, exportable.params, platforms=platforms, target=target
        )
        for program in exportable.programs
    }
    description = describe(exportable, lowered, platforms)
    with atomic_directory(directory) as place:
        _save(exportable, lowered, description, place)
        say("reading it in another process")
        differences = verify(
            exportable,
            place,
            place / "load.py",
            place=directory,
            needs="jax, flatbuffers and safetensors",
            environment={"JAX_PLATFORMS": "cpu"},
        )
    return {
        "path": str(directory),
        "programs": list(lowered),
        "default": exportable.default,
        "platforms": list(platforms),
        "stablehlo_version": description["stablehlo_version"],
        "bytes": sum(x.stat().st_size for x in directory.iterdir()),
        "differences": differences,
    }


def _check_place(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise InputError(directory, "a file", "a new or empty directory")
    names = {x.name for x in directory.glob("*")} if directory.exists() else set()
    if names and not {DESCRIPTION, "load.py"} <= names:
        raise InputError(
            directory, "exists and holds something else than exported programs",
            "a new or empty directory", "choose another place; nothing was written",
        )  # fmt: skip


def _save(
    exportable: Exportable,
    lowered: dict[str, Lowered],
    description: dict[str, Any],
    place: Path,
) -> None:
    from safetensors.numpy import save_file

    stored: dict[str, np.ndarray] = {}
    for program in exportable.programs:
        own = parameters_of(exportable.params, program)
        stored |= {name: np.asarray(x, order="C") for name, x in own.items()}
        description["programs"][program.name]["parameters"] = sorted(own)
        with atomic_file(place / f"{program.name}.stablehlo", "wb") as out:
            out.write(_serialized(lowered[program.name]))
    path = place / "params.safetensors"
    save_file(stored, path)
    path.chmod(0o644)  # a server reads it as another user
    write_description(exportable, description, place)
    shutil.copyfile(_LOADER, place / "load.py")


def _serialized(lowered: Lowered) -> bytes:
    try:
        return bytes(lowered.exported.serialize())
    except ImportError as error:
        raise InputError(
            "flatbuffers", "not installed", "it, to write StableHLO",
            "pip install flatbuffers",
        ) from error  # fmt: skip
