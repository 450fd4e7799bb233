"""What was written, called by a process that knows nothing of jaxir, and compared.

Saving a program can succeed where calling it fails, and a reader of another version can
compute something else.  So every export is read back before it takes its place: another
Python calls each program with inputs of two shapes, and its outputs must be those of
the JAX function to 1e-4.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxir.errors import InputError
from jaxir.export.programs import Exportable, Program, parameters_of

__all__ = ["TOLERANCE", "compare", "expected_outputs", "fresh_inputs", "verify"]

TOLERANCE = 1e-4
"""The largest difference of two numbers, a share of the largest one beyond 1."""

_BFLOAT16_TOLERANCE = 0.05  # 8 bits, rounded where each compiler likes
_SHAPES = ((1, 5), (3, 24))  # batch and length
_REMEDY = "nothing was written; please report it with the versions of jax and reader"

Arrays = dict[str, np.ndarray]


def fresh_inputs(program: Program, batch: int, length: int, *, seed: int = 0) -> Arrays:
    """Random inputs of a program: texts of all lengths from 1 to ``length``.

    Args:
      program: to be called.
      batch: texts.
      length: of the longest, which is the first.
      seed: of the draw.
    """
    draw = np.random.default_rng([seed, batch, length])
    sizes = {"batch": batch, "length": length, "documents": 2 * batch + 3}
    ends = draw.integers(1, length + 1, batch)
    ends[0] = length
    mask = np.arange(length)[None, :] < ends[:, None]
    halves = np.arange(length)[None, :] >= ends[:, None] // 2
    found: Arrays = {}
    for name, shape, dtype, below in program.inputs:
        full = [sizes[size] if isinstance(size, str) else size for size in shape]
        values: np.ndarray
        if name == "attention_mask":
            values = mask
        elif name == "token_type_ids":
            values = mask & halves
        elif below:
            values = draw.integers(0, below, full)
        else:
            values = draw.normal(size=full)
        found[name] = np.asarray(values).astype(dtype)
    return found


def expected_outputs(
    program: Program, params: Mapping[str, Any], inputs: Any
) -> Arrays:
    """What the JAX function gives here, on a CPU where there is one.

    Args:
      program: to call.
      params: ``Exportable.params``.
      inputs: of :func:`fresh_inputs`.
    """
    try:  # an accelerator may round products to fewer bits
        place = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        place = jax.local_devices()[0]
    with jax.default_device(place):
        found = jax.jit(program.function)(parameters_of(params, program), inputs)
    return {name: np.asarray(value) for name, value in found.items()}


def verify(
    exportable: Exportable,
    directory: Path,
    reader: Path,
    *,
    place: Path,
    needs: str,
    environment: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Has another process call what was written, and compares.

    Args:
      exportable: what was written.
      directory: where it lies now.
      reader: a script that takes this directory, a file of inputs and one of outputs.
      place: where it shall stand, for errors.
      needs: what the reader imports, for errors.
      environment: variables of the reader's process beside those of this one.

    Returns:
      The largest difference of each output, by ``program/output``.

    Raises:
      InputError: the reader failed, or its outputs are others.
    """
    cases = {
        f"{program.name}/{i}": (program, fresh_inputs(program, batch, size))
        for program in exportable.programs
        for i, (batch, length) in enumerate(_SHAPES)
        for size in [min(length, program.max_length)]
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        flat = {
            f"{case}/{name}": value
            for case, (_, inputs) in cases.items()
            for name, value in inputs.items()
        }
        np.savez(asked, **flat)  # type: ignore[arg-type]
        # -P: this script's folder is not where its imports are looked for
        command = [sys.executable, "-P", reader, directory, asked, answered]
        done = subprocess.run(
            list(map(str, command)),
            capture_output=True,
            text=True,
            env=os.environ | dict(environment or {}),
        )
        if done.returncode or not answered.is_file():
            raise InputError(
                place, "cannot be read by another process "
                f"({_reason(done.stderr, done.returncode)})", f"a Python with {needs}",
                _REMEDY,
            )  # fmt: skip
        with np.load(answered) as stored:
            outputs = {name: stored[name] for name in stored.files}
    largest: dict[str, float] = {}
    for case, (program, inputs) in cases.items():
        wanted = expected_outputs(program, exportable.params, inputs)
        start = f"{case}/"
        found = {
            name.removeprefix(start): value
            for name, value in outputs.items()
            if name.startswith(start)
        }
        tolerance = _BFLOAT16_TOLERANCE if exportable.coarse else TOLERANCE
        for name, value in compare(place, case, found, wanted, tolerance).items():
            key = f"{program.name}/{name}"
            largest[key] = max(value, largest.get(key, 0.0))
    return largest


def compare(
    place: object,
    case: str,
    found: Mapping[str, np.ndarray],
    wanted: Mapping[str, np.ndarray],
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """The largest difference of each output, each a share of the largest value over 1.

    Positions may differ where scores are as good as equal, codes in one of a hundred,
    where a vector lies between two centroids.

    Args:
      place: of the export, for errors.
      case: name of the program and number of the call.
      found: the reader's outputs.
      wanted: those of the JAX function.
      tolerance: the largest difference that passes.

    Raises:
      InputError: outputs of other names, types or shapes, or that differ by more.

    Example::

      >>> one = {"scores": np.array([2.0])}
      >>> found = compare("there", "score/0", one, {"scores": np.array([2.0002])})
      >>> {name: round(value, 6) for name, value in found.items()}
      {'scores': 0.0001}
    """
    if sorted(found) != sorted(wanted):
        raise _differs(place, case, f"outputs {sorted(found)}", str(sorted(wanted)))
    largest = {}
    for name, want in wanted.items():
        got = found[name]
        if (got.dtype, got.shape) != (want.dtype, want.shape):
            kinds = [f"{name} {x.dtype} {list(x.shape)}" for x in (got, want)]
            raise _differs(place, case, *kinds)
        if name == "positions":
            share = _misplaced(found, wanted)
        elif np.issubdtype(want.dtype, np.integer):
            share = float((np.mean(got != want) if want.size else 0.0) > 0.01)
        else:
            share = _difference(got, want)
        if not share <= tolerance:  # NaN is no small difference
            raise _differs(
                place, case, f"{name} that differ by {share:.3g}", f"{tolerance:.0e}"
            )
        largest[name] = share
    return largest


def _reason(said: str, code: int) -> str:
    """The line of a traceback that says what was wrong, or the last one there is."""
    if code == -signal.SIGKILL:
        return "the system killed it, as it does where memory ends"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    details = [line for line in lines if "error: " in line]  # of a compiler
    chosen = [*named[-1:], *details[:1]] or lines[-1:] or [f"exit code {code}"]
    return ": ".join(chosen)[:400]


def _difference(got: np.ndarray, want: np.ndarray) -> float:
    got, want = got.astype(np.float64), want.astype(np.float64)
    scale = max(1.0, float(np.max(np.abs(want), initial=0.0)))
    return float(np.max(np.abs(got - want), initial=0.0)) / scale


def _misplaced(
    found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]
) -> float:
    """How far apart the scores of documents are that took each other's place."""
    gap = 0.0
    rows = zip(found["positions"], wanted["positions"], wanted["scores"], strict=True)
    for got, want, scores in rows:
        score_of = dict(zip(want.tolist(), scores.tolist(), strict=True))
        # A document that is not among the wanted took the last one's place.
        mine = np.array([score_of.get(int(p), scores[-1]) for p in got])
        if len(set(got.tolist())) < len(got):
            return float("inf")
        gap = max(gap, _difference(mine, scores))
    return gap


def _differs(place: object, case: str, found: str, expected: str) -> InputError:
    return InputError(place, f"{case}: {found}", f"{expected} of JAX", _REMEDY)
