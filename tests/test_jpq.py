"""fit_jpq: an index of codes makes a model directory, and resumes exactly."""

import json

import jax
import numpy as np
import pytest
from tiny_jpq import tiny_jpq_index

from jaxir import jpq
from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.cli.config import configured, parse_gin
from jaxir.data.collection import open_collection
from jaxir.data.pipeline import PipelineConfig
from jaxir.dense.task import DenseLoss
from jaxir.errors import InputError
from jaxir.evaluate import evaluate
from jaxir.fit import ListSource
from jaxir.index import BuildOptions, build_index
from jaxir.index_job import PqOptions
from jaxir.pq.model import JpqConfig
from jaxir.pq.task import JpqLoss
from jaxir.search import open_index
from jaxir.train.config import TrainConfig
from jaxir.train.optimizers import OptimizerConfig
from jaxir.validate import ValidationConfig

LOSS = JpqLoss(num_negatives=8, cut=10)
ADAM = OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup=1)


@pytest.fixture
def index(make_tiny_model, tiny_collection, tmp_path):
    return tiny_jpq_index(make_tiny_model(), tiny_collection, tmp_path / "index")


def run(index, collection, place, *, steps=6, model=None, **changes):
    wanted = {
        "loss": LOSS, "optimizer": ADAM, "centroid_learning_rate": 1e-2,
        "pipeline": PipelineConfig(batch_size=8),
        "lists": ListSource(per="positive"),
        "loop": TrainConfig(total_steps=steps, save_every=1, log_every=1),
    }  # fmt: skip
    if model is None:
        model = jpq.load_jpq(index, changes={"backbone.dropout": 0.1})
    return jpq.fit_jpq(
        model, index, str(collection), model_dir=place, **(wanted | changes)
    )


def leaves(params):
    return jax.tree.leaves(jax.tree.map(np.asarray, params))


# --- the model it begins with, and what moves -----------------------------------------


def test_the_model_of_an_index_or_of_a_directory(index, make_tiny_model, tmp_path):
    model = jpq.load_jpq(index, changes={"query_length": 12, "backbone.dropout": None})
    assert (model.kind, model.config.query_length) == ("jpq", 12)
    own = load_model(str(index / "model"))
    assert model.config.backbone == own.config.backbone
    assert jpq.load_jpq(index / "model").fingerprint == own.fingerprint
    save_model(tmp_path / "dense", make_tiny_model())
    with pytest.raises(InputError, match="another kind, 'dense'; expected 'jpq'"):
        jpq.load_jpq(tmp_path / "dense")


def test_rates_of_the_paper():
    expected = {16: 5e-6, 24: 5e-6, 32: 2e-5, 48: 1e-4, 64: 1e-4, 96: 1e-4}
    assert {m: jpq.centroid_rate(m) for m in expected} == expected


def test_the_optimizer_leaves_alone_what_codes_were_made_with():
    config = JpqConfig(subvectors=48)
    found = jpq.joint_optimizer(ADAM, config, LOSS)
    assert [group.learning_rate for group in found.groups] == [0.0, 1e-4]
    assert [group.clip for group in found.groups] == [False, False]
    assert found.groups[1].weight_decay == 0.0
    assert jpq.joint_optimizer(ADAM, config, LOSS, 3.0).groups[1].learning_rate == 3.0
    still = JpqLoss(train_centroids=False)
    assert jpq.joint_optimizer(ADAM, config, still, 3.0).groups[1].learning_rate == 0.0


@pytest.mark.slow
def test_it_trains_and_makes_an_index(index, tiny_collection, tmp_path):
    start = jpq.load_jpq(index)
    result = run(
        index, tiny_collection, tmp_path / "out", steps=30, command="the test",
        loop=TrainConfig(total_steps=30, log_every=5, eval_every=10, eval_first=True),
        validation=ValidationConfig(split="test"),
    )  # fmt: skip
    trained = load_model(str(tmp_path / "out"))
    assert trained.fingerprint == result.model.fingerprint
    for name in ("rotation", "assignment"):
        np.testing.assert_array_equal(
            trained.params["codec"][name], start.params["codec"][name]
        )
    for ours, theirs in zip(
        leaves(trained.params["doc"]), leaves(start.params["doc"]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    moved = np.abs(
        trained.params["codec"]["centroids"] - start.params["codec"]["centroids"]
    )
    assert result.step == 30
    lines = [
        json.loads(line)
        for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    ]
    evaluated = [line for line in lines if line["kind"] == "eval"]
    assert [line["step"] for line in evaluated] == [0, 10, 20, 30]
    best = max(line["nDCG@10"] for line in evaluated)
    assert result.metrics["nDCG@10"] == best
    first, *_, last = (line for line in lines if line["kind"] == "train")
    assert last["loss"] < first["loss"]
    assert {"found", "positive_rank", "reciprocal_rank"} <= last.keys()

    # what validation says of the kept step is what its index gives
    options = BuildOptions(pq=PqOptions(codes=str(index)))
    build_index(str(tmp_path / "out"), None, tmp_path / "new", options=options)
    collection = open_collection(str(tiny_collection))
    searched = open_index(tmp_path / "new").search(collection.queries("test"), k=12)
    measures = evaluate(
        collection.qrels("test"), {"jpq": searched}, metrics=("nDCG@10",)
    )
    assert measures.mean("jpq", "nDCG@10") == pytest.approx(best)
    if best > evaluated[0]["nDCG@10"]:
        assert moved.max() > 1e-3


@pytest.mark.slow
def test_continuing_is_exact(index, tiny_collection, tmp_path, stop_training):
    whole = run(index, tiny_collection, tmp_path / "whole")
    with stop_training():
        run(index, tiny_collection, tmp_path / "part")
    part = run(index, tiny_collection, tmp_path / "part")
    for ours, theirs in zip(
        leaves(whole.model.params), leaves(part.model.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_vectors_and_given_negatives(index, make_tiny_model, tiny_collection, tmp_path):
    build_index(make_tiny_model(), str(tiny_collection), tmp_path / "dense")
    losses = JpqLoss(num_negatives=8, scores="vectors", train_centroids=False)
    result = run(
        index, tiny_collection, tmp_path / "out", steps=2, loss=losses,
        vectors=tmp_path / "dense",
    )  # fmt: skip
    codec = result.model.params["codec"]
    np.testing.assert_array_equal(codec["centroids"], codec["assignment"])
    result = run(
        index, tiny_collection, tmp_path / "given", steps=2,
        loss=JpqLoss(negatives="given", num_negatives=4),
    )  # fmt: skip
    assert result.step == 2


# --- mistakes -------------------------------------------------------------------------


def test_codes_of_another_collection(index, tiny_collection, tmp_path):
    path = tiny_collection / "corpus.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with pytest.raises(
        InputError, match="index: 12 documents of 'tiny' as it was; expected the 11 doc"
    ):
        run(index, tiny_collection, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_codes_of_another_codec(index, make_tiny_model, tiny_collection, tmp_path):
    other = tiny_jpq_index(
        make_tiny_model(), tiny_collection, tmp_path / "other", seed=1
    )
    with pytest.raises(InputError, match="codes of a model with another rotation"):
        run(index, tiny_collection, tmp_path / "out", model=jpq.load_jpq(other))
    with pytest.raises(InputError, match="DenseLoss for a model of kind 'jpq'"):
        run(index, tiny_collection, tmp_path / "out", loss=DenseLoss())
    with pytest.raises(InputError, match="kind 'dense'; expected kind 'jpq'; begin"):
        run(index, tiny_collection, tmp_path / "out", model=make_tiny_model())


def test_what_would_be_ignored_is_refused(index, tiny_collection, tmp_path):
    for changes, message in (
        (
            {"lists": ListSource(candidates="x.trec")},
            "candidates: x.trec with live negatives; expected None",
        ),
        (
            {"vectors": tmp_path / "dense"},
            "dense: vectors for a loss that compares the codes' scores",
        ),
    ):
        with pytest.raises(InputError, match=message):
            run(index, tiny_collection, tmp_path / "out", **changes)


def test_vectors_of_other_documents(index, make_tiny_model, tiny_collection, tmp_path):
    backbone = make_tiny_model().config.backbone
    build_index(
        make_tiny_model(projection_size=8), str(tiny_collection), tmp_path / "narrow"
    )
    losses = JpqLoss(scores="vectors", train_centroids=False)
    assert backbone.hidden_size == 16
    with pytest.raises(InputError, match="narrow: vectors of width 8; expected width"):
        run(index, tiny_collection, tmp_path / "out", loss=losses,
            vectors=tmp_path / "narrow")  # fmt: skip
    build_index(make_tiny_model(seed=3), str(tiny_collection), tmp_path / "another")
    with pytest.raises(InputError, match="another: vectors that do not have the codes"):
        run(index, tiny_collection, tmp_path / "out", loss=losses,
            vectors=tmp_path / "another")  # fmt: skip
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="vectors: none; expected those of the 12"):
        run(index, tiny_collection, tmp_path / "out", loss=losses)


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_codes(
    index, make_tiny_model, tiny_collection, tmp_path
):
    run(index, tiny_collection, tmp_path / "out", steps=1)
    # the same codec over other documents' vectors: other codes
    other = tiny_jpq_index(make_tiny_model(seed=1), tiny_collection, tmp_path / "other")
    with pytest.raises(InputError, match=r"run.json: a run with another index"):
        run(other, tiny_collection, tmp_path / "out", steps=2,
            model=jpq.load_jpq(index, changes={"backbone.dropout": 0.1}))  # fmt: skip


# --- gin ------------------------------------------------------------------------------


def configured_parts(*files, bindings=()):
    parse_gin(list(files), ["COLLECTION = 'x'", "INDEX = 'i'", *bindings])
    parts = OptimizerConfig, PipelineConfig, TrainConfig, ValidationConfig, JpqLoss
    return [configured(part)() for part in parts]


def test_msmarco_has_the_values_of_the_paper():
    optimizer, batches, loop, validation, losses = configured_parts(
        "experiments/jpq_msmarco.gin"
    )
    assert (optimizer.name, optimizer.learning_rate) == ("adamw", 5e-6)
    assert (optimizer.schedule, optimizer.warmup) == ("linear", 2000)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.01, 1.0)
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.999, 1e-8)
    assert batches.batch_size == 32
    assert (loop.epochs, loop.total_steps, loop.seed) == (6, None, 42)
    assert validation.metrics[0] == "RR@10"
    assert losses == JpqLoss()
    source = configured(ListSource)()
    assert (source.per, source.candidates) == ("query", None)


def test_rungs_change_an_experiment():
    def losses(*files, bindings=()):
        files = ("experiments/jpq_small.gin", *files)
        return configured_parts(*files, bindings=bindings)[-1]

    full = losses()
    assert (full.train_centroids, full.temperature) == (True, 0.05)
    rung = losses("tasks/pq/query_only.gin")
    assert rung == JpqLoss(train_centroids=False, temperature=0.05)
    rung = losses("tasks/pq/vector_scores.gin", bindings=["VECTORS = 'v'"])
    assert rung == JpqLoss(train_centroids=False, scores="vectors", temperature=0.05)
    rung = losses("tasks/pq/static_negatives.gin", bindings=["CANDIDATES = 'r'"])
    assert rung == JpqLoss(negatives="given", temperature=0.05)
    rung = losses("tasks/pq/contrastive.gin")
    assert rung == JpqLoss(loss="contrastive", temperature=0.05)
