"""Every gin file parses, and every experiment trains: two steps of a tiny model."""

import json
import re

import pytest

from jaxir import fit
from jaxir.cli.config import configured, operative_config, parse_gin
from jaxir.data.collection import open_collection
from jaxir.data.formats import write_run
from jaxir.data.lists import sample_lists, write_lists
from jaxir.errors import InputError
from jaxir.files import resource_directory

ROOT = resource_directory("gin")
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.gin"))
EXPERIMENTS = [file for file in FILES if file.startswith("experiments/")]


def test_there_are_files_and_no_package():
    assert EXPERIMENTS
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("file", FILES)
def test_header_says_what_is_required(file):
    text = (ROOT / file).read_text()
    assert text.startswith("# ")
    assert "# Required:" in text
    assert "# Commonly overridden:" in text


@pytest.mark.parametrize("file", [f for f in FILES if f not in EXPERIMENTS])
def test_parts_parse_alone(file):
    required = re.findall(r"^(\w+) = %gin.REQUIRED", (ROOT / file).read_text(), re.M)
    if file.startswith("runs/"):
        required += ["MODEL", "TASK"]  # these come from a model's and a task's file
    parse_gin([file], [f"{name} = 1" for name in required])


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


def candidates(folder, place):
    """A run of every document for every query."""
    collection = open_collection(str(folder))
    scores = {name: 1.0 / (i + 1) for i, name in enumerate(collection.docs.doc_ids())}
    write_run(place / "run.trec", dict.fromkeys(collection.queries("train"), scores))
    return str(place / "run.trec")


@pytest.mark.slow
@pytest.mark.parametrize("file", EXPERIMENTS)
def test_experiment_trains(file, tiny_collection, tiny_model, tmp_path):
    lists = scored_lists(tiny_collection, tmp_path / "lists.jsonl")
    bindings = [
        f"COLLECTION = {str(tiny_collection)!r}",
        f"MODEL_PATH = {str(tiny_model)!r}",
        "DEV_SPLIT = 'test'",
        "TRAIN_STEPS = 2",
        "BATCH_SIZE = 8",
        "QUERY_LENGTH = 16",
        "DOC_LENGTH = 16",
        "EVAL_EVERY = 1",
        "SAVE_EVERY = 1",
        "WARMUP = 1",
    ]
    bindings.append(f"CANDIDATES = {candidates(tiny_collection, tmp_path)!r}")
    if "LISTS = %gin.REQUIRED" in (ROOT / file).read_text():
        bindings.append(f"LISTS = {lists!r}")
    parse_gin([file], bindings)
    result = configured(fit.fit)(
        model_dir=str(tmp_path / "out"), operative_config=operative_config
    )
    assert result.step == 2
    assert 0 <= result.metrics["nDCG@10"] <= 1
    stored = (tmp_path / "out" / "operative_config.gin").read_text()
    assert "TRAIN_STEPS = 2" in stored
    first = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0]
    assert "step" in json.loads(first)


def test_required_macro_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"(COLLECTION|CANDIDATES) has no value; give "
    ):
        parse_gin(["experiments/dense_medquad_small.gin"])
        configured(fit.fit)(model_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
