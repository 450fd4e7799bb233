"""Rerankers out of every kind of weights, and the interface of a cross-encoder."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest
from tiny_rerankers import bert_tokenizer, tiny_reranker, tiny_t5

from jaxir import reranker
from jaxir.checkpoints.model_dir import model_from_parts, save_model
from jaxir.checkpoints.t5_huggingface import export_t5
from jaxir.errors import InputError
from jaxir.lm import masked
from jaxir.mesh import make_mesh
from jaxir.nn.bert import BertConfig
from jaxir.rank.model import init_params
from jaxir.rank.score import PairScorer
from jaxir.rank.tokens import MONOT5_TEMPLATE
from jaxir.reranker import Reranker, load_reranker, load_scoring_model

QUERY = "rivers to the sea"
DOCS = ["banks of clay", "bread", "", "wheels of steel", "rivers to the sea"]


def assert_same_params(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture
def t5_path(tmp_path):
    save_model(tmp_path / "t5", tiny_t5(tmp_path / "words"))
    return tmp_path / "t5"


@pytest.fixture
def dense_path(make_tiny_model, tmp_path):
    save_model(tmp_path / "dense", make_tiny_model())
    return tmp_path / "dense"


@pytest.fixture
def masked_path(tmp_path):
    tokenizer = bert_tokenizer(tmp_path / "words")
    config = masked.MaskedLMConfig(
        BertConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2,
            intermediate_size=32, max_positions=24,
        )
    )  # fmt: skip
    params = masked.init_params(config, jax.random.key(0))
    model = model_from_parts("masked_lm", config, params, tokenizer)
    save_model(tmp_path / "lm", model)
    return tmp_path / "lm"


# What becomes of weights ------------------------------------------------------


def test_a_t5_is_an_encoder_decoder(t5_path, tmp_path):
    model = load_reranker(t5_path)
    assert (model.kind, model.config.head) == ("rank_t5", "encdec")
    assert model.config.target_id == model.tokenizer.token_to_id("<extra_id_10>")
    assert model.config.contrast_id is None
    assert_same_params(model.params, tiny_t5(tmp_path / "words").params)
    scoring = load_scoring_model(t5_path)
    assert scoring.fingerprint == model.fingerprint


def test_a_t5_becomes_an_encoder(t5_path):
    model = load_reranker(t5_path, head="enc")
    assert model.config.head == "enc"
    assert sorted(model.params) == ["encoder", "score_head", "token_embedder"]
    with pytest.raises(InputError, match="head 'enc', which reads no vocabulary"):
        load_reranker(t5_path, head="enc", target_token="<extra_id_10>")
    other = load_reranker(t5_path, head="enc", seed=1)
    assert other.fingerprint != model.fingerprint
    assert_same_params(other.params["encoder"], model.params["encoder"])


def test_an_encoder_decoder_becomes_an_encoder_by_training_alone(tmp_path):
    save_model(tmp_path / "model", tiny_reranker("encdec", tmp_path / "words"))
    model = load_reranker(tmp_path / "model", head="enc")
    assert sorted(model.params) == ["encoder", "score_head", "token_embedder"]
    other = load_reranker(tmp_path / "model", head="enc", seed=1)
    assert other.fingerprint != model.fingerprint
    with pytest.raises(InputError, match="no score_head, which the changes ask for"):
        load_scoring_model(tmp_path / "model", head="enc")
    with pytest.raises(InputError, match="'mean' for the head 'encdec', which pools"):
        load_reranker(tmp_path / "model", changes={"pooling": "mean"})
    save_model(tmp_path / "bert", tiny_reranker("bert", tmp_path / "bert_words"))
    with pytest.raises(InputError, match="no hidden, which the changes ask for"):
        load_scoring_model(tmp_path / "bert", changes={"hidden": "tanh"})


def test_monot5(t5_path):
    tokens = {"target_token": "▁true", "contrast_token": "▁false"}
    model = load_reranker(t5_path, **tokens)
    assert model.config.contrast_id == model.tokenizer.token_to_id("▁false")
    assert model.config.template == MONOT5_TEMPLATE
    plain = {"template": "Query: {query} Document: {document}"}
    assert (
        load_reranker(t5_path, **tokens, changes=plain).config.template
        == plain["template"]
    )
    scores = Reranker(model, mesh=make_mesh(1)).predict([(QUERY, doc) for doc in DOCS])
    assert (scores < 0).all()  # logarithms of probabilities


def test_what_a_t5_is_read_as_is_said(t5_path, capsys):
    load_scoring_model(t5_path, changes={"max_length": 40})
    said = capsys.readouterr().err
    assert said == (
        f"{t5_path}: a T5, read as a reranker: head encdec, token '<extra_id_10>', "
        "template 'Query: {query} Document: {document}', max_length 40, eos True\n"
    )
    load_scoring_model(t5_path, target_token="▁true", contrast_token="▁false")
    said = capsys.readouterr().err
    assert "token '▁true' against '▁false', template 'Query: {query} Docu" in said
    assert said.count("\n") == 1
    save_model(t5_path.parent / "own", load_reranker(t5_path))
    load_scoring_model(t5_path.parent / "own")  # whose files say it
    assert not capsys.readouterr().err


def test_changes_of_none_leave_the_models_own(t5_path, dense_path, tmp_path):
    kinds = {
        "enc": {"pooling": "mean", "eos": False, "max_length": 30},
        "monot5": {"max_length": 30},
        "bert": {"hidden": "tanh", "dropout": 0.3, "max_length": 30},
    }
    for kind, own in kinds.items():
        model = tiny_reranker(kind, tmp_path / "words", **own)
        save_model(tmp_path / kind, model)
        nothing = dict.fromkeys(
            field.name for field in dataclasses.fields(model.config)
        ) | dict.fromkeys(["backbone.dtype", "backbone.remat"])  # fmt: skip
        for load in (load_reranker, load_scoring_model):
            found = load(tmp_path / kind, changes=nothing)
            assert found.fingerprint == model.fingerprint
    template = {"template": None, "backbone.dropout_rate": None}
    tokens = {"target_token": "▁true", "contrast_token": "▁false"}
    model = load_reranker(t5_path, **tokens, changes=template)
    assert model.config.template == MONOT5_TEMPLATE
    changes = {"pooling": None, "hidden": None, "max_length": None}
    assert load_reranker(dense_path, changes=changes).config.pooling == "mean"


def test_no_layer_is_dropped_under_a_trained_score(tmp_path):
    model = tiny_reranker("bert", tmp_path / "words")
    backbone = dataclasses.replace(model.config.backbone, pooler=True)
    config = dataclasses.replace(model.config, backbone=backbone)
    params = init_params(config, jax.random.key(0))
    pooled = model_from_parts("rank_bert", config, params, model.tokenizer)
    save_model(tmp_path / "pooled", pooled)
    changes = {"backbone.pooler": False, "pooling": "mean"}
    message = "pooled: changes that drop backbone/pooler under the score trained over"
    for load in (load_reranker, load_scoring_model):
        with pytest.raises(InputError, match=message):
            load(tmp_path / "pooled", changes=changes)


def test_changes_reach_the_backbone(t5_path):
    changes = {"max_length": 384, "backbone.dtype": "bfloat16", "eos": False}
    model = load_reranker(t5_path, changes=changes)
    assert (model.config.max_length, model.config.eos) == (384, False)
    assert model.config.backbone.dtype == "bfloat16"
    assert load_scoring_model(t5_path, changes=changes).fingerprint == model.fingerprint


def test_a_cross_encoder_stays_itself(tmp_path):
    for kind in ("bert", "encdec", "enc"):
        model = tiny_reranker(kind, tmp_path / "words")
        place = tmp_path / kind
        save_model(place, model)
        for load in (load_reranker, load_scoring_model):
            found = load(place)
            assert found.fingerprint == model.fingerprint
        shorter = load_reranker(place, changes={"max_length": 20})
        assert shorter.config.max_length == 20
        assert_same_params(shorter.params, model.params)
    whole = load_reranker(tmp_path / "encdec", target_token="<extra_id_3>")
    token = whole.tokenizer.token_to_id("<extra_id_3>")
    assert whole.config.target_id == token
    assert "decoder" not in load_reranker(tmp_path / "encdec", head="enc").params


def test_a_bi_encoder_becomes_a_cross_encoder(dense_path, make_tiny_model):
    model = load_reranker(dense_path)
    assert (model.kind, model.config.pooling) == ("rank_bert", "mean")
    assert model.config.max_length == 64  # what its positions allow
    encoder = make_tiny_model().params["shared"]["backbone"]
    assert_same_params(model.params["backbone"], encoder)
    assert load_reranker(dense_path, changes={"pooling": "cls"}).config.pooling == "cls"
    scored = load_scoring_model(dense_path, changes={"doc_length": 20})
    assert (scored.kind, scored.config.doc_length) == ("dense", 20)


def test_a_masked_language_model_becomes_a_cross_encoder(masked_path):
    model = load_reranker(masked_path, changes={"backbone.dropout": 0.0})
    assert (model.kind, model.config.pooling) == ("rank_bert", "cls")
    assert model.config.backbone.dropout == 0.0
    assert Reranker(model, mesh=make_mesh(1)).predict([(QUERY, "sea")]).shape == (1,)


# Mistakes ---------------------------------------------------------------------


def test_tokens_that_are_not_in_the_vocabulary(t5_path):
    with pytest.raises(InputError, match="target_token: 'yes' is not in the vocabular"):
        load_reranker(t5_path, target_token="yes")
    with pytest.raises(InputError, match=r"contrast_token: 'false' .*write '▁false'"):
        load_reranker(t5_path, contrast_token="false", target_token="▁true")
    with pytest.raises(InputError, match="not in the vocabulary"):
        load_scoring_model(t5_path, target_token="<extra_id_99>")


def test_options_of_another_kind(dense_path, t5_path):
    with pytest.raises(InputError, match="head: 'enc' for a model of kind 'dense'; ex"):
        load_reranker(dense_path, head="enc")
    with pytest.raises(
        InputError, match="target_token: 'x' for a model of kind 'dense"
    ):
        load_scoring_model(dense_path, target_token="x")
    with pytest.raises(InputError, match=r"RankT5Config.head: 'dec'; expected one of"):
        load_reranker(t5_path, head="dec")
    with pytest.raises(InputError, match="colour: no such field"):
        load_reranker(t5_path, changes={"colour": 1})


def test_models_that_are_not_trained_to_score(masked_path, t5_path):
    with pytest.raises(
        InputError, match="'masked_lm', which does not score pairs; exp"
    ):
        load_scoring_model(masked_path)
    with pytest.raises(InputError, match="head: 'enc' over a T5 without a score head"):
        load_scoring_model(t5_path, head="enc")
    with pytest.raises(InputError, match="a model of kind 't5' as a scorer"):
        Reranker(tiny_t5(t5_path.parent / "words"))


def test_an_encoder_alone_is_to_be_trained(t5_path, tmp_path):
    whole = tiny_t5(tmp_path / "words")
    encoder = {name: whole.params[name] for name in ("encoder", "token_embedder")}
    place = tmp_path / "encoder"
    export_t5(whole.config, encoder, place, tokenizer=whole.tokenizer)
    message = (
        "encoder: a T5's encoder without a score head; expected a model that was "
        r"trained to score; train it on lists first, .* 'enc' \(jaxir train --gin_file"
    )
    for head in (None, "enc"):
        with pytest.raises(InputError, match=message):
            load_scoring_model(place, head=head)
    assert "score_head" in load_reranker(place, head="enc").params


def test_two_towers(make_tiny_model, tmp_path):
    save_model(tmp_path / "two", make_tiny_model(towers="separate"))
    with pytest.raises(
        InputError, match="a bi-encoder of two towers; expected one enc"
    ):
        load_reranker(tmp_path / "two")


def test_a_kind_that_cannot_become_one(tmp_path):
    model = tiny_t5(tmp_path)._replace(kind="hyper", path="models/h")
    with pytest.raises(InputError, match="models/h: a model of kind 'hyper'; expected"):
        reranker._as_reranker(model, {}, 0)


# Use --------------------------------------------------------------------------


@pytest.fixture(params=["encdec", "bert"])
def model(request, tmp_path):
    return tiny_reranker(request.param, tmp_path)


def test_rank(model):
    scorer = PairScorer(model.config, model.params, model.tokenizer, mesh=make_mesh(1))
    scores = scorer([(QUERY, doc) for doc in DOCS])
    use = Reranker(model, mesh=make_mesh(1))
    ranked = use.rank(QUERY, DOCS)
    order = np.argsort(-scores, kind="stable").tolist()
    assert [result["corpus_id"] for result in ranked] == order
    assert [result["text"] for result in ranked] == [DOCS[i] for i in order]
    np.testing.assert_allclose([r["score"] for r in ranked], scores[order], atol=1e-5)
    assert type(ranked[0]["score"]) is float
    best = use.rank(QUERY, DOCS, top_k=2, return_documents=False)
    assert best == [{k: r[k] for k in ("corpus_id", "score")} for r in ranked[:2]]
    assert use.rank(QUERY, []) == []
    assert len(use.rank(QUERY, DOCS, top_k=99)) == len(DOCS)


def test_documents_in_another_order(model):
    use = Reranker(model, mesh=make_mesh(1))
    order = [3, 0, 4, 2, 1]
    ranked = use.rank(QUERY, DOCS)
    shuffled = use.rank(QUERY, [DOCS[i] for i in order])
    by_text = {result["text"]: result["score"] for result in shuffled}
    for result in ranked:
        assert result["score"] == pytest.approx(by_text[result["text"]], abs=1e-5)


def test_equal_documents_keep_their_order(model):
    ranked = Reranker(model, mesh=make_mesh(1)).rank(QUERY, ["sea"] * 4)
    assert [result["corpus_id"] for result in ranked] == [0, 1, 2, 3]


def test_documents_with_titles(model):
    use = Reranker(model, mesh=make_mesh(1))
    documents = [
        {"title": "river", "text": "banks of clay"},
        {"title": None, "text": "bread"},
        {"text": "sea"},
        {"title": "river", "text": None},
        {"text": None},
    ]
    texts = ["river banks of clay", "bread", "sea", "river", ""]
    assert use.rank(QUERY, documents) == use.rank(QUERY, texts)
    with pytest.raises(InputError, match="documents: one text; expected a list of tex"):
        use.rank(QUERY, "sea")
    with pytest.raises(InputError, match="pairs: one pair; expected a list of pairs; "):
        inspect.unwrap(Reranker.predict)(use, ("to", "be"))  # without executed types
    with pytest.raises(InputError, match="document 1: keys title; expected 'text'"):
        use.rank(QUERY, [documents[0], {"title": "x"}])
    with pytest.raises(InputError, match="document 0: keys none"):
        use.predict([(QUERY, {})])


def test_predict(model):
    use = Reranker(model, mesh=make_mesh(1))
    pairs = [(query, doc) for doc in DOCS for query in (QUERY, "yeast")]
    scorer = PairScorer(model.config, model.params, model.tokenizer, mesh=make_mesh(1))
    found = use.predict(pairs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scorer(pairs), atol=1e-5)
    assert use.predict([]).shape == (0,)


def test_by_path(tmp_path):
    model = tiny_reranker("bert", tmp_path / "words")
    save_model(tmp_path / "saved", model)
    found = Reranker(tmp_path / "saved").rank(QUERY, DOCS)
    assert len(found) == len(DOCS)


def test_no_results_wanted(model):
    with pytest.raises(InputError, match="top_k: 0; expected at least 1"):
        Reranker(model, mesh=make_mesh(1)).rank(QUERY, DOCS, top_k=0)
