"""Calls exported programs with JAX and without jaxir.

It needs jax, flatbuffers (for ``jax.export``), safetensors and numpy::

    from load import load

    programs = load("EXPORTED")
    out = programs["encode_query"](input_ids=ids, attention_mask=mask)

``jaxir.json`` says which programs there are and what they take: arrays of any batch,
and of any length up to ``max_length``.  A program is compiled for each shape when that
shape first comes, so that few shapes (padded texts) are faster than many.

Programs are StableHLO of the version in ``jaxir.json``, which newer StableHLO promises
to read for five years from that version's day, in a container of ``jax.export``, which
newer JAX promises to read for six months and has read for longer.  They run on the
platforms named there.

``python load.py EXPORTED INPUTS.npz OUTPUTS.npz`` calls, for each group
``PROGRAM/CASE/NAME`` of arrays in ``INPUTS.npz``, that program, and writes what it
gives under ``PROGRAM/CASE/OUTPUT``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
from safetensors.numpy import load_file

__all__ = ["Program", "load"]


class Program:
    """An exported function; call it with its inputs by name.

    Attributes:
      name: of the program.
      about: its part of ``jaxir.json``: inputs, outputs, template, tokens.
    """

    def __init__(self, name: str, about: dict, blob: bytes, params: dict) -> None:
        self.name, self.about = name, about
        exported = jax.export.deserialize(bytearray(blob))
        self._params = params
        self._call = jax.jit(exported.call)

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        """Named outputs of named inputs."""
        expected = self.about["inputs"]
        if sorted(inputs) != sorted(expected):
            raise ValueError(f"{self.name} takes {sorted(expected)}")
        arrays = {name: np.asarray(x, expected[name][0]) for name, x in inputs.items()}
        return self._call(self._params, arrays)


def load(directory: str = ".") -> dict[str, Program]:
    """The programs of a folder by name; their parameters are loaded once."""
    folder = Path(directory)
    about = json.loads((folder / "jaxir.json").read_text("utf-8"))
    params = {
        name: jax.device_put(x)
        for name, x in load_file(folder / "params.safetensors").items()
    }
    return {
        name: Program(
            name,
            part,
            (folder / f"{name}.stablehlo").read_bytes(),
            {path: params[path] for path in part["parameters"]},
        )
        for name, part in about["programs"].items()
    }


def main(directory: str, inputs: str, outputs: str) -> None:
    """Calls programs with the arrays of a file."""
    programs = load(directory)
    cases: dict[str, dict] = {}
    with np.load(inputs) as stored:
        for path in stored.files:
            case, _, name = path.rpartition("/")
            cases.setdefault(case, {})[name] = stored[path]
    found: Any = {
        f"{case}/{name}": np.asarray(value)
        for case, arguments in cases.items()
        for name, value in programs[case.partition("/")[0]](**arguments).items()
    }
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
