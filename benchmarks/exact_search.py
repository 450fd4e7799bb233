"""Exact search of 200 000 x 384 vectors against Faiss, and its peak memory.

Both use all processors.  Our vectors are a memory-mapped file, as an index has them;
Faiss's are its own copy in memory.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from timing import compare, versions

NAME = "exact-search"
WIDTH, K = 384, 100

_MEMORY = """
import os, sys, threading, time
import numpy as np
import jax
from jaxir.dense.search import stream_search

def resident():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

vectors = np.load(sys.argv[1], mmap_mode="r")
rows, width = vectors.shape
queries = np.ones((int(sys.argv[2]), width), np.float32)
stream_search(queries, np.ones((20_000, width), np.float32), 100)
before, peak, done = resident(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
for _ in range(5):
    stream_search(queries, vectors, 100)
done = True
watcher.join()
print(peak - before)
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
            grown = subprocess.run(
                [sys.executable, "-c", _MEMORY, str(path), "64"],
                capture_output=True, text=True, check=True, env=dict(os.environ),
            )  # fmt: skip
            yield {
                "name": NAME, "case": f"memory of {num_docs}x{WIDTH}, batch 64",
                "peak_bytes": int(grown.stdout),
                "bound_bytes": int(1.2 * vectors.nbytes), "versions": versions(),
            }  # fmt: skip
