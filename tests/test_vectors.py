"""Blocks of vectors on the devices and on the host, and where a row lies."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxir.vectors import (
    device_blocks,
    host_blocks,
    row_of_blocks,
    row_of_shards,
)


def rows(num_docs, width=3):
    return np.arange(num_docs * width, dtype=np.float32).reshape(num_docs, width)


@pytest.mark.parametrize("num_devices", [None, 1, 4])
@pytest.mark.parametrize("cuts", [[], [5, 5, 30]])
def test_device_blocks_hold_every_row_once(num_devices, cuts):
    mesh = None
    if num_devices is not None:
        if jax.device_count() < num_devices:
            pytest.skip("needs simulated devices")
        mesh = Mesh(np.array(jax.devices()[:num_devices]), ("data",))
    vectors = rows(41)
    held = device_blocks(np.split(vectors, cuts), mesh=mesh, block_rows=8)
    assert held.num_docs == 41
    assert held.blocks.shape[0] % (num_devices or 1) == 0
    flat = np.asarray(held.blocks).reshape(-1, 3)
    np.testing.assert_array_equal(flat[:41], vectors)
    assert not flat[41:].any()
    for row in (0, 8, 40):
        place, vector = row_of_blocks(held, row)
        assert place == f"vectors, row {row}"
        np.testing.assert_array_equal(vector, vectors[row])


@pytest.mark.parametrize("cuts", [[], [5, 6], [0, 7], [16, 32, 40]])
def test_host_blocks_show_every_row_once(cuts):
    vectors, seen = rows(41), []
    for block in host_blocks(np.split(vectors, cuts), 8):
        assert block.vectors.shape == (8, 3)
        for at in range(block.valid_from, block.valid_to):
            seen.append(block.first_row + at)
            np.testing.assert_array_equal(block.vectors[at], vectors[seen[-1]])
    assert seen == list(range(41))


def test_host_blocks_are_not_copied(tmp_path):
    np.save(tmp_path / "v.npy", rows(20))
    vectors = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert all(np.shares_memory(b.vectors, vectors) for b in host_blocks([vectors], 8))


def test_a_row_of_shards_has_the_name_of_its_file(tmp_path):
    vectors = rows(20)
    np.save(tmp_path / "v.npy", vectors[12:])
    shards = [vectors[:12], np.load(tmp_path / "v.npy", mmap_mode="r")]
    for row, place in ((11, "vectors, row 11"), (13, f"{tmp_path / 'v.npy'}, row 1")):
        found, vector = row_of_shards(shards, row)
        assert found == place
        np.testing.assert_array_equal(vector, vectors[row])
