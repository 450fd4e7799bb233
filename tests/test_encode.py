"""Encoding: equal to one text at a time, fixed shapes, resumable, small in memory."""

import dataclasses
import inspect
import json
from functools import partial

import jax
import numpy as np
import pytest
from tiny_hypencoders import tiny_hypencoder
from tiny_rerankers import tiny_reranker

from jaxir import encode
from jaxir.data.collection import open_collection
from jaxir.encode import TextEncoder, compiled_match, encode_corpus, encode_texts
from jaxir.errors import InputError
from jaxir.hyper.qnet import QNetWeights
from jaxir.mesh import make_mesh
from jaxir.text import load_tokenizer


@pytest.fixture
def model(make_tiny_model):
    return make_tiny_model()


@pytest.fixture
def collection(tiny_collection):
    return open_collection(str(tiny_collection))


def one_by_one(model, texts, side):
    mesh = make_mesh(1)
    return np.concatenate(
        [encode_texts(model, [text], side=side, mesh=mesh) for text in texts]
    )


@pytest.mark.parametrize("side", ["query", "doc"])
def test_batches_equal_single_texts(model, collection, side):
    texts = [*collection.docs.texts(range(12)), "", "sea"]
    found = encode_texts(model, texts, side=side)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, one_by_one(model, texts, side), atol=1e-5)


def test_no_texts(model):
    assert encode_texts(model, [], side="query").shape == (0, 16)


def test_q_nets_are_a_pytree(tmp_path):
    model = tiny_hypencoder(tmp_path, query_length=32)
    texts = ["sea", "", "rivers carry water from the mountains to the sea past banks"]
    together = encode_texts(model, texts, side="query")
    assert isinstance(together, QNetWeights)
    alone = [encode_texts(model, [t], side="query", mesh=make_mesh(1)) for t in texts]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *alone)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), together, joined)
    none = encode_texts(model, [], side="query")
    assert {leaf.shape[0] for leaf in jax.tree.leaves(none)} == {0}
    vectors = encode_texts(model, texts, side="doc")
    assert vectors.shape == (3, 16)


@pytest.mark.parametrize("kind", ["dense", "hypencoder"])
def test_a_batch_left_on_the_devices(kind, model, tmp_path):
    if kind == "hypencoder":
        model = tiny_hypencoder(tmp_path)
    encoder = TextEncoder(model, side="query", mesh=make_mesh(1))
    texts = ["sea", "rivers carry water"]
    found = encoder.on_devices(texts, 4)
    expected = encode_texts(model, [*texts, texts[1], texts[1]], side="query")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-4), found, expected)


def test_rows_by_the_size_of_a_representation(model, tmp_path):
    one = make_mesh(1)
    dense = TextEncoder(model, side="query", mesh=one)  # 16 numbers
    assert [dense.rows_within(n, at_most=9) for n in (1, 64 * 3, 10**6)] == [1, 3, 9]
    qnets = TextEncoder(tiny_hypencoder(tmp_path), side="query", mesh=one)
    size = 4 * (2 * 16 * 16 + 3 * 16)
    assert [qnets.rows_within(n * size, at_most=9) for n in (1, 5)] == [1, 5]
    if jax.device_count() == 8:
        assert TextEncoder(model, side="query").rows_within(1, at_most=9) == 8


def test_templates_and_sides(make_tiny_model):
    plain = make_tiny_model()
    other = make_tiny_model(query_template="river: {text}", towers="shared")
    prompted = encode_texts(other, ["sea {x}"], side="query")
    written = encode_texts(plain, ["river: sea {x}"], side="query")
    np.testing.assert_allclose(prompted, written, atol=1e-6)
    unprompted = encode_texts(other, ["river: sea {x}"], side="doc")
    np.testing.assert_allclose(unprompted, written, atol=1e-6)


def test_one_text_and_another_side(model):
    message = "texts: one text; expected a list of texts; write .text."
    with pytest.raises(InputError, match=message):
        encode_texts(model, "one text", side="query")
    with pytest.raises(InputError, match="side: 'document'; expected 'query' or 'doc'"):
        inspect.unwrap(encode_texts)(model, ["a"], side="document")  # types not run


def test_longer_than_the_model(model):
    with pytest.raises(InputError, match="doc length: 65 tokens; expected 3 to 64"):
        TextEncoder(model, side="doc", max_length=65)


def test_a_model_without_vectors(tmp_path):
    model = tiny_reranker("encdec", tmp_path)
    with pytest.raises(InputError, match="kind 'rank_t5', which gives no vectors"):
        TextEncoder(model, side="doc")
    with pytest.raises(InputError, match="kind 'rank_t5', which gives no vectors"):
        compiled_match(model.kind, model.config)


@pytest.mark.parametrize("shard_rows", [5, 12, 100])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_corpus(model, collection, tmp_path, shard_rows, num_devices):
    if jax.device_count() < num_devices:
        pytest.skip("needs simulated devices")
    options = {"shard_rows": shard_rows, "mesh": make_mesh(num_devices)}
    encoded = encode_corpus(model, collection, tmp_path / "e", **options)
    assert (encoded.num_docs, encoded.width) == (12, 16)
    assert len(encoded.paths) == -(-12 // shard_rows)
    vectors = np.concatenate(encoded.open())
    texts = collection.docs.texts(range(12))
    np.testing.assert_allclose(vectors, one_by_one(model, texts, "doc"), atol=1e-5)


def test_float16_shards(model, collection, tmp_path):
    encoded = encode_corpus(model, collection, tmp_path / "e", dtype="float16")
    assert encoded.open()[0].dtype == np.float16


def test_interrupted_run_goes_on(model, collection, tmp_path, monkeypatch):
    place = tmp_path / "e"
    whole = encode_corpus(model, collection, tmp_path / "whole", shard_rows=4)
    real, calls = encode._write_shard, []

    def interrupted(path, *args):
        calls.append(path.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, *args)

    monkeypatch.setattr(encode, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(model, collection, place, shard_rows=4)
    assert sorted(p.name for p in place.glob("*.npy")) == ["vectors-00000.npy"]
    resumed = encode_corpus(model, collection, place, shard_rows=4)
    assert calls == [f"vectors-0000{i}.npy" for i in (0, 1, 1, 2)]
    for a, b in zip(whole.open(), resumed.open(), strict=True):
        np.testing.assert_array_equal(a, b)
    encode_corpus(model, collection, place, shard_rows=4)
    assert len(calls) == 4  # nothing left to do


def test_another_model_starts_over(make_tiny_model, collection, tmp_path):
    place = tmp_path / "e"
    first = encode_corpus(make_tiny_model(0), collection, place).open()[0].copy()
    second = encode_corpus(make_tiny_model(1), collection, place).open()[0]
    assert not np.allclose(first, second)
    expected = encode_corpus(make_tiny_model(1), collection, tmp_path / "f").open()[0]
    np.testing.assert_array_equal(second, expected)


def test_another_tokenizer_starts_over(model, collection, tmp_path):
    first = encode_corpus(model, collection, tmp_path / "e").open()[0].copy()
    folder = tmp_path / "turned"
    folder.mkdir()
    words = (tmp_path / "tiny-tokenizer" / "vocab.txt").read_text().split()
    (folder / "vocab.txt").write_text("\n".join(words[:5] + words[:4:-1]) + "\n")
    other = model._replace(tokenizer=load_tokenizer(folder))
    second = encode_corpus(other, collection, tmp_path / "e").open()[0]
    assert not np.array_equal(first, second)


def test_a_damaged_note_starts_over(model, collection, tmp_path):
    place = tmp_path / "e"
    encode_corpus(model, collection, place)
    (place / "encoding.json").write_text("{")
    encoded = encode_corpus(model, collection, place)
    assert json.loads((place / "encoding.json").read_text())["num_docs"] == 12
    assert len(encoded.paths) == 1


def test_never_in_a_foreign_directory(model, collection, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not an encoding stands here"):
        encode_corpus(model, collection, tmp_path)
    assert (tmp_path / "thesis.tex").is_file()


def test_values_that_are_not_finite(model, collection, tmp_path):
    broken = model._replace(params=jax.tree.map(lambda x: x * np.nan, model.params))
    with pytest.raises(InputError, match="values that are not finite"):
        encode_corpus(broken, collection, tmp_path / "e")
    assert not list((tmp_path / "e").glob("*.npy"))


def test_values_beyond_float16(model, collection, tmp_path):
    config = dataclasses.replace(model.config, similarity="dot")
    large = jax.tree.map(lambda x: x, model.params)
    last = large["shared"]["backbone"][f"layer_{config.backbone.num_layers - 1}"]
    last["mlp_norm"]["scale"] = last["mlp_norm"]["scale"] * 1e6
    model = model._replace(config=config, params=large)
    with pytest.raises(InputError, match="at most 65504, float16's largest"):
        encode_corpus(model, collection, tmp_path / "e", dtype="float16")
    encoded = encode_corpus(model, collection, tmp_path / "f")
    assert np.abs(encoded.open()[0]).max() > 65504


def test_no_recompilation_after_warm_up(model):
    words = "rivers carry water from the mountains to sea past banks of clay "
    rng = np.random.default_rng(0)
    encoder = TextEncoder(model, side="doc", batch_tokens=256, mesh=make_mesh(1))

    def work():
        texts = [(words * 3)[: rng.integers(5, 150)] for _ in range(200)]
        return list(encoder.encode_ids(encoder.tokenize(texts), fill=True))

    at_first = encoder._encode._cache_size()
    work()
    before = encoder._encode._cache_size()
    assert before <= at_first + 2  # buckets 16 and 32
    for _ in range(3):
        work()
    assert encoder._encode._cache_size() == before


@pytest.mark.slow
def test_minilm_equals_sentence_transformers(minilm_path, shared_data):
    st = pytest.importorskip("sentence_transformers")
    from jaxir.checkpoints.model_dir import load_model

    texts = open_collection(str(shared_data / "nfcorpus")).docs.texts(range(40))
    theirs = st.SentenceTransformer(str(minilm_path), device="cpu").encode(texts)
    ours = encode_texts(load_model(minilm_path), texts, side="doc")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
