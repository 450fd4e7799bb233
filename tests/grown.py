"""The tiny collection with more documents, each a training query of its own."""

import json
from pathlib import Path

__all__ = ["grow"]


def grow(folder: Path, count: int, *, queries: int = 8) -> Path:
    """Adds documents ``more0``, ``more1`` and so on to a collection.

    Args:
      folder: a BEIR folder; its documents are repeated under new ids.
      count: documents to add.
      queries: of those, how many are queries of the split ``train``, too.
    """
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    some = [json.loads(lines[i % len(lines)]) for i in range(count)]
    rows = [row | {"_id": f"more{i}"} for i, row in enumerate(some)]
    asked = [{"_id": row["_id"], "text": row["text"]} for row in rows[:queries]]
    judged = [f"{row['_id']}\t{row['_id']}\t1" for row in asked]
    for name, new in (
        ("corpus.jsonl", map(json.dumps, rows)),
        ("queries.jsonl", map(json.dumps, asked)),
        ("qrels/train.tsv", judged),
    ):
        with open(folder / name, "a") as out:
            out.writelines(f"{line}\n" for line in new)
    return folder
