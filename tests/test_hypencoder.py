"""Hypencoders out of every kind of weights, beside the bi-encoder of the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_hypencoders import tiny_hypencoder
from tiny_rerankers import bert_tokenizer, tiny_t5

from jaxir.checkpoints.model_dir import load_model, model_from_parts, save_model
from jaxir.encode import encode_texts
from jaxir.errors import InputError
from jaxir.families import family
from jaxir.hypencoder import load_bi_encoder, load_hypencoder
from jaxir.lm import masked
from jaxir.nn.bert import BertConfig

TEXTS = ["rivers to the sea", "bread", "wheels of steel on clay"]


def assert_same_params(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def scores(model, queries=TEXTS, docs=TEXTS):
    """Every query with every document, by the family's own encoders and match."""
    sides = (("query", queries), ("doc", docs))
    encoded = [
        jax.tree.map(jnp.asarray, encode_texts(model, texts, side=side))
        for side, texts in sides
    ]
    return np.asarray(family(model.kind).match(model.config, *encoded))


@pytest.fixture
def dense_path(make_tiny_model, tmp_path):
    save_model(tmp_path / "dense", make_tiny_model())
    return tmp_path / "dense"


def test_a_bi_encoder_gets_a_fresh_head(dense_path):
    model, base = load_hypencoder(dense_path), load_model(dense_path)
    assert model.kind == "hypencoder"
    qnet = model.config.qnet
    assert (qnet.input_width, qnet.hidden, qnet.num_vectors) == (16, (16,) * 6, 1)
    assert not any((qnet.gated, qnet.residual_on_last, model.config.warm_start))
    assert model.config.attention_scale == "released"
    for field in dataclasses.fields(base.config):
        assert getattr(model.config, field.name) == getattr(base.config, field.name)
    assert_same_params(model.params["shared"], base.params["shared"])
    assert load_hypencoder(dense_path).fingerprint == model.fingerprint
    other = load_hypencoder(dense_path, seed=1)
    assert other.fingerprint != model.fingerprint
    assert_same_params(other.params["shared"], model.params["shared"])


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_warm_start_is_the_bi_encoder(dense_path, similarity):
    changes = {"similarity": similarity}
    model = load_hypencoder(dense_path, depth=2, warm_start=True, changes=changes)
    assert model.config.qnet.gated
    assert model.config.qnet.residual_on_last
    base = load_bi_encoder(dense_path, changes=changes)
    np.testing.assert_allclose(scores(model), scores(base), rtol=1e-4, atol=1e-5)
    fresh = load_hypencoder(dense_path, depth=2, changes=changes)
    assert np.abs(scores(fresh) - scores(base)).max() > 0.1


@pytest.mark.slow
def test_minilm_is_a_hypencoder_that_begins_as_itself(minilm_path):
    model = load_hypencoder(minilm_path, depth=2, warm_start=True)
    assert model.config.qnet.hidden == (384, 384)
    assert (model.config.pooling, model.config.similarity) == ("mean", "cosine")
    queries, docs = ["How far is the sun?", "bread"], ["150 million km", "dough"]
    found = scores(model, queries, docs)
    expected = scores(load_bi_encoder(minilm_path), queries, docs)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected[0, 0] > expected[0, 1]


def test_changes_of_towers_and_of_qnets(dense_path):
    changes = {
        "towers": "separate", "pooling": "cls", "doc_length": 20,
        "backbone.dropout": 0.0, "qnet.activation": "gelu",
    }  # fmt: skip
    model = load_hypencoder(
        dense_path, depth=3, hidden=24, num_vectors=2, attention_scale="paper",
        changes=changes,
    )  # fmt: skip
    config = model.config
    assert (config.towers, config.pooling, config.doc_length) == ("separate", "cls", 20)
    assert config.backbone.dropout == 0.0
    assert (config.qnet.hidden, config.qnet.activation) == ((24,) * 3, "gelu")
    assert (config.qnet.num_vectors, config.attention_scale) == (2, "paper")
    assert sorted(model.params) == ["doc", "head", "query"]
    assert scores(model).shape == (3, 3)


def test_vectors_of_a_few_dimensions(dense_path):
    changes = {"similarity": "dot", "towers": "separate"}
    model = load_hypencoder(
        dense_path, depth=2, warm_start=True, projection_size=4, changes=changes
    )
    base = load_bi_encoder(dense_path, projection_size=4, changes=changes)
    assert model.config.qnet.hidden == (4, 4)
    assert encode_texts(base, TEXTS, side="doc").shape == (3, 4)
    for name in ("query", "doc"):
        assert_same_params(model.params[name], base.params[name])
    np.testing.assert_allclose(scores(model), scores(base), rtol=1e-4, atol=1e-5)
    other = load_bi_encoder(dense_path, projection_size=4, changes=changes, seed=1)
    assert other.fingerprint != base.fingerprint


def test_a_random_projection_keeps_inner_products_on_average(dense_path):
    changes = {"similarity": "dot"}
    wanted = scores(load_bi_encoder(dense_path, changes=changes))
    found = [
        scores(
            load_bi_encoder(dense_path, projection_size=256, seed=i, changes=changes)
        )
        for i in range(3)
    ]
    np.testing.assert_allclose(np.mean(found, axis=0) / wanted, 1, atol=0.25)


def test_a_hypencoder_stays_itself(tmp_path):
    model = tiny_hypencoder(tmp_path / "words")
    save_model(tmp_path / "hyper", model)
    assert load_hypencoder(tmp_path / "hyper").fingerprint == model.fingerprint
    same = load_hypencoder(tmp_path / "hyper", depth=2, hidden=16, warm_start=False)
    assert same.fingerprint == model.fingerprint
    apart = load_hypencoder(
        tmp_path / "hyper", changes={"towers": "separate", "query_length": 12}
    )
    assert (apart.config.towers, apart.config.query_length) == ("separate", 12)
    assert_same_params(apart.params["head"], model.params["head"])
    as_it_is = load_hypencoder(tmp_path / "hyper", changes={"pooling": None})
    assert as_it_is.fingerprint == model.fingerprint
    for changes, message in (
        ({"depth": 6}, "depth: 6 for a Hypencoder of 2; expected the value that it"),
        ({"warm_start": True}, "warm_start: True for a Hypencoder of False"),
        ({"projection_size": 4}, "projection_size: 4 for a Hypencoder of None"),
        ({"attention_scale": "paper"}, "'paper' for a Hypencoder of 'released'"),
    ):
        with pytest.raises(InputError, match=message):
            load_hypencoder(tmp_path / "hyper", **changes)


def test_a_masked_language_model_becomes_a_hypencoder(tmp_path):
    tokenizer = bert_tokenizer(tmp_path / "words")
    config = masked.MaskedLMConfig(
        BertConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2,
            intermediate_size=32, max_positions=24,
        )
    )  # fmt: skip
    params = masked.init_params(config, jax.random.key(0))
    save_model(
        tmp_path / "lm", model_from_parts("masked_lm", config, params, tokenizer)
    )
    model = load_hypencoder(tmp_path / "lm", depth=2)
    assert (model.config.pooling, model.config.similarity) == ("cls", "dot")
    assert (model.config.query_length, model.config.doc_length) == (24, 24)
    assert_same_params(model.params["shared"]["backbone"], params["backbone"])
    assert scores(model).shape == (3, 3)
    assert load_bi_encoder(tmp_path / "lm").config.similarity == "dot"


def test_mistakes_say_so(dense_path, make_tiny_model, tmp_path):
    save_model(tmp_path / "t5", tiny_t5(tmp_path / "words"))
    for load in (load_hypencoder, load_bi_encoder):
        with pytest.raises(InputError, match="a model of kind 't5'; expected a bi-enc"):
            load(tmp_path / "t5")
        with pytest.raises(InputError, match="colour: no such field"):
            load(dense_path, changes={"colour": 1})
        with pytest.raises(InputError, match="changes: projection_size 4; expected th"):
            load(dense_path, changes={"projection_size": 4})
        with pytest.raises(InputError, match=r"projection_size: 0 .*a width above 0"):
            load(dense_path, projection_size=0)
    save_model(tmp_path / "narrow", make_tiny_model(projection_size=8))
    assert load_hypencoder(tmp_path / "narrow", depth=2).config.qnet.input_width == 8
    with pytest.raises(InputError, match="projection_size: 4 for vectors of 8; expect"):
        load_hypencoder(tmp_path / "narrow", projection_size=4)
    with pytest.raises(InputError, match=r"QNetSpec\.hidden"):
        load_hypencoder(dense_path, depth=0)
    with pytest.raises(InputError, match="input_width=5; expected 16"):
        load_hypencoder(dense_path, changes={"qnet.input_width": 5})
    with pytest.raises(InputError, match="warm_start: documents of 2 vectors; expecte"):
        load_hypencoder(dense_path, warm_start=True, num_vectors=2)
    with pytest.raises(InputError, match="block 0 has no residual"):
        load_hypencoder(dense_path, hidden=8, warm_start=True)
    save_model(tmp_path / "two", make_tiny_model(towers="separate"))
    with pytest.raises(InputError, match="two trained towers cannot become one"):
        load_hypencoder(tmp_path / "two", changes={"towers": "shared"})
