"""Exact search of 200 000 x 384 vectors against Faiss, and its peak memory.

Both use all processors.  Our vectors are a memory-mapped file, as an index has them;
Faiss's are its own copy in memory.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from memory import printed
from timing import compare, versions

NAME = "exact-search"
WIDTH, K = 384, 100

_MEMORY = """
import sys
import numpy as np
from jaxir.dense.search import stream_search
from memory import grown

vectors = np.load(sys.argv[1], mmap_mode="r")
rows, width = vectors.shape
queries = np.ones((int(sys.argv[2]), width), np.float32)
stream_search(queries, np.ones((20_000, width), np.float32), 100)
print(grown(lambda: [stream_search(queries, vectors, 100) for _ in range(5)]))
"""


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields a case for each batch, and the memory of the largest."""
    from jaxir.dense.search import stream_search

    num_docs = 20_000 if quick else 200_000
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        np.save(path, rng.standard_normal((num_docs, WIDTH), dtype=np.float32))
        vectors = np.load(path, mmap_mode="r")
        index = None
        if importlib.util.find_spec("faiss"):
            import faiss

            index = faiss.IndexFlatIP(WIDTH)
            index.add(vectors)
        for batch in (1, 64):
            queries = rng.standard_normal((batch, WIDTH), dtype=np.float32)

            def ours(queries=queries) -> None:
                stream_search(queries, vectors, K)

            def peer(queries=queries) -> None:
                index.search(queries, K)

            case = f"{num_docs}x{WIDTH}, k={K}, batch {batch}"
            pairs = 3 if quick else 9
            work = ours if index is None else peer
            times = compare(ours, work, pairs=pairs, repeat=max(1, 8 // batch))
            if index is None:
                times |= {"peer_s": None, "ratio": None}
            yield {
                "name": NAME, "case": case, "peer": "faiss.IndexFlatIP", **times,
                "versions": versions("faiss-cpu"),
            }  # fmt: skip
        if sys.platform.startswith("linux"):
            yield {
                "name": NAME, "case": f"memory of {num_docs}x{WIDTH}, batch 64",
                "peak_bytes": printed(_MEMORY, path, 64),
                "bound_bytes": int(1.2 * vectors.nbytes), "versions": versions(),
            }  # fmt: skip
