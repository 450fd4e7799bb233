"""The model directory: there and back, whole or absent, and everything it refuses."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from tiny import WORDS, tiny_backbone
from tiny_rerankers import t5_tokenizer

from jaxir.checkpoints.cross_encoder import export_cross_encoder
from jaxir.checkpoints.model_dir import (
    FORMAT_VERSION,
    Model,
    fingerprint,
    load_model,
    model_from_parts,
    save_model,
)
from jaxir.checkpoints.sentence_transformers import export_sentence_transformer
from jaxir.checkpoints.t5_huggingface import export_t5
from jaxir.checkpoints.t5x import write_t5x
from jaxir.dense.model import DenseConfig, init_params
from jaxir.errors import InputError
from jaxir.nn.t5 import T5Config
from jaxir.nn.t5 import init_params as t5_params
from jaxir.rank.model import CrossEncoderConfig
from jaxir.rank.model import init_params as init_reranker

TINY = tiny_backbone(WORDS)
CONFIG = DenseConfig(TINY, query_length=12, doc_length=12, query_template="a {text}")


@pytest.fixture
def model(tokenizer) -> Model:
    params = init_params(CONFIG, jax.random.key(0))
    return model_from_parts("dense", CONFIG, params, tokenizer)


@pytest.fixture
def folder(model, tmp_path):
    save_model(tmp_path / "model", model)
    return tmp_path / "model"


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("towers", ["shared", "separate"])
def test_what_is_written_is_read_again(towers, tokenizer, tmp_path):
    config = dataclasses.replace(CONFIG, towers=towers)
    params = init_params(config, jax.random.key(0))
    model = model_from_parts("dense", config, params, tokenizer)
    written = save_model(tmp_path / "model", model)
    found = load_model(tmp_path / "model", kind="dense")
    assert found.config == config
    assert found.path == str(tmp_path / "model")
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    for x, y in zip(*map(jax.tree.leaves, (found.params, params)), strict=True):
        np.testing.assert_array_equal(x, y)
        assert isinstance(x, np.ndarray)
    np.testing.assert_array_equal(
        found.tokenizer.encode(["a river"], 9)[0], tokenizer.encode(["a river"], 9)[0]
    )
    assert written == model.fingerprint == found.fingerprint
    assert fingerprint("dense", found.config, found.params) == written


def test_fingerprint_knows_every_change(model):
    assert len(model.fingerprint) == 64
    cls = dataclasses.replace(CONFIG, pooling="cls")
    assert fingerprint("dense", cls, model.params) != model.fingerprint
    moved = jax.tree.map(lambda x: x, model.params)
    bias = moved["shared"]["backbone"]["layer_0"]["mlp"]["wo"]
    bias["bias"] = bias["bias"] + 1e-7
    assert fingerprint("dense", CONFIG, moved) != model.fingerprint


def test_the_folder_tells_its_story(model, tmp_path):
    save_model(
        tmp_path / "model",
        model,
        operative_config="A = 1\n",
        metrics={"nDCG@10": 0.51234},
        command="jaxir train --gin_file x.gin",
        training_data="medquad:train",
        licence="CC BY 4.0",
    )
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    for part in (
        "| nDCG@10 | 0.5123 |",
        "`jaxir train --gin_file x.gin`",
        "medquad:train",
        "CC BY 4.0",
        "| backbone.hidden_size | `16` |",
        model.fingerprint,
    ):
        assert part in card
    assert (tmp_path / "model" / "operative_config.gin").read_text() == "A = 1\n"
    assert sorted(x.name for x in (tmp_path / "model").iterdir()) == [
        "MODEL_CARD.md",
        "model.json",
        "operative_config.gin",
        "params",
        "tokenizer",
    ]
    save_model(tmp_path / "model", model, card="mine\n")
    assert (tmp_path / "model" / "MODEL_CARD.md").read_text() == "mine\n"


def test_saving_leaves_training_s_files_and_replaces_the_model(model, folder):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "5").write_text("state")
    (folder / "metrics.jsonl").write_text("{}\n")
    double = jax.tree.map(lambda x: 2 * x, model.params)
    written = save_model(folder, model._replace(params=double))
    assert written != model.fingerprint
    assert load_model(folder).fingerprint == written
    assert (folder / "checkpoints" / "5").read_text() == "state"
    assert (folder / "metrics.jsonl").exists()
    assert not list(folder.glob(".saving*"))


def test_a_save_that_fails_leaves_the_old_model(model, folder, monkeypatch):
    def full(self, directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model.tokenizer), "save", full)
    with pytest.raises(InputError, match="no space left on the device"):
        save_model(folder, model)
    monkeypatch.undo()
    assert load_model(folder).fingerprint == model.fingerprint
    assert not list(folder.glob(".saving*"))


def test_other_libraries_folders_are_models_too(model, tmp_path):
    place = tmp_path / "st"
    export_sentence_transformer(CONFIG, model.params, model.tokenizer, place)
    found = load_model(place)
    assert found.fingerprint == model.fingerprint
    assert load_model(f"hf:{place}").fingerprint == model.fingerprint
    (place / "modules.json").unlink()
    bare = load_model(str(place))
    assert bare.config.query_template == "{text}"
    with pytest.raises(InputError, match="of another kind, 'dense'; expected 'rank'"):
        load_model(place, kind="rank")


def rows(tokenizer) -> T5Config:
    """A T5 whose table has a row for each of the tokenizer's tokens."""
    return T5Config(
        vocab_size=tokenizer.vocab_size, emb_dim=8, num_heads=2, head_dim=3,
        mlp_dim=12, num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip


def drawn(init, config):
    """Parameters of a configuration without compiling its initialisers."""
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


@pytest.fixture
def t5(tokenizer):
    config = rows(tokenizer)
    return config, drawn(t5_params, config)


def test_t5_of_t5x_and_of_hugging_face_are_one_model(t5, tokenizer, tmp_path):
    config, params = t5
    place = tmp_path / "t5x" / "checkpoint_7"
    write_t5x(tmp_path / "t5x", params, step=7)
    tokenizer.save(tmp_path / "t5x")  # beside the checkpoint
    export_t5(config, params, tmp_path / "hf", tokenizer=tokenizer)
    wanted = model_from_parts("t5", config, params, tokenizer)
    for spec in (
        f"t5x:{tmp_path / 't5x'}",
        f"t5x:{place}",
        f"t5x:{place / 'checkpoint'}",
        f"hf:{tmp_path / 'hf'}",
        str(tmp_path / "hf"),
    ):
        found = load_model(spec, kind="t5")
        assert (found.kind, found.path) == ("t5", spec)
        assert found.fingerprint == wanted.fingerprint
        assert found.tokenizer.fingerprint == tokenizer.fingerprint
    save_model(tmp_path / "own", found)
    assert load_model(tmp_path / "own", kind="t5").fingerprint == wanted.fingerprint
    with pytest.raises(InputError, match="of another kind, 't5'; expected 'dense'"):
        load_model(tmp_path / "hf", kind="dense")


def test_a_tokenizer_may_lie_elsewhere(tokenizer, folder, tmp_path):
    given = tmp_path / "words"
    params = drawn(t5_params, rows(t5_tokenizer(given)))
    write_t5x(tmp_path / "deep" / "t5x", params)
    spec = f"t5x:{tmp_path / 'deep' / 't5x'}"
    with pytest.raises(
        InputError, match=r"no tokenizer in its folder or beside it; ex"
    ):
        load_model(spec)
    assert load_model(spec, tokenizer=given).tokenizer.name == str(given)
    tokenizer.save(tmp_path / "deep" / "t5x" / "tokenizer")
    assert load_model(spec).tokenizer.fingerprint == tokenizer.fingerprint
    given = tmp_path / "vocabulary"
    assert load_model(folder, tokenizer=given).tokenizer.name == str(given)
    with pytest.raises(InputError, match="a token before a text; expected a T5's"):
        load_model(spec, tokenizer=given)


def test_a_tokenizer_of_more_tokens_than_rows_is_refused(t5, folder, tmp_path):
    _, params = t5
    (tmp_path / "large").mkdir()
    words = "\n".join([*WORDS.split(), "one", "more"])
    (tmp_path / "large" / "vocab.txt").write_text(words + "\n")
    write_t5x(tmp_path / "t5x", params)
    t5_tokenizer(tmp_path / "larger")
    for spec, name in ((f"t5x:{tmp_path / 't5x'}", "larger"), (str(folder), "large")):
        with pytest.raises(
            InputError, match=r"a tokenizer of \d+ tokens; expected at most 11"
        ):
            load_model(spec, tokenizer=tmp_path / name)


def test_a_classifier_with_one_label_is_a_reranker(tokenizer, tmp_path):
    backbone = dataclasses.replace(TINY, pooler=True)
    config = CrossEncoderConfig(backbone, max_length=12)
    params = drawn(init_reranker, config)
    export_cross_encoder(config, params, tmp_path / "hf", tokenizer=tokenizer)
    found = load_model(tmp_path / "hf", kind="rank_bert")
    assert found.config == config
    wanted = model_from_parts("rank_bert", config, params, tokenizer)
    assert found.fingerprint == wanted.fingerprint
    save_model(tmp_path / "own", found)
    assert load_model(tmp_path / "own").fingerprint == wanted.fingerprint


def test_another_architecture_is_one_line_with_the_difference(folder, tmp_path):
    params = load_model(folder).params["shared"]["backbone"]
    write_t5x(tmp_path / "t5x", params)
    with pytest.raises(InputError, match="weights do not fit: - decoder/") as caught:
        load_model(f"t5x:{tmp_path / 't5x'}")
    assert "+ embeddings/norm/bias [16]" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_minilm_loads_and_survives(minilm_path, tmp_path):
    model = load_model(minilm_path)
    save_model(tmp_path / "minilm", model)
    found = load_model(tmp_path / "minilm")
    assert fingerprint("dense", found.config, found.params) == model.fingerprint
    assert found.tokenizer.fingerprint == model.tokenizer.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rank5"}, "model.json: kind of model 'rank5'; expected one of dense"),
        (
            {"format_version": FORMAT_VERSION + 1},
            "format_version 2; expected at most 1",
        ),
        ({"architecture": {"width": 3}}, "unknown key width in DenseConfig"),
        (
            {"architecture": {"towers": "separate"}},
            r"params: weights do not fit: - doc/",
        ),
    ],
)
def test_a_description_that_does_not_fit_says_so(change, message, folder):
    edit(folder / "model.json", **change)
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_another_kind_is_refused(folder):
    with pytest.raises(InputError, match="of another kind, 'dense'; expected 'sparse'"):
        load_model(folder, kind="sparse")


@pytest.mark.parametrize("part", ["params", "tokenizer"])
def test_a_missing_part_says_so(part, folder):
    shutil.rmtree(folder / part)
    with pytest.raises(InputError, match=f"{part}/ is missing; expected a whole model"):
        load_model(folder)


def test_damaged_parameters_say_so(folder):
    for path in (folder / "params").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"params: cannot be read"):
        load_model(folder)


def test_a_foreign_or_empty_folder_says_so(folder, tmp_path):
    (folder / "model.json").write_text("[]")
    with pytest.raises(InputError, match="not the description of a jaxir model"):
        load_model(folder)
    (folder / "model.json").unlink()
    with pytest.raises(InputError, match=r"no model here; expected model.json"):
        load_model(folder)
    with pytest.raises(InputError, match="dpr:x: one encoder; expected dpr:QUESTION"):
        load_model("dpr:x")
    with pytest.raises(InputError, match="no such directory"):
        load_model("dpr:x,y")
