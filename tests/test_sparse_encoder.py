"""Sparse encoders out of every kind of weights, and where their tables come from."""

import json

import jax
import numpy as np
import pytest
from tiny_rerankers import bert_tokenizer, tiny_t5
from tiny_sparse import tiny_sparse

from jaxir.checkpoints.masked_lm import export_masked_lm
from jaxir.checkpoints.model_dir import load_model, model_from_parts, save_model
from jaxir.data.collection import open_collection
from jaxir.encode import encode_texts
from jaxir.errors import InputError
from jaxir.lm import masked
from jaxir.nn.bert import BertConfig
from jaxir.sparse.idf import compute_idf
from jaxir.sparse_encoder import load_sparse_encoder

TEXTS = ["rivers carry water", "bread", "wheels of steel on clay", ""]


def assert_same_params(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture
def dense_path(make_tiny_model, tmp_path):
    save_model(tmp_path / "dense", make_tiny_model())
    return tmp_path / "dense"


@pytest.fixture
def masked_path(tmp_path):
    tokenizer = bert_tokenizer(tmp_path / "words")
    config = masked.MaskedLMConfig(
        BertConfig(
            vocab_size=tokenizer.vocab_size + 2, hidden_size=16, num_layers=1,
            num_heads=2, intermediate_size=32, max_positions=24,
        )
    )  # fmt: skip
    params = masked.init_params(config, jax.random.key(0))
    model = model_from_parts("masked_lm", config, params, tokenizer)
    save_model(tmp_path / "lm", model)
    return tmp_path / "lm"


def test_a_bi_encoder_gets_a_head_that_is_nearly_the_identity(dense_path):
    model, base = (
        load_sparse_encoder(dense_path, query="binary"),
        load_model(dense_path),
    )
    config = model.config
    assert (model.kind, config.activation, config.query) == (
        "sparse",
        "log1p",
        "binary",
    )
    assert (config.query_length, config.doc_length) == (32, 64)
    assert config.special_ids == base.tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert (config.tied, config.pool_special, config.lexical_prior) == (
        True,
        False,
        False,
    )
    assert_same_params(model.params["backbone"], base.params["shared"]["backbone"])
    states = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    kernel, bias = (model.params["head"]["transform"][k] for k in ("kernel", "bias"))
    hidden = jax.nn.gelu(states @ kernel + bias, approximate=False)
    centred = np.asarray(hidden - hidden.mean(-1, keepdims=True))
    wanted = states - states.mean(-1, keepdims=True)
    cosine = np.sum(centred * wanted, -1) / (
        np.linalg.norm(centred, axis=-1) * np.linalg.norm(wanted, axis=-1)
    )
    assert cosine.min() > 0.999
    again = load_sparse_encoder(dense_path, query="binary")
    assert again.fingerprint == model.fingerprint


def test_a_collection_sets_the_scale_of_a_fresh_head(dense_path, tiny_collection):
    texts = open_collection(str(tiny_collection)).docs.texts(range(12))

    def share(**options) -> float:
        model = load_sparse_encoder(dense_path, query="binary", **options)
        weights = encode_texts(model, texts, side="doc")[:, 5:]
        return float(np.mean(weights > 0))

    # Of a vocabulary smaller than 512 a half remains.
    assert 0.4 < share(collection=str(tiny_collection)) < 0.6
    assert not 0.4 < share() < 0.6


def test_documents_begin_with_so_many_tokens(masked_path, tiny_collection, tmp_path):
    texts = open_collection(str(tiny_collection)).docs.texts(range(12))

    def begin(**options):
        model = load_sparse_encoder(
            masked_path, query="binary", collection=str(tiny_collection), **options
        )
        tokens = np.sum(encode_texts(model, texts, side="doc") > 0, axis=1)
        return model, float(np.mean(tokens))

    (model, few), (_, more) = begin(start_tokens=6), begin(start_tokens=20)
    assert 3 < few < 9
    assert 14 < more < 26
    moved = (
        model.params["head"]["bias"] - load_model(masked_path).params["head"]["bias"]
    )
    assert moved[0] != 0
    np.testing.assert_allclose(moved, moved[0], atol=1e-6)
    # a sparse encoder goes on as it is
    save_model(tmp_path / "sparse", model)
    again = load_sparse_encoder(
        tmp_path / "sparse", start_tokens=20, collection=str(tiny_collection)
    )
    assert again.fingerprint == model.fingerprint


def test_tokens_to_begin_with_are_refused(masked_path, tiny_collection):
    with pytest.raises(InputError, match="start_tokens: 0; expected at least 1"):
        load_sparse_encoder(masked_path, query="binary", start_tokens=0)
    with pytest.raises(InputError, match="start_tokens: given without a collection"):
        load_sparse_encoder(masked_path, query="binary", start_tokens=9)


def test_of_a_collection_or_a_file_or_the_models_own(
    dense_path, tiny_collection, tmp_path
):
    collection = open_collection(str(tiny_collection))
    model = load_sparse_encoder(dense_path, idf="collection", collection=collection)
    assert model.config.query == "idf"
    counted = compute_idf(collection, model.tokenizer)
    np.testing.assert_array_equal(model.params["idf"]["scale"], counted)
    save_model(tmp_path / "sparse", model)
    again = load_sparse_encoder(tmp_path / "sparse")
    assert again.fingerprint == model.fingerprint
    (tmp_path / "idf.json").write_text(json.dumps({"river": 7.5}))
    other = load_sparse_encoder(tmp_path / "sparse", idf=tmp_path / "idf.json")
    river = model.tokenizer.token_to_id("river")
    assert other.params["idf"]["scale"][river] == 7.5
    assert other.params["idf"]["scale"].sum() == 7.5 + model.tokenizer.vocab_size - 1
    queries = encode_texts(other, ["river sea river", "[CLS]", ""], side="query")
    assert queries[0, river] == 7.5
    assert queries.sum(axis=1).tolist() == [8.5, 0.0, 0.0]


def test_a_masked_language_model_keeps_its_head(masked_path, tiny_collection):
    base = load_model(masked_path)
    model = load_sparse_encoder(
        masked_path, activation="log1p_log1p", idf="collection",
        collection=str(tiny_collection), lexical_prior=True,
    )  # fmt: skip
    for part in ("backbone", "head"):
        assert_same_params(model.params[part], base.params[part])
    config = model.config
    assert (config.activation, config.lexical_prior) == ("log1p_log1p", True)
    assert (config.query_length, config.doc_length) == (24, 24)
    assert model.params["idf"]["scale"].shape == (base.config.backbone.vocab_size,)
    assert model.params["idf"]["scale"].dtype == np.float32
    assert model.params["idf"]["scale"][-2:].tolist() == [1.0, 1.0]
    docs = encode_texts(model, TEXTS, side="doc")
    assert np.all(np.any(docs[:3] > 0, axis=1))
    assert not np.any(docs[3])


def test_a_folder_of_hugging_face_keeps_its_head(masked_path, tmp_path):
    base = load_model(masked_path)
    export_masked_lm(base.config, base.params, tmp_path / "hf")
    base.tokenizer.save(tmp_path / "hf")
    options = {"activation": "log1p", "query": "binary"}
    model = load_sparse_encoder(tmp_path / "hf", **options)
    for part in ("backbone", "head"):
        assert_same_params(model.params[part], base.params[part])
    assert model.config.pool_special  # as whoever trained it
    with pytest.raises(InputError, match="idf: no table of token weights"):
        load_sparse_encoder(tmp_path / "hf", activation="log1p")
    elsewhere = load_sparse_encoder(
        tmp_path / "hf", tokenizer=tmp_path / "words", **options
    )
    assert elsewhere.config == model.config


def test_a_sparse_encoder_stays_itself(tmp_path):
    model = tiny_sparse(tmp_path / "words")
    save_model(tmp_path / "sparse", model)
    place = tmp_path / "sparse"
    assert load_sparse_encoder(place).fingerprint == model.fingerprint
    same = load_sparse_encoder(
        place, activation="log1p", query="idf", lexical_prior=False,
        changes={"doc_length": None},
    )  # fmt: skip
    assert same.fingerprint == model.fingerprint
    other = load_sparse_encoder(
        place, query="binary", lexical_prior=True,
        changes={"doc_length": 20, "backbone.dropout": 0.0},
    )  # fmt: skip
    assert (other.config.query, other.config.doc_length) == ("binary", 20)
    assert float(other.params["prior"]["bias"]) == 1.0
    # The table stays, for whoever goes back to it.
    assert_same_params(other.params["idf"], model.params["idf"])
    save_model(tmp_path / "binary", other)
    back = load_sparse_encoder(tmp_path / "binary", query="idf", lexical_prior=False)
    assert_same_params(back.params, model.params)
    with pytest.raises(
        InputError, match="activation: 'log1p_log1p' for a sparse encoder of 'log1p'"
    ):
        load_sparse_encoder(place, activation="log1p_log1p")


@pytest.mark.parametrize("query", ["binary", "encoder"])
def test_a_table_of_ones_is_none(query, tiny_collection, tmp_path):
    """SPLADE's: as IDF it would be silently what ``binary`` is."""
    model = tiny_sparse(tmp_path / "words", query=query)
    ones = {"scale": np.ones_like(model.params["idf"]["scale"])}
    model = model_from_parts(
        "sparse", model.config, model.params | {"idf": ones}, model.tokenizer
    )
    save_model(tmp_path / "splade", model)
    with pytest.raises(InputError, match="idf: no table of token weights"):
        load_sparse_encoder(tmp_path / "splade", query="idf")
    found = load_sparse_encoder(
        tmp_path / "splade", query="idf", idf="collection",
        collection=str(tiny_collection),
    )  # fmt: skip
    assert np.any(found.params["idf"]["scale"] != 1)


@pytest.mark.slow
@pytest.mark.shared
def test_minilm_finds_words_without_any_training(minilm_path, shared_data):
    """The fresh head gives a document's own words more weight than others."""
    collection = open_collection(str(shared_data / "scifact"))
    model = load_sparse_encoder(
        minilm_path, idf="collection", collection=collection,
        changes={"doc_length": 64},
    )  # fmt: skip
    texts = collection.docs.texts(range(0, 5000, 250))
    docs = encode_texts(model, texts, side="doc")
    assert 100 < np.mean(np.sum(docs > 0, axis=1)) < 600
    words = model.tokenizer.pieces(texts)
    own = np.mean(
        [np.mean(d[ids[:60]] > 0) for d, ids in zip(docs, words, strict=True)]
    )
    assert own > 0.5  # of 30,522 tokens, one in a hundred has a weight
    queries = encode_texts(model, [t.split(".")[0] for t in texts], side="query")
    assert np.mean(np.argmax(queries @ docs.T, axis=1) == np.arange(20)) > 0.9


def test_mistakes_say_so(dense_path, masked_path, make_tiny_model, tmp_path):
    save_model(tmp_path / "t5", tiny_t5(tmp_path / "t5-words"))
    with pytest.raises(InputError, match="a model of kind 't5'; expected a sparse enc"):
        load_sparse_encoder(tmp_path / "t5")
    save_model(tmp_path / "two", make_tiny_model(towers="separate"))
    with pytest.raises(InputError, match="a bi-encoder of two towers"):
        load_sparse_encoder(tmp_path / "two", query="binary")
    with pytest.raises(InputError, match="colour: no such field"):
        load_sparse_encoder(dense_path, query="binary", changes={"colour": 1})
    with pytest.raises(InputError, match="'relu'; expected one of log1p, log1p_log1p"):
        load_sparse_encoder(dense_path, query="binary", activation="relu")
    with pytest.raises(InputError, match="no such directory"):
        load_sparse_encoder(tmp_path / "nothing")
    for path in (dense_path, masked_path):
        with pytest.raises(
            InputError, match=r"no table .*expected a file like idf\.js"
        ):
            load_sparse_encoder(path)
        with pytest.raises(InputError, match="'collection', and none; expected a coll"):
            load_sparse_encoder(path, idf="collection")
    (tmp_path / "idf.json").write_text('{"river": 1, "##la": 2}')
    with pytest.raises(
        InputError, match="1 tokens, as '##la', that the tokenizer does"
    ):
        load_sparse_encoder(dense_path, idf=str(tmp_path / "idf.json"))
