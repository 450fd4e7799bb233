"""Indexes of codes: what they hold, taken over, grown and cut; whole whatever fails."""

import dataclasses
import errno
import os
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_pq import many_documents, trained

from jaxir import encode, index_job, openers, pq_change
from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.data.collection import open_collection
from jaxir.errors import InputError
from jaxir.files import locked
from jaxir.index import BuildOptions, build_index
from jaxir.index_job import PqOptions
from jaxir.manifest import DocIdFile, verify
from jaxir.pq.codec import Codec, CodecSpec, pack, quantize, reconstruct
from jaxir.pq.fit_codec import fit_codec
from jaxir.pq.model import assigning_codec, searching_codec
from jaxir.pq_change import add_documents, delete_documents, read_ids
from jaxir.pq_index import pq_details, quantized_model
from jaxir.search import open_index

SMALL = PqOptions(subvectors=4, bits=4, rotation="none")


def options(pq=SMALL, **changes):
    return BuildOptions(**{"shard_rows": 16, "pq": pq} | changes)


def vectors_of(model, collection, **changes):
    docs = open_collection(str(collection)).docs
    encoder = encode.TextEncoder(encode.as_bi_encoder(model), side="doc", **changes)
    return encoder(docs.texts(range(len(docs))))


def codes_of(model, collection, **changes):
    """As an index of 4 bits holds them."""
    vectors = jnp.asarray(vectors_of(model, collection, **changes))
    codec = Codec(*map(jnp.asarray, assigning_codec(model.params)))
    return pack(np.asarray(quantize(codec, vectors)).T)


def stored(index):
    return np.load(index / "codes.npy")


@pytest.fixture
def collection(tmp_path):
    return many_documents(tmp_path / "many", 40)


@pytest.fixture
def more(tmp_path):
    return many_documents(tmp_path / "more", 21, prefix="e", seed=1)


@pytest.fixture
def index(make_tiny_model, collection, tmp_path):
    """Of 4 bits, by plain product quantization."""
    build_index(
        make_tiny_model(), collection, tmp_path / "i", kind="pq", options=options()
    )
    return tmp_path / "i"


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rotation", ["opq", "none"])
def test_what_an_index_holds(make_tiny_model, tmp_path, bits, rotation, capsys):
    collection, model = many_documents(tmp_path / "many", 300), make_tiny_model()
    chosen = PqOptions(subvectors=4, bits=bits, rotation=rotation, train_size=280)
    place = tmp_path / "i"
    manifest = build_index(model, collection, place, kind="pq", options=options(chosen))
    assert manifest == verify(place, deep=True)
    docs = open_collection(str(collection)).docs
    own = load_model(place / "model")
    assert (manifest.kind, manifest.counts) == ("pq", {"docs": 300})
    assert manifest.model_fingerprint == own.fingerprint
    assert own.kind == manifest.details["model_kind"] == "jpq"
    wanted = {
        "collection": "many", "collection_fingerprint": docs.fingerprint, "width": 16,
        "subvectors": 4, "bits": bits, "rotation": rotation, "self_contained": True,
        "model_path": "", "doc_bytes": bits // 2, "compression": 128 / bits,
        "max_length": None,
    }  # fmt: skip
    assert manifest.details | wanted == manifest.details
    # nothing but codes, ids and model, and nothing beside it
    others = {name for name in manifest.files if not name.startswith("model/")}
    assert others == {"codes.npy", "ids.bin", "ids.npy"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "many", "i", "tiny-tokenizer"
    }  # fmt: skip
    header = manifest.files["codes.npy"]["bytes"] - 300 * bits // 2
    assert 0 < header <= 128
    assert list(DocIdFile(place)) == list(docs.doc_ids())
    # codes: of the dense model's own vectors, by the codec in the model
    codec = Codec(*map(jnp.asarray, assigning_codec(own.params)))
    for one, other in zip(codec, searching_codec(own.params), strict=True):
        np.testing.assert_array_equal(one, other)
    vectors = vectors_of(model, collection)
    codes = np.asarray(quantize(codec, jnp.asarray(vectors))).T
    np.testing.assert_array_equal(stored(place), pack(codes) if bits == 4 else codes)
    rebuilt = np.asarray(reconstruct(codec, jnp.asarray(codes.T)))
    error = ((rebuilt - vectors) ** 2).sum() / (vectors**2).sum()
    assert manifest.details["relative_error"] == pytest.approx(error, rel=1e-3)
    said = capsys.readouterr().err
    assert f"codes of 4 x {bits} bits: relative error 0.0" in said
    # and they are searched by the queries' vectors of the same model
    texts = ["river bread", "wheels of steel"]
    queries = encode.encode_texts(model, texts, side="query")
    found = open_index(place).search_texts(texts, 5)
    expected = queries @ rebuilt.T
    best = np.argsort(-expected, axis=1, kind="stable")[:, :5]
    scores = np.take_along_axis(expected, best, axis=1)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)


def test_the_defaults_are_the_papers(make_tiny_model, tmp_path):
    collection = many_documents(tmp_path / "many", 256)
    wide = make_tiny_model(projection_size=48)
    manifest = build_index(
        wide, collection, tmp_path / "i", kind="pq", options=options(PqOptions())
    )
    details = manifest.details
    shape = [details[name] for name in ("subvectors", "bits", "rotation", "width")]
    assert shape == [24, 8, "opq", 48]


def test_the_same_again_and_by_another_seed(
    index, make_tiny_model, collection, tmp_path
):
    job = (make_tiny_model(), collection, tmp_path / "j")
    again = build_index(*job, kind="pq", options=options())
    assert again.files["codes.npy"] == verify(index).files["codes.npy"]
    assert again.model_fingerprint == verify(index).model_fingerprint
    chosen = dataclasses.replace(SMALL, seed=1)
    other = build_index(*job, kind="pq", options=options(chosen))
    assert other.model_fingerprint != again.model_fingerprint


def test_vectors_of_a_dense_index(make_tiny_model, collection, index, more, tmp_path):
    model, dense = make_tiny_model(), tmp_path / "dense"
    build_index(model, collection, dense, options=BuildOptions(max_length=20))
    taken = dataclasses.replace(SMALL, vectors=dense)
    job = (model, collection, tmp_path / "j")
    manifest = build_index(*job, kind="pq", options=options(taken))
    assert manifest.details["max_length"] == 20
    np.testing.assert_array_equal(stored(tmp_path / "j"), stored(index))
    assert verify(dense, deep=True).kind == "dense"  # as it was

    def refused(message, model=model, collection=collection, pq=taken, **changes):
        with pytest.raises(InputError, match=message):
            build_index(
                model, collection, tmp_path / "k", kind="pq",
                options=options(pq, **changes),
            )  # fmt: skip
        assert not (tmp_path / "k").exists()

    refused("dense: vectors of another model; expected", make_tiny_model(seed=1))
    refused("vectors of another collection, 'many'; .*'more' as it is", collection=more)
    refused("max_length: given with vectors, which are made", max_length=9)
    other = dataclasses.replace(SMALL, vectors=index)
    refused("an index of kind 'pq'; expected kind 'dense'", pq=other)
    path = next((dense / "vectors").iterdir())
    vectors = np.load(path)
    vectors[7, 3] = np.nan
    np.save(path, vectors)
    refused("vectors-00000.npy, row 7: NaN or infinity")


def test_a_trained_model_takes_the_codes(index, collection, tmp_path):
    before = verify(index)
    model = trained(load_model(index / "model"))
    save_model(tmp_path / "d", model)
    job = (tmp_path / "d", None, tmp_path / "j")
    manifest = build_index(*job, options=options(PqOptions(codes=index)))
    assert manifest == verify(tmp_path / "j", deep=True)
    assert manifest.kind == "pq"
    assert manifest.model_fingerprint == model.fingerprint != before.model_fingerprint
    for name in ("codes.npy", "ids.bin", "ids.npy"):
        assert manifest.files[name] == before.files[name]
        assert os.path.samefile(tmp_path / "j" / name, index / name)
    same = {"model_path": str(tmp_path / "d")}
    assert manifest.details == before.details | same
    assert verify(index, deep=True) == before
    # encoding gives the same codes: document tower and assignment have not moved
    encoded = build_index(tmp_path / "d", collection, tmp_path / "k", options=options(
        PqOptions()))  # fmt: skip
    assert encoded.files["codes.npy"] == manifest.files["codes.npy"]
    assert encoded.details == manifest.details
    one, other = (
        open_index(tmp_path / name).search_texts(["bread"], 9) for name in "jk"
    )
    np.testing.assert_array_equal(one.scores, other.scores)
    # in the place of the old one, its model elsewhere
    lean = options(PqOptions(codes=index), self_contained=False)
    manifest = build_index(tmp_path / "d", collection, index, options=lean)
    assert manifest == verify(index, deep=True)
    assert not (index / "model").exists()
    assert manifest.details["model_path"] == str(tmp_path / "d")
    found = open_index(index).search_texts(["bread"], 9)
    np.testing.assert_array_equal(one.scores, found.scores)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("codec/rotation", "rotation"),
        ("codec/assignment", "assignment"),
        ("doc/", "document tower"),
    ],
)
def test_codes_of_another_codec(index, tmp_path, part, name):
    other = trained(load_model(index / "model"), part)
    with pytest.raises(
        InputError, match=f"codes of a model with another {name}; .*leav"
    ):
        build_index(
            other, None, tmp_path / "j", options=options(PqOptions(codes=index))
        )
    assert not (tmp_path / "j").exists()


def test_codes_that_cannot_be_taken(index, more, make_tiny_model, tmp_path):
    model = load_model(index / "model")

    def refused(message, model=model, collection=None, pq=None, kind=None):
        chosen = options(pq or PqOptions(codes=index))
        with pytest.raises(InputError, match=message):
            build_index(model, collection, tmp_path / "j", kind=kind, options=chosen)
        assert not (tmp_path / "j").exists()

    refused("codes of another collection, 'many'; .*'more' as it", collection=more)
    refused("kind 'dense' for codes; expected kind 'jpq'", make_tiny_model(), kind="pq")
    refused("bits: given with codes", pq=PqOptions(codes=index, bits=4))
    build_index("bm25", more, tmp_path / "bm25")
    refused(
        "an index of kind 'bm25'; expected one of kind 'pq', the only one that codes",
        pq=PqOptions(codes=tmp_path / "bm25"),
    )
    refused("no such directory", pq=PqOptions(codes=tmp_path / "absent"))


def test_an_index_that_changes_while_it_is_read(index, tmp_path, monkeypatch):
    from jaxir.checkpoints import model_dir

    model, real = trained(load_model(index / "model")), model_dir.save_model

    def meanwhile(*args):
        delete_documents(index, ["d0"])
        return real(*args)

    monkeypatch.setattr(model_dir, "save_model", meanwhile)
    with pytest.raises(InputError, match="changed while it was read; try again"):
        build_index(
            model, None, tmp_path / "j", options=options(PqOptions(codes=index))
        )
    assert not (tmp_path / "j").exists()


def test_interrupted_encoding_goes_on(
    make_tiny_model, collection, tmp_path, monkeypatch
):
    real, calls = encode._write_shard, []

    def interrupted(path, *args):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, *args)

    monkeypatch.setattr(encode, "_write_shard", interrupted)
    job = (make_tiny_model(), collection, tmp_path / "i")
    with pytest.raises(KeyboardInterrupt):
        build_index(*job, kind="pq", options=options())
    assert not (tmp_path / "i").exists()
    build_index(*job, kind="pq", options=options())
    names = [f"vectors-0000{i}.npy" for i in (0, 1, 1, 2)]
    assert calls == names
    assert not (tmp_path / "i.partial").exists()


def test_a_full_disk(make_tiny_model, collection, index, tmp_path, monkeypatch):
    """The room for codes is asked for before they are written through a map."""
    before = verify(index)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="no space left on the device"):
        build_index(
            make_tiny_model(), collection, tmp_path / "j", kind="pq", options=options()
        )
    with pytest.raises(InputError, match="no space left on the device"):
        delete_documents(index, ["d1"])
    assert not (tmp_path / "j").exists()
    assert (tmp_path / "j.partial").exists()  # to go on from
    assert verify(index, deep=True) == before


def test_kinds_and_numbers(make_tiny_model, collection, index, tmp_path, monkeypatch):
    dense, jpq = make_tiny_model(), load_model(index / "model")
    monkeypatch.setattr(encode, "encode_corpus", None)  # nothing is encoded for these

    def refused(message, model=dense, kind="pq", pq=SMALL, **changes):
        with pytest.raises(InputError, match=message):
            build_index(
                model, collection, tmp_path / "j", kind=kind,
                options=options(pq, **changes),
            )  # fmt: skip
        assert not (tmp_path / "j").exists()
        assert not (tmp_path / "j.partial").exists()

    refused("kind: 'dense' with a model of kind 'jpq'; expected pq", jpq, "dense")
    refused("subvectors: given for an index of kind 'dense'; exp", dense, "dense")
    refused("subvectors: given with a model of kind 'jpq', which brings", jpq)
    refused("5 parts of vectors of width 16; exp", pq=PqOptions(subvectors=5))
    refused("40 training vectors for 256 centroids", pq=PqOptions(subvectors=4))
    few = dataclasses.replace(SMALL, train_size=15)
    refused("15 training vectors for 16 centroids; .*--train_size", pq=few)
    refused("leave --without_model out: only the index", self_contained=False)
    with pytest.raises(InputError, match="collection: not given"):
        build_index(dense, None, tmp_path / "j", kind="pq")
    for wrong, message in (
        ({"bits": 6}, "bits: 6; expected 8 or 4"),
        ({"rotation": "pca"}, "rotation: pca; expected opq or none"),
        ({"subvectors": 0}, "subvectors: 0; expected a positive number"),
        ({"train_size": 0}, "train_size: 0; expected a positive number"),
        ({"seed": -1}, "seed: -1; expected 0 or more"),
    ):
        with pytest.raises(InputError, match=message):
            PqOptions(**wrong)


def test_models_with_a_codec(make_tiny_model):
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(20, 16)).astype(np.float32)
    codec = fit_codec(vectors, CodecSpec(16, 4, 4), rotation="none")
    apart = make_tiny_model(towers="separate", query_length=9)
    model = quantized_model(apart, codec)
    assert (model.kind, model.config.query_length) == ("jpq", 9)
    assert pq_details(model)["rotation"] == "none"
    for side in ("query", "doc"):
        one = encode.encode_texts(apart, ["bread"], side=side)
        other = encode.encode_texts(encode.as_bi_encoder(model), ["bread"], side=side)
        np.testing.assert_array_equal(one, other)
    with pytest.raises(InputError, match="model: of kind 'jpq'; expected kind 'dense'"):
        quantized_model(model, codec)
    narrow = make_tiny_model(projection_size=8)
    with pytest.raises(InputError, match="codec: of vectors of width 16; expected wi"):
        quantized_model(narrow, codec)


# documents come and go


@pytest.mark.parametrize("max_length", [None, 6])
def test_documents_are_added(make_tiny_model, collection, more, tmp_path, max_length):
    """They get the codes that they would have had from the beginning."""
    place = tmp_path / "i"
    chosen = options(max_length=max_length)
    before = build_index(
        make_tiny_model(), collection, place, kind="pq", options=chosen
    )
    old, model = stored(place), load_model(place / "model")
    manifest = add_documents(place, more)
    assert manifest == verify(place, deep=True)
    assert manifest.counts == {"docs": 61}
    assert manifest.model_fingerprint == before.model_fingerprint
    ids = [f"d{i}" for i in range(40)] + [f"e{i}" for i in range(21)]
    assert list(DocIdFile(place)) == ids
    new = stored(place)
    np.testing.assert_array_equal(new[:, :40], old)
    np.testing.assert_array_equal(
        new[:, 40:], codes_of(model, more, max_length=max_length)
    )
    (note,) = manifest.details["changes"]
    added = open_collection(str(more)).docs.fingerprint
    assert note["added"] == "more"
    assert (note["collection_fingerprint"], note["docs"]) == (added, 21)
    fingerprints = {
        before.details["collection_fingerprint"], added,
        manifest.details["collection_fingerprint"],
    }  # fmt: skip
    assert len(fingerprints) == 3  # it is neither of the two any more
    assert not (tmp_path / ".i.add").exists()
    found = open_index(place).search_texts(["bread"], 61)
    assert sorted(found.doc_ids[0]) == list(range(61))


def test_documents_are_deleted(index, more):
    old = stored(index)
    gone = ["d39", "d0", "d17", "d17"]
    manifest = delete_documents(index, gone)
    assert manifest == verify(index, deep=True)
    assert manifest.counts == {"docs": 37}
    stay = [i for i in range(40) if i not in (0, 17, 39)]
    assert list(DocIdFile(index)) == [f"d{i}" for i in stay]
    np.testing.assert_array_equal(stored(index), old[:, stay])
    assert manifest.details["changes"][0]["deleted"] == 3
    add_documents(index, more)
    again = delete_documents(index, [f"e{i}" for i in range(21)])
    assert len(again.details["changes"]) == 3
    np.testing.assert_array_equal(stored(index), old[:, stay])
    assert list(DocIdFile(index)) == [f"d{i}" for i in stay]


def test_codes_of_8_bits_grow_and_shrink(make_tiny_model, more, tmp_path):
    collection, place = many_documents(tmp_path / "m", 260), tmp_path / "i"
    chosen = options(PqOptions(subvectors=3, bits=8, rotation="none"))
    wide = make_tiny_model(projection_size=12)
    build_index(wide, collection, place, kind="pq", options=chosen)
    old = stored(place)
    add_documents(place, more)
    new = stored(place)
    assert new.shape == (3, 281)
    np.testing.assert_array_equal(new[:, :260], old)
    delete_documents(place, ["d1"])
    np.testing.assert_array_equal(stored(place), np.delete(new, 1, axis=1))


def test_ids_are_refused_by_name(index, more, collection, make_tiny_model, tmp_path):
    before = verify(index)

    def refused(message, change, *args):
        with pytest.raises(InputError, match=message):
            change(*args)
        assert verify(index, deep=True) == before
        assert not (tmp_path / ".i.add").exists()
        assert not (tmp_path / ".i.lock").exists()

    message = "documents that the index has: 'd0', 'd1', 'd2' and 37 more; .*--delete"
    refused(message, add_documents, index, collection)
    refused("no documents 'x'; expected ids", delete_documents, index, ["d1", "x"])
    many = [f"x{i}" for i in range(5)]
    refused("no documents 'x0', 'x1', 'x2' and 2 more", delete_documents, index, many)
    refused("doc_ids: none; expected at least one", delete_documents, index, [])
    every = [f"d{i}" for i in range(40)]
    refused("every document would be deleted", delete_documents, index, every)
    absent = tmp_path / "absent"
    refused("no such directory", delete_documents, absent, ["d1"])
    build_index(make_tiny_model(), collection, tmp_path / "dense")
    message = "an index of kind 'dense'; expected one of kind 'pq' or 'sparse', the on"
    refused(message, delete_documents, tmp_path / "dense", ["d1"])
    refused(message, add_documents, tmp_path / "dense", more)
    (tmp_path / "ids.txt").write_text("d3\n\n  d4 \n")
    assert read_ids(tmp_path / "ids.txt") == ["d3", "d4"]
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbfd3\r\nd4\r\n")  # as Windows does
    assert read_ids(tmp_path / "ids.txt") == ["d3", "d4"]
    (tmp_path / "ids.txt").write_bytes(b"d3\n\xfc\n")
    refused("ids.txt:2: byte 0xfc is not UTF-8", read_ids, tmp_path / "ids.txt")
    (tmp_path / "ids.txt").write_text("\n")
    refused("ids.txt: no ids; expected one a line", read_ids, tmp_path / "ids.txt")
    refused("no such file", read_ids, tmp_path / "none.txt")


@pytest.mark.parametrize("broken", ["write_codes", "write_doc_ids", "the manifest"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(errno.ENOSPC, "full")])
def test_a_failure_while_adding(index, more, tmp_path, monkeypatch, broken, failure):
    """The old index stands and is searched; what was encoded is not encoded again."""
    before, names = verify(index), {path.name for path in tmp_path.iterdir()}

    def fail(*args, **kwargs):
        raise failure

    with monkeypatch.context() as patch:
        if broken == "the manifest":
            patch.setattr("jaxir.manifest.sha256_file", fail)
        else:
            patch.setattr(pq_change, broken, fail)
        with pytest.raises((KeyboardInterrupt, InputError)):
            add_documents(index, more)
    assert verify(index, deep=True) == before
    assert len(open_index(index).search_texts(["bread"], 40).doc_ids[0]) == 40
    left = {path.name for path in tmp_path.iterdir()} - names
    assert left <= {".i.add", "more"}
    monkeypatch.setattr(encode, "_write_shard", fail)
    assert add_documents(index, more).counts == {"docs": 61}
    assert {path.name for path in tmp_path.iterdir()} == names | {"more"}


@pytest.mark.parametrize("broken", ["write_doc_ids", "new_codes"])
def test_a_failure_while_deleting(index, tmp_path, monkeypatch, broken):
    before, names = verify(index), {path.name for path in tmp_path.iterdir()}

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pq_change, broken, fail)
        delete_documents(index, ["d3"])
    assert verify(index, deep=True) == before
    assert {path.name for path in tmp_path.iterdir()} == names


def test_writers_wait_for_each_other(index, more, tmp_path):
    """Two that add and one that deletes: nothing of any of them is lost."""
    other = many_documents(tmp_path / "other", 5, prefix="f", seed=2)
    failed = []

    def call(change, *args):
        try:
            change(index, *args)
        except BaseException as error:
            failed.append(error)

    jobs = [(add_documents, more), (add_documents, other), (delete_documents, ["d5"])]
    threads = [threading.Thread(target=call, args=job) for job in jobs]
    with locked(index):
        for thread in threads:
            thread.start()
        threads[2].join(0.2)
        assert all(thread.is_alive() for thread in threads)
        assert verify(index).counts == {"docs": 40}
    for thread in threads:
        thread.join()
    assert not failed
    manifest = verify(index, deep=True)
    assert manifest.counts == {"docs": 65}
    assert len(manifest.details["changes"]) == 3
    assert len(set(DocIdFile(index))) == 65


def test_the_index_one_is_in(index, more, monkeypatch):
    monkeypatch.chdir(index)
    assert add_documents(".", more).counts == {"docs": 61}
    monkeypatch.chdir(index)  # the new one
    assert delete_documents(".", ["e0"]).counts == {"docs": 60}
    assert verify(index, deep=True).counts == {"docs": 60}
    names = {path.name for path in index.parent.iterdir()}
    assert names == {"i", "many", "more", "tiny-tokenizer"}


def test_an_index_that_changes_while_it_is_opened(index, tmp_path, monkeypatch):
    """Codes of one with ids of the other would name other documents."""
    two, real = many_documents(tmp_path / "two", 2, prefix="f"), openers.model_of

    def meanwhile(opening):
        delete_documents(index, ["d0", "d1"])
        add_documents(index, two)
        return real(opening)

    monkeypatch.setattr(openers, "model_of", meanwhile)
    with pytest.raises(InputError, match="i: changed while it was opened; try again"):
        open_index(index)


def test_a_search_keeps_the_index_that_it_opened(index):
    searcher = open_index(index)
    before = searcher.search_texts(["bread"], 3)
    delete_documents(index, [f"d{i}" for i in range(30)])
    after = searcher.search_texts(["bread"], 3)
    np.testing.assert_array_equal(before.doc_ids, after.doc_ids)
    assert open_index(index).manifest.counts == {"docs": 10}


def test_files_are_linked(index, more, monkeypatch):
    """Neither model nor codes are copied by what does not change them."""
    inode = (index / "model" / "model.json").stat().st_ino
    add_documents(index, more)
    assert (index / "model" / "model.json").stat().st_ino == inode
    # a file that is elsewhere, as a large one may be
    (index / "codes.npy").rename(index.parent / "codes.npy")
    (index / "codes.npy").symlink_to("../codes.npy")
    save_model(index.parent / "d", load_model(index / "model"))
    there = index.parent / "deep" / "er" / "j"
    chosen = options(PqOptions(codes=index))
    build_index(index.parent / "d", None, there, options=chosen)
    assert verify(there, deep=True).counts == {"docs": 61}
    monkeypatch.setattr(index_job.os, "link", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        delete_documents(index, ["d0"])
