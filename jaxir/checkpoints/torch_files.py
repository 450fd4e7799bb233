"""Weights saved by PyTorch, read without PyTorch and without executing a pickle.

A ``pytorch_model.bin`` is a zip archive: ``data.pkl`` says which tensor is which slice
of which storage, and each storage is one uncompressed member.  The pickle is walked by
an unpickler that knows only those few names; whatever else it names is refused, so that
a hostile file can name ``os.system`` and gets an error.  Storages are memory-mapped.
"""

import collections
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxir.errors import InputError

__all__ = ["read_torch_file"]

_STORAGE_TYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class _StorageType(NamedTuple):
    """Stands for ``torch.FloatStorage`` and its kind."""

    dtype: np.dtype


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The named tensors of a file that ``torch.save(model.state_dict())`` wrote.

    Arrays are read-only views of the file; tensors that share a storage share memory.

    Args:
      path: the file.

    Raises:
      InputError: another format (PyTorch before 1.6, a truncated file), a pickle that
        names anything but tensors, or a tensor beyond its storage.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = _find_pickle(path, archive)
            root = member.filename.removesuffix("data.pkl")
            _check_byte_order(path, archive, root)
            state = _Reader(path, archive, root).load()
    except zipfile.BadZipFile as error:
        raise InputError(
            path,
            "not a zip archive: truncated, or of PyTorch before 1.6",
            "a state dict saved by PyTorch 1.6 or later, or safetensors",
            "load and save it again with a recent PyTorch",
        ) from error
    if not isinstance(state, dict) or not state:
        raise InputError(path, "no dictionary", "a state dict: names to tensors")
    for name, value in state.items():
        if not isinstance(value, np.ndarray):
            found = f"{name!r} is a {type(value).__name__}"
            raise InputError(path, found, "a flat state dict: names to tensors")
    return dict(state)


def _find_pickle(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [m for m in archive.infolist() if m.filename.endswith("data.pkl")]
    if len(members) != 1:
        raise InputError(path, "a zip archive without data.pkl", "a PyTorch state dict")
    return members[0]


def _check_byte_order(path: Path, archive: zipfile.ZipFile, root: str) -> None:
    if f"{root}byteorder" in archive.namelist():
        order = archive.read(f"{root}byteorder").decode("ascii", "replace")
        if order != "little":
            raise InputError(path, f"byte order {order}", "little")


class _Reader:
    """Walks one archive's pickle; holds the storages it has mapped."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, root: str) -> None:
        self.path, self.archive, self.root = path, archive, root
        self.storages: dict[tuple[str, np.dtype], np.ndarray] = {}
        # One map for all storages: each would hold a file handle of its own.
        self.content = np.memmap(path, np.uint8, "r").view(np.ndarray)

    def load(self) -> Any:
        """The object that the pickle describes."""
        reader = self

        class Restricted(pickle.Unpickler):
            """Knows the names of a state dict and nothing else."""

            def find_class(self, module: str, name: str) -> Any:
                return reader.find(module, name)

            def persistent_load(self, pid: Any) -> np.ndarray:
                return reader.storage(pid)

        with self.archive.open(f"{self.root}data.pkl") as stream:
            try:
                return Restricted(stream).load()
            except InputError:
                raise
            # A damaged pickle fails in as many ways as there are opcodes.
            except Exception as error:
                raise InputError(
                    self.path, f"data.pkl cannot be read ({error})", "a state dict"
                ) from error

    def find(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for here; nothing of the real modules."""
        known: dict[tuple[str, str], Callable | type] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch", "Size"): tuple,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _STORAGE_TYPES:
            return _StorageType(_STORAGE_TYPES[name])
        raise InputError(
            self.path,
            f"the pickle names {module}.{name}",
            "tensors alone",
            "nothing was executed; ask its author for safetensors",
        )

    def storage(self, pid: Any) -> np.ndarray:
        """The memory-mapped member that a persistent id names."""
        match pid:
            case ("storage", _StorageType(dtype), str(key), _, int(count)):
                pass
            case _:
                raise InputError(self.path, f"storage {pid!r}", "a typed storage")
        if (key, dtype) not in self.storages:
            self.storages[key, dtype] = self._map(key, dtype, count)
        return self.storages[key, dtype]

    def _map(self, key: str, dtype: np.dtype, count: int) -> np.ndarray:
        try:
            member = self.archive.getinfo(f"{self.root}data/{key}")
        except KeyError as error:
            found = f"storage {key} is missing"
            raise InputError(self.path, found, "a whole file") from error
        size = count * dtype.itemsize
        if member.compress_type != zipfile.ZIP_STORED or member.file_size < size:
            found = f"storage {key} of {member.file_size} bytes"
            raise InputError(self.path, found, f"{size} bytes, uncompressed")
        if count == 0:
            return np.zeros(0, dtype)
        # The local header's last two fields, the lengths of what follows it.
        sizes = self.content[member.header_offset + 26 : member.header_offset + 30]
        offset = member.header_offset + 30 + sum(struct.unpack("<HH", sizes.tobytes()))
        return self.content[offset : offset + size].view(dtype)

    def tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *ignored: Any
    ) -> np.ndarray:
        """A strided view of a storage, within its bounds."""
        del ignored  # requires_grad, hooks, metadata
        numbers = (offset, *size, *stride)
        reach = offset + sum(
            (n - 1) * step for n, step in zip(size, stride, strict=True)
        )
        if (
            not isinstance(storage, np.ndarray)
            or any(not isinstance(n, int) or n < 0 for n in numbers)
            or (0 not in size and reach >= storage.size)
        ):
            raise InputError(
                self.path,
                f"a tensor of shape {tuple(size)} beyond its storage",
                "a whole file",
            )
        if 0 in size:
            return np.zeros(tuple(size), storage.dtype)
        return np.lib.stride_tricks.as_strided(
            storage[offset:],
            shape=tuple(size),
            strides=tuple(step * storage.itemsize for step in stride),
            writeable=False,
        )


def _parameter(tensor: np.ndarray, *ignored: Any) -> np.ndarray:
    """A parameter is its tensor."""
    del ignored  # requires_grad, hooks
    return tensor
