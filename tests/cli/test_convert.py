"""``jaxir convert``: round trips, changed configuration, refusals."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny import tiny_backbone
from tiny_rerankers import t5_tokenizer, tiny_t5

from jaxir.checkpoints.model_dir import load_model, model_from_parts, save_model
from jaxir.checkpoints.t5_huggingface import export_t5
from jaxir.checkpoints.t5x import write_t5x
from jaxir.cli import main
from jaxir.cli.convert import convert
from jaxir.dense.model import DenseConfig, init_params
from jaxir.errors import InputError
from jaxir.families import family
from jaxir.hyper.model import HypencoderConfig
from jaxir.hyper.qnet import QNetSpec
from jaxir.nn.t5 import T5Config
from jaxir.rank.model import CrossEncoderConfig, RankT5Config
from jaxir.rank.tokens import MONOT5_TEMPLATE
from jaxir.text import load_tokenizer

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a river of clay engine bread"
TINY = tiny_backbone(WORDS)


@pytest.fixture
def saved(tmp_path):
    """Saves a model with these towers and gives its folder."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")

    def save(towers: str = "shared"):
        config = DenseConfig(TINY, query_length=12, doc_length=12, towers=towers)
        params = init_params(config, jax.random.key(0))
        model = model_from_parts("dense", config, params, tokenizer)
        save_model(tmp_path / "model", model)
        return tmp_path / "model"

    return save


def test_out_and_in_again_is_the_same_model(saved, tmp_path):
    folder = saved()
    first = convert(f"jaxir:{folder}", f"hf:{tmp_path / 'st'}")
    second = convert(f"hf:{tmp_path / 'st'}", f"jaxir:{tmp_path / 'again'}")
    original = load_model(folder).fingerprint
    assert first["fingerprint"] == second["fingerprint"] == original
    assert second["path"] == str(tmp_path / "again")
    assert load_model(tmp_path / "again").fingerprint == original


def test_separate_towers_become_two_folders(saved, tmp_path):
    convert(str(saved("separate")), f"hf:{tmp_path / 'st'}")
    for side in ("query", "document"):
        assert load_model(tmp_path / "st" / side).config.towers == "shared"


def test_the_command_changes_configuration_and_prints_json(saved, tmp_path, capsys):
    words = ["convert", f"jaxir:{saved()}", f"jaxir:{tmp_path / 'b'}", "--json"]
    words += ["--set", "pooling=cls", "--set", "doc_length=20"]
    assert main.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    model = load_model(tmp_path / "b")
    assert (model.config.pooling, model.config.doc_length) == ("cls", 20)
    assert result["kind"] == "dense"
    assert result["fingerprint"] == model.fingerprint
    card = (tmp_path / "b" / "MODEL_CARD.md").read_text()
    assert "converted from `jaxir:" in card


def test_one_tower_may_become_two(saved, tmp_path):
    changes = {"towers": "separate"}
    convert(str(saved()), f"jaxir:{tmp_path / 'b'}", changes=changes)
    assert set(load_model(tmp_path / "b").params) == {"query", "doc"}
    with pytest.raises(InputError, match="two trained towers cannot become one"):
        convert(str(tmp_path / "b"), "jaxir:x", changes={"towers": "shared"})


def test_a_line_for_a_person(saved, tmp_path, capsys):
    target = f"hf:{tmp_path / 'b'}"
    assert main.main(["convert", f"jaxir:{saved()}", target]) == 0
    assert "dense, 2,584 parameters" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("faiss9:x", {}, "TO: 'faiss9:x'; expected one of jaxir:DIR, hf:DIR, t5x:DIR"),
        ("t5x:new", {}, "FROM: a model of kind 'dense'; expected one of 't5', 'rank_"),
        ("somewhere", {}, "TO: 'somewhere'; expected one of"),
        ("jaxir:new", {"poling": "cls"}, "--set: unknown key poling"),
        (
            "jaxir:new",
            {"projection_size": 4},
            "do not fit: - shared/projection",
        ),
    ],
)
def test_what_cannot_be_converted_says_so(saved, tmp_path, target, changes, message):
    folder = saved()
    if ":" in target:
        scheme, name = target.split(":")
        target = f"{scheme}:{tmp_path / name}" if scheme != "faiss9" else target
    with pytest.raises(InputError, match=message):
        convert(str(folder), target, changes=changes)
    assert not (tmp_path / "new").exists()


def test_mistakes_are_one_line_and_exit_code_two(saved, tmp_path, capsys):
    words = ["convert", f"jaxir:{saved()}", f"jaxir:{tmp_path / 'b'}", "--set", "cls"]
    assert main.main(words) == 2
    assert "--set: 'cls'; expected KEY=VALUE" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    words = ["convert", f"jaxir:{tmp_path / 'model'}", f"hf:{tmp_path / 'full'}"]
    assert main.main(words) == 2
    assert "holds something else than a model" in capsys.readouterr().err
    assert (tmp_path / "full" / "thesis.tex").exists()


T5 = T5Config(
    vocab_size=11, emb_dim=8, num_heads=2, head_dim=3, mlp_dim=12,
    num_encoder_layers=1, num_decoder_layers=1,
)  # fmt: skip
GATED = dataclasses.replace(
    T5, mlp_activations=("gelu", "linear"), logits_via_embedding=False
)
BERT = dataclasses.replace(TINY, pooler=True)
HYPENCODER = HypencoderConfig(
    TINY, QNetSpec(16, (16, 16)), query_length=8, doc_length=12
)


def model_of(kind: str, config, folder):
    """A model of this kind without compiling its initialisers."""
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n")
    init = family(kind).init
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    return model_from_parts(kind, config, params, load_tokenizer(folder / "vocab.txt"))


@pytest.mark.parametrize("scheme", ["jaxir", "hf", "t5x"])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("t5", T5),
        ("t5", GATED),
        ("rank_t5", RankT5Config(T5, target_id=7, max_length=24)),
        ("rank_t5", RankT5Config(T5, target_id=7, head="enc")),
        ("rank_bert", CrossEncoderConfig(BERT, max_length=16)),
        ("hypencoder", HYPENCODER),
    ],
    ids=["t5-1.0", "t5-1.1", "encdec", "enc", "bert", "hypencoder"],
)
def test_other_kinds_there_and_back(scheme, kind, config, tmp_path, capsys):
    model = model_of(kind, config, tmp_path)
    save_model(tmp_path / "model", model)
    target = f"{scheme}:{tmp_path / 'out'}"
    source = f"jaxir:{tmp_path / 'model'}"
    if scheme == "t5x" and kind in ("rank_bert", "hypencoder"):
        with pytest.raises(InputError, match=f"kind '{kind}'; expected one of 't5'"):
            convert(source, target)
        assert not (tmp_path / "out").exists()
        return
    convert(source, target)
    capsys.readouterr()
    convert(source, target)  # what stands there is replaced
    said = capsys.readouterr().err
    lost = scheme == "t5x" and kind == "rank_t5"
    assert ("set anew what was target_id=7" in said) == lost
    again = convert(target, f"jaxir:{tmp_path / 'again'}")
    if scheme == "t5x":  # only the tree: what a reranker adds is to be said anew
        assert again["kind"] == ("rank_t5" if "score_head" in model.params else "t5")
        found = load_model(tmp_path / "again")
        assert jax.tree.all(jax.tree.map(np.array_equal, found.params, model.params))
    else:
        assert (again["kind"], again["fingerprint"]) == (kind, model.fingerprint)


def test_a_hypencoder_names_its_encoder_where_it_will_stand(tmp_path):
    model = model_of("hypencoder", HYPENCODER, tmp_path)
    save_model(tmp_path / "model", model)
    convert(str(tmp_path / "model"), f"hf:{tmp_path / 'hf'}")
    data = json.loads((tmp_path / "hf" / "config.json").read_text())
    encoder = tmp_path / "hf" / "encoder"
    assert data["query_encoder_kwargs"]["model_name_or_path"] == str(encoder)
    assert (encoder / "model.safetensors").is_file()
    changes = {"qnet.norm_eps": 1e-6}
    with pytest.raises(InputError, match=r"hf2: qnet.norm_eps=1e-06; expected 1e-05"):
        convert(str(tmp_path / "model"), f"hf:{tmp_path / 'hf2'}", changes=changes)
    assert not (tmp_path / "hf2").exists()


def test_a_tokenizer_for_a_checkpoint_without_one(tmp_path, capsys):
    tokenizer = t5_tokenizer(tmp_path / "words")
    config = dataclasses.replace(T5, vocab_size=tokenizer.vocab_size)
    model = model_of("t5", config, tmp_path)
    write_t5x(tmp_path / "t5x" / "deep", model.params)
    words = ["convert", f"t5x:{tmp_path / 't5x' / 'deep'}", f"hf:{tmp_path / 'hf'}"]
    assert main.main(words) == 2
    assert "--tokenizer FOLDER" in capsys.readouterr().err
    assert main.main([*words, "--tokenizer", str(tmp_path / "vocab.txt")]) == 2
    assert "expected a T5's, with </s>" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()
    assert main.main([*words, "--tokenizer", str(tmp_path / "words")]) == 0
    assert load_model(tmp_path / "hf").fingerprint == model.fingerprint


def test_a_monot5_becomes_a_reranker_that_says_so(tmp_path):
    t5 = tiny_t5(tmp_path / "words")
    export_t5(t5.config, t5.params, tmp_path / "hf", tokenizer=t5.tokenizer)
    words = ["convert", f"hf:{tmp_path / 'hf'}", f"jaxir:{tmp_path / 'monot5'}"]
    tokens = ["--target_token", "▁true", "--contrast_token", "▁false"]
    assert main.main([*words, *tokens, "--set", "max_length=33"]) == 0
    model, of_name = load_model(tmp_path / "monot5"), t5.tokenizer.token_to_id
    assert model.kind == "rank_t5"
    assert model.config == RankT5Config(
        t5.config, target_id=of_name("▁true"), contrast_id=of_name("▁false"),
        max_length=33, template=MONOT5_TEMPLATE,
    )  # fmt: skip
    again = convert(str(tmp_path / "monot5"), f"hf:{tmp_path / 'again'}")
    assert load_model(tmp_path / "again").fingerprint == again["fingerprint"]


def test_tokens_are_a_t5s(saved, tmp_path):
    with pytest.raises(InputError, match="target_token: 'a' for a model of kind 'den"):
        convert(str(saved()), f"jaxir:{tmp_path / 'b'}", target_token="a")


def test_an_encoder_alone_is_no_directory_of_ours(tmp_path):
    model = model_of("t5", T5, tmp_path)
    encoder = {x: model.params[x] for x in ("token_embedder", "encoder")}
    export_t5(T5, encoder, tmp_path / "hf", tokenizer=model.tokenizer)
    with pytest.raises(InputError, match="weights do not fit: - decoder/"):
        convert(f"hf:{tmp_path / 'hf'}", f"jaxir:{tmp_path / 'own'}")
    assert not (tmp_path / "own").exists()


def test_what_a_killed_conversion_left_is_no_obstacle(saved, tmp_path):
    left = tmp_path / "own" / ".saving.killed" / "params"
    left.mkdir(parents=True)
    convert(f"jaxir:{saved()}", f"jaxir:{tmp_path / 'own'}")
    assert not left.exists()
    assert load_model(tmp_path / "own").kind == "dense"


def test_somebody_s_t5x_training_is_never_replaced(tmp_path):
    model = model_of("t5", T5, tmp_path)
    save_model(tmp_path / "model", model)
    write_t5x(tmp_path / "training", model.params, step=500)
    with pytest.raises(InputError, match="holds something else than a model"):
        convert(str(tmp_path / "model"), f"t5x:{tmp_path / 'training'}")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="holds something else than a model"):
        convert(str(tmp_path / "model"), f"t5x:{tmp_path / 'file'}")


def test_nested_settings_by_their_path(tmp_path):
    model = model_of("rank_t5", RankT5Config(T5, target_id=7), tmp_path)
    save_model(tmp_path / "model", model)
    changes = {"backbone.dropout_rate": 0.5, "max_length": 9}
    convert(str(tmp_path / "model"), f"hf:{tmp_path / 'hf'}", changes=changes)
    config = load_model(tmp_path / "hf").config
    assert (config.backbone.dropout_rate, config.max_length) == (0.5, 9)
    with pytest.raises(InputError, match="unknown key foo in backbone"):
        convert(
            str(tmp_path / "model"), f"hf:{tmp_path / 'x'}", changes={"backbone.foo": 1}
        )


def test_the_model_that_is_read_and_a_training_stay(tmp_path):
    model = model_of("t5", T5, tmp_path)
    save_model(tmp_path / "model", model)
    convert(str(tmp_path / "model"), f"hf:{tmp_path / 'hf'}")
    with pytest.raises(InputError, match="the model that is read; expected another"):
        convert(f"hf:{tmp_path / 'hf'}", f"hf:{tmp_path / 'hf'}")
    (tmp_path / "hf" / "checkpoints").mkdir()
    with pytest.raises(InputError, match="exists and holds a training; expected a"):
        convert(str(tmp_path / "model"), f"hf:{tmp_path / 'hf'}")
