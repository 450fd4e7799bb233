"""Every gin file parses, and every experiment trains: two steps of a tiny model."""

import json
import re
from dataclasses import asdict, replace

import pytest
from tiny_hypencoders import tiny_hypencoder
from tiny_jpq import tiny_jpq_index
from tiny_rerankers import tiny_t5

from jaxir import fit
from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.cli.config import configured, parse_gin
from jaxir.cli.train import train_from_gin
from jaxir.data.collection import open_collection
from jaxir.data.formats import write_run
from jaxir.data.lists import sample_lists, write_lists
from jaxir.data.pipeline import PipelineConfig
from jaxir.dense.task import DenseLoss
from jaxir.errors import InputError
from jaxir.files import resource_directory
from jaxir.hypencoder import load_hypencoder
from jaxir.hyper.task import HyperLoss
from jaxir.rank.task import RankLoss
from jaxir.sparse.task import SparseLoss
from jaxir.train.config import TrainConfig
from jaxir.train.optimizers import OptimizerConfig
from jaxir.validate import ValidationConfig

ROOT = resource_directory("gin")
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.gin"))
EXPERIMENTS = [file for file in FILES if file.startswith("experiments/")]
T5X = [file for file in FILES if file.startswith("t5x/")]  # tests/rank/test_t5x.py


def test_there_are_files_and_no_package():
    assert EXPERIMENTS
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("file", FILES)
def test_header_says_what_is_required(file):
    text = (ROOT / file).read_text()
    assert text.startswith("# ")
    assert "# Required:" in text
    assert "# Commonly overridden:" in text


@pytest.mark.parametrize("file", [f for f in FILES if f not in EXPERIMENTS + T5X])
def test_parts_parse_alone(file):
    text = whole_text(file)
    required = re.findall(r"^(\w+) = %gin.REQUIRED", text, re.M)
    # of models' and tasks' files
    from_others = ("MODEL", "START", "TASK", "DATA", "INDEX")
    if file.startswith("runs/"):
        required += [name for name in from_others if f"%{name}\n" in text]
    values = {"LISTS": "'lists.jsonl'"}
    parse_gin([file], [f"{name} = {values.get(name, 1)}" for name in required])


def scored_lists(folder, path):
    """Lists of two documents with a teacher's scores."""
    collection = open_collection(str(folder))
    lists = sample_lists(
        collection.qrels("train"), list_size=9, seed=0,
        doc_ids=collection.docs.doc_ids(), queries=collection.queries("train"),
    )  # fmt: skip
    lists = [item._replace(scores=tuple(map(float, item.labels))) for item in lists]
    write_lists(path, lists)
    return str(path)


def candidates(folder, place, split):
    """A run of every document for every query."""
    collection, path = open_collection(str(folder)), place / f"{split}.trec"
    scores = {name: 1.0 / (i + 1) for i, name in enumerate(collection.docs.doc_ids())}
    write_run(path, dict.fromkeys(collection.queries(split), scores))
    return str(path)


def tiny_vocabulary(model):
    return load_model(model).tokenizer.vocab_size


def whole_text(file):
    """A gin file with all that it includes, in order."""
    text = (ROOT / file).read_text()
    included = [whole_text(name) for name in re.findall(r"^include '(.*)'", text, re.M)]
    return "\n".join([*included, text])


def start(file, place, tiny_model, collection):
    """Where the tiny model of the kind that an experiment starts from stands."""
    if "models/jpq.gin" in whole_text(file):
        model = load_model(str(tiny_model))
        return str(tiny_jpq_index(model, collection, place / "index"))
    if "hypencoder_hard" in file:
        save_model(place / "hyper", tiny_hypencoder(place / "tokenizer"))
        return str(place / "hyper")
    if "models/t5/" not in whole_text(file) and "t5_adapt" not in file:
        return str(tiny_model)
    save_model(place / "t5", tiny_t5(place / "tokenizer"))
    return str(place / "t5")


@pytest.mark.slow
@pytest.mark.parametrize("file", EXPERIMENTS)
def test_experiment_trains(file, tiny_collection, tiny_model, tmp_path):
    lists = scored_lists(tiny_collection, tmp_path / "lists.jsonl")
    text = whole_text(file)
    model = start(file, tmp_path, tiny_model, tiny_collection)
    wanted = {
        "COLLECTION": str(tiny_collection),
        "COLLECTIONS": (str(tiny_collection),),
        "CANDIDATES": candidates(tiny_collection, tmp_path, "train"),
        "MODEL_PATH": model,
        "INDEX": model,
        "TOKENIZER": f"{model}/tokenizer",
        "DEV_SPLIT": "test",
        "DEV_CANDIDATES": candidates(tiny_collection, tmp_path, "test"),
        "TRAIN_STEPS": 2,
        "EPOCHS": None,
        "BATCH_SIZE": 8,
        "QUERY_LENGTH": 16,
        "DOC_LENGTH": 16,
        "MAX_LENGTH": 32,
        "INPUT_LENGTH": 16,
        "CHUNK_SIZE": None,
        "DEPTH": 2,
        "PAIR_GROUPS": 4 if "PAIR_GROUPS = 8" in text else 1,
        "HOLDOUT": 2,
        "EVAL_EVERY": 1,
        "SAVE_EVERY": 1,
        "WARMUP": 1,
    }
    if "LISTS = %gin.REQUIRED" in text:
        wanted |= {"LISTS": lists, "CANDIDATES": None}
    if "runs/jpq.gin" in text:
        wanted["CANDIDATES"] = None  # a search finds negatives
    # what nothing of a run reads is refused
    if "runs/pretrain.gin" in text:
        wanted["VOCAB_SIZE"] = tiny_vocabulary(model)  # a fresh T5's
        if "models/t5/" in text:
            del wanted["MODEL_PATH"], wanted["MAX_LENGTH"]  # a reranker's
    if "monot5" in file:
        wanted |= {"TARGET_TOKEN": "▁true", "CONTRAST_TOKEN": "▁false"}
    known = set(re.findall(r"^([A-Z][A-Z0-9_]*) = ", text, re.M))
    bindings = [f"{name} = {wanted[name]!r}" for name in wanted if name in known]
    if "ListSource.per" in text:  # three queries make no batch of lists
        bindings += ["fit.ListSource.per = 'positive'"]
    result = train_from_gin([file], bindings, str(tmp_path / "out"))
    assert result.step == 2
    if "runs/pretrain.gin" in text:
        assert result.metrics["held_out_loss"] > 0
    else:
        assert 0 <= result.metrics["nDCG@10"] <= 1
    stored = (tmp_path / "out" / "operative_config.gin").read_text()
    assert "TRAIN_STEPS = 2" in stored
    assert re.search(r"^RUN = @", stored, re.M)  # it repeats the run
    parse_gin([str(tmp_path / "out" / "operative_config.gin")])
    first = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0]
    assert "step" in json.loads(first)


def seen(file, *bindings):
    """The configurations of an experiment: optimizer, batches, loop, validation."""
    required = ("COLLECTION", "LISTS", "CANDIDATES", "MODEL_PATH")
    text = whole_text(file)
    given = [f"{name} = 'x'" for name in required if f"{name} = %gin.REQ" in text]
    parse_gin([file], [*given, *bindings])
    parts = OptimizerConfig, PipelineConfig, TrainConfig, ValidationConfig
    return [configured(part)() for part in parts]


def test_hypencoder_has_the_values_of_the_paper():
    optimizer, batches, loop, validation = seen("experiments/hypencoder_msmarco.gin")
    assert (optimizer.name, optimizer.learning_rate) == ("adamw", 2e-5)
    assert (optimizer.schedule, optimizer.warmup) == ("constant", 6000)
    assert (optimizer.weight_decay, optimizer.groups) == (0.0, ())
    assert (batches.batch_size, batches.list_size) == (128, 1 + 8)
    assert (loop.total_steps, loop.eval_every) == (800_000, 50_000)
    assert validation.metrics[0] == "Rprec"
    assert configured(HyperLoss)() == HyperLoss()
    text = whole_text("experiments/hypencoder_msmarco.gin")
    lengths = re.findall(r"^(?:QUERY|DOC)_LENGTH = (\d+)", text, re.M)
    assert lengths == ["32", "196"] * 2

    optimizer, batches, *_ = seen("experiments/hypencoder_hard.gin")
    assert (optimizer.learning_rate, optimizer.warmup) == (8e-6, 0.1)
    assert optimizer.schedule == "linear"
    assert (batches.batch_size, batches.list_size) == (96, 2)
    losses = configured(HyperLoss)()
    assert (losses.margin_mse, losses.kl, losses.candidates) == (0.0, 0.0, "own")


@pytest.mark.parametrize(
    ("name", "steps", "length"),
    [("msmarco", 50_000, 128), ("poly1_msmarco", 50_000, 128), ("nq", 100_000, 384)],
)
def test_rankt5_has_the_values_of_the_paper(name, steps, length):
    optimizer, batches, loop, _ = seen(f"experiments/rankt5_{name}.gin")
    assert (optimizer.name, optimizer.learning_rate) == ("adafactor", 1e-4)
    assert (optimizer.schedule, optimizer.warmup) == ("constant", 0)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.0, None)  # as T5X's
    assert (batches.batch_size, batches.list_size) == (32, 36)
    assert loop.total_steps == steps
    source = configured(fit.ListSource)()
    assert (source.depth, source.per, source.positives) == (1000, "query", "one")
    losses = configured(RankLoss)()
    assert (losses.kind, losses.epsilon) == (
        ("poly1", 1.0) if name.startswith("poly1") else ("softmax", losses.epsilon)
    )
    lengths = re.findall(
        r"^MAX_LENGTH = (\d+)", whole_text(f"experiments/rankt5_{name}.gin"), re.M
    )
    assert lengths[-1] == str(length)


def test_sparse_encoders_have_the_values_of_the_paper():
    for name, batch, rate, steps, flops, length in (
        ("pretrain", (48, 8), 5e-5, 150_000, 1e-7, 128),
        ("msmarco", (40, 10), 2e-5, 50_000, 0.02, 256),
    ):
        optimizer, batches, loop, _ = seen(f"experiments/sparse_{name}.gin")
        assert (optimizer.name, optimizer.learning_rate) == ("adamw", rate)
        assert (optimizer.schedule, optimizer.clip_norm) == ("linear", None)
        assert (batches.batch_size, batches.list_size) == batch
        assert (loop.total_steps, loop.eval_every, loop.eval_first) == (
            steps, 1.0, False,
        )  # fmt: skip
        losses = configured(SparseLoss)()
        assert losses == SparseLoss(flops=flops, flops_warmup=losses.flops_warmup)
        text = whole_text(f"experiments/sparse_{name}.gin")
        assert re.findall(r"^DOC_LENGTH = (\d+)", text, re.M)[-1] == str(length)

    optimizer, batches, loop, _ = seen("experiments/sparse_l0_msmarco.gin")
    assert (batches.batch_size, batches.list_size) == (8 * 20, 2)
    assert (optimizer.warmup, loop.total_steps) == (6000, 100_000)
    losses = configured(SparseLoss)()
    assert (losses.flops, losses.flops_warmup, losses.l0_threshold) == (
        0.08, 40_000, 150,
    )  # fmt: skip


def test_the_switches_of_the_papers_ablations():
    switches = (
        "QUERY = 'binary'", "IDF = None", "FLOPS = 0.0", "FLOPS_WARMUP = 0",
        "L0_THRESHOLD = 7", "KL = 0.0", "CONTRASTIVE = 1.0", "LEXICAL_PRIOR = True",
    )  # fmt: skip
    seen("experiments/sparse_small.gin", *switches)
    losses = configured(SparseLoss)()
    assert (losses.flops, losses.flops_warmup, losses.l0_threshold) == (0.0, 0, 7)
    assert (losses.kl, losses.contrastive) == (0.0, 1.0)
    assert losses.student_scale == 0.2
    seen("experiments/sparse_siamese_small.gin")
    assert configured(SparseLoss)().student_scale == 1.0
    seen("experiments/sparse_contrastive_small.gin")
    losses = configured(SparseLoss)()
    assert (losses.kl, losses.contrastive, losses.candidates) == (0, 1, "negatives")


@pytest.mark.parametrize("size", ["hard", "hard_small"])
def test_a_hypencoder_goes_on_as_it_is(size, tmp_path):
    changes = {"pooling": "mean", "similarity": "cosine", "towers": "separate"}
    model = tiny_hypencoder(tmp_path / "words", **changes)
    save_model(tmp_path / "model", model)
    path = f"MODEL_PATH = {str(tmp_path / 'model')!r}"
    short = ["QUERY_LENGTH = 64", "DOC_LENGTH = 64"]
    given = ["COLLECTION = 'x'", "CANDIDATES = 'x'", path, *short]
    parse_gin([f"experiments/hypencoder_{size}.gin"], given)
    found = configured(load_hypencoder)()
    assert {name: getattr(found.config, name) for name in changes} == changes
    assert found.config.qnet == model.config.qnet


@pytest.mark.parametrize("place", ["msmarco", "small"])
def test_the_bi_encoder_is_trained_in_the_same_way(place):
    optimizer, *others = seen(f"experiments/hypencoder_{place}.gin")
    base_optimizer, *base_others = seen(f"experiments/be_base_{place}.gin")
    assert others == base_others
    plain = replace(optimizer, groups=(), schedule=base_optimizer.schedule)
    assert plain == base_optimizer


def test_a_warm_start_has_the_losses_of_the_bi_encoder():
    _, *base_others = seen("experiments/be_base_small.gin")
    base = configured(DenseLoss)()
    optimizer, *others = seen(
        "experiments/hypencoder_warm_small.gin", "HEAD_LEARNING_RATE = 3e-4"
    )
    assert others == base_others
    assert asdict(configured(HyperLoss)()) == asdict(base)
    assert [group.learning_rate for group in optimizer.groups] == [1e-3, 3e-4]
    assert [group.pattern for group in optimizer.groups] == [
        "^head/(gates|output_gate)$", "^head/",
    ]  # fmt: skip


def test_required_macro_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"(COLLECTION|CANDIDATES) has no value; give "
    ):
        parse_gin(["experiments/dense_medquad_small.gin"])
        configured(fit.fit)(model_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
