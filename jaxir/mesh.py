"""Devices: one mesh, how batches and parameters lie on it, several processes.

A mesh has two axes.  ``"data"`` splits batches, ``"model"`` splits parameters that are
too large for one device; most models leave it at 1.  A computation under ``jax.jit``
over arrays placed here sees the *global* batch, so in-batch negatives span all devices
and one device computes what eight compute.

On a CPU the cores of one host can be devices of their own (:func:`use_cpu_cores`):
each then runs its part of the batch alone, which is faster than sharing every matrix
product between the cores.
"""

import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxir.errors import InputError

__all__ = [
    "any_process",
    "batch_sharding",
    "cpu_cores",
    "make_mesh",
    "num_shards",
    "put_batch",
    "replicated",
    "start_processes",
    "use_cpu_cores",
]


def make_mesh(num_devices: int | None = None, *, model: int = 1) -> Mesh:
    """A mesh with axes ``("data", "model")`` over the devices of all processes.

    Args:
      num_devices: devices to use, all of them by default.
      model: devices that share one copy of the parameters.

    Raises:
      InputError: there are not that many devices, or they do not divide evenly.

    Example::

      >>> dict(make_mesh(1).shape)
      {'data': 1, 'model': 1}
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise InputError(
            "num_devices", str(count), f"1 to {len(devices)} ({devices[0].platform})"
        )
    if model < 1 or count % model:
        raise InputError("model", str(model), f"a divisor of the {count} devices")
    return jax.make_mesh(
        (count // model, model),
        ("data", "model"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[:count],
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis split over ``"data"``, the others whole."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device."""
    return NamedSharding(mesh, PartitionSpec())


def num_shards(mesh: Mesh) -> int:
    """Parts into which a batch is split: its rows must be a multiple of this."""
    return mesh.shape["data"]


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Host arrays onto the devices, split along their first axis.

    With several processes each gives its own rows, in the order of the processes, and
    receives the global arrays.  The copy may alias the host arrays: leave them alone
    afterwards.

    Args:
      batch: a pytree of arrays ``[rows, ...]``; scalars are replicated.
      mesh: see :func:`make_mesh`.

    Returns:
      The same pytree of global ``jax.Array`` values.

    Raises:
      InputError: the rows cannot be shared evenly among the devices.

    Example::

      >>> put_batch({"x": np.zeros((4, 2))}, make_mesh(1))["x"].shape
      (4, 2)
    """
    split, whole = batch_sharding(mesh), replicated(mesh)
    parts = max(1, num_shards(mesh) // jax.process_count())

    def put(path: tuple, leaf: Any) -> jax.Array:
        shape = np.shape(leaf)
        sharding = split if shape else whole
        if shape and shape[0] % parts:
            raise InputError(
                "batch" + jax.tree_util.keystr(path),
                f"{shape[0]} rows",
                f"a multiple of the {parts} devices of this process",
                "change the batch size or the number of devices",
            )
        if jax.process_count() > 1:
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
        return jax.device_put(leaf, sharding)

    return jax.tree_util.tree_map_with_path(put, batch)


def cpu_cores() -> int:
    """CPU cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def use_cpu_cores(count: int | None = None) -> int:
    """Makes each CPU core a JAX device; call it before anything else uses JAX.

    No effect where an accelerator is the default backend.

    Args:
      count: devices, by default the cores this process may run on.

    Returns:
      The number of CPU devices; where none is asked for and JAX has already begun (in
      a notebook, say), what it began with.

    Raises:
      InputError: JAX has already begun with another number than the one asked for.
    """
    asked = count is not None
    if count is None:
        count = cpu_cores()
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        found = len(jax.devices("cpu"))
        if asked and found != count:
            raise InputError(
                "use_cpu_cores",
                f"JAX already runs with {found} CPU devices",
                f"to be called before the first computation, for {count}",
            ) from error
        return found
    return count


def start_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> int:
    """Joins the processes of a multi-host run; a lone process is left alone.

    Without arguments it joins where the surroundings announce a cluster:
    ``JAX_COORDINATOR_ADDRESS``, a TPU pod slice, or ``srun`` with several tasks.

    Args:
      coordinator: ``host:port`` of process 0.
      num_processes: processes in all.
      process_id: number of this one.

    Returns:
      The number of processes.

    Raises:
      InputError: only some of the three arguments are given.
    """
    given = (coordinator, num_processes, process_id)
    announced = (
        "JAX_COORDINATOR_ADDRESS" in os.environ
        or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
        or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    )
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise InputError(
                "start_processes",
                f"coordinator, num_processes, process_id = {given}",
                "all three or none",
            )
        announced = True
    if announced and not jax.distributed.is_initialized():
        jax.distributed.initialize(coordinator, num_processes, process_id)
    return jax.process_count()


def any_process(flag: bool) -> bool:
    """True when ``flag`` is true on some process; all processes must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
