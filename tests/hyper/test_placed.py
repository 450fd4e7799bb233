"""Where a graph search's arrays lie: copies, shards and devices."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hyper.algorithm1 import RULES
from hyper.test_graph import assert_same, make_problem, search
from hyper.test_search import mesh_of

from jaxir.errors import InputError
from jaxir.hyper import placed
from jaxir.hyper.graph import GraphSearchConfig, graph_vectors
from jaxir.vectors import device_blocks


def pointers(array):
    return [shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards]


def mapped(path, vectors):
    np.save(path, vectors)
    return np.load(path, mmap_mode="r" if len(vectors) else None)


@pytest.mark.parametrize("num_devices", [1, 8])
def test_vectors_of_one_file_are_not_copied(tmp_path, num_devices):
    shard = mapped(tmp_path / "v.npy", np.ones((160, 4), np.float32))
    mesh = mesh_of(num_devices)
    for on_device in (graph_vectors(shard), graph_vectors([shard], mesh)):
        assert set(pointers(on_device)) == {shard.ctypes.data}


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_of_several_files(tmp_path, monkeypatch, num_devices, dtype):
    """One array, written in place, which all devices of a CPU read."""
    rng, rows = np.random.default_rng(0), (7, 43, 0, 110)
    parts = [rng.standard_normal((count, 4)).astype(dtype) for count in rows]
    shards = [mapped(tmp_path / f"{i}.npy", part) for i, part in enumerate(parts)]
    after, write = [], placed._written

    def written(*arguments):
        whole = write(*arguments)
        after.append(whole.unsafe_buffer_pointer())
        return whole

    monkeypatch.setattr(placed, "_written", written)
    on_device = graph_vectors(shards, mesh_of(num_devices))
    assert len(after) == len(shards)  # once for all devices
    assert set(after) == set(pointers(on_device))
    assert len(set(after)) == 1
    assert len(on_device.devices()) == num_devices
    np.testing.assert_array_equal(on_device, np.concatenate(parts))


def test_the_host_makes_no_copy_of_several_files(tmp_path):
    """numpy tells tracemalloc of its memory; what a device holds is not in it."""
    part = np.ones((512, 64), np.float32)
    shards = [mapped(tmp_path / f"{i}.npy", part) for i in range(40)]
    graph_vectors(shards)  # compiles

    def peak(work):
        tracemalloc.start()
        work(shards)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(np.concatenate) >= 40 * part.nbytes
    assert peak(graph_vectors) < part.nbytes


@pytest.mark.parametrize("num_devices", [1, 4])
def test_shards_do_not_change_the_result(num_devices):
    problem, config = make_problem(1, 60, 5, 2), GraphSearchConfig(5, 4, 6)
    shards = np.split(np.asarray(problem.vectors), [1, 30, 30, 59])
    in_shards = problem._replace(vectors=graph_vectors(shards, mesh_of(num_devices)))
    assert_same(problem, 8, config, search(in_shards, 8, config))


# devices and queries: as many, fewer, and numbers that do not divide evenly
CASES = [(2, 4), (4, 3), (8, 1), (4, 9), (8, 0)]


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize(("num_devices", "batch"), CASES)
def test_devices_do_not_change_the_result(num_devices, batch, rule):
    together = (batch % 2 == 0) == (rule == "paper")
    problem = make_problem(2, 60, 5, batch=batch)
    config = GraphSearchConfig(5, 4, 6, rule)
    expected = search(problem, 8, config, together=together)
    mesh = mesh_of(num_devices)
    everywhere = problem._replace(
        vectors=graph_vectors(np.asarray(problem.vectors), mesh)
    )
    found = search(everywhere, 8, config, together=together)
    assert_same(problem, 8, config, found)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert len(one) == batch
        np.testing.assert_array_equal(one, other)


def test_what_is_on_a_device_is_not_copied_for_each_search():
    array = jnp.arange(8)
    everywhere = placed.on_devices(array, jax.local_devices())
    assert len(everywhere.devices()) == jax.local_device_count()
    for devices in (jax.local_devices()[:1], jax.local_devices()[:3]):
        some = placed.on_devices(everywhere, devices)
        assert set(some.devices()) == set(devices)
        assert pointers(some) == pointers(everywhere)[: len(devices)]


def test_a_broken_query_among_several_devices_is_named():
    problem = make_problem(2, 60, 5, batch=5)
    problem.weights.output[4, 1] = np.nan
    vectors = graph_vectors(np.asarray(problem.vectors), mesh_of(2))
    with pytest.raises(InputError, match="query 4: NaN or infinity in its q-net; exp"):
        search(problem._replace(vectors=vectors), 3, GraphSearchConfig(5, 4, 6))


def test_vectors_that_are_split_are_refused():
    problem = make_problem(2, 60, 5)
    blocks = device_blocks(np.asarray(problem.vectors), mesh=mesh_of(2)).blocks
    split = problem._replace(vectors=blocks.reshape(60, -1))
    assert not split.vectors.is_fully_replicated
    with pytest.raises(InputError, match="vectors: split over devices; expected all"):
        search(split, 3, GraphSearchConfig())
