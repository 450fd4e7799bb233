"""Tensor parallelism by one table: logical axis names of parameters to mesh axes.

A parameter names its axes by what they are (``embed``, ``mlp``, ``heads``, …), as T5X
does; a table says which axis of the mesh splits which of them.  The compiler derives
the rest: activations, gradients, optimizer state and the communication between devices.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxir.errors import InputError

__all__ = ["FULLY_SHARDED", "TENSOR_PARALLEL", "sharding_rule"]

TENSOR_PARALLEL: Mapping[str, str | None] = MappingProxyType(
    {
        "vocab": "model",
        "mlp": "model",
        "heads": "model",
        "joined_kv": "model",
        "kv": None,
        "embed": None,
        "relpos_buckets": None,
        "layers": None,
    }
)
"""Feed-forward, heads and vocabulary split over ``model`` (Shoeybi et al. 2019)."""

FULLY_SHARDED: Mapping[str, str | None] = MappingProxyType(
    {**TENSOR_PARALLEL, "embed": "data"}
)
"""The same, and the width split over ``data``: no device holds a whole matrix."""


def sharding_rule(
    axes: Any, table: Mapping[str, str | None] = TENSOR_PARALLEL
) -> Callable[[Any, Mesh], Any]:
    """Where each parameter lies: ``rule(param_shapes, mesh) -> shardings``.

    An axis that the mesh axis does not divide, or whose mesh axis the parameter has
    used already, stays whole.

    Args:
      axes: a pytree like the parameters whose leaves are tuples of logical names, as
        ``nn.t5.logical_axes`` gives.
      table: logical name to mesh axis, or None for whole.

    Returns:
      What ``train(sharding_rule=...)`` takes.

    Raises:
      InputError: when the rule is applied: a name that the table lacks, a mesh axis
        that there is not, or a parameter with more or fewer axes than names.

    Example::

      >>> from jaxir.mesh import make_mesh
      >>> rule = sharding_rule({"kernel": ("embed", "mlp")})
      >>> shapes = {"kernel": jax.ShapeDtypeStruct((4, 8), "float32")}
      >>> tuple(rule(shapes, make_mesh(1))["kernel"].spec)
      (None, 'model')
    """

    def place(path: tuple, leaf: Any, names: tuple[str, ...], mesh: Mesh) -> Any:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        if len(names) != len(leaf.shape):
            raise InputError(where, f"axes {names} for shape {leaf.shape}", "one each")
        spec: list[str | None] = []
        for name, size in zip(names, leaf.shape, strict=True):
            if name not in table:
                raise InputError(where, f"axis {name!r}", f"one of {', '.join(table)}")
            axis = table[name]
            if axis is not None and axis not in mesh.shape:
                expected = "an axis of the mesh: " + ", ".join(mesh.axis_names)
                raise InputError(f"axis {name!r}", f"split over {axis!r}", expected)
            fits = axis is not None and axis not in spec and not size % mesh.shape[axis]
            spec.append(axis if fits else None)
        return NamedSharding(mesh, PartitionSpec(*spec))

    def rule(shapes: Any, mesh: Mesh) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf, names: place(path, leaf, names, mesh), shapes, axes
        )

    return rule
