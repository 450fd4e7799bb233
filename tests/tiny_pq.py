"""Collections of enough documents for a codec, and models as training leaves them."""

import json
from pathlib import Path

import jax
import numpy as np
from tiny_rerankers import WORDS

from jaxir.checkpoints.model_dir import Model, model_from_parts

__all__ = ["many_documents", "trained"]


def many_documents(
    folder: Path, count: int, *, prefix: str = "d", seed: int = 0
) -> Path:
    """A BEIR folder of random words; two queries, each about one document.

    Args:
      folder: where.
      count: documents, ``d0``, ``d1`` and so on.
      prefix: of the ids.
      seed: of the words.
    """
    draw = np.random.default_rng(seed)
    (folder / "qrels").mkdir(parents=True)
    texts = [" ".join(draw.choice(WORDS, draw.integers(4, 12))) for _ in range(count)]
    docs = [{"_id": f"{prefix}{i}", "text": text} for i, text in enumerate(texts)]
    asked = [{"_id": f"q{i}", "text": texts[i]} for i in range(2)]
    for name, rows in (("corpus", docs), ("queries", asked)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    judged = "".join(f"q{i}\t{prefix}{i}\t1\n" for i in range(2))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def trained(model: Model, *parts: str, seed: int = 0) -> Model:
    """The model with some parts moved a little, by default those that JPQ trains.

    Args:
      model: of kind ``jpq``.
      parts: paths of parameter trees, such as ``codec/assignment``.
      seed: of the noise.
    """
    draw = np.random.default_rng(seed)

    def moved(path, leaf):
        name = "/".join(str(key.key) for key in path)
        if not name.startswith(parts or ("query", "codec/centroids")):
            return leaf
        noise = draw.normal(size=leaf.shape).astype(np.float32)
        return leaf + 0.1 * np.std(leaf) * noise

    params = jax.tree_util.tree_map_with_path(moved, model.params)
    return model_from_parts(*model[:2], params, model.tokenizer)
