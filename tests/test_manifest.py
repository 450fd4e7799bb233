"""Index directories are whole, know their content, and name what is wrong in a line."""

import json

import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.manifest import (
    FORMAT_VERSION,
    DocIdFile,
    read_manifest,
    verify,
    write_doc_ids,
    write_index,
)


@pytest.fixture
def index(tmp_path):
    place = tmp_path / "index"
    options = {"model_fingerprint": "abc", "details": {"width": 2}}
    with write_index(place, kind="dense", counts={"docs": 2}, **options) as folder:
        (folder / "vectors").mkdir()
        np.save(folder / "vectors" / "0.npy", np.ones((2, 2)))
        write_doc_ids(folder, ["d1", "né 2"])
    return place


def edit(index, **changes):
    path = index / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(index):
    manifest = verify(index, deep=True)
    assert manifest.kind == "dense"
    assert manifest.model_fingerprint == "abc"
    assert manifest.counts == {"docs": 2}
    assert manifest.details == {"width": 2}
    assert set(manifest.files) == {"vectors/0.npy", "ids.bin", "ids.npy"}
    assert manifest == read_manifest(index, kind="dense")


def test_doc_ids(index, tmp_path):
    ids = DocIdFile(index)
    assert list(ids) == ["d1", "né 2"]
    assert ids[:1] == ["d1"]
    with pytest.raises(IndexError, match="row 2 of an index of 2 documents"):
        ids[2]
    assert write_doc_ids(tmp_path, []) == 0
    assert list(DocIdFile(tmp_path)) == []


def test_failure_leaves_what_was_there(index):
    before = (index / "manifest.json").read_bytes()
    with pytest.raises(KeyError), write_index(index, kind="x", counts={}) as folder:
        (folder / "half").write_text("written")
        raise KeyError("interrupted")
    assert (index / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in index.parent.iterdir()) == ["index"]


def test_an_index_is_replaced_as_a_whole(index):
    with write_index(index, kind="bm25", counts={}) as folder:
        (folder / "a").write_text("a")
    assert sorted(path.name for path in index.iterdir()) == ["a", "manifest.json"]


@pytest.mark.parametrize("name", ["vectors/0.npy", "ids.bin"])
def test_truncated(index, name):
    path = index / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{name}: of \d+ bytes; expected \d+ bytes"):
        read_manifest(index)
    path.unlink()
    with pytest.raises(InputError, match=rf"{name}: missing; expected \d+ bytes"):
        read_manifest(index)


def test_exchanged_between_the_manifest_and_the_sizes(index, monkeypatch):
    real, was = json.loads, []

    def meanwhile(text):
        if not was:
            was.append(text)
            with write_index(index, kind="dense", counts={"docs": 3}) as folder:
                (folder / "vectors").mkdir()
                np.save(folder / "vectors" / "0.npy", np.ones((3, 2)))
        return real(text)

    monkeypatch.setattr(json, "loads", meanwhile)
    assert read_manifest(index).counts == {"docs": 3}


def test_changed_content_is_found_by_the_deep_check(index):
    path = index / "ids.bin"
    path.write_bytes(b"x" * path.stat().st_size)
    verify(index)
    with pytest.raises(InputError, match=r"ids\.bin: its content has changed"):
        verify(index, deep=True)


def test_foreign_directories(tmp_path, index):
    with pytest.raises(InputError, match="no such directory; expected an index"):
        read_manifest(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no manifest.json here; expected an index"):
        read_manifest(tmp_path)
    with pytest.raises(InputError, match="kind 'dense'; expected kind 'bm25'"):
        read_manifest(index, kind="bm25")
    edit(index, format_version=FORMAT_VERSION + 1)
    with pytest.raises(InputError, match=r"format version 2; .*upgrade jaxir"):
        read_manifest(index)
    for text in ("{", "[]", '{"kind": "dense"}'):
        (index / "manifest.json").write_text(text)
        with pytest.raises(InputError, match="not a manifest of an index"):
            read_manifest(index)


def test_never_over_something_else(tmp_path):
    (tmp_path / "precious").write_text("thesis")
    with (
        pytest.raises(InputError, match="not an index stands here"),
        write_index(tmp_path, kind="x", counts={}),
    ):
        pass
    with (
        pytest.raises(InputError, match="a file stands here"),
        write_index(tmp_path / "precious", kind="x", counts={}),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "thesis"
