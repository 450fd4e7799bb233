"""The memory-mapped document store: rows, ids, duplicates, and what opening touches."""

from pathlib import Path

import numpy as np
import pytest

from jaxir.data import store as store_module
from jaxir.data.formats import Doc
from jaxir.data.store import DocStore, build_store
from jaxir.errors import InputError


def stored_docs(docs, directory, **keywords) -> DocStore:
    def source():
        return (("corpus.jsonl", line, doc) for line, doc in enumerate(docs, 1))

    return build_store(source, directory, name="test", **keywords)


def test_rows_and_ids(tmp_path):
    docs = [Doc(f"d{i}", "", f"text {i}") for i in range(100)]
    docs[7] = Doc("Geneva Dürben", "Tïtle", "bödy")
    store = stored_docs(docs, tmp_path / "s")
    assert list(store) == docs
    assert store[np.int64(7)] == docs[7]
    assert store.text(7) == "Tïtle bödy"
    assert store.texts([3, 7]) == ["text 3", "Tïtle bödy"]
    assert store.row("Geneva Dürben") == 7
    assert store.row("absent") == -1
    found = store.rows(["d99", "no", "d0"])
    assert found.dtype == np.int64
    assert found.tolist() == [99, -1, 0]
    assert store.rows([]).tolist() == []
    ids = store.doc_ids()
    assert len(ids) == 100
    assert ids[-1] == "d99"
    assert ids[1:3] == ["d1", "d2"]
    assert list(ids) == [doc.doc_id for doc in docs]
    assert "d5" in ids
    with pytest.raises(IndexError):
        ids[100]
    for row in (100, -1):
        with pytest.raises(IndexError, match=f"row {row} of a store of 100 documents"):
            store[row]
        with pytest.raises(IndexError):
            store.doc_id(row)


def test_two_ids_with_one_hash_are_told_apart(tmp_path, monkeypatch):
    def clash(ids):
        return np.array([len(i) % 2 for i in ids], "<u8")

    monkeypatch.setattr(store_module, "_id_hashes", clash)
    docs = [Doc("x" * n, "", "t") for n in range(1, 30)]
    store = stored_docs(docs, tmp_path / "s")
    assert store.rows([doc.doc_id for doc in docs]).tolist() == list(range(29))
    assert store.row("y" * 3) == -1
    with pytest.raises(InputError, match=r"corpus.jsonl:30: document id 'xxx' again, fi"
                                         r"rst in line 3"):  # fmt: skip
        stored_docs([*docs, Doc("xxx", "", "t")], tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_no_documents(tmp_path):
    with pytest.raises(InputError, match="no documents; expected at least one"):
        stored_docs([], tmp_path / "s")


def test_store_of_empty_texts(tmp_path):
    store = stored_docs([Doc("a", "", "")], tmp_path / "s", allow_empty=True)
    assert store[0] == Doc("a", "", "")
    assert store.num_empty == 1


def test_fingerprint_tells_title_from_text(tmp_path):
    marks = {
        stored_docs([Doc(*parts)], tmp_path / "".join(parts)).fingerprint
        for parts in (("a", "b", "c"), ("a", "bc", "-"), ("ab", "", "c"))
    }
    assert len(marks) == 3


def test_opening_maps_and_does_not_read(tmp_path):
    """200,000 documents: building holds a chunk, opening touches no text."""
    seen = []

    def source():
        for i in range(200_000):
            doc = Doc(str(i), "", f"document number {i} " * 8)
            if i % 50_000 == 0:
                seen.append(doc)
            yield "corpus.jsonl", i + 1, doc

    built = build_store(source, tmp_path / "s", name="big", total=200_000)
    assert len(built) == 200_000
    opened = DocStore(tmp_path / "s")
    size = (tmp_path / "s" / "texts.bin").stat().st_size
    assert size > 30_000_000
    # every part is a view of a map of its file, none a copy in memory
    for array in (opened._hashes, opened._hash_rows, opened._id_bounds,
                  opened._text_bounds):  # fmt: skip
        assert not array.flags.owndata
        assert not array.flags.writeable
    resident = _resident_bytes(tmp_path / "s" / "texts.bin")
    if resident is not None:
        assert resident < size / 10
        assert opened.text(150_000).startswith("document number 150000 ")
        assert _resident_bytes(tmp_path / "s" / "texts.bin") < size / 10
    assert opened.row("199999") == 199_999
    assert opened.rows(["5", "x", "77777"]).tolist() == [5, -1, 77_777]
    assert seen[1] == opened[50_000]


def _resident_bytes(path):
    """Bytes of the file's maps in this process's memory, None where unknown."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        return None
    total, inside = 0, False
    for line in smaps.read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
