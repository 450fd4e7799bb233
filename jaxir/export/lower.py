"""A program as StableHLO of an old enough version, by ``jax.export``.

StableHLO is versioned: a reader takes what is as old as itself or older.  JAX writes
for readers of four weeks ago, which no released TensorFlow is: JAX 0.12 writes version
1.18 and TensorFlow 2.21 reads up to 1.13, and says so only when a model is called.
:func:`lower` writes :data:`TARGET` instead.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxir.errors import InputError
from jaxir.export.programs import Program, parameters_of
from jaxir.progress import say

__all__ = ["PLATFORMS", "TARGET", "Lowered", "check_platforms", "lower"]

TARGET = "1.9.0"
"""StableHLO's version: older than TensorFlow 2.21's 1.13, as servers are older."""

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""What a program can be lowered for."""


# A composite (erf, top_k) is an operation that a reader may know, beside a function for
# one that does not.  TensorFlow finds no sizes inside such a function, but inside one
# that is called it does.
_PASSES = "builtin.module(func.func(stablehlo-legalize-composite-to-call))"


class Lowered(NamedTuple):
    """A program for its platforms.

    Attributes:
      exported: as ``jax.export`` has it, its module in ``version``.
      kept: paths of the parameters that it takes, in the order it takes them; those
        which the computation never reads are left out.
      kept_inputs: names of the inputs that it takes, after the parameters.
      outputs: names of the outputs, in order.
      version: of StableHLO, or empty where JAX's own choice stands.
    """

    exported: Any
    kept: tuple[str, ...]
    kept_inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    version: str


def check_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """Platforms in their order, each once.

    Raises:
      InputError: none, or one that is not known.

    Example::

      >>> check_platforms(["cuda", "cpu"])
      ('cpu', 'cuda')
    """
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise InputError(
            "platforms", ", ".join(unknown) or "none", "some of " + ", ".join(PLATFORMS)
        )
    return tuple(name for name in PLATFORMS if name in platforms)


def lower(
    program: Program,
    params: Mapping[str, Any],
    *,
    platforms: Sequence[str] = ("cpu", "cuda"),
    target: str = TARGET,
) -> Lowered:
    """Traces a program with symbolic sizes.

    Args:
      program: what to export.
      params: arrays by path; only their shapes are read.
      platforms: of :data:`PLATFORMS`.
      target: StableHLO's version.

    Raises:
      InputError: a platform or a version that is not known.
    """
    own = parameters_of(params, program)
    names = sorted(own)
    shapes = {
        name: jax.ShapeDtypeStruct(np.shape(x), x.dtype) for name, x in own.items()
    }
    exported = jax.export.export(
        jax.jit(program.function), platforms=check_platforms(platforms)
    )(shapes, _symbolic(program))
    inputs = sorted(x.name for x in program.inputs)  # a dict's leaves are sorted
    everything = [*names, *inputs]
    kept = [everything[i] for i in exported.module_kept_var_idx]
    module, version = _pinned(exported, target)
    exported = dataclasses.replace(exported, mlir_module_serialized=module)
    outputs = jax.tree.unflatten(exported.out_tree, range(len(exported.out_avals)))
    return Lowered(
        exported,
        tuple(name for name in kept if name in own),
        tuple(name for name in kept if name not in own),
        tuple(sorted(outputs, key=outputs.__getitem__)),
        version,
    )


def _symbolic(program: Program) -> dict[str, jax.ShapeDtypeStruct]:
    """The inputs' shapes, their sizes in one scope."""
    sizes = [s for x in program.inputs for s in x.shape if isinstance(s, str)]
    names = list(dict.fromkeys(sizes))
    constraint = f"length <= {program.max_length}"
    found = jax.export.symbolic_shape(", ".join(names), constraints=[constraint])
    size = dict(zip(names, found, strict=True))
    return {
        x.name: jax.ShapeDtypeStruct(
            tuple(size[s] if isinstance(s, str) else s for s in x.shape), x.dtype
        )
        for x in program.inputs
    }


def _pinned(exported: Any, target: str) -> tuple[bytes, str]:
    """The module in StableHLO's version ``target``, or as JAX wrote it."""
    try:
        from jax.interpreters.mlir import make_ir_context
        from jaxlib.mlir import ir
        from jaxlib.mlir.dialects import stablehlo
        from jaxlib.mlir.passmanager import PassManager

        serialize = stablehlo.serialize_portable_artifact_str
        oldest, newest = (
            stablehlo.get_minimum_version(),
            stablehlo.get_current_version(),
        )
        stablehlo.register_stablehlo_passes()
    except (ImportError, AttributeError):  # these are not JAX's promised interface
        say(f"this JAX ({jax.__version__}) cannot choose StableHLO's version")
        return exported.mlir_module_serialized, ""
    if not _ordered(oldest) <= _ordered(target) <= _ordered(newest):
        raise InputError("target", repr(target), f"{oldest} to {newest}")
    with make_ir_context():
        module = ir.Module.parse(exported.mlir_module())
        PassManager.parse(_PASSES).run(module.operation)
        # Without the places in source files: they are this machine's.
        text = str(module.operation.get_asm(enable_debug_info=False))
    return serialize(text, target), target


def _ordered(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise InputError("target", repr(version), f"a version such as {TARGET}")
    return tuple(map(int, parts))
