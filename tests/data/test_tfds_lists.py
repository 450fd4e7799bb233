"""Prepared lists: TFDS opens them, they come back whole, TensorFlow stays away."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxir.data.collection import open_collection
from jaxir.data.lists import TrainingList
from jaxir.data.table import build_table
from jaxir.data.tfds_lists import DATASET_NAME, open_lists, prepare_lists
from jaxir.errors import InputError

LISTS = [
    TrainingList("q-river-train", ("river0", "bread1", "engine2"), (2.0, 0.0, 0.0)),
    TrainingList("q-bread-train", ("bread3",), (1.0,)),
    TrainingList("q-river-train", ("river2", "engine0"), (1.0, 0.0)),
]
SCORED = [
    item._replace(scores=tuple(0.5 * i for i in range(len(item.doc_ids))))
    for item in LISTS
]


@pytest.mark.parametrize("lists", [LISTS, SCORED], ids=["plain", "scored"])
def test_lists_come_back_in_order(tiny_collection, tmp_path, lists):
    collection = open_collection(tiny_collection)
    directory = prepare_lists(lists, collection, "train", tmp_path / "prepared")
    prepared = open_lists(directory, collection=collection, split="train")
    assert list(prepared) == lists
    assert prepared[-2:] == lists[-2:]
    expected = build_table(lists, collection, "train")
    assert prepared.table().fingerprint == expected.fingerprint
    rows = prepared.source[0]["doc_rows"]
    assert [collection.docs.doc_id(row) for row in rows] == list(lists[0].doc_ids)
    # nothing temporary is left, and what was there is replaced
    prepare_lists(lists[:1], collection, "train", directory)
    assert list(open_lists(directory)) == lists[:1]
    assert {path.name for path in tmp_path.iterdir()} == {"prepared", "tiny"}


def test_tfds_itself_opens_them_and_tensorflow_is_not_imported(
    tiny_collection, tmp_path
):
    code = f"""
import sys
from jaxir.data.collection import open_collection
from jaxir.data.lists import sample_lists
from jaxir.data.tfds_lists import open_lists, prepare_lists
assert not {{"tensorflow_datasets", "jax", "grain"}} & set(sys.modules)
collection = open_collection({str(tiny_collection)!r})
lists = sample_lists(collection.qrels("train"), list_size=4, seed=0,
                     doc_ids=collection.docs.doc_ids())
prepare_lists(lists, collection, "train", {str(tmp_path / "prepared")!r})
assert len(open_lists({str(tmp_path / "prepared")!r})) == 12
import tensorflow_datasets as tfds
source = tfds.data_source({DATASET_NAME!r}, split="train",
                          data_dir={str(tmp_path / "prepared")!r})
assert len(source) == 12 and source[3]["labels"].tolist()[1:] == [0, 0, 0]
import grain
dataset = grain.MapDataset.source(source).shuffle(seed=0).batch(
    4, batch_fn=lambda records: [int(record["query_row"]) for record in records])
assert sorted(sum(list(dataset), [])) == sorted([0, 1, 2] * 4)
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_table_drops_what_the_collection_lacks(tiny_collection, capsys):
    collection = open_collection(tiny_collection)
    lists = [
        TrainingList("q-river-train", ("river0", "nowhere"), (1.0, 0.0)),
        TrainingList("q-bread-train", ("gone", "bread3"), (1.0, 0.0)),
        LISTS[2],
    ]
    table = build_table(lists, collection, "train")
    assert len(table) == 2
    assert np.diff(table.bounds).tolist() == [1, 2]
    assert "2 documents of the training lists are not in" in capsys.readouterr().err
    with pytest.raises(InputError, match="no training list; expected at least one"):
        build_table(lists[1:2], collection, "train")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([], "no training list"),
        ([LISTS[0]._replace(query_id="q-x")], "query 'q-x' is not in split 'train'"),
        ([LISTS[0], SCORED[1]], "'q-bread-train' has teacher scores, those before it"),
        ([SCORED[0], LISTS[1]], "'q-bread-train' has no teacher scores"),
    ],
)
def test_lists_that_do_not_fit(tiny_collection, tmp_path, lists, message):
    collection = open_collection(tiny_collection)
    with pytest.raises(InputError, match=message):
        prepare_lists(lists, collection, "train", tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_judgments_that_move_the_rows_of_queries(tiny_collection, tmp_path):
    collection = open_collection(tiny_collection)
    directory = prepare_lists(LISTS, collection, "train", tmp_path / "prepared")
    judged = tiny_collection / "qrels" / "train.tsv"
    lines = judged.read_text().splitlines(keepends=True)
    first = next(iter(collection.queries("train")))
    judged.write_text("".join(line for line in lines if not line.startswith(first)))
    other = open_collection(tiny_collection)
    with pytest.raises(InputError, match="lists over other queries of split 'train'"):
        open_lists(directory, collection=other)


def test_foreign_and_damaged_directories(tiny_collection, tmp_path):
    collection = open_collection(tiny_collection)
    directory = prepare_lists(LISTS, collection, "train", tmp_path / "prepared")
    with pytest.raises(InputError, match="lists of split 'train'; expected split 'te"):
        open_lists(directory, split="test")
    corpus = tiny_collection / "corpus.jsonl"
    corpus.write_text(corpus.read_text() + '{"_id": "more", "text": "more"}\n')
    other = open_collection(tiny_collection)
    with pytest.raises(InputError, match=r"lists over another collection \(tiny\)"):
        open_lists(directory, collection=other)
    with pytest.raises(InputError, match=r"no prepared training lists; expected a dir"):
        open_lists(tiny_collection)
    meta = json.loads((directory / "lists.json").read_text())
    (directory / "lists.json").write_text(json.dumps({**meta, "num_lists": 9}))
    with pytest.raises(InputError, match="3 lists; expected 9; prepare them again"):
        open_lists(directory)
    (directory / "lists.json").write_text(json.dumps({**meta, "format_version": 9}))
    with pytest.raises(InputError, match="lists of format 9; expected format 1"):
        open_lists(directory)
    (directory / "lists.json").write_text(json.dumps(meta))
    for info in directory.rglob("features.json"):
        info.unlink()
    with pytest.raises(InputError, match="damaged training lists"):
        open_lists(directory)
