"""Requests in TensorFlow Serving's format, read by protocol buffers' own parser."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_programs import tiny_dense

from jaxir.export.programs import model_programs
from jaxir.export.warmup import WARMUP_BATCHES, predict_log, warmup_requests

FIELDS = {
    # message -> field -> (number, message or None for bytes, repeated)
    "ModelSpec": {"name": (1, None, False), "signature_name": (3, None, False)},
    "Entry": {"key": (1, None, False), "value": (2, None, False)},
    "PredictRequest": {
        "model_spec": (1, "ModelSpec", False),
        "inputs": (2, "Entry", True),
    },
    "PredictLog": {"request": (1, "PredictRequest", False)},
    "PredictionLog": {"predict_log": (6, "PredictLog", False)},
}


@pytest.fixture(scope="module")
def log_class():
    """``PredictionLog`` as tensorflow_serving/apis defines it, of what is used here."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="log.proto", package="t")
    for message, fields in FIELDS.items():
        proto = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            field = proto.field.add(
                name=name, number=number, label=3 if repeated else 1
            )
            field.type = 12 if kind is None else 11
            if kind is not None:
                field.type_name = f".t.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("t.PredictionLog")
    return message_factory.GetMessageClass(found)


def test_parsed_by_protocol_buffers(log_class):
    long = bytes(range(256)) * 300  # a length of three bytes
    blob = predict_log("encode_query", {"input_ids": long, "attention_mask": b"m"})
    log = log_class.FromString(blob)
    request = log.predict_log.request
    assert request.model_spec.signature_name == b"encode_query"
    found = {entry.key: entry.value for entry in request.inputs}
    assert found == {b"input_ids": long, b"attention_mask": b"m"}
    assert log.SerializeToString() == blob


def test_requests(tmp_path):
    exportable = model_programs(tiny_dense(tmp_path))
    asked = []

    def make_tensor(value):
        asked.append(value)
        return SimpleNamespace(SerializeToString=value.tobytes)

    requests = list(warmup_requests(exportable, make_tensor))
    shapes = {value.shape for value in asked}
    assert {batch for batch, _ in shapes} == set(WARMUP_BATCHES)
    assert max(length for _, length in shapes) == 32  # documents' own limit
    assert all(value.dtype == np.int32 for value in asked)
    assert 0 < len(requests) <= 64
    assert len(asked) == 2 * len(requests)
