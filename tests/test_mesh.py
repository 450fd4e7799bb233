"""Meshes, placing batches, and joining processes."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir import mesh as meshes
from jaxir.errors import InputError


def test_mesh_axes():
    assert dict(meshes.make_mesh().shape) == {"data": 8, "model": 1}
    assert dict(meshes.make_mesh(4, model=2).shape) == {"data": 2, "model": 2}
    assert meshes.num_shards(meshes.make_mesh(4, model=2)) == 2


def test_mesh_that_cannot_be():
    with pytest.raises(InputError, match=r"num_devices: 9; expected 1 to 8 \(cpu\)"):
        meshes.make_mesh(9)
    with pytest.raises(InputError, match="model: 3; expected a divisor of the 8"):
        meshes.make_mesh(8, model=3)


def test_put_batch_splits_rows_and_keeps_values():
    mesh = meshes.make_mesh(4)
    rows = np.arange(24, dtype=np.int32).reshape(8, 3)
    placed = meshes.put_batch({"rows": rows, "none": None, "scalar": 2.0}, mesh)
    assert placed["none"] is None
    assert placed["rows"].sharding == meshes.batch_sharding(mesh)
    assert placed["rows"].addressable_shards[0].data.shape == (2, 3)
    assert placed["scalar"].sharding == meshes.replicated(mesh)
    np.testing.assert_array_equal(placed["rows"], rows)


def test_put_batch_uneven():
    with pytest.raises(InputError, match=r"batch\['x'\]: 6 rows; expected a multiple"):
        meshes.put_batch({"x": np.zeros((6, 2))}, meshes.make_mesh(4))


def test_a_jitted_function_sees_the_global_batch():
    x = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)

    @jax.jit
    def all_pairs(x):
        return jnp.mean(jax.nn.logsumexp(x @ x.T, axis=-1))

    one, eight = (
        float(all_pairs(meshes.put_batch(x, meshes.make_mesh(n)))) for n in (1, 8)
    )
    assert one == pytest.approx(eight, rel=1e-6)


def test_start_processes_needs_all_or_nothing(monkeypatch):
    for name in (
        "JAX_COORDINATOR_ADDRESS",
        "TPU_WORKER_HOSTNAMES",
        "SLURM_STEP_NUM_TASKS",
    ):
        monkeypatch.delenv(name, raising=False)
    assert meshes.start_processes() == 1
    # a batch script announces its tasks; only srun starts them
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert meshes.start_processes() == 1
    with pytest.raises(InputError, match="all three or none"):
        meshes.start_processes("localhost:1234")


def test_any_process_alone():
    assert meshes.any_process(True)
    assert not meshes.any_process(False)


def test_cpu_cores_too_late():
    jax.devices()
    assert meshes.use_cpu_cores(8) == 8
    with pytest.raises(InputError, match="already runs with 8 CPU devices"):
        meshes.use_cpu_cores(3)


TWO_PROCESSES = """
import sys
import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
from jaxir import mesh as meshes
index = int(sys.argv[1])
assert meshes.start_processes(sys.argv[2], 2, index) == 2
mesh = meshes.make_mesh()
assert dict(mesh.shape) == {"data": 4, "model": 1}
rows = np.arange(8, dtype=np.float32).reshape(8, 1)[index * 4 : index * 4 + 4]
batch = meshes.put_batch(rows, mesh)
assert batch.shape == (8, 1)
gram = jax.jit(lambda x: (x @ x.T).sum(), out_shardings=meshes.replicated(mesh))
assert float(gram(batch)) == 784.0
assert meshes.any_process(index == 1)
assert not meshes.any_process(False)
"""


def test_two_processes_make_one_batch():
    import socket

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(i), address],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    for run in runs:
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err[-2000:]
