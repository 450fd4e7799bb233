"""Sequence classifiers with one label: both ways, three families, against PyTorch."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.checkpoints.cross_encoder import (
    export_cross_encoder,
    is_cross_encoder,
    load_cross_encoder,
)
from jaxir.checkpoints.rules import flatten
from jaxir.checkpoints.weights import read_weights, save_weights
from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig
from jaxir.pairs import pair_format
from jaxir.rank.model import CrossEncoderConfig, init_params, score
from jaxir.types import TokenBatch

SIZES = {
    "vocab_size": 11,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 24,
    "max_positions": 20,
}
CONFIGS = {
    "bert": CrossEncoderConfig(BertConfig(**SIZES, pooler=True), max_length=12),
    "roberta": CrossEncoderConfig(
        BertConfig(
            **SIZES, family="roberta", type_vocab_size=1, position_offset=2,
            norm_eps=1e-5, pad_id=1,
        ),
        hidden="tanh", max_length=12,
    ),
    "distilbert": CrossEncoderConfig(
        BertConfig(**SIZES, family="distilbert", type_vocab_size=0),
        hidden="relu", max_length=12, dropout=0.2,
    ),
}  # fmt: skip
FAMILIES = pytest.mark.parametrize("family", list(CONFIGS))


def params_of(config: CrossEncoderConfig):
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(0.0, 0.3, x.shape).astype(np.float32), shapes
    )


def check_equal(found, wanted) -> None:
    assert set(flatten(found)) == set(flatten(wanted))
    for path, array in flatten(wanted).items():
        np.testing.assert_array_equal(flatten(found)[path], array, err_msg=path)


def batch_of(config: CrossEncoderConfig) -> TokenBatch:
    mask = np.arange(12)[None, :] < np.array([12, 7, 3])[:, None]
    ids = np.random.default_rng(1).integers(2, 11, (3, 12))
    ids = np.where(mask, ids, config.backbone.pad_id).astype(np.int32)
    types = None
    if config.backbone.type_vocab_size == 2:
        types = jnp.asarray((mask & (np.arange(12) > 4)[None, :]).astype(np.int32))
    return TokenBatch(jnp.asarray(ids), jnp.asarray(mask), types)


def our_scores(config: CrossEncoderConfig, params, batch: TokenBatch) -> np.ndarray:
    return np.asarray(jax.jit(functools.partial(score, config))(params, batch))


def torch_scores(model, batch: TokenBatch) -> np.ndarray:
    import torch

    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
    if batch.type_ids is not None:
        inputs["token_type_ids"] = batch.type_ids
    arrays = {
        k: torch.tensor(np.asarray(v).astype(np.int64)) for k, v in inputs.items()
    }
    with torch.no_grad():
        return model.eval()(**arrays).logits.numpy()[:, 0]


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@FAMILIES
def test_out_and_in_again_is_the_same(family, tokenizer, tmp_path):
    config = CONFIGS[family]
    params = params_of(config)
    place = tmp_path / "a"
    export_cross_encoder(config, params, place, tokenizer=tokenizer)
    assert is_cross_encoder(place)
    found = load_cross_encoder(place)
    assert found.config == config
    check_equal(found.params, params)
    export_cross_encoder(found.config, found.params, tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        again = (tmp_path / "b" / name).read_bytes()
        assert again == (place / name).read_bytes()


@FAMILIES
def test_transformers_gives_the_same_scores(family, tmp_path):
    pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification

    config = CONFIGS[family]
    params = params_of(config)
    export_cross_encoder(config, params, tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.num_labels == 1
    batch = batch_of(config)
    found = our_scores(config, params, batch)
    np.testing.assert_allclose(found, torch_scores(theirs, batch), atol=1e-4, rtol=1e-4)


@FAMILIES
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_what_transformers_saves_is_read(family, form, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification

    export_cross_encoder(CONFIGS[family], params_of(CONFIGS[family]), tmp_path / "a")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a")
    if form == "bin":
        theirs.config.save_pretrained(tmp_path)
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        theirs.save_pretrained(tmp_path)
    config, params = load_cross_encoder(tmp_path)
    assert config == dataclasses.replace(
        CONFIGS[family], max_length=config.backbone.max_length
    )
    batch = batch_of(config)
    found = our_scores(config, params, batch)
    np.testing.assert_allclose(found, torch_scores(theirs, batch), atol=1e-4, rtol=1e-4)


def test_sentence_transformers_cross_encoder_both_ways(tokenizer, tmp_path):
    pytest.importorskip("torch")
    library = pytest.importorskip("sentence_transformers")
    config = CONFIGS["bert"]
    params = params_of(config)
    export_cross_encoder(config, params, tmp_path / "a", tokenizer=tokenizer)
    theirs = library.CrossEncoder(str(tmp_path / "a"))
    wanted = theirs.predict([("a river", "clay bread"), ("engine", "of clay of bread")])
    pairs = pair_format(tokenizer, template=None).encode(
        ["a river", "engine"], ["clay bread", "of clay of bread"], 12
    )
    found = []
    for ids, boundary, _, _ in pairs:
        types = (np.arange(len(ids)) >= boundary).astype(np.int32)
        arrays = (ids, np.ones(len(ids), bool), types)
        batch = TokenBatch(*(jnp.asarray(x)[None] for x in arrays))
        found.append(our_scores(config, params, batch)[0])
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    theirs.save_pretrained(str(tmp_path / "b"))
    assert (tmp_path / "b" / "modules.json").exists()  # as bi-encoders have it
    assert is_cross_encoder(tmp_path / "b")
    again = load_cross_encoder(tmp_path / "b")
    assert again.config == config
    check_equal(again.params, params)


def test_a_tanh_layer_and_a_pooler_are_the_same(tmp_path):
    config = CONFIGS["bert"]
    encoder = dataclasses.replace(config.backbone, pooler=False)
    ours = dataclasses.replace(config, backbone=encoder, hidden="tanh")
    params = params_of(ours)
    export_cross_encoder(ours, params, tmp_path)
    found = load_cross_encoder(tmp_path)
    assert found.config.backbone.pooler
    batch = batch_of(config)
    np.testing.assert_allclose(
        our_scores(ours, params, batch), our_scores(*found, batch), atol=1e-6
    )


def test_which_folders_are_cross_encoders(tmp_path):
    assert not is_cross_encoder(tmp_path)
    export_cross_encoder(CONFIGS["bert"], params_of(CONFIGS["bert"]), tmp_path)
    assert is_cross_encoder(tmp_path)
    # A bi-encoder over a backbone that once was a classifier.
    (tmp_path / "modules.json").write_text("[]")
    assert not is_cross_encoder(tmp_path)
    settings = tmp_path / "config_sentence_transformers.json"
    settings.write_text('{"model_type": "SentenceTransformer"}')
    assert not is_cross_encoder(tmp_path)
    edit(tmp_path / "config.json", architectures=["BertModel"])
    settings.write_text('{"model_type": "CrossEncoder"}')
    assert not is_cross_encoder(tmp_path)


def test_lengths_come_from_the_tokenizer(tmp_path):
    export_cross_encoder(CONFIGS["bert"], params_of(CONFIGS["bert"]), tmp_path)
    assert load_cross_encoder(tmp_path).config.max_length == 20
    path = tmp_path / "tokenizer_config.json"
    for stated, wanted in ((9, 9), (10**30, 20), (None, 20)):
        path.write_text(json.dumps({"model_max_length": stated}))
        assert load_cross_encoder(tmp_path).config.max_length == wanted


def test_more_labels_than_one_say_so(tmp_path):
    export_cross_encoder(CONFIGS["bert"], params_of(CONFIGS["bert"]), tmp_path)
    file = tmp_path / "model.safetensors"
    weights = read_weights(tmp_path)
    three = {
        "classifier.weight": np.zeros((3, 16), np.float32),
        "classifier.bias": np.zeros(3, np.float32),
    }
    save_weights(file, weights | three)
    with pytest.raises(
        InputError, match="a classifier of 3 labels; expected one label"
    ):
        load_cross_encoder(tmp_path)


def test_weights_that_do_not_fit_show_the_difference(tmp_path):
    export_cross_encoder(CONFIGS["bert"], params_of(CONFIGS["bert"]), tmp_path)
    file = tmp_path / "model.safetensors"
    weights = read_weights(tmp_path)
    head = {n: x for n, x in weights.items() if n.startswith("classifier.")}
    rest = {n: x for n, x in weights.items() if n not in head}
    save_weights(file, rest | {"classifier.dense.weight": weights["classifier.weight"]})
    with pytest.raises(
        InputError, match=r"- classifier.bias .*, - classifier.w.*\+ cl"
    ):
        load_cross_encoder(tmp_path)
    pooler = {n: x for n, x in weights.items() if ".pooler." not in n}
    save_weights(file, pooler)
    with pytest.raises(InputError, match=r"do not fit: - pooler.dense.bias"):
        load_cross_encoder(tmp_path)
    edit(tmp_path / "config.json", model_type="electra")
    with pytest.raises(InputError, match="model_type 'electra'; expected one of bert"):
        load_cross_encoder(tmp_path)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("bert", {"hidden": "tanh"}),
        ("roberta", {"hidden": None}),
        ("roberta", {"pooling": "mean"}),
        ("distilbert", {"hidden": "tanh"}),
    ],
)
def test_a_head_without_a_class_of_its_own_says_so(family, change, tmp_path):
    config = dataclasses.replace(CONFIGS[family], **change)
    expected = "which (Bert|Roberta|DistilBert)ForSequenceClassification computes; keep"
    with pytest.raises(InputError, match=expected):
        export_cross_encoder(config, params_of(config), tmp_path)
