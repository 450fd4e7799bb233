"""T5X's checkpoints on disk: native, legacy and Orbax layouts to named arrays.

=========  =========================================================================
layout     what lies there
=========  =========================================================================
native     ``checkpoint_N/checkpoint``, flax msgpack ``{version, optimizer: {target,
           state}}``, whose leaves are small arrays or TensorStore specs, and one
           zarr folder for each of the others: ``target.encoder.…kernel/``
legacy     one msgpack file with every array in it, large ones in pieces
Orbax      ``checkpoint_N/state/`` with ``_METADATA``; in the first such versions
           a ``checkpoint`` whose leaves are ``PLACEHOLDER://`` names of zarr folders
=========  =========================================================================

Only the parameters are read; the optimizer's slots stay where they are.  Paths and
buckets inside a spec are those of the machine that wrote it: an array is looked for
beside its index.  Nothing is unpickled.
"""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from flax import serialization

from jaxir.checkpoints.rules import flatten, unflatten
from jaxir.errors import InputError
from jaxir.files import atomic_directory
from jaxir.types import Params

__all__ = ["chunk_shape", "find_checkpoint", "read_arrays", "write_native"]

VERSION = 3  # of the native layout; from 3 on, bfloat16 is stored as such
CHUNK_BYTES = 64 * 1024 * 1024

_STEP = re.compile(r"checkpoint_(\d+)")
_ORBAX = "_METADATA"
_PLACEHOLDER = "PLACEHOLDER://"
# Where parameters are, from the outside in, in every layout that there has been.
_WRAPPERS = ("optimizer", "_optimizer", "target", "params")
_INCOMPLETE = "the copy is incomplete: copy it anew"


def find_checkpoint(path: Path) -> Path:
    """The msgpack file, or the Orbax folder, that a path means.

    Args:
      path: one of these itself, a folder ``checkpoint_N``, or a folder of such folders,
        of which the last is taken.

    Raises:
      InputError: there is none.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        remedy = "check the path"
        if "gs:/" in str(path):
            remedy = "copy it to this machine first: gcloud storage cp -r"
        raise InputError(path, "no such file or folder", "a T5X checkpoint", remedy)
    steps = [
        (int(match[1]), folder)
        for parent in (path, path / "checkpoints")
        if parent.is_dir()
        for folder in parent.iterdir()
        if (match := _STEP.fullmatch(folder.name))
    ]
    folder = max(steps)[1] if steps else path
    if folder.is_file():  # a legacy file bears the same name
        return folder
    for inner in (folder, folder / "state", folder / "default"):
        if (inner / _ORBAX).is_file():
            return inner
    if (folder / "checkpoint").is_file():
        return folder / "checkpoint"
    raise InputError(
        path, "no T5X checkpoint here", "checkpoint_N/checkpoint, or Orbax's _METADATA"
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """A checkpoint's parameters by their paths, such as ``encoder/encoder_norm/scale``.

    Args:
      path: as :func:`find_checkpoint` takes it.

    Raises:
      InputError: no checkpoint, a damaged one, or one with arrays missing.
    """
    place = find_checkpoint(path)
    return _read_orbax(place) if place.is_dir() else _read_index(place)


def _parameters(contents: Any, where: Path) -> Mapping[str, Any]:
    tree = contents
    for key in _WRAPPERS:
        if isinstance(tree, Mapping) and isinstance(tree.get(key), Mapping):
            tree = tree[key]
    if not isinstance(tree, Mapping) or not tree:
        raise InputError(where, "no parameters in it", "a T5X checkpoint")
    return tree


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and not _is_spec(value):
            yield from _leaves(value, f"{prefix}{key}/")
        elif value is not None:
            yield f"{prefix}{key}", value


def _is_spec(value: Mapping[str, Any]) -> bool:
    return {"driver", "kvstore", "metadata"} <= set(value)


def _read_index(file: Path) -> dict[str, np.ndarray]:
    """Native and legacy layouts, and Orbax's first: a msgpack file with references."""
    content = file.read_bytes()
    if content.startswith(b"model_checkpoint_path"):
        found = "a checkpoint of Mesh TensorFlow"
        raise InputError(file, found, "T5X's", "convert it with t5x first")
    try:
        contents = serialization.msgpack_restore(content)
    # msgpack and flax tell of damage in exceptions of half a dozen types.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            file, f"cannot be read ({reason})", "T5X's msgpack", "copy it anew"
        ) from error
    arrays, stored = {}, {}
    for path, leaf in _leaves(_parameters(contents, file)):
        if isinstance(leaf, Mapping):
            stored[path] = (_folder_name(leaf, file), leaf["metadata"].get("shape"))
        elif isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
            stored[path] = (leaf.removeprefix(_PLACEHOLDER), None)
        elif isinstance(leaf, (np.ndarray, np.generic)):
            arrays[path] = np.asarray(leaf)
        else:
            raise InputError(file, f"{path} is no array but {type(leaf).__name__}")
    return arrays | _read_zarr(file, stored)


def _folder_name(spec: Mapping[str, Any], file: Path) -> str:
    """The folder of an array, whatever machine and version wrote the spec."""
    store = spec["kvstore"]
    path = store if isinstance(store, str) else store.get("path", spec.get("path"))
    if spec["driver"] != "zarr" or not path:
        raise InputError(file, f"an array stored by {spec['driver']!r}", "zarr")
    return PurePosixPath(path).name


def _read_zarr(
    file: Path, stored: Mapping[str, tuple[str, Any]]
) -> dict[str, np.ndarray]:
    """Zarr folders beside the index, all read at once."""
    if not stored:
        return {}
    import tensorstore as ts

    folders = {path: file.parent / name for path, (name, _) in stored.items()}
    absent = [f.name for f in folders.values() if not (f / ".zarray").is_file()]
    if absent:
        found = (
            f"{len(absent)} of {len(folders)} arrays are missing, such as {absent[0]}"
        )
        raise InputError(file.parent, found, remedy=_INCOMPLETE)
    reads = {}
    try:
        for path, folder in folders.items():
            _check_chunks(folder)
            place = {"driver": "file", "path": f"{folder.absolute()}/"}
            store = ts.open({"driver": "zarr", "kvstore": place}, read=True).result()
            shape = stored[path][1]
            if shape is not None and tuple(shape) != store.shape:
                found = f"shape {list(store.shape)}"
                raise InputError(folder, found, f"{list(shape)}", _INCOMPLETE)
            reads[path] = store.read()
        arrays = {path: np.asarray(read.result()) for path, read in reads.items()}
    except InputError:
        raise
    # TensorStore raises ValueError for most, with pages of source locations.
    except Exception as error:
        reason = str(error).partition(" [")[0]
        raise InputError(
            file.parent, f"cannot be read ({reason})", "zarr arrays", "copy it anew"
        ) from error
    # Before version 3, bfloat16 was stored as the integers of its bits.
    return {
        path: array.view(ts.bfloat16.numpy_dtype) if array.dtype == np.uint16 else array
        for path, array in arrays.items()
    }


def _check_chunks(folder: Path) -> None:
    """TensorStore reads a chunk that is not there as zeros; a copy must have all."""
    data = json.loads((folder / ".zarray").read_text("utf-8"))
    if data.get("fill_value") is not None:
        return  # such a writer leaves out what equals the fill value
    grid = [
        range(-(-size // chunk))
        for size, chunk in zip(data["shape"], data["chunks"], strict=True)
    ]
    separator = data.get("dimension_separator", ".")
    for index in itertools.product(*grid):
        name = separator.join(map(str, index)) or "0"
        if not (folder / name).is_file():
            raise InputError(folder, f"chunk {name} is missing", remedy=_INCOMPLETE)


def _read_orbax(folder: Path) -> dict[str, np.ndarray]:
    from orbax.checkpoint import v1 as ocp

    # Orbax is asked for a part by its name, where the folder above says it has parts.
    part: dict[str, str] = {}
    if (folder.parent / "_CHECKPOINT_METADATA").is_file():
        folder, part = folder.parent, {"checkpointable_name": folder.name}
    try:
        found = ocp.metadata(folder.absolute(), **part).metadata
        shapes = _parameters(found, folder)
        empty: Any = {
            path: np.empty(leaf.shape, np.float32) for path, leaf in _leaves(shapes)
        }
        target = unflatten(empty)
        keys, tree = [], found
        while tree is not shapes:
            keys.append(next(k for k in _WRAPPERS if isinstance(tree.get(k), Mapping)))
            tree = tree[keys[-1]]
        for key in reversed(keys):
            target = {key: target}
        context = ocp.Context()
        context.pytree.loading.partial_load = True  # the optimizer's slots stay
        with context:
            loaded = ocp.load(folder.absolute(), target, **part)
        return flatten(_parameters(loaded, folder))
    except InputError:
        raise
    # Orbax and tensorstore tell of damage in exceptions of a dozen types.
    except Exception as error:
        reason = str(error).partition(" [")[0].strip() or type(error).__name__
        raise InputError(
            folder, f"cannot be read ({reason})", "Orbax's layout", "copy it anew"
        ) from error


def chunk_shape(shape: Sequence[int], most: int) -> list[int]:
    """Chunks of at most so many elements that divide an array evenly, as T5X's.

    The longest side is cut to its next smaller divisor until the chunk is small enough.

    Args:
      shape: of the array.
      most: elements of a chunk, at least 1.

    Example::

      >>> chunk_shape((1000, 512), 100_000)
      [250, 256]
    """
    sides = list(shape)
    while math.prod(sides) > most:
        longest = sides.index(max(sides))
        side = sides[longest]
        whole = shape[longest]
        sides[longest] = next(n for n in range(side - 1, 0, -1) if whole % n == 0)
    return sides


def write_native(directory: Path, params: Params, *, step: int) -> Path:
    """Writes ``directory/checkpoint_{step}`` in T5X's native layout.

    Every parameter becomes a zarr folder (gzip, chunks of at most 64 MiB), the step
    stands in the index; there are no optimizer slots.

    Returns:
      The folder.

    Raises:
      InputError: the place cannot be written.
    """
    import tensorstore as ts

    place = directory / f"checkpoint_{step}"
    with atomic_directory(place) as folder:
        specs, writes = {}, []
        for path, leaf in flatten(params).items():
            array = np.asarray(leaf)
            name = "target." + path.replace("/", ".")
            most = CHUNK_BYTES // array.dtype.itemsize
            metadata = {
                "compressor": {"id": "gzip"},
                "shape": list(array.shape),
                "chunks": chunk_shape(array.shape, most),
            }
            spec = {"driver": "zarr", "dtype": array.dtype.name, "metadata": metadata}
            store = {"driver": "file", "path": name}
            # TensorStore completes a spec as T5X's own writer stores it.
            specs[path] = ts.Spec(spec | {"kvstore": store}).to_json()
            store = {"driver": "file", "path": str(folder.absolute() / name)}
            opened = ts.open(spec | {"kvstore": store}, create=True).result()
            writes.append(opened.write(array))
        for write in writes:
            write.result()
        index = {
            "version": VERSION,
            "optimizer": {
                "target": unflatten(specs),
                "state": {"step": np.array(step, np.int32)},
            },
        }
        content = serialization.msgpack_serialize(index)
        (folder / "checkpoint").write_bytes(content)
    return place
