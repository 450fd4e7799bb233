"""pretrain: documents alone make a model directory, and resume exactly."""

import json

import jax
import numpy as np
import pytest
from tiny_rerankers import bert_tokenizer
from tiny_rerankers import t5_tokenizer as make_t5_tokenizer

from jaxir import fit, pretrain
from jaxir.checkpoints.masked_lm import export_masked_lm
from jaxir.checkpoints.model_dir import load_model, model_from_parts
from jaxir.cli.config import configured_run, parse_gin
from jaxir.data.masking import MaskConfig
from jaxir.data.spans import SpanConfig
from jaxir.errors import InputError
from jaxir.lm.masked import MaskedLMConfig, init_params
from jaxir.nn.bert import BertConfig
from jaxir.nn.t5 import T5Config
from jaxir.train.config import TrainConfig
from jaxir.train.optimizers import OptimizerConfig

SPANS = SpanConfig(batch_size=8, input_length=16)
ADAM = OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup=1)


@pytest.fixture
def t5_tokenizer(tmp_path):
    make_t5_tokenizer(tmp_path / "t5-tokenizer")
    return tmp_path / "t5-tokenizer"


def t5(tokenizer):
    config = T5Config(
        vocab_size=128, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
        num_encoder_layers=1, num_decoder_layers=1, mlp_activations=("gelu", "linear"),
        logits_via_embedding=False,
    )  # fmt: skip
    return fit.initialized("t5", config, str(tokenizer))


def run(model, collection, place, *, steps, **changes):
    given = {
        "data": SPANS, "holdout": 2, "optimizer": ADAM,
        "loop": TrainConfig(total_steps=steps, save_every=1, eval_every=2),
    }  # fmt: skip
    return pretrain.pretrain(
        model, str(collection), model_dir=place, **(given | changes)
    )


def leaves(params):
    return jax.tree.leaves(jax.tree.map(np.asarray, params))


@pytest.mark.slow
def test_learns_and_is_saved(t5_tokenizer, tiny_collection, tmp_path):
    result = run(t5(t5_tokenizer), tiny_collection, tmp_path / "out", steps=20,
                 command="the test")  # fmt: skip
    loaded = load_model(str(tmp_path / "out"))
    assert loaded.kind == "t5"
    assert loaded.fingerprint == result.model.fingerprint
    for ours, theirs in zip(
        leaves(result.model.params), leaves(loaded.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    losses = [
        line["held_out_loss"]
        for line in map(json.loads, lines)
        if line["kind"] == "eval"
    ]
    assert min(losses) < losses[0] - 0.3
    assert result.metrics["held_out_loss"] == min(losses)  # the lowest is kept
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "the documents of tiny" in card
    assert result.compilations == 1


@pytest.mark.slow
def test_continuing_is_exact(t5_tokenizer, tiny_collection, tmp_path, stop_training):
    model = t5(t5_tokenizer)
    whole = run(model, tiny_collection, tmp_path / "whole", steps=6)
    with stop_training():
        run(model, tiny_collection, tmp_path / "part", steps=6)
    part = run(model, tiny_collection, tmp_path / "part", steps=6)
    for ours, theirs in zip(
        leaves(whole.model.params), leaves(part.model.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_masked_language_model(tiny_tokenizer, tiny_collection, tmp_path):
    backbone = BertConfig(
        vocab_size=64, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32,
        max_positions=32,
    )  # fmt: skip
    model = fit.initialized("masked_lm", MaskedLMConfig(backbone), str(tiny_tokenizer))
    result = run(
        model, tiny_collection, tmp_path / "out", steps=4,
        data=MaskConfig(batch_size=8, input_length=16), holdout=None,
    )  # fmt: skip
    assert result.metrics == {}
    assert load_model(str(tmp_path / "out")).kind == "masked_lm"
    again = pretrain.load_masked_lm(str(tmp_path / "out"))
    assert again.fingerprint == result.model.fingerprint


def test_an_encoder_gets_a_head(tiny_model):
    model = pretrain.load_masked_lm(str(tiny_model), changes={"backbone.dropout": 0.0})
    assert model.kind == "masked_lm"
    assert model.config.backbone.dropout == 0.0
    table = load_model(str(tiny_model)).params["shared"]["backbone"]["embeddings"]
    np.testing.assert_array_equal(
        model.params["backbone"]["embeddings"]["word"]["embedding"],
        table["word"]["embedding"],
    )
    with pytest.raises(InputError, match="a model of kind 't5'; expected a BERT"):
        pretrain.masked_lm_of(model._replace(kind="t5"))
    two = model._replace(kind="dense", params={"query": {}, "doc": {}})
    with pytest.raises(InputError, match="a bi-encoder of two towers"):
        pretrain.masked_lm_of(two)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_hugging_face_is_kept(tied, tmp_path):
    tokenizer = bert_tokenizer(tmp_path)
    backbone = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2,
        intermediate_size=32, max_positions=32,
    )  # fmt: skip
    config = MaskedLMConfig(backbone, tied)
    params = jax.tree.map(np.asarray, init_params(config, jax.random.key(3)))
    model = model_from_parts("masked_lm", config, params, tokenizer)
    folder = tmp_path / "theirs"
    export_masked_lm(config, model.params, folder)
    tokenizer.save(folder)
    read = pretrain.load_masked_lm(str(folder))
    assert read.config == config
    assert read.fingerprint == model.fingerprint
    # What has no head of its own gets a fresh one, of the seed.
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(data | {"architectures": ["BertModel"]})
    )
    fresh = pretrain.load_masked_lm(str(folder), seed=3)
    assert fresh.fingerprint != model.fingerprint


def test_mistakes(t5_tokenizer, tiny_model, tiny_collection, tmp_path):
    model = t5(t5_tokenizer)
    with pytest.raises(InputError, match="a model of kind 'dense'; expected one of t5"):
        run(load_model(str(tiny_model)), tiny_collection, tmp_path / "out", steps=1)
    with pytest.raises(InputError, match="data: MaskConfig; expected SpanConfig"):
        run(model, tiny_collection, tmp_path / "out", steps=1, data=MaskConfig())
    with pytest.raises(InputError, match="holdout: 12 of 12 documents"):
        run(model, tiny_collection, tmp_path / "out", steps=1, holdout=12)
    with pytest.raises(InputError, match=r"batch_size: 99 with \d+ rows of text"):
        run(model, tiny_collection, tmp_path / "out", steps=1,
            data=SpanConfig(batch_size=99, input_length=16))  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": OptimizerConfig(warmup=9)}, "warmup: 9; expected a fraction"),
        ({"optimizer": OptimizerConfig(schedule="x")}, "schedule: 'x'; expected const"),
        ({"optimizer": OptimizerConfig(name="x")}, "name: 'x'; expected adamw"),
        ({"loop": TrainConfig(epochs=1, save_every=0)}, "save_every: 0; expected 1"),
        ({"loop": TrainConfig(total_steps=1, mode="best")}, "mode: 'best'; expected"),
        ({"loop": TrainConfig(epochs=0)}, "total_steps: 0; expected 1 or more"),
        ({"partition": fit.PartitionConfig(model_parallel=3)}, "model_parallel|3"),
    ],
)
def test_settings_come_before_the_texts(
    t5_tokenizer, tmp_path, monkeypatch, changes, message
):
    def opened(*args, **kwargs):
        raise AssertionError("texts were tokenized")

    monkeypatch.setattr(pretrain, "open_chunks", opened)
    with pytest.raises(InputError, match=message):
        run(t5(t5_tokenizer), tmp_path / "absent", tmp_path / "out", steps=8, **changes)
    assert not (tmp_path / "out").exists()


def test_a_file_without_run_trains_on_lists(tmp_path):
    file = tmp_path / "plain.gin"
    lines = ["from __gin__ import dynamic_registration", "from jaxir import fit",
             "fit.fit.split = 'train'"]  # fmt: skip
    file.write_text("\n".join(lines) + "\n")
    parse_gin([str(file)])
    with pytest.raises(TypeError, match="missing"):
        configured_run(fit.fit)()
    file = tmp_path / "wrong.gin"
    file.write_text("RUN = 3\n")
    parse_gin([str(file)])
    with pytest.raises(InputError, match=r"--gin\.RUN: 3; expected a function"):
        configured_run(fit.fit)
