"""``jaxir label`` with a stand-in teacher."""

import json
import types

import numpy as np

from jaxir import label, reranker
from jaxir.checkpoints import model_dir
from jaxir.cli.main import main
from jaxir.data.lists import TrainingList, read_lists, write_lists

LISTS = [TrainingList("q-river-train", ("river0", "bread1"), (2.0, 0.0))]


def _by_length(queries, docs):
    return [np.array([float(len(text)) for text in group]) for group in docs]


def test_label(tiny_collection, tmp_path, capsys, monkeypatch):
    words = types.SimpleNamespace(fingerprint="t")
    model = types.SimpleNamespace(fingerprint="f", tokenizer=words)
    monkeypatch.setattr(reranker, "load_scoring_model", lambda spec: model)
    monkeypatch.setattr(label, "make_teacher", lambda model: _by_length)
    write_lists(tmp_path / "lists.jsonl", LISTS)
    words = [
        "label", "--teachers", "T1", "T2", "--lists", str(tmp_path / "lists.jsonl"),
        "--collection", str(tiny_collection), "--output", str(tmp_path / "out.jsonl"),
        "--scale", "30", "--json",
    ]  # fmt: skip
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["lists"], result["pairs"], result["teachers"]) == (1, 2, 2)
    assert sorted(next(read_lists(tmp_path / "out.jsonl")).scores) == [0.0, 30.0]
    words[2:4] = ["T1", str(tmp_path / "out.jsonl")]  # its own output is a teacher
    words[words.index("--output") + 1] = str(tmp_path / "again.jsonl")
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["teachers"] == 2
    again = next(read_lists(tmp_path / "again.jsonl"))
    assert sorted(again.scores) == [0.0, 30.0]


def test_no_such_teacher(tiny_collection, tmp_path, capsys):
    write_lists(tmp_path / "lists.jsonl", LISTS)
    words = [
        "label", "--teachers", str(tmp_path / "none"), "--lists",
        str(tmp_path / "lists.jsonl"), "--collection", str(tiny_collection),
        "--output", str(tmp_path / "out.jsonl"),
    ]  # fmt: skip
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_work_of_another_teacher_is_not_resumed(
    tiny_collection, tmp_path, make_tiny_model, monkeypatch
):
    """A teacher trained anew in the same place is another teacher."""
    seen = []

    def stopped(*args, identity, **options):
        seen.append(identity)
        return label.LabelReport(0, 0, 1)

    monkeypatch.setattr(label, "label_lists", stopped)
    write_lists(tmp_path / "lists.jsonl", LISTS)
    for seed in (0, 1):
        model_dir.save_model(tmp_path / "teacher", make_tiny_model(seed))
        words = [
            "label", "--teachers", str(tmp_path / "teacher"), "--lists",
            str(tmp_path / "lists.jsonl"), "--collection", str(tiny_collection),
            "--output", str(tmp_path / "out.jsonl"),
        ]  # fmt: skip
        assert main(words) == 0
    assert seen[0] != seen[1]
