"""Requests that TensorFlow Serving runs before it says that a model is ready.

A program is compiled for each shape when that shape first comes.  The file
``assets.extra/tf_serving_warmup_requests`` has requests of each signature for one text
and for a few, at each length that jaxir itself pads texts to; what has another shape is
compiled when it is asked for.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxir.export.programs import Exportable
from jaxir.export.verify import fresh_inputs
from jaxir.text import bucket_lengths

__all__ = ["WARMUP_BATCHES", "predict_log", "warmup_requests", "write_records"]

WARMUP_BATCHES = (1, 8)
"""Texts of a request."""

_LONGEST = 256  # tokens: compiling what is longer takes a server minutes
_AT_MOST = 64  # requests; TensorFlow Serving takes up to 1,000


def warmup_requests(
    exportable: Exportable, make_tensor: Callable[[Any], Any]
) -> Iterator[bytes]:
    """Serialized ``tensorflow.serving.PredictionLog`` messages.

    Args:
      exportable: what is served.
      make_tensor: an array as a ``tensorflow.TensorProto``.
    """
    count = 0
    for program in exportable.programs:
        longest = min(program.tokens, program.max_length, _LONGEST)
        for length in bucket_lengths(longest):
            for batch in WARMUP_BATCHES:
                if count == _AT_MOST:
                    return
                count += 1
                inputs = fresh_inputs(program, batch, length)
                tensors = {
                    name: make_tensor(value).SerializeToString()
                    for name, value in inputs.items()
                }
                yield predict_log(program.name, tensors)


def predict_log(signature: str, inputs: dict[str, bytes]) -> bytes:
    """A ``PredictionLog`` of one request, in protocol buffers' wire format.

    The messages are few and fixed, and the package that defines them would be another
    dependency: ``PredictionLog.predict_log = 6``, ``PredictLog.request = 1``,
    ``PredictRequest.model_spec = 1`` and ``.inputs = 2`` (a map, whose entries have
    ``key = 1`` and ``value = 2``), ``ModelSpec.signature_name = 3``.

    Args:
      signature: its name.
      inputs: serialized tensors by name.
    """
    request = _field(1, _field(3, signature.encode()))
    for name, tensor in inputs.items():
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number: int, content: bytes) -> bytes:
    """A field of the kind that has a length."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def write_records(tensorflow: Any, path: Path, records: Iterable[bytes]) -> None:
    """Writes records as a TFRecord file.

    Args:
      tensorflow: the module.
      path: of the file.
      records: of :func:`warmup_requests`.
    """
    with tensorflow.io.TFRecordWriter(str(path)) as out:
        for record in records:
            out.write(record)
