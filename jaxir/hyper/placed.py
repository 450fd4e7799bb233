"""Where a graph search's arrays lie: on one device, or the same on several.

Each of several devices walks for its own queries, so it has all vectors and the whole
graph.  The devices of a CPU read the same ones: nothing is copied.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxir.errors import InputError
from jaxir.hyper.qnet import QNetWeights

__all__ = ["graph_vectors", "on_devices", "split_queries", "walking_devices"]


def graph_vectors(
    shards: np.ndarray | Sequence[np.ndarray], mesh: Mesh | None = None
) -> Array:
    """Document vectors as the one array that a graph search gathers from.

    On a CPU a single ``.npy`` file, memory-mapped, is used where it lies: only the
    pages that a search touches are read.  Several shards fill one array of the device,
    shard by shard: beside it the host holds no more than the shard that is being read.

    Args:
      shards: ``[rows, W]`` arrays in order, plain or memory-mapped.
      mesh: devices of this process that share the queries of a search.  Each has all
        vectors; those of a CPU read the same ones.  By default JAX's first device.
    """
    parts = [shards] if isinstance(shards, np.ndarray) else list(shards)
    devices = jax.local_devices()[:1] if mesh is None else list(mesh.devices.flat)
    held = [_filled(parts, devices[0])]
    if len(devices) > 1 and devices[0].platform == "cpu":
        parts = [np.asarray(held[0])]
    return _everywhere(held + [_filled(parts, device) for device in devices[1:]])


@functools.partial(jax.jit, donate_argnums=0)
def _written(
    whole: Float[Array, "N W"], part: Float[Array, "n W"], row: Int[Array, ""] | int
) -> Float[Array, "N W"]:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, row, 0)


def _filled(shards: Sequence[np.ndarray], device: jax.Device) -> Array:
    """The shards one after another in an array of the device, written in place."""
    if len(shards) == 1:
        return jax.device_put(shards[0], device, may_alias=True)
    shape, row = (sum(map(len, shards)), shards[0].shape[1]), 0
    whole = jnp.zeros(shape, shards[0].dtype, device=device)
    for shard in shards:
        part = jax.device_put(shard, device, may_alias=True)
        # Waits, so that shards do not pile up on the device.
        whole = jax.block_until_ready(_written(whole, part, row))
        row += len(shard)
    return whole


def walking_devices(vectors: Float[Array, "N W"], num_queries: int) -> list[jax.Device]:
    """The devices that have the vectors, no more of them than queries.

    Args:
      vectors: of :func:`graph_vectors`.
      num_queries: of a search, at least 1.

    Raises:
      InputError: no device has all vectors.
    """
    if not vectors.is_fully_replicated:
        raise InputError(
            "vectors", "split over devices", "all of them on each device",
            "place them with graph_vectors",
        )  # fmt: skip
    devices = sorted(vectors.devices(), key=lambda device: device.id)
    return devices[:num_queries]


def on_devices(array: Array | np.ndarray, devices: Sequence[jax.Device]) -> Array:
    """An array on each of some devices; not copied where it is there already.

    Args:
      array: on the host or on devices.
      devices: at least one.
    """
    held = {}
    if isinstance(array, jax.Array) and array.is_fully_replicated:
        held = {shard.device: shard.data for shard in array.addressable_shards}
    parts = [
        held[device] if device in held
        else jax.device_put(array, device, may_alias=True)
        for device in devices
    ]  # fmt: skip
    return _everywhere(parts)


def split_queries(
    weights: QNetWeights, devices: Sequence[jax.Device]
) -> tuple[QNetWeights, Mesh | None]:
    """Each device's part of the q-nets ``[B, ...]``, and the mesh that splits them.

    Where they do not divide evenly, the last q-net fills the last parts up.

    Args:
      weights: of queries.
      devices: of one, there is no mesh and the weights stay as they are.
    """
    if len(devices) == 1:
        return weights, None
    count, mesh = weights.output.shape[0], _mesh(devices)
    rows = np.minimum(np.arange(-(-count // mesh.size) * mesh.size), count - 1)
    if len(rows) > count:
        weights = jax.tree.map(lambda leaf: leaf[rows], weights)
    return jax.device_put(weights, NamedSharding(mesh, PartitionSpec("data"))), mesh


def _everywhere(held: Sequence[Array]) -> Array:
    """The same array on several devices as one of JAX's, without a copy."""
    if len(held) == 1:
        return held[0]
    mesh = _mesh([next(iter(part.devices())) for part in held])
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.make_array_from_single_device_arrays(held[0].shape, whole, list(held))


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), ("data",))
