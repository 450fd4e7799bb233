"""fit: from a collection to a model directory, resumed exactly, validated."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_rerankers import tiny_reranker

from jaxir import fit, validate
from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.data.collection import open_collection
from jaxir.data.pipeline import PipelineConfig
from jaxir.dense.model import DenseConfig
from jaxir.dense.task import DenseLoss
from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig
from jaxir.text import load_tokenizer
from jaxir.train.config import TrainConfig
from jaxir.train.optimizers import OptimizerConfig

VALIDATION = validate.ValidationConfig(split="test", max_docs=8)


def run(model, collection, place, *, steps, save_every=1, **changes):
    return fit.fit(
        fit.pretrained(str(model)),
        str(collection),
        model_dir=place,
        loss=DenseLoss(temperature=0.1),
        pipeline=PipelineConfig(batch_size=8, list_size=1, query_buckets=1),
        optimizer=OptimizerConfig(learning_rate=5e-3, schedule="constant", warmup=1),
        loop=TrainConfig(total_steps=steps, save_every=save_every, eval_every=steps),
        **changes,
    )


def leaves(params):
    return jax.tree.leaves(jax.tree.map(np.asarray, params))


@pytest.mark.slow
def test_training_helps_and_is_saved(tiny_model, tiny_collection, tmp_path):
    result = run(tiny_model, tiny_collection, tmp_path / "out", steps=30,
                 validation=VALIDATION, command="the test")  # fmt: skip
    loaded = load_model(str(tmp_path / "out"))
    assert loaded.fingerprint == result.model.fingerprint
    for ours, theirs in zip(
        leaves(result.model.params), leaves(loaded.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    collection = open_collection(str(tiny_collection))
    before = validate.make_validation(
        fit.pretrained(str(tiny_model)), collection, VALIDATION
    )(load_model(str(tiny_model)).params)
    assert result.metrics["nDCG@10"] > before["nDCG@10"]
    assert "the test" in (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert result.compilations == 1


@pytest.mark.slow
def test_continuing_is_exact(tiny_model, tiny_collection, tmp_path, stop_training):
    whole = run(tiny_model, tiny_collection, tmp_path / "whole", steps=6)
    with stop_training():
        run(tiny_model, tiny_collection, tmp_path / "part", steps=6)
    part = run(tiny_model, tiny_collection, tmp_path / "part", steps=6)
    for ours, theirs in zip(
        leaves(whole.model.params), leaves(part.model.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_changes_reach_nested_fields(tiny_model):
    model = fit.pretrained(str(tiny_model), {"doc_length": 12, "backbone.dropout": 0.0})
    assert model.config.doc_length == 12
    assert model.config.backbone.dropout == 0.0
    assert model.fingerprint != load_model(str(tiny_model)).fingerprint
    message = (
        r"a model of kind .dense. does not .*dropuot: no such field; expected one of"
    )
    with pytest.raises(InputError, match=message):
        fit.pretrained(str(tiny_model), {"backbone.dropuot": 0.0})


def test_a_tokenizer_larger_than_the_table(tiny_tokenizer):
    size = load_tokenizer(tiny_tokenizer).vocab_size
    tiny = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 8}
    short = DenseConfig(BertConfig(vocab_size=size - 1, **tiny))
    message = f"token ids up to {size - 1}; expected at most {size - 2}, as the model's"
    message += f" table has {size - 1} rows; raise the model's vocab_size"
    with pytest.raises(InputError, match=message):
        fit.initialized("dense", short, str(tiny_tokenizer))
    whole = DenseConfig(BertConfig(vocab_size=size, **tiny))
    assert fit.initialized("dense", whole, str(tiny_tokenizer)).kind == "dense"


def test_relative_paths(tiny_model, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    model = load_model(tiny_model.name)
    save_model("copy", model)
    assert load_model("copy").fingerprint == model.fingerprint


def test_one_tower_becomes_two_and_never_back(tiny_model):
    model = fit.pretrained(str(tiny_model), {"towers": "separate"})
    assert sorted(model.params) == ["doc", "query"]
    from jaxir.dense.model import adapt_params

    with pytest.raises(InputError, match="two trained towers cannot become one"):
        adapt_params(
            model.config,
            model.params,
            dataclasses.replace(model.config, towers="shared"),
        )


def test_sample_is_fixed_and_holds_the_judged(tiny_collection):
    collection = open_collection(str(tiny_collection))
    config = validate.ValidationConfig(split="test", max_queries=2, max_docs=9)
    one = validate.draw_sample(collection, config)
    two = validate.draw_sample(collection, config)
    np.testing.assert_array_equal(one.doc_rows, two.doc_rows)
    assert len(one.queries) == 2
    assert len(one.doc_rows) == 9
    judged = {d for grades in one.qrels.values() for d in grades}
    assert judged <= {collection.docs.doc_id(int(row)) for row in one.doc_rows}


def test_sample_without_relevant_documents(tiny_collection):
    path = tiny_collection / "qrels" / "none.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq-river-test\triver0\t0\n")
    collection = open_collection(str(tiny_collection))
    with pytest.raises(InputError, match="no query with a relevant document"):
        validate.draw_sample(collection, validate.ValidationConfig(split="none"))


def test_a_run_goes_on_as_the_same_run_alone(tiny_model, tiny_collection, tmp_path):
    start, out = fit.pretrained(str(tiny_model)), tmp_path / "out"

    def train(model=start, steps=1, **loss):
        return fit.fit(
            model, str(tiny_collection), model_dir=out, loss=DenseLoss(**loss),
            pipeline=PipelineConfig(batch_size=8, list_size=1),
            loop=TrainConfig(total_steps=steps),
        )  # fmt: skip

    train()
    written = (out / "model.json").read_bytes()
    moved = jax.tree.map(lambda x: x + 1, start.params)
    dropout = dict.fromkeys(["backbone.dropout", "backbone.attention_dropout"], 0.3)
    for model, loss, message in (
        (start, {"temperature": 0.5}, r"run\.json: a run with another loss; expected"),
        (start._replace(params=moved), {}, "a run with another start; expected what"),
        (fit.pretrained(str(tiny_model), dropout), {}, "another configuration; expec"),
    ):
        with pytest.raises(InputError, match=message):
            train(model, steps=2, **loss)
    assert (out / "model.json").read_bytes() == written
    same = fit.pretrained(str(tiny_model), {"backbone.remat": True})
    assert train(same, steps=2).step == 2


@pytest.mark.slow
def test_a_teacher_alone_can_teach(tiny_model, tiny_collection, tmp_path, capsys):
    lists = tmp_path / "lists.jsonl"
    docs = [{"doc_id": f"river{i}", "score": 2.0 * i} for i in range(3)]
    lists.write_text(
        (json.dumps({"query_id": "q-river-train", "items": docs}) + "\n") * 8
    )

    def train(**weights):
        return fit.fit(
            fit.pretrained(str(tiny_model)), str(tiny_collection),
            model_dir=tmp_path / "out", loss=DenseLoss(**weights),
            lists=fit.ListSource(path=str(lists)),
            pipeline=PipelineConfig(batch_size=8, list_size=3),
            optimizer=OptimizerConfig(warmup=0),
            loop=TrainConfig(total_steps=1, log_every=1),
        )  # fmt: skip

    with pytest.raises(InputError, match="no positive in any of 8 training lists"):
        train(kl=1.0)  # beside the contrast, which needs one
    assert not (tmp_path / "out").exists()
    train(contrastive=0.0, kl=1.0)
    (line, *_) = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["kl"] > 0
    assert "left out" not in capsys.readouterr().err


@pytest.mark.slow
def test_split_parameters_train_as_whole_ones(tiny_collection, tmp_path):
    model = tiny_reranker("encdec", tmp_path / "tokenizer")
    losses = []
    for name, partition in (
        ("whole", fit.PartitionConfig()),
        ("split", fit.PartitionConfig(model_parallel=2)),
        ("everywhere", fit.PartitionConfig(model_parallel=2, fully_sharded=True)),
    ):
        place = tmp_path / name
        fit.fit(
            model, str(tiny_collection), model_dir=place,
            pipeline=PipelineConfig(batch_size=8, list_size=3, seed=1),
            loop=TrainConfig(total_steps=3, log_every=1), partition=partition,
        )  # fmt: skip
        lines = map(json.loads, (place / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if line["kind"] == "train"])
    assert len(losses[0]) == 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)


def test_what_cannot_be_split_says_so(make_tiny_model, tiny_collection, tmp_path):
    with pytest.raises(InputError, match="a model of kind 'dense'; expected a T5"):
        fit.fit(
            make_tiny_model(), str(tiny_collection), model_dir=tmp_path / "out",
            partition=fit.PartitionConfig(model_parallel=2),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_cut_pairs_are_counted_and_told(tiny_collection, tmp_path, capsys):
    model = tiny_reranker("enc", tmp_path / "words", max_length=12)

    def train(place):
        return fit.fit(
            model, str(tiny_collection), model_dir=tmp_path / place,
            pipeline=PipelineConfig(batch_size=8, list_size=2),
            optimizer=OptimizerConfig(warmup=0), loop=TrainConfig(total_steps=1),
        )  # fmt: skip

    result = train("short")
    assert result.cut_docs == 16  # all of the one batch, nothing of those read ahead
    told = f"{result.cut_docs:,} pairs were cut at the document, {result.cut_queries:,}"
    assert capsys.readouterr().err.count(told) == 1
    config = dataclasses.replace(model.config, max_length=64)
    model = model._replace(config=config)
    result = train("long")
    assert (result.cut_docs, result.cut_queries) == (0, 0)
    assert "were cut" not in capsys.readouterr().err
