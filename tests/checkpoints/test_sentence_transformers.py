"""Sentence-transformers and DPR: layouts old and new, both ways, recorded vectors."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import tiny_backbone

from jaxir.checkpoints.huggingface import export_backbone
from jaxir.checkpoints.sentence_transformers import (
    export_sentence_transformer,
    load_dpr,
    load_plain_encoder,
    load_sentence_transformer,
)
from jaxir.dense.model import DenseConfig, encode_doc, encode_query, init_params
from jaxir.errors import InputError
from jaxir.text import load_tokenizer, pad_batch

GOLDENS = Path(__file__).parent.parent / "goldens"
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a river of clay engine bread query : title"
TINY = tiny_backbone(WORDS)
CONFIG = DenseConfig(TINY, query_length=12, doc_length=12)
TEXTS = ["a river of clay", "engine", "bread of clay a a a a a a a a a a a a a a a a"]


def written(folder, tokenizer, config=CONFIG, seed=0):
    params = init_params(config, jax.random.key(seed))
    export_sentence_transformer(config, params, tokenizer, folder)
    return params


def edit(path: Path, **changes) -> None:
    data = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(data | changes))


def vectors(model, texts, side="doc", tokenizer=None):
    config = model.config
    tokenizer = tokenizer or load_tokenizer(model.tokenizer_path)
    template, length, encode = {
        "doc": (config.doc_template, config.doc_length, encode_doc),
        "query": (config.query_template, config.query_length, encode_query),
    }[side]
    ids = tokenizer.encode([template.format(text=text) for text in texts], length)
    width = max(map(len, ids))
    batch = pad_batch(ids, length=width, pad_id=tokenizer.pad_id)
    batch = jax.tree.map(jnp.asarray, batch)
    params = jax.tree.map(jnp.asarray, model.params)
    return np.asarray(jax.jit(encode, static_argnums=0)(config, params, batch))


VARIANTS = {
    "plain": CONFIG,
    "cls_dot": dataclasses.replace(CONFIG, pooling="cls", similarity="dot"),
    "max": dataclasses.replace(CONFIG, pooling="max"),
    "last": dataclasses.replace(CONFIG, pooling="last"),
    "projected": dataclasses.replace(
        CONFIG, projection_size=5, projection_activation="tanh"
    ),
    "linear": dataclasses.replace(CONFIG, projection_size=4, similarity="dot"),
    "prompts": dataclasses.replace(
        CONFIG, query_template="query: {text}", doc_template="title {{x}} {text}"
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_written_is_read_again(name, tokenizer, tmp_path):
    config = VARIANTS[name]
    params = written(tmp_path / "st", tokenizer, config)
    found = load_sentence_transformer(tmp_path / "st")
    assert found.config == config
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    for x, y in zip(*map(jax.tree.leaves, (found.params, params)), strict=True):
        np.testing.assert_array_equal(x, y)
    reloaded = load_tokenizer(found.tokenizer_path)
    for x, y in zip(*(t.encode(TEXTS, 9) for t in (reloaded, tokenizer)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_sentence_transformers_gives_the_same_vectors(name, tokenizer, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    written(tmp_path / "st", tokenizer, VARIANTS[name])
    theirs = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    ours = load_sentence_transformer(tmp_path / "st")
    np.testing.assert_allclose(
        vectors(ours, TEXTS, "doc"), theirs.encode_document(TEXTS), atol=1e-5
    )
    np.testing.assert_allclose(
        vectors(ours, TEXTS, "query"), theirs.encode_query(TEXTS), atol=1e-5
    )
    # What the library saves, in its own layout, is the same model again.
    theirs.save_pretrained(str(tmp_path / "again"))
    again = load_sentence_transformer(tmp_path / "again")
    assert again.config == ours.config
    np.testing.assert_allclose(vectors(again, TEXTS), vectors(ours, TEXTS), atol=1e-6)


def test_minilm_gives_sentence_transformers_recorded_vectors(minilm_path):
    spec = importlib.util.spec_from_file_location(
        "make_minilm", GOLDENS / "make_minilm_embeddings.py"
    )
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    model = load_sentence_transformer(minilm_path)
    # Its own length on both sides: ArguAna's queries are as long as documents.
    assert (model.config.query_length, model.config.doc_length) == (256, 256)
    found = vectors(model, recipe.SENTENCES)
    expected = np.load(GOLDENS / "minilm_embeddings.npy")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({}, "mean"),
    ],
)
def test_pooling_of_every_version(pooling, expected, tokenizer, tmp_path):
    written(tmp_path, tokenizer)
    path = tmp_path / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"word_embedding_dimension": 16} | pooling))
    assert load_sentence_transformer(tmp_path).config.pooling == expected


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode": ["cls", "mean"]},
            r"pooling cls \+ mean; expected one of cls, mean, max, lasttoken",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "weightedmean;"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt false"),
        (
            "config_sentence_transformers.json",
            {"similarity_fn_name": "euclidean"},
            "'euclidean'; expected 'cosine' or 'dot'",
        ),
        (
            "config_sentence_transformers.json",
            {"model_type": "SparseEncoder"},
            "model_type SparseEncoder; expected SentenceTransformer",
        ),
        ("config.json", {"model_type": "mpnet"}, "'mpnet'; expected one of bert"),
        (
            "2_Dense/config.json",
            {"activation_function": "torch.x.GELU"},
            "torch.x.GELU",
        ),
        ("2_Dense/config.json", {"use_residual": True}, "no plain projection"),
        (
            "2_Dense/config.json",
            {"out_features": 6},
            r"≠ linear.weight gives \[16, 4\]",
        ),
    ],
)
def test_what_we_do_not_compute_says_so(file, change, message, tokenizer, tmp_path):
    written(tmp_path, tokenizer, VARIANTS["linear"])
    edit(tmp_path / file, **change)
    with pytest.raises(InputError, match=message):
        load_sentence_transformer(tmp_path)


@pytest.mark.parametrize(
    "types", [["Transformer"], ["Transformer", "Pooling", "LSTM"], ["CLIPModel"]]
)
def test_other_modules_say_so(types, tokenizer, tmp_path):
    written(tmp_path, tokenizer)
    modules = [{"type": f"sentence_transformers.models.{t}", "path": ""} for t in types]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match=f"modules {', '.join(types)}; expected Trans"):
        load_sentence_transformer(tmp_path)


def test_a_projection_without_bias_has_zeros(tokenizer, tmp_path):
    written(tmp_path, tokenizer, VARIANTS["linear"])
    edit(tmp_path / "2_Dense" / "config.json", bias=False)
    weights = load_file(tmp_path / "2_Dense" / "model.safetensors")
    del weights["linear.bias"]
    save_file(weights, tmp_path / "2_Dense" / "model.safetensors")
    projection = load_sentence_transformer(tmp_path).params["shared"]["projection"]
    assert not projection["bias"].any()


def test_prompts_under_other_names_and_by_default(tokenizer, tmp_path):
    written(tmp_path, tokenizer)
    path = tmp_path / "config_sentence_transformers.json"
    path.write_text(json.dumps({"prompts": {"query": "q: ", "passage": "p: "}}))
    config = load_sentence_transformer(tmp_path).config
    assert (config.query_template, config.doc_template) == ("q: {text}", "p: {text}")
    settings = {"prompts": {"x": "x: ", "query": ""}, "default_prompt_name": "x"}
    path.write_text(json.dumps(settings))
    config = load_sentence_transformer(tmp_path).config
    assert (config.query_template, config.doc_template) == ("{text}", "x: {text}")
    path.unlink()
    assert load_sentence_transformer(tmp_path).config.query_template == "{text}"


def test_lengths_come_from_whichever_file_states_them(tokenizer, tmp_path):
    written(tmp_path, tokenizer)
    (tmp_path / "sentence_bert_config.json").write_text("{}")
    edit(tmp_path / "tokenizer_config.json", model_max_length=17)
    assert load_sentence_transformer(tmp_path).config.doc_length == 17
    edit(tmp_path / "tokenizer_config.json", model_max_length=10**30)
    config = load_sentence_transformer(tmp_path).config
    assert (config.query_length, config.doc_length) == (24, 24)


def test_modules_that_are_none_say_so(tmp_path):
    for content in ("{}", '[{"path": ""}]', "[1]"):
        (tmp_path / "modules.json").write_text(content)
        with pytest.raises(InputError, match=r"modules.json: (a JSON dict|modules )"):
            load_sentence_transformer(tmp_path)


def test_lower_case_is_never_ignored(tmp_path, tokenizer):
    written(tmp_path, tokenizer)
    edit(tmp_path / "sentence_bert_config.json", do_lower_case=True)
    load_sentence_transformer(tmp_path)  # the tokenizer lowers anyway
    tokens = json.loads((tmp_path / "tokenizer.json").read_text())
    tokens["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
    edit(tmp_path / "tokenizer_config.json", do_lower_case=False)
    with pytest.raises(InputError, match="do_lower_case over a cased tokenizer"):
        load_sentence_transformer(tmp_path)


def test_what_has_no_such_folder_says_so(tokenizer, tmp_path):
    config = dataclasses.replace(CONFIG, towers="separate")
    params = init_params(config, jax.random.key(0))
    with pytest.raises(InputError, match="separate towers; expected one tower"):
        export_sentence_transformer(config, params, tokenizer, tmp_path)
    config = dataclasses.replace(CONFIG, doc_template="{text} .")
    with pytest.raises(InputError, match=r"doc_template: template '{text} \.'"):
        written(tmp_path, tokenizer, config)


def test_a_projection_with_a_norm_has_no_such_folder(tokenizer, tmp_path):
    changes = {"projection_size": 4, "projection_activation": "layer_norm"}
    config = dataclasses.replace(CONFIG, **changes)
    params = init_params(config, jax.random.key(0))
    place = tmp_path / "folder"
    with pytest.raises(InputError, match="'layer_norm'; expected identity or tanh"):
        export_sentence_transformer(config, params, tokenizer, place)
    assert not place.exists()


def test_a_bare_encoder_is_taken_with_mean_pooling(tokenizer, tmp_path, capsys):
    params = written(tmp_path, tokenizer)
    (tmp_path / "modules.json").unlink()
    found = load_plain_encoder(tmp_path)
    assert (found.config.pooling, found.config.similarity) == ("mean", "cosine")
    assert found.config.doc_length == 24
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    assert "mean pooling and cosine" in capsys.readouterr().err


def dpr_folder(folder: Path, name: str, seed: int) -> None:
    backbone = init_params(CONFIG, jax.random.key(seed))["shared"]["backbone"]
    export_backbone(TINY, backbone, folder)
    edit(folder / "config.json", model_type="dpr", projection_dim=0)
    weights = load_file(folder / "model.safetensors")
    prefixed = {f"{name}.bert_model.{key}": array for key, array in weights.items()}
    prefixed[f"{name}.bert_model.pooler.dense.bias"] = np.zeros(16, np.float32)
    save_file(prefixed, folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n")


def test_dpr_becomes_two_towers(tmp_path):
    for number, name in enumerate(("question_encoder", "ctx_encoder")):
        dpr_folder(tmp_path / name, name, number)
    model = load_dpr(tmp_path / "question_encoder", tmp_path / "ctx_encoder")
    assert model.config.towers == "separate"
    assert (model.config.pooling, model.config.similarity) == ("cls", "dot")
    queries, docs = vectors(model, TEXTS, "query"), vectors(model, TEXTS, "doc")
    assert not np.allclose(queries, docs)
    with pytest.raises(InputError, match="one encoder of DPR's two; expected dpr:"):
        load_plain_encoder(tmp_path / "ctx_encoder")


def test_transformers_dpr_gives_the_same_vectors(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    for number, name in enumerate(("question_encoder", "ctx_encoder")):
        dpr_folder(tmp_path / name, name, number)
    model = load_dpr(tmp_path / "question_encoder", tmp_path / "ctx_encoder")
    theirs = transformers.DPRContextEncoder.from_pretrained(tmp_path / "ctx_encoder")
    tokenizer = load_tokenizer(tmp_path / "ctx_encoder")
    for text, found in zip(TEXTS, vectors(model, TEXTS, "doc"), strict=True):
        (ids,) = tokenizer.encode([text], 24)
        with torch.no_grad():
            output = theirs.eval()(torch.tensor(ids[None], dtype=torch.long))
        np.testing.assert_allclose(found, output.pooler_output[0], atol=1e-5)


def test_what_is_not_dpr_says_so(tokenizer, tmp_path):
    dpr_folder(tmp_path / "q", "question_encoder", 0)
    dpr_folder(tmp_path / "c", "ctx_encoder", 1)
    edit(tmp_path / "c" / "config.json", projection_dim=8)
    with pytest.raises(InputError, match="projection_dim 8; expected 0"):
        load_dpr(tmp_path / "q", tmp_path / "c")
    edit(tmp_path / "c" / "config.json", projection_dim=0, hidden_act="relu")
    with pytest.raises(InputError, match="an encoder of another shape"):
        load_dpr(tmp_path / "q", tmp_path / "c")
    edit(tmp_path / "c" / "config.json", model_type="bert")
    with pytest.raises(InputError, match="model_type 'bert'; expected 'dpr'"):
        load_dpr(tmp_path / "q", tmp_path / "c")
