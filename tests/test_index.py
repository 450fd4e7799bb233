"""Building indexes: whole or absent, resumed, and mistakes named before writing."""

import numpy as np
import pytest

from jaxir import encode
from jaxir.bm25 import Bm25Config
from jaxir.checkpoints.model_dir import load_model
from jaxir.data.collection import open_collection
from jaxir.errors import InputError
from jaxir.index import BuildOptions, build_index
from jaxir.manifest import DocIdFile, verify


def test_dense(make_tiny_model, tiny_collection, tmp_path):
    model = make_tiny_model()
    manifest = build_index(model, tiny_collection, tmp_path / "i")
    assert manifest == verify(tmp_path / "i", deep=True)
    assert manifest.kind == "dense"
    assert manifest.counts == {"docs": 12}
    assert manifest.model_fingerprint == model.fingerprint
    collection = open_collection(str(tiny_collection))
    assert manifest.details["collection_fingerprint"] == collection.docs.fingerprint
    assert list(DocIdFile(tmp_path / "i")) == list(collection.docs.doc_ids())
    stored = np.load(tmp_path / "i" / manifest.details["shards"][0])
    texts = collection.docs.texts(range(12))
    expected = encode.encode_texts(model, texts, side="doc")
    np.testing.assert_allclose(stored, expected, atol=1e-5)
    assert load_model(tmp_path / "i" / "model").fingerprint == model.fingerprint
    assert not (tmp_path / "i.partial").exists()


def test_without_a_copy_of_the_model(make_tiny_model, tiny_collection, tmp_path):
    options = BuildOptions(self_contained=False, dtype="float16", shard_rows=5)
    manifest = build_index(
        make_tiny_model(), tiny_collection, tmp_path / "i", options=options
    )
    assert not (tmp_path / "i" / "model").exists()
    assert len(manifest.details["shards"]) == 3
    assert manifest.details["dtype"] == "float16"


def test_bm25(tiny_collection, tmp_path):
    options = BuildOptions(bm25=Bm25Config(k1=1.2))
    manifest = build_index("bm25", tiny_collection, tmp_path / "i", options=options)
    assert manifest.kind == "bm25"
    assert manifest.details["k1"] == 1.2
    assert manifest.model_fingerprint == ""
    assert verify(tmp_path / "i", deep=True) == manifest


def test_an_index_replaces_an_index(make_tiny_model, tiny_collection, tmp_path):
    build_index("bm25", tiny_collection, tmp_path / "i")
    build_index(make_tiny_model(), tiny_collection, tmp_path / "i")
    assert verify(tmp_path / "i").kind == "dense"
    assert not (tmp_path / "i" / "bm25").exists()


def test_interrupted(make_tiny_model, tiny_collection, tmp_path, monkeypatch):
    real, calls = encode._write_shard, []

    def interrupted(path, *args):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, *args)

    monkeypatch.setattr(encode, "_write_shard", interrupted)
    job = (make_tiny_model(), tiny_collection, tmp_path / "i")
    options = BuildOptions(shard_rows=6)
    with pytest.raises(KeyboardInterrupt):
        build_index(*job, options=options)
    assert not (tmp_path / "i").exists()
    build_index(*job, options=options)
    assert calls == ["vectors-00000.npy", "vectors-00001.npy", "vectors-00001.npy"]


def test_mistakes(make_tiny_model, tiny_collection, tmp_path):
    model = make_tiny_model()
    with pytest.raises(InputError, match="kind: 'tree'; expected one of bm25, dense"):
        build_index(model, tiny_collection, tmp_path / "i", kind="tree")
    with pytest.raises(InputError, match="kind: 'bm25' with a model of kind 'dense'"):
        build_index(model, tiny_collection, tmp_path / "i", kind="bm25")
    with pytest.raises(InputError, match="not an index stands here"):
        build_index(model, tiny_collection, tiny_collection)
    with pytest.raises(InputError, match="dtype: 'int3'; expected float32 or float16"):
        BuildOptions(dtype="int3")
    with pytest.raises(InputError, match="batch_tokens: 0; expected a positive number"):
        BuildOptions(batch_tokens=0)
    assert not (tmp_path / "i").exists()
