"""A small collection of random words, and a tokenizer that knows them."""

import json

import numpy as np
import pytest

from jaxir.text import load_tokenizer

WORDS = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st", "uv", "wx", "yz"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    words = [*WORDS, "query", "document", ":"]
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 documents of 1 to 60 words; q0 and q1 are one question, d0, d39 one text."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("collection") / "words"
    (folder / "qrels").mkdir(parents=True)
    texts = [" ".join(random.choice(WORDS, n)) for n in random.integers(1, 60, 40)]
    texts[39] = texts[0]
    rows = [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "corpus.jsonl").write_text(lines)
    asked = [" ".join(random.choice(WORDS, n)) for n in random.integers(1, 25, 12)]
    asked[1] = asked[0].upper() + " "
    rows = [{"_id": f"q{i}", "text": text} for i, text in enumerate(asked)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "queries.jsonl").write_text(lines)
    lines = [f"q{i}\td{3 * i + j}\t{1 + j}\n" for i in range(12) for j in range(2)]
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "train.tsv").write_text(header + "".join(lines))
    return folder
