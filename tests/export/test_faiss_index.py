"""Indexes to Faiss's files and back: the same bytes, the same run, and refusals."""

import dataclasses
import json

import faiss
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_jpq import tiny_jpq_index

from jaxir.checkpoints.model_dir import load_model, model_from_parts, save_model
from jaxir.cli import main
from jaxir.cli.convert import convert
from jaxir.data.collection import open_collection
from jaxir.encode import TextEncoder, as_bi_encoder
from jaxir.errors import InputError
from jaxir.export.faiss_index import export_faiss, import_faiss
from jaxir.export.faiss_io import LAYOUTS, read_faiss, write_faiss
from jaxir.index import build_index
from jaxir.index_job import BuildOptions, PqOptions
from jaxir.manifest import DocIdFile, read_manifest, verify
from jaxir.pq.codec import Codec
from jaxir.search import open_index

WIDTH = 16


@pytest.fixture
def dense(make_tiny_model):
    return make_tiny_model(similarity="dot")


@pytest.fixture
def index(dense, tiny_collection, tmp_path):
    """An index whose centroids differ from its assignment, as after training."""
    place = tiny_jpq_index(dense, tiny_collection, tmp_path / "index")
    return place


def trained(model):
    """Its searching centroids moved away from those of the assignment."""
    codec = dict(model.params["codec"])
    codec["centroids"] = codec["centroids"] * np.float32(1.25) + np.float32(0.01)
    params = model.params | {"codec": codec}
    return model_from_parts("jpq", model.config, params, model.tokenizer)


def same_index(one, other) -> None:
    assert (one / "codes.npy").read_bytes() == (other / "codes.npy").read_bytes()
    assert list(DocIdFile(one)) == list(DocIdFile(other))
    manifests = [read_manifest(place) for place in (one, other)]
    assert len({x.model_fingerprint for x in manifests}) == 1
    keys = ("width", "subvectors", "bits", "rotation", "collection_fingerprint")
    for key in keys:
        assert manifests[0].details[key] == manifests[1].details[key]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_and_in_again_bit_for_bit(index, tiny_collection, tmp_path, layout):
    model = trained(load_model(index / "model"))
    save_model(tmp_path / "trained", model)
    again, file, own = tmp_path / "again", tmp_path / "a.faiss", tmp_path / "own"
    options = BuildOptions(pq=PqOptions(codes=index))
    build_index(tmp_path / "trained", tiny_collection, own, options=options)
    export_faiss(own, file, layout=layout)
    import_faiss(file, again, model=own / "model", collection=tiny_collection)
    same_index(again, own)
    verify(again, deep=True)
    export_faiss(again, tmp_path / "b.faiss", layout=layout)
    assert (tmp_path / "b.faiss").read_bytes() == file.read_bytes()
    ids = (tmp_path / "a.faiss.ids.txt").read_text().splitlines()
    assert ids == list(open_collection(str(tiny_collection)).docs.doc_ids())
    # Of the trained centroids: those that queries are scored with are in the file.
    centroids = np.asarray(read_faiss(file).codec.centroids)
    np.testing.assert_array_equal(centroids, model.params["codec"]["centroids"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_plain_faiss_gives_the_same_run(index, tmp_path, layout):
    export_faiss(index, tmp_path / "a.faiss", layout=layout)
    model = load_model(index / "model")
    texts = ["rivers carry water", "bakers knead dough", "an engine of steel"]
    vectors = TextEncoder(as_bi_encoder(model), side="query")(texts)
    scores, numbers = faiss.read_index(str(tmp_path / "a.faiss")).search(vectors, 12)
    ids = (tmp_path / "a.faiss.ids.txt").read_text().splitlines()
    run = open_index(index).search(dict(zip("abc", texts, strict=True)), k=12)
    for row, ours in enumerate(run.values()):
        theirs = {ids[i]: x for i, x in zip(numbers[row], scores[row], strict=True)}
        assert set(ours) == set(theirs)
        for doc_id, score in theirs.items():
            assert ours[doc_id] == pytest.approx(score, abs=1e-4)


def faiss_file(path, ids=None, *, docs: int = 12, layout: str = "flat"):
    """A file of 4 parts of 8 bits over vectors of the tiny models' width."""
    draw = np.random.default_rng(3)
    turned = np.linalg.qr(draw.normal(size=(WIDTH, WIDTH)))[0]
    centroids = draw.normal(size=(4, 256, 4))
    codec = Codec(*(jnp.asarray(x, jnp.float32) for x in (turned, centroids)))
    codes = draw.integers(0, 256, (4, docs)).astype(np.uint8)
    write_faiss(path, codec, codes, layout=layout)
    if ids is not None:
        inner, numbers = path.read_bytes(), np.asarray(ids, "<i8")
        count = np.uint64(docs).tobytes()
        path.write_bytes(b"IxMp" + inner[4:37] + inner + count + numbers.tobytes())
        assert faiss.read_index(str(path)).ntotal == docs
    return codec, codes


def test_a_file_becomes_an_index_of_a_bi_encoder(dense, tiny_collection, tmp_path):
    codec, codes = faiss_file(tmp_path / "a.faiss", layout="ivf")
    place = tmp_path / "index"
    manifest = import_faiss(
        tmp_path / "a.faiss", place, model=dense, collection=tiny_collection
    )
    assert (manifest.kind, manifest.counts) == ("pq", {"docs": 12})
    assert manifest.details["rotation"] == "opq"
    np.testing.assert_array_equal(np.load(place / "codes.npy"), codes)
    model = load_model(place / "model")
    assert (model.kind, model.config.bits, model.config.subvectors) == ("jpq", 8, 4)
    for name in ("centroids", "assignment"):
        np.testing.assert_array_equal(model.params["codec"][name], codec.centroids)
    assert len(open_index(place).search({"a": "rivers"}, k=3)["a"]) == 3


def test_numbers_in_another_order(dense, tiny_collection, tmp_path):
    shuffled = np.random.default_rng(0).permutation(12)
    _, codes = faiss_file(tmp_path / "a.faiss", shuffled)
    place = tmp_path / "index"
    import_faiss(tmp_path / "a.faiss", place, model=dense, collection=tiny_collection)
    found = np.load(place / "codes.npy")
    np.testing.assert_array_equal(found[:, shuffled], codes)


def test_numbers_that_are_the_documents_ids(dense, tiny_collection, tmp_path):
    corpus = tiny_collection / "corpus.jsonl"
    docs = [json.loads(line) for line in corpus.read_text().splitlines()]
    renamed = [doc | {"_id": str(1000 - 7 * i)} for i, doc in enumerate(docs)]
    corpus.write_text("".join(json.dumps(doc) + "\n" for doc in renamed))
    numbers = np.array([1000 - 7 * i for i in range(12)])
    shuffled = np.random.default_rng(0).permutation(12)
    _, codes = faiss_file(tmp_path / "a.faiss", numbers[shuffled])
    place = tmp_path / "index"
    import_faiss(tmp_path / "a.faiss", place, model=dense, collection=tiny_collection)
    np.testing.assert_array_equal(np.load(place / "codes.npy")[:, shuffled], codes)
    faiss_file(tmp_path / "b.faiss", [*numbers[:11], 5])
    with pytest.raises(InputError, match="of number 5; expected 0 to 11, or ids of"):
        import_faiss(
            tmp_path / "b.faiss", place, model=dense, collection=tiny_collection
        )


def test_a_jpq_model_keeps_its_assignment(dense, tiny_collection, tmp_path, capsys):
    codec, _ = faiss_file(tmp_path / "a.faiss")
    place, again = tmp_path / "index", tmp_path / "again"
    import_faiss(tmp_path / "a.faiss", place, model=dense, collection=tiny_collection)
    model = trained(load_model(place / "model"))
    import_faiss(tmp_path / "a.faiss", again, model=model, collection=tiny_collection)
    assert "its centroids take the place of" in capsys.readouterr().err
    found = load_model(again / "model").params["codec"]
    np.testing.assert_array_equal(found["centroids"], codec.centroids)
    np.testing.assert_array_equal(
        found["assignment"], model.params["codec"]["assignment"]
    )
    turned = model.params["codec"] | {"rotation": np.eye(WIDTH, dtype=np.float32)}
    other = model._replace(params=model.params | {"codec": turned})
    with pytest.raises(InputError, match="a rotation other than that of"):
        import_faiss(
            tmp_path / "a.faiss", again, model=other, collection=tiny_collection
        )


def test_what_does_not_go_together(dense, index, tiny_collection, tmp_path):
    file, place = tmp_path / "a.faiss", tmp_path / "new"

    def refused(match, **changes):
        given = {"model": dense, "collection": tiny_collection} | changes
        with pytest.raises(InputError, match=match):
            import_faiss(file, place, **given)
        assert not place.exists()

    faiss_file(file, docs=11)
    refused("11 documents; expected 12, those of 'tiny'; name the collection")
    faiss_file(file)
    own = load_model(index / "model")
    refused("4 parts of 8 bits of width 16; expected the shape", model=own)
    backbone = dataclasses.replace(dense.config.backbone, hidden_size=8)
    narrow = dataclasses.replace(dense.config, backbone=backbone)
    refused("of width 16; expected width 8; name", model=dense._replace(config=narrow))
    refused("kind 'rank_bert'; expected", model=dense._replace(kind="rank_bert"))
    file.write_bytes(b"not an index at all")
    refused("byte 0: an index of type 'not '")


def test_places_that_hold_something_else(index, dense, tiny_collection, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="a file stands here that is not Faiss's"):
        export_faiss(index, tmp_path / "notes.txt")
    with pytest.raises(InputError, match="a compressed file"):
        export_faiss(index, tmp_path / "a.gz")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    faiss_file(tmp_path / "a.faiss")
    with pytest.raises(InputError, match="that is not an index stands here"):
        import_faiss(
            tmp_path / "a.faiss", tiny_collection, model=dense,
            collection=tiny_collection,
        )  # fmt: skip
    with pytest.raises(InputError, match=r"no manifest.json here; expected an index"):
        export_faiss(tiny_collection, tmp_path / "b.faiss")
    bm25 = tmp_path / "bm25"
    build_index("bm25", tiny_collection, bm25)
    with pytest.raises(InputError, match="the only one that can become a file of Fa"):
        export_faiss(bm25, tmp_path / "b.faiss")


def test_codes_that_are_not_the_models(index, tmp_path):
    codes = np.load(index / "codes.npy")
    np.save(index / "codes.npy", codes.reshape(codes.shape[::-1]))
    with pytest.raises(
        InputError, match=r"codes of uint8 \[12, 2\]; expected uint8 \[2"
    ):
        export_faiss(index, tmp_path / "a.faiss")
    assert not (tmp_path / "a.faiss").exists()
    assert not (tmp_path / "a.faiss.ids.txt").exists()


def test_the_command_both_ways(index, tiny_collection, tmp_path, capsys):
    file, again = tmp_path / "a.faiss", tmp_path / "again"
    words = ["convert", f"jaxir:{index}", f"faiss:{file}", "--layout", "ivf"]
    assert main.main(words) == 0
    assert "pq, 12 documents" in capsys.readouterr().err
    words = ["convert", f"faiss:{file}", f"jaxir:{again}", "--json"]
    words += ["--model", str(index / "model"), "--collection", str(tiny_collection)]
    assert main.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    fingerprint = read_manifest(index).model_fingerprint
    assert result == {
        "kind": "pq", "fingerprint": fingerprint, "num_docs": 12, "path": str(again)
    }  # fmt: skip
    same_index(again, index)


@pytest.mark.parametrize(
    ("source", "target", "options", "found"),
    [
        ("faiss:a", "jaxir:b", {}, "--model: not given for a file of Faiss"),
        ("faiss:a", "jaxir:b", {"model": "m"}, "--collection: not given for"),
        ("faiss:a", "hf:b", {"model": "m", "collection": "c"}, "TO: 'hf:b'"),
        ("faiss:a", "faiss:b", {}, "FROM: given for a file that is written"),
        ("jaxir:a", "faiss:b", {"model": "m"}, "--model: given for a file that is w"),
        ("faiss:a", "jaxir:b", {"layout": "ivf"}, "--layout: given for a file that is"),
        ("faiss:a", "jaxir:b", {"changes": {"x": 1}}, "--set: given with a file"),
        ("jaxir:a", "jaxir:b", {"model": "m"}, "--model: given with a model"),
        ("faiss:a", "faiss:", {}, "TO: 'faiss:'; expected one of .* faiss:FILE"),
        ("jaxir:nowhere", "faiss:b", {}, "no such directory"),
    ],
)
def test_options_that_do_not_fit(tmp_path, monkeypatch, source, target, options, found):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=found):
        convert(source, target, **options)
    assert not list(tmp_path.iterdir())


def test_encoders_of_a_jpq_model_for_others(index, tmp_path, capsys):
    """A MiniLM's towers become sentence-transformers folders; Faiss has the codec."""
    convert(str(index / "model"), f"hf:{tmp_path / 'st'}")
    assert "encoders alone" in capsys.readouterr().err
    model = load_model(index / "model")
    for side, name in (("query", "query"), ("doc", "document")):
        found = load_model(tmp_path / "st" / name)
        assert (found.kind, found.config.towers) == ("dense", "shared")
        jax.tree.map(
            np.testing.assert_array_equal, found.params["shared"], model.params[side]
        )
