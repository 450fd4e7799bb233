"""A small index of kind ``sparse`` with random weights, written without an encoder."""

from pathlib import Path

import numpy as np

from jaxir.export.opensearch import stored_weights
from jaxir.manifest import write_doc_ids, write_index
from jaxir.sparse.postings import SparseRows, build_postings
from jaxir.sparse_query import QUERY, QuerySettings, write_query_files
from jaxir.text import load_tokenizer

__all__ = ["QUERIES", "WORDS", "sparse_index"]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = (
    'river clay water bread oven flour engine steel wheel shaft . u s & u\u0308 " ##ing'
)
WORDS = [*SPECIAL, *TEXT.split()]
QUERIES = {
    "one": "river",
    "two": "river clay bread",
    "repeated": "oven oven steel wheel engine flour shaft water",
    "dots": "u.s. & ü",
    "nothing": "unheard",
    "empty": "",
}


def sparse_index(
    directory: Path, *, seed=0, num_docs=40, exact=False, dtype="float32", prefix="d"
) -> Path:
    """Writes it; document 5 has no token, ids are ``d0`` and so on.

    Args:
      directory: where it shall stand.
      seed: of the weights.
      num_docs: documents.
      exact: weights of 9 significant bits.
      dtype: of stored weights.
      prefix: how ids begin.
    """
    draw = np.random.default_rng(seed)
    size = len(WORDS)
    dense = draw.gamma(2.0, 0.5, (num_docs, size)).astype(np.float32)
    if exact:
        dense = stored_weights(dense)
    dense *= draw.random((num_docs, size)) < 0.4
    dense[:, : len(SPECIAL)] = 0
    dense[5] = 0
    rows, tokens = np.nonzero(dense)
    offsets = np.searchsorted(rows, np.arange(num_docs + 1))
    shard = SparseRows(offsets, tokens.astype(np.int32), dense[rows, tokens])
    words = directory.with_name(f"{directory.name}-words")
    words.mkdir(parents=True)
    (words / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = load_tokenizer(words)
    idf = draw.uniform(0.1, 5, size).astype(np.float32)
    details = {
        "vocab_size": size, "tokenizer": tokenizer.fingerprint, "model_kind": "sparse",
        "model_path": "", "self_contained": True, "dtype": dtype,
    }  # fmt: skip
    counts = {"docs": num_docs}
    with write_index(
        directory, kind="sparse", counts=counts, model_fingerprint=f"model {seed}",
        details=details,
    ) as folder:  # fmt: skip
        build_postings([shard], size, folder, dtype=dtype, block_size=8)
        write_doc_ids(folder, (f"{prefix}{row}" for row in range(num_docs)))
        settings = QuerySettings("idf", 32, "{text}", tuple(range(len(SPECIAL))))
        write_query_files(folder / QUERY, tokenizer, idf, settings)
    return directory
