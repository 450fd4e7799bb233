"""SavedModels that TensorFlow and TensorFlow Serving load; needs the extra ``export``.

Layout, as TensorFlow Serving wants it::

    DIRECTORY/1/saved_model.pb
                variables/            every parameter is a variable, none is a constant
                assets/               the tokenizer, jaxir.json, doc_ids.txt of an index
                assets.extra/tf_serving_warmup_requests

Each export is the next version.  A program is one ``XlaCallModule`` operation around
the StableHLO of ``export/lower.py``.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.errors import InputError
from jaxir.export.description import describe, write_description
from jaxir.export.lower import TARGET, Lowered, check_platforms, lower
from jaxir.export.programs import Exportable
from jaxir.export.verify import verify
from jaxir.export.warmup import warmup_requests, write_records
from jaxir.files import atomic_directory, claimed
from jaxir.progress import say

__all__ = ["write_saved_model"]

_READER = Path(__file__).with_name("saved_model_reader.py")
_CALL_VERSION = (
    9  # of XlaCallModule; 10 only tells of shardings, of which there are none
)


def write_saved_model(
    exportable: Exportable,
    directory: str | os.PathLike,
    *,
    platforms: Sequence[str] = ("cpu", "cuda"),
    target: str = TARGET,
    version: int | None = None,
) -> dict[str, Any]:
    """Writes a SavedModel and has another process call it before it stands.

    Args:
      exportable: of ``programs.model_programs`` or ``index_programs``.
      directory: holds the versions; its name is what TensorFlow Serving calls a model.
      platforms: what it shall run on; ``"cpu"``, on which it is compared, is always
        among them.
      target: StableHLO's version.
      version: a number above 0; by default the one after the highest that stands there.

    Returns:
      ``path``, ``version``, ``signatures``, ``default``, ``platforms``,
      ``stablehlo_version``, ``bytes``, and ``differences`` by signature and output.

    Raises:
      InputError: tensorflow is not installed; the directory holds something else; the
        version exists, or another export writes here; what was written gives other
        numbers than the model.
    """
    directory = Path(directory)
    _next_version(directory, version)  # a mistake is told before anything is loaded
    platforms = check_platforms(["cpu", *platforms])
    tf = _tensorflow()
    with claimed(directory / "next version"):  # nobody else takes the number meanwhile
        number = _next_version(directory, version)
        return _write(tf, exportable, directory, number, platforms, target)


def _write(
    tf: Any,
    exportable: Exportable,
    directory: Path,
    number: int,
    platforms: Sequence[str],
    target: str,
) -> dict[str, Any]:
    lowered = {
        program.name: lower(
            program, exportable.params, platforms=platforms, target=target
        )
        for program in exportable.programs
    }
    final = directory / str(number)
    description = describe(exportable, lowered, platforms) | {
        "tensorflow_version": tf.__version__
    }
    with atomic_directory(final) as place:
        _save(tf, exportable, lowered, description, place)
        say("reading it in another process")
        differences = verify(
            exportable,
            place,
            _READER,
            place=final,
            needs="tensorflow",
            environment={"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""},
        )
    return {
        "path": str(final),
        "version": number,
        "signatures": list(lowered),
        "default": exportable.default,
        "platforms": list(platforms),
        "stablehlo_version": description["stablehlo_version"],
        "bytes": sum(x.stat().st_size for x in final.rglob("*") if x.is_file()),
        "differences": differences,
    }


def _tensorflow() -> Any:
    """TensorFlow, quiet and without the accelerators that are JAX's here."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise InputError(
            "tensorflow", "not installed", "it, to write a SavedModel",
            'pip install "jaxir[export]"',
        ) from error  # fmt: skip
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def _next_version(directory: Path, version: int | None) -> int:
    """The number to write; a directory of something else is refused."""
    if version is not None and version < 1:
        raise InputError("version", str(version), "a number above 0")
    if directory.exists() and not directory.is_dir():
        raise InputError(directory, "a file", "a directory of versions")
    names = {x.name for x in directory.glob("[!.]*")} if directory.exists() else set()
    other = sorted(name for name in names if not name.isdigit())
    if other:
        raise InputError(
            directory, f"holds {other[0]}", "versions of a SavedModel, 1/ and so on, "
            "or nothing", "choose another place; nothing was written",
        )  # fmt: skip
    if version is None:
        return max(map(int, names), default=0) + 1
    if str(version) in names:
        raise InputError(directory / str(version), "stands there", "another version")
    return version


def _save(
    tf: Any,
    exportable: Exportable,
    lowered: Mapping[str, Lowered],
    description: Mapping[str, Any],
    place: Path,
) -> None:
    names = sorted({name for low in lowered.values() for name in low.kept})
    module = tf.Module()
    variables = {
        name: tf.Variable(
            np.asarray(exportable.params[name]), trainable=False, name=name
        )
        for name in names
    }
    module.parameters_by_order = [variables[name] for name in names]
    texts = place / ".assets"
    write_description(exportable, description, texts)
    module.texts = [tf.saved_model.Asset(str(x)) for x in sorted(texts.iterdir())]
    signatures = {
        program.name: _signature(tf, program, lowered[program.name], variables)
        for program in exportable.programs
    }
    module.functions = list(signatures.values())
    default = {"serving_default": signatures[exportable.default]}
    tf.saved_model.save(module, str(place), signatures=signatures | default)
    for path in texts.iterdir():
        path.unlink()
    texts.rmdir()
    extra = place / "assets.extra"
    extra.mkdir()
    records = warmup_requests(exportable, lambda x: tf.make_tensor_proto(x))
    write_records(tf, extra / "tf_serving_warmup_requests", records)


def _signature(
    tf: Any, program: Any, lowered: Lowered, variables: Mapping[str, Any]
) -> Any:
    """A ``tf.function`` of the program's named inputs."""
    from tensorflow.compiler.tf2xla.python.xla import call_module

    exported = lowered.exported
    shapes = [
        [size if isinstance(size, int) else None for size in x.shape]
        for x in exported.out_avals
    ]

    def call(**inputs: Any) -> dict[str, Any]:
        arguments = [variables[name].read_value() for name in lowered.kept]
        arguments += [inputs[name] for name in lowered.kept_inputs]
        found = call_module(
            arguments,
            version=min(exported.calling_convention_version, _CALL_VERSION),
            module=exported.mlir_module_serialized,
            Tout=[x.dtype.name for x in exported.out_avals],
            Sout=shapes,
            platforms=[name.upper() for name in exported.platforms],
        )
        return dict(zip(lowered.outputs, found, strict=True))

    specs = {
        x.name: tf.TensorSpec(
            [size if isinstance(size, int) else None for size in x.shape],
            x.dtype,
            name=x.name,
        )
        for x in program.inputs
    }
    function = tf.function(call, autograph=False)
    return function.get_concrete_function(**specs)
