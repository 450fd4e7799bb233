"""Codes on the devices of a mesh, each its own range of documents.

The devices of a CPU all read the same array, which may be a memory-mapped file: nothing
is copied.  Accelerators hold their ranges in memories of their own.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, UInt8

__all__ = ["PlacedCodes", "place_codes"]


class PlacedCodes(NamedTuple):
    """Codes on the devices of a mesh.

    Attributes:
      codes: ``[M, N]`` or packed; padded on the right where it is split.
      num_docs: number of documents.
      mesh: the devices; its first axis splits the documents.
      split: each device holds its own range; else all of them read the same codes.
    """

    codes: Array
    num_docs: int
    mesh: Mesh
    split: bool


def place_codes(
    codes: UInt8[np.ndarray, "P N"], *, mesh: Mesh, split: bool | None = None
) -> PlacedCodes:
    """Codes where :func:`sharded_search` wants them.

    Args:
      codes: ``[M, N]`` or packed, plain or memory-mapped.
      mesh: devices of this process.
      split: give each device its own range of documents; by default not on a CPU,
        whose devices read a file that is memory-mapped where it lies.
    """
    devices, num_docs = list(mesh.devices.flat), codes.shape[1]
    if split is None:
        split = devices[0].platform != "cpu"
    if not split:
        held = [jax.device_put(codes, device, may_alias=True) for device in devices]
        everywhere = NamedSharding(mesh, PartitionSpec())
        whole = jax.make_array_from_single_device_arrays(codes.shape, everywhere, held)
        return PlacedCodes(whole, num_docs, mesh, split)
    axis = mesh.axis_names[0]
    span = -(-num_docs // mesh.shape[axis])

    def piece(index: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = index[1].indices(span * mesh.shape[axis])
        out = np.zeros((len(codes), last - first), np.uint8)
        found = codes[:, first:last]
        out[:, : found.shape[1]] = found
        return out

    shape = (len(codes), span * mesh.shape[axis])
    by_range = NamedSharding(mesh, PartitionSpec(None, axis))
    placed = jax.make_array_from_callback(shape, by_range, piece)  # type: ignore[arg-type]
    return PlacedCodes(placed, num_docs, mesh, split)
