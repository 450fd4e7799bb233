"""Cross-encoders: the full network as oracle, heads, pooling, parameters, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.nn import bert, t5
from jaxir.nn.bert import BertConfig, BertEncoder
from jaxir.nn.t5 import T5, T5Config, T5Encoder
from jaxir.rank import model as rank_model
from jaxir.rank.model import (
    CrossEncoderConfig,
    RankT5Config,
    adapt_params,
    init_params,
    params_from_backbone,
)
from jaxir.types import TokenBatch

logit = jax.jit(rank_model.logit, static_argnums=0)
score = jax.jit(rank_model.score, static_argnums=0)
VOCAB = 24
TINY_T5 = T5Config(
    vocab_size=VOCAB, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16,
    num_encoder_layers=2, num_decoder_layers=2,
)  # fmt: skip
TINY_T5_11 = dataclasses.replace(
    TINY_T5, mlp_activations=("gelu", "linear"), logits_via_embedding=False
)
TINY_BERT = BertConfig(
    vocab_size=VOCAB, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=16,
    max_positions=16,
)  # fmt: skip
ENCDEC = RankT5Config(TINY_T5, target_id=21)
MONO = RankT5Config(TINY_T5, target_id=5, contrast_id=9)
ENC = RankT5Config(TINY_T5, head="enc")
CROSS = CrossEncoderConfig(TINY_BERT, max_length=16)
POOLED = CrossEncoderConfig(dataclasses.replace(TINY_BERT, pooler=True), max_length=16)
CONFIGS = {
    "encdec": ENCDEC,
    "encdec 1.1": dataclasses.replace(ENCDEC, backbone=TINY_T5_11),
    "mono": MONO,
    "enc": ENC,
    "enc mean": dataclasses.replace(ENC, pooling="mean"),
    "cross": CROSS,
    "cross mean": dataclasses.replace(CROSS, pooling="mean"),
    "pooler": POOLED,
    "roberta": dataclasses.replace(CROSS, hidden="tanh"),
    "distilbert": dataclasses.replace(CROSS, hidden="relu"),
}
EVERY = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def pairs(rows=3, length=7, seed=0) -> TokenBatch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, length + 1, size=(rows, 1))
    mask = np.arange(length)[None] < lengths
    ids = np.where(mask, rng.integers(1, VOCAB, size=(rows, length)), 0)
    types = (np.arange(length)[None] >= lengths // 2) & mask
    return TokenBatch(
        jnp.asarray(ids, jnp.int32), jnp.asarray(mask), jnp.asarray(types, jnp.int32)
    )


def params_of(config, seed=0):
    """Parameters with heads large enough to matter."""
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(seed))
    if "score_head" not in params:
        return params
    head = jax.tree.map(lambda x: 9 * x + 0.5, params["score_head"])
    return params | {"score_head": head}


def full_logits(config, params, tokens):
    """The whole network's logits at the first decoder position, computed plainly."""
    start = jnp.zeros((tokens.ids.shape[0], 1), jnp.int32)
    network = jax.jit(T5(config.backbone).apply)
    return np.asarray(network({"params": params}, tokens, start)[:, 0])


@pytest.mark.parametrize("name", ["encdec", "encdec 1.1"])
def test_encdec_is_one_logit_of_the_full_network(name):
    config, tokens = CONFIGS[name], pairs()
    params = params_of(config)
    expected = full_logits(config, params, tokens)[:, 21]
    np.testing.assert_allclose(score(config, params, tokens), expected, atol=1e-5)
    encode = jax.jit(rank_model.encode, static_argnums=0)  # each pair apart
    rows = [TokenBatch(*(x[i : i + 1] for x in tokens)) for i in range(3)]
    parts = [encode(config, params, row) for row in rows]
    encoded = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    found = jax.jit(rank_model.decode, static_argnums=0)(config, params, encoded)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    other = dataclasses.replace(config, target_id=3)
    np.testing.assert_allclose(
        score(other, params, tokens), full_logits(config, params, tokens)[:, 3],
        atol=1e-5,
    )  # fmt: skip


def test_encdec_has_the_full_networks_gradient():
    params, tokens = params_of(ENCDEC), pairs()
    start = jnp.zeros((3, 1), jnp.int32)

    def plain(params):
        logits = T5(TINY_T5).apply({"params": params}, tokens, start)
        return jnp.sum(jnp.sin(logits[:, 0, 21]))

    def ours(params):
        return jnp.sum(jnp.sin(rank_model.score(ENCDEC, params, tokens)))

    found = jax.jit(jax.grad(ours))(params)
    expected = jax.jit(jax.grad(plain))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected
    )


def test_monot5_is_log_softmax_over_two_words():
    params, tokens = params_of(MONO), pairs()
    logits = full_logits(MONO, params, tokens)
    true, false = np.exp(logits[:, 5]), np.exp(logits[:, 9])
    found = score(MONO, params, tokens)
    np.testing.assert_allclose(found, np.log(true / (true + false)), atol=1e-5)
    # What the losses see ranks alike, and its sigmoid is the probability of "true".
    raw = logit(MONO, params, tokens)
    np.testing.assert_allclose(raw, logits[:, 5] - logits[:, 9], atol=1e-5)
    np.testing.assert_allclose(jax.nn.sigmoid(raw), true / (true + false), atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_enc_is_a_dense_layer_over_the_pooled_encoder(pooling):
    config = dataclasses.replace(ENC, pooling=pooling)
    params, tokens = params_of(config), pairs()
    backbone = {name: params[name] for name in ("token_embedder", "encoder")}
    states = T5Encoder(TINY_T5).apply({"params": backbone}, tokens).states
    expected = by_hand(params, states, tokens.mask, pooling)
    np.testing.assert_allclose(score(config, params, tokens), expected, atol=1e-5)


def by_hand(params, states, mask, pooling, hidden=lambda vector: vector):
    head = jax.tree.map(np.asarray, params["score_head"]["dense"])
    values = []
    for state, kept in zip(np.asarray(states), np.asarray(mask), strict=True):
        vector = state[kept].mean(axis=0) if pooling == "mean" else state[0]
        values.append((hidden(vector) @ head["kernel"] + head["bias"])[0])
    return np.array(values)


@pytest.mark.parametrize("name", ["cross", "cross mean", "roberta", "distilbert"])
def test_cross_encoder_is_a_dense_layer_over_the_pooled_encoder(name):
    config, tokens = CONFIGS[name], pairs()
    params = params_of(config)
    backbone = {"params": params["backbone"]}
    output = BertEncoder(config.backbone).apply(backbone, tokens)

    def hidden(vector):
        if config.hidden is None:
            return vector
        dense = params["hidden"]
        raw = vector @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        return np.tanh(raw) if config.hidden == "tanh" else np.maximum(raw, 0)

    expected = by_hand(params, output.states, tokens.mask, config.pooling, hidden)
    np.testing.assert_allclose(score(config, params, tokens), expected, atol=1e-5)


def in_transformers(family):
    """A tiny sequence classifier of Hugging Face, and how we say the same."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": VOCAB, "num_labels": 1, "initializer_range": 0.5}
    if family == "distilbert":
        config = transformers.DistilBertConfig(
            dim=8, n_layers=2, n_heads=2, hidden_dim=16, max_position_embeddings=16,
            **sizes,
        )  # fmt: skip
        model = transformers.DistilBertForSequenceClassification(config)
        return model, {"hidden": "relu"}, ("pre_classifier", "classifier")
    sizes |= {
        "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 16,
    }  # fmt: skip
    if family == "roberta":
        config = transformers.RobertaConfig(
            max_position_embeddings=18, type_vocab_size=1, pad_token_id=1, **sizes
        )
        model = transformers.RobertaForSequenceClassification(config)
        return model, {"hidden": "tanh"}, ("classifier.dense", "classifier.out_proj")
    config = transformers.BertConfig(max_position_embeddings=16, **sizes)
    return transformers.BertForSequenceClassification(config), {}, (None, "classifier")


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_equals_transformers(family):
    torch = pytest.importorskip("torch")
    from jaxir.checkpoints.huggingface import backbone_config, backbone_params

    torch.manual_seed(0)
    model, fields, (hidden, last) = in_transformers(family)
    model.eval()
    for name in filter(None, (hidden, last)):
        model.get_submodule(name).bias.data += 0.25
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    shape = backbone_config(model.config.to_dict(), where="config")
    shape = dataclasses.replace(shape, pooler=family == "bert")
    config = CrossEncoderConfig(shape, max_length=16, **fields)
    backbone = backbone_params(shape, tensors, where="model")
    params = params_from_backbone(config, backbone, jax.random.key(0))

    def dense(name):
        return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}

    params = params | {"score_head": {"dense": dense(last)}}
    if hidden is not None:
        params = params | {"hidden": dense(hidden)}
    params = jax.tree.map(jnp.asarray, params)
    tokens = pairs()
    # RoBERTa counts positions from the ids that are not padding.
    ids = np.where(tokens.mask, np.maximum(tokens.ids, 2), model.config.pad_token_id)
    tokens = tokens._replace(ids=jnp.asarray(ids, jnp.int32))
    inputs = {"input_ids": ids, "attention_mask": np.asarray(tokens.mask, np.int64)}
    if family == "bert":
        inputs["token_type_ids"] = np.asarray(tokens.type_ids, np.int64)
    else:
        tokens = tokens._replace(type_ids=None)
    with torch.no_grad():
        expected = model(**{k: torch.tensor(v) for k, v in inputs.items()}).logits[:, 0]
    assert np.ptp(expected.numpy()) > 0.01
    np.testing.assert_allclose(
        score(config, params, tokens), expected.numpy(), atol=1e-4
    )


def test_segments_matter_to_bert():
    params, tokens = params_of(CROSS), pairs()
    plain = tokens._replace(type_ids=None)
    difference = score(CROSS, params, tokens) - score(CROSS, params, plain)
    assert np.all(np.abs(difference) > 1e-6)


@EVERY
def test_score_is_float32_under_jit_and_padding_changes_nothing(config):
    params, tokens = params_of(config), pairs()
    expected = score(config, params, tokens)
    assert expected.shape == (3,)
    assert expected.dtype == jnp.float32
    longer = TokenBatch(*(jnp.pad(x, ((0, 0), (0, 4))) for x in tokens))
    found = rank_model.score(config, params, longer)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@EVERY
def test_dropout_is_drawn_from_the_key(config):
    params, tokens = params_of(config), pairs()
    plain = score(config, params, tokens)
    first, again, other = (
        score(config, params, tokens, rng=jax.random.key(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, plain)


def test_bfloat16_gives_float32_scores_nearby():
    for config in (ENCDEC, ENC, CROSS):
        params, tokens = params_of(config), pairs()
        low = dataclasses.replace(
            config, backbone=dataclasses.replace(config.backbone, dtype="bfloat16")
        )
        found = score(low, params, tokens)
        assert found.dtype == jnp.float32
        expected = np.asarray(score(config, params, tokens))
        np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def shapes(params):
    return jax.tree.map(jnp.shape, params)


def test_parameters_of_a_t5():
    whole = t5.init_params(TINY_T5, jax.random.key(0))
    encoder = t5.init_encoder_params(TINY_T5, jax.random.key(0))
    rng = jax.random.key(1)
    same(params_from_backbone(ENCDEC, whole, rng), whole)
    for backbone in (whole, encoder):
        params = params_from_backbone(ENC, backbone, rng)
        assert shapes(params) == shapes(init_params(ENC, rng))
        same(params["encoder"], backbone["encoder"])
    assert shapes(params["score_head"]) == {"dense": {"bias": (1,), "kernel": (8, 1)}}
    with pytest.raises(InputError, match="'encdec' over parameters without a decoder"):
        params_from_backbone(ENCDEC, encoder, rng)


@pytest.mark.parametrize("name", ["cross", "pooler", "roberta"])
@pytest.mark.parametrize("pooler", [False, True])
def test_parameters_of_a_bert(name, pooler):
    config, rng = CONFIGS[name], jax.random.key(1)
    encoder = dataclasses.replace(TINY_BERT, pooler=pooler)
    backbone = bert.init_params(encoder, jax.random.key(0))
    params = params_from_backbone(config, backbone, rng)
    assert shapes(params) == shapes(init_params(config, rng))
    for part in set(params["backbone"]) & set(backbone):
        same(params["backbone"][part], backbone[part])


def test_adapting_keeps_what_both_have():
    whole = params_of(ENCDEC)
    same(adapt_params(ENCDEC, whole, MONO), whole)
    enc = adapt_params(ENCDEC, whole, ENC)
    same(enc["encoder"], whole["encoder"])
    assert shapes(enc) == shapes(init_params(ENC, jax.random.key(0)))
    cross = params_of(CROSS)
    richer = dataclasses.replace(POOLED, hidden="relu")
    grown = adapt_params(CROSS, cross, richer)
    assert shapes(grown) == shapes(init_params(richer, jax.random.key(0)))
    same(grown["score_head"], cross["score_head"])
    same(adapt_params(richer, grown, CROSS), cross)


def test_adapting_rearranges_scanned_layers():
    stacked = dataclasses.replace(
        ENCDEC, backbone=dataclasses.replace(TINY_T5, scan_layers=True)
    )
    params, tokens = params_of(ENCDEC), pairs()
    scanned = adapt_params(ENCDEC, params, stacked)
    np.testing.assert_allclose(
        score(stacked, scanned, tokens), score(ENCDEC, params, tokens), atol=1e-5
    )
    same(adapt_params(stacked, scanned, ENCDEC), params)
    to_enc = dataclasses.replace(stacked, head="enc")
    found = shapes(adapt_params(ENCDEC, params, to_enc))
    assert found == shapes(init_params(to_enc, jax.random.key(0)))


def test_adapting_refuses_what_has_no_meaning():
    with pytest.raises(InputError, match="a 'enc' network cannot become 'encdec'"):
        adapt_params(ENC, params_of(ENC), ENCDEC)
    with pytest.raises(InputError, match="a 'encdec' network cannot become 'bert'"):
        adapt_params(ENCDEC, params_of(ENCDEC), CROSS)
    wide = dataclasses.replace(
        ENCDEC, backbone=dataclasses.replace(TINY_T5, mlp_dim=32)
    )
    with pytest.raises(InputError, match=r"backbone.mlp_dim: 32 for parameters of 16"):
        adapt_params(ENCDEC, params_of(ENCDEC), wide)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "dec"}, "RankT5Config.head: 'dec'; expected one of encdec, enc"),
        ({"pooling": "max"}, "pooling: 'max'; expected one of cls, mean"),
        ({"target_id": VOCAB}, "target_id: 24; expected 0 to 23, the vocabulary"),
        ({"contrast_id": -1}, "contrast_id: -1; expected 0 to 23, the vocabulary"),
        ({"contrast_id": 21}, "21, the target's own id; expected another token"),
        (
            {"head": "enc", "contrast_id": 3},
            "contrast_id: 3 with head 'enc', which has no vocabulary; expected None",
        ),
        ({"max_length": 0}, "max_length: 0 tokens; expected 1 to 1048576, the backb"),
        ({"template": "{document} {query}"}, "expected {query} then {document}"),
        ({"template": "{query}"}, "expected {query} then {document}"),
    ],
)
def test_refuses_what_is_no_rankt5(fields, message):
    with pytest.raises(InputError, match=message):
        RankT5Config(**{"backbone": TINY_T5, "target_id": 21} | fields)


def test_an_encoder_needs_no_target():
    assert RankT5Config(TINY_T5, head="enc").target_id >= VOCAB


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"pooling": "last"},
            "CrossEncoderConfig.pooling: 'last'; expected one of cls",
        ),
        ({"hidden": "gelu"}, "hidden: 'gelu'; expected one of None, tanh, relu"),
        ({"dropout": 1.0}, "dropout: 1.0; expected a rate from 0 to below 1"),
        ({"max_length": 17}, "max_length: 17 tokens; expected 1 to 16, the backbone's"),
        (
            {"backbone": POOLED.backbone, "pooling": "mean"},
            "'mean' over a backbone with a pooler; expected 'cls', the token",
        ),
    ],
)
def test_refuses_what_is_no_cross_encoder(fields, message):
    with pytest.raises(InputError, match=message):
        CrossEncoderConfig(**{"backbone": TINY_BERT, "max_length": 16} | fields)
