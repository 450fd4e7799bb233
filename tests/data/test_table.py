"""Lists as rows: which can teach, and that the others are counted."""

import numpy as np
import pytest

from jaxir.data.collection import open_collection
from jaxir.data.lists import TrainingList, read_lists, write_lists
from jaxir.data.table import build_table
from jaxir.errors import InputError

DOCS = ("river0", "bread1", "engine2")
LISTS = [
    TrainingList("q-river-train", DOCS[:2], (0.0, 0.0)),
    TrainingList("q-bread-train", ("bread3", "river1"), (1.0, 0.0)),
    TrainingList("q-engine-train", DOCS, (0.0, -1.0, 0.0)),
    TrainingList("q-river-train", ("river2",), (2.0,)),
]
SCORED = [
    item._replace(scores=tuple(0.5 * i for i in range(len(item.doc_ids))))
    for item in LISTS
]


@pytest.mark.parametrize("lists", [LISTS, SCORED], ids=["plain", "scored"])
def test_lists_without_a_positive_are_counted_and_left_out(
    tiny_collection, tmp_path, capsys, lists
):
    collection = open_collection(tiny_collection)
    path = tmp_path / "lists.jsonl"
    write_lists(path, lists)
    table = build_table(read_lists(path), collection, "train")
    told = f"{path}: 2 of 4 training lists have no positive, no label above 0; left out"
    assert capsys.readouterr().err.splitlines() == [told]
    wanted = build_table(lists[1::2], collection, "train")
    assert capsys.readouterr().err == ""
    assert table.fingerprint == wanted.fingerprint
    assert table.labels.tolist() == [1.0, 0.0, 2.0]
    with pytest.raises(InputError, match="no positive in any of 2 training lists; exp"):
        build_table(lists[::2], collection, "train")


def test_a_teachers_scores_may_suffice(tiny_collection, capsys):
    collection = open_collection(tiny_collection)
    table = build_table(SCORED, collection, "train", need_positive=False)
    assert len(table) == 4
    assert capsys.readouterr().err == ""
    assert len(build_table(LISTS, collection, "train", need_positive=False)) == 2
    assert "2 of 4 training lists have no positive" in capsys.readouterr().err


def test_only_a_positive_takes_its_list_with_it(tiny_collection, capsys):
    collection = open_collection(tiny_collection)
    scores = (0.5, 1.5)
    lists = [
        TrainingList("q-river-train", ("gone", "river0"), (0.0, 0.0), scores),
        TrainingList("q-river-train", ("gone", "river0"), (1.0, 0.0), scores),
        TrainingList("q-river-train", ("gone", "absent"), (0.0, 0.0), scores),
    ]
    table = build_table(lists, collection, "train", need_positive=False)
    assert np.diff(table.bounds).tolist() == [1]
    assert table.scores.tolist() == [1.5]
    told = "4 documents of the training lists are not in the collection; left out, with"
    assert f"{told} 2 lists" in capsys.readouterr().err
