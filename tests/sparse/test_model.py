"""Sparse encoders against PyTorch's recorded vectors, and texts of nothing."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.checkpoints.huggingface import backbone_to_huggingface
from jaxir.checkpoints.masked_lm import export_masked_lm, load_masked_lm
from jaxir.checkpoints.weights import read_weights, save_weights
from jaxir.errors import InputError
from jaxir.lm.masked import MaskedLMConfig
from jaxir.nn.bert import BertConfig
from jaxir.sparse.model import (
    SparseConfig,
    adapt_params,
    encode_doc,
    encode_query,
    init_params,
    match,
    pooled_logits,
)
from jaxir.sparse.task import sparsity_loss
from jaxir.types import TokenBatch

GOLDENS = Path(__file__).parent.parent / "goldens"
SPECIAL = (0, 1, 2, 3, 4)
BACKBONES = {
    "bert": BertConfig(
        vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24,
        max_positions=20,
    ),
    "distilbert": BertConfig(
        vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24,
        max_positions=20, type_vocab_size=0, family="distilbert",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDENS / "sparse.npz"))


@pytest.fixture
def tokens(golden):
    return TokenBatch(jnp.asarray(golden["ids"]), jnp.asarray(golden["mask"]))


def config_of(family: str, **changes) -> SparseConfig:
    given = {"special_ids": SPECIAL, "query_length": 16, "doc_length": 16} | changes
    return SparseConfig(BACKBONES[family], **given)


@pytest.fixture
def recorded(tmp_path, golden):
    """``params(family)``: the recorded weights, with the recorded table."""

    def read(family: str):
        stored = dict(np.load(GOLDENS / f"{family}.npz"))
        weights = {
            name.removeprefix("weights/"): np.ascontiguousarray(x)
            for name, x in stored.items()
            if name.startswith("weights/")
        }
        folder = tmp_path / family
        folder.mkdir()
        save_weights(folder / "model.safetensors", weights)
        data = backbone_to_huggingface(BACKBONES[family])
        (folder / "config.json").write_text(json.dumps(data))
        scale = np.maximum(golden["idf"], 0.0)
        params = {**load_masked_lm(folder).params, "idf": {"scale": scale}}
        return jax.tree.map(jnp.asarray, params)

    return read


@pytest.mark.parametrize("pooled", ["all", "words"])
@pytest.mark.parametrize("activation", ["log1p", "log1p_log1p"])
@pytest.mark.parametrize("family", BACKBONES)
def test_documents_equal_pytorch(
    family, activation, pooled, golden, tokens, recorded, tmp_path
):
    config = config_of(family, activation=activation, pool_special=pooled == "all")
    params, case = recorded(family), f"{family}/{activation}/{pooled}"

    def total(params):
        weights = encode_doc(config, params, tokens)
        flops = sparsity_loss(weights[:, None], jnp.ones((len(weights), 1), bool))
        cotangent = jnp.sin(jnp.arange(weights.size)).reshape(weights.shape)
        return jnp.sum(weights * cotangent) + flops, (weights, flops)

    slopes, (weights, flops) = jax.jit(jax.grad(total, has_aux=True))(params)
    np.testing.assert_allclose(weights, golden[f"{case}/weights"], atol=1e-5)
    np.testing.assert_allclose(flops, golden[f"{case}/flops"], rtol=1e-5)
    assert not np.any(weights[:, list(SPECIAL)])
    assert np.all(np.any(weights[:3] > 0, axis=1))
    # A tree of gradients has the names of the weights that they are of.
    parts = {name: slopes[name] for name in ("backbone", "head")}
    export_masked_lm(MaskedLMConfig(config.backbone), parts, tmp_path / "slopes")
    found = read_weights(tmp_path / "slopes")
    names = [name for name in golden if name.startswith(f"{case}/gradients/")]
    assert len(names) >= 4
    for name in names:
        wanted = golden[name]
        ours = found[name.removeprefix(f"{case}/gradients/")]
        np.testing.assert_allclose(
            ours, wanted, atol=1e-5 * np.abs(wanted).max() + 1e-5
        )
    assert not np.any(slopes["idf"]["scale"])


def test_queries_equal_pytorch(golden, tokens, recorded):
    params = recorded("bert")
    found = encode_query(config_of("bert"), params, tokens)
    np.testing.assert_allclose(found, golden["queries"], atol=1e-6)
    assert not np.any(found[3:])
    binary = encode_query(config_of("bert", query="binary"), params, tokens)
    assert set(np.unique(binary)) == {0.0, 1.0}
    assert np.all(binary[found > 0] == 1.0)
    slope = jax.grad(lambda p: jnp.sum(encode_query(config_of("bert"), p, tokens)))(
        params
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope))


def test_a_query_encoder_is_the_documents(tokens, recorded):
    config, params = config_of("bert", query="encoder"), recorded("bert")
    found = encode_query(config, params, tokens)
    np.testing.assert_array_equal(found, encode_doc(config, params, tokens))
    scores = match(config, found, found)
    np.testing.assert_allclose(scores, found @ found.T, rtol=1e-5)


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("activation", ["log1p", "log1p_log1p"])
def test_texts_of_nothing_are_zeros_with_finite_gradients(activation, prior):
    config = config_of("bert", activation=activation, lexical_prior=prior)
    params = init_params(config, jax.random.key(0))
    ids = jnp.asarray([[1, 2, 0], [0, 0, 0], [1, 9, 2]])
    tokens = TokenBatch(ids, jnp.asarray([[1, 1, 0], [0, 0, 0], [1, 1, 1]], bool))

    def total(params):
        docs = encode_doc(config, params, tokens)
        return jnp.sum(jnp.square(docs - 0.5)), docs

    slopes, docs = jax.grad(total, has_aux=True)(params)
    assert not np.any(docs[:2])
    assert np.any(docs[2])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))
    assert not np.any(encode_query(config, params, tokens)[:2])
    assert np.all(np.isneginf(pooled_logits(config, params, tokens)[:2]))


def test_a_lexical_prior_is_a_bonus_for_the_texts_own_words(tokens, recorded):
    config, params = config_of("bert", lexical_prior=True), recorded("bert")
    params["prior"] = {"bias": jnp.float32(0.7)}
    plain = np.asarray(encode_doc(config_of("bert"), params, tokens))
    found = np.asarray(encode_doc(config, params, tokens))
    own = np.asarray(encode_query(config_of("bert", query="binary"), params, tokens))
    np.testing.assert_allclose(
        found, np.log1p(np.expm1(plain) + 0.7 * own), rtol=1e-5, atol=1e-6
    )
    params["prior"] = {"bias": jnp.float32(-0.7)}  # a bonus is no penalty
    np.testing.assert_allclose(encode_doc(config, params, tokens), plain, atol=1e-6)


def test_an_untied_head_begins_as_the_word_table(tokens, recorded):
    config, params = config_of("bert"), recorded("bert")
    apart = dataclasses.replace(config, tied=False)
    untied = adapt_params(config, params, apart)
    np.testing.assert_allclose(
        encode_doc(apart, untied, tokens), encode_doc(config, params, tokens), atol=1e-5
    )
    slope = jax.grad(lambda p: jnp.sum(encode_doc(apart, p, tokens)))(untied)
    assert np.any(slope["head"]["decoder"]["kernel"])
    again = adapt_params(apart, untied, config)
    assert "decoder" not in again["head"]
    shapes = jax.eval_shape(lambda: init_params(apart, jax.random.key(0)))
    assert jax.tree.structure(shapes) == jax.tree.structure(untied)


def test_a_prior_comes_and_goes(recorded):
    config, params = config_of("bert"), recorded("bert")
    prior = dataclasses.replace(config, lexical_prior=True)
    grown = adapt_params(config, params, prior)
    assert float(grown["prior"]["bias"]) == 1.0
    grown["prior"] = {"bias": jnp.float32(3.0)}
    assert float(adapt_params(prior, grown, prior)["prior"]["bias"]) == 3.0
    assert "prior" not in adapt_params(prior, grown, config)
    other = dataclasses.replace(config, backbone=BACKBONES["distilbert"])
    with pytest.raises(InputError, match="sizes that the parameters do not have"):
        adapt_params(config, params, other)


def test_dropout_differs_from_text_to_text(tokens, recorded):
    config, params = config_of("bert"), recorded("bert")
    found = [
        np.asarray(encode_doc(config, params, tokens, rng=key))
        for key in (None, jax.random.key(0), jax.random.key(0), jax.random.key(1))
    ]
    np.testing.assert_array_equal(found[1], found[2])
    assert np.abs(found[0] - found[1]).max() > 0.01
    assert np.abs(found[1] - found[3]).max() > 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "relu"}, r"activation: 'relu'; expected one of log1p, log1p_l"),
        ({"query": "tf"}, r"query: 'tf'; expected one of idf, binary, encoder"),
        ({"doc_length": 21}, r"doc_length: 21 tokens; expected 1 to 20"),
        ({"query_length": 0}, r"query_length: 0 tokens; expected 1 to 20"),
        ({"special_ids": (50,)}, r"special_ids: \(50,\); expected 0 to 49"),
        ({"doc_template": "doc"}, r"doc template: 'doc'; expected \{text\}"),
    ],
)
def test_mistakes_say_so(changes, message):
    with pytest.raises(InputError, match=message):
        config_of("bert", **changes)
