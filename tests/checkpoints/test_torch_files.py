"""PyTorch's files without PyTorch: built here byte by byte, honest and hostile."""

import os
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxir.checkpoints.torch_files import read_torch_file
from jaxir.errors import InputError


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integers(*values: int) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"


def tensor(kind: str, key: str, count: int, offset: int, size, stride) -> bytes:
    """The opcodes that ``torch.save`` writes for one tensor."""
    storage = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    number = b"J" + struct.pack("<i", offset)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + b"(" + storage + b"J" + struct.pack("<i", count) + b"tQ"
        + number + integers(*size) + integers(*stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def write(path, entries: dict[str, bytes], storages, *, order=b"little", level=0):
    body = b"".join(text(name) + value for name, value in entries.items())
    with zipfile.ZipFile(path, "w", compression=level) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}(" + body + b"u.")
        archive.writestr("archive/byteorder", order)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


VALUES = np.arange(12, dtype=np.float32)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts as Linux does")
def test_many_tensors_hold_one_file_handle(tmp_path):
    names = [str(i) for i in range(50)]
    entries = {n: tensor("FloatStorage", n, 12, 0, (12,), (1,)) for n in names}
    path = write(tmp_path / "w.bin", entries, dict.fromkeys(names, VALUES))
    before = len(os.listdir("/proc/self/fd"))
    found = read_torch_file(path)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert all(np.array_equal(array, VALUES) for array in found.values())


def test_slices_types_and_shared_storages(tmp_path):
    half = np.arange(4).astype(ml_dtypes.bfloat16)
    entries = {
        "whole": tensor("FloatStorage", "0", 12, 0, (3, 4), (4, 1)),
        "transposed": tensor("FloatStorage", "0", 12, 0, (4, 3), (1, 4)),
        "row": tensor("FloatStorage", "0", 12, 8, (4,), (1,)),
        "scalar": tensor("FloatStorage", "0", 12, 5, (), ()),
        "empty": tensor("FloatStorage", "0", 12, 0, (0, 4), (4, 1)),
        "half": tensor("BFloat16Storage", "1", 4, 0, (4,), (1,)),
        "ids": tensor("LongStorage", "2", 2, 0, (1, 2), (2, 1)),
        "nothing": tensor("FloatStorage", "3", 0, 0, (0,), (1,)),
    }
    storages = {"0": VALUES, "1": half, "2": np.array([7, 8]), "3": VALUES[:0]}
    found = read_torch_file(write(tmp_path / "w.bin", entries, storages))
    grid = VALUES.reshape(3, 4)
    np.testing.assert_array_equal(found["whole"], grid)
    np.testing.assert_array_equal(found["transposed"], grid.T)
    np.testing.assert_array_equal(found["row"], grid[2])
    assert found["scalar"] == 5
    assert found["scalar"].shape == ()
    assert found["empty"].shape == (0, 4)
    assert found["half"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["half"], half)
    np.testing.assert_array_equal(found["ids"], [[7, 8]])
    assert np.shares_memory(found["whole"], found["row"])
    assert not found["whole"].flags.writeable


@pytest.mark.parametrize(
    "name", ["os\nsystem", "builtins\neval", "torch\nload", "posix\nsystem"]
)
def test_a_hostile_pickle_is_not_executed(tmp_path, name):
    flag = tmp_path / "executed"
    call = f"c{name}\n(".encode() + text(f"touch {flag}") + b"tR"
    path = write(tmp_path / "w.bin", {"w": call}, {})
    dotted = name.replace("\n", ".")
    with pytest.raises(
        InputError, match=f"the pickle names {dotted}; .*not.* executed"
    ):
        read_torch_file(path)
    assert not flag.exists()


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((13,), (1,), 0), ((4, 4), (4, 1), 0), ((2,), (1,), 11), ((2,), (-1,), 3)],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, size, stride, offset):
    entry = tensor("FloatStorage", "0", 12, offset, size, stride)
    path = write(tmp_path / "w.bin", {"w": entry}, {"0": VALUES})
    with pytest.raises(InputError, match="beyond its storage"):
        read_torch_file(path)


def test_storages_that_are_short_absent_or_packed_are_refused(tmp_path):
    entry = {"w": tensor("FloatStorage", "0", 12, 0, (12,), (1,))}
    with pytest.raises(InputError, match="storage 0 of 16 bytes; expected 48 bytes"):
        read_torch_file(write(tmp_path / "a.bin", entry, {"0": VALUES[:4]}))
    with pytest.raises(InputError, match="storage 0 is missing"):
        read_torch_file(write(tmp_path / "b.bin", entry, {}))
    packed = write(tmp_path / "c.bin", entry, {"0": VALUES}, level=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="expected 48 bytes, uncompressed"):
        read_torch_file(packed)


def test_other_files_say_what_they_are_not(tmp_path):
    old = tmp_path / "old.bin"
    old.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    with pytest.raises(
        InputError, match=r"not a zip archive.*before 1.6.*save it again"
    ):
        read_torch_file(old)
    other = tmp_path / "other.bin"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(InputError, match=r"a zip archive without data.pkl"):
        read_torch_file(other)
    big = write(tmp_path / "big.bin", {}, {}, order=b"big")
    with pytest.raises(InputError, match="byte order big; expected little"):
        read_torch_file(big)


def test_what_is_no_flat_state_dict_is_refused(tmp_path):
    with pytest.raises(InputError, match="no dictionary; expected a state dict"):
        read_torch_file(write(tmp_path / "a.bin", {}, {}))
    nested = {"model": b"}(" + text("x") + b"K\x01u"}
    with pytest.raises(InputError, match="'model' is a dict; expected a flat"):
        read_torch_file(write(tmp_path / "b.bin", nested, {}))
    with pytest.raises(InputError, match=r"storage .* expected a typed storage"):
        read_torch_file(write(tmp_path / "c.bin", {"w": text("x") + b"Q"}, {}))
    with pytest.raises(InputError, match=r"data.pkl cannot be read"):
        read_torch_file(write(tmp_path / "d.bin", {"w": b"\xff"}, {}))


def test_what_torch_saves_is_what_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.randn(6, 5)
    state = {
        "half": base.half(),
        "brain": base.bfloat16(),
        "parameter": torch.nn.Parameter(base[1:4]),
        "turned": base.t(),
        "ids": torch.arange(9).reshape(1, 9),
        "flags": base > 0,
    }
    torch.save(state, tmp_path / "w.bin")
    found = read_torch_file(tmp_path / "w.bin")
    assert found.keys() == state.keys()
    for name, array in found.items():
        expected = state[name].detach()
        assert array.shape == tuple(expected.shape)
        theirs = expected.float().numpy()
        np.testing.assert_array_equal(array.astype(np.float32), theirs)
    module = torch.nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "m.bin")
    assert set(read_torch_file(tmp_path / "m.bin")) == {"weight", "bias"}
