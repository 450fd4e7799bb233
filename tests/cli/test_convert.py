"""``jaxir convert``: round trips, changed configuration, refusals."""

import json

import jax
import pytest
from tiny import tiny_backbone

from jaxir.checkpoints.model_dir import load_model, model_from_parts, save_model
from jaxir.cli import main
from jaxir.cli.convert import convert
from jaxir.dense.model import DenseConfig, init_params
from jaxir.errors import InputError
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
        ("faiss9:x", {}, "TO: 'faiss9:x'; expected one of jaxir:DIR, hf:DIR"),
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
        target = f"{scheme}:{tmp_path / name}" if scheme == "jaxir" else target
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
