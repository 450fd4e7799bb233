"""Search in codes of 4 bits by ``backend="faiss"`` against calling Faiss directly.

Both search 200 000 documents by ``faiss.IndexPQFastScan`` on all cores of the process,
one and then two.  Ours rotates the queries, refuses those that are not finite, and with
``rescore`` scores what was found exactly; the direct call rotates and searches.
``recall`` is the share of the exact ``k`` best that is found.  In the last cases JAX
searches the same codes: exactly, and without Faiss's copy of them.
"""

import os
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
from adc import BATCHES, WIDTH, K, faiss_build, main, pinned, random_codec, random_codes
from timing import compare, versions

NAME = "adc4"


def _cases(cores: int, quick: bool) -> Iterator[dict]:
    """What a process on so many cores measures."""
    import faiss

    from jaxir.mesh import use_cpu_cores
    from jaxir.pq.faiss_search import faiss_index
    from jaxir.pq.search import open_codes

    use_cpu_cores()
    faiss.omp_set_num_threads(cores)
    num_docs, pairs = (50_000, 3) if quick else (200_000, 9)
    rng = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as folder:
        for subvectors in (48, 192):  # bytes of a document: 24, 96
            codec = random_codec(subvectors, bits=4)
            codes = random_codes(folder, subvectors // 2, num_docs)
            exact = open_codes(codec, codes, 4)
            index = faiss.IndexPQFastScan(faiss_index(codec, codes))
            for batch in BATCHES:
                queries = rng.standard_normal((batch, WIDTH), dtype=np.float32)

                def peer(index=index, codec=codec, queries=queries) -> object:
                    return index.search(queries @ codec.rotation.T, K)

                wanted = exact.search(queries, K)
                ways = {
                    f"rescore {times}": open_codes(
                        codec, codes, 4, backend="faiss", rescore=times
                    )
                    for times in (0, 1, 4)
                }
                for way, opened in {**ways, "jax": exact}.items():

                    def ours(opened=opened, queries=queries) -> object:
                        return opened.search(queries, K)

                    pairs_of = zip(ours().doc_ids, wanted.doc_ids, strict=True)
                    recall = float(
                        np.mean([np.isin(*pair).mean() for pair in pairs_of])
                    )
                    repeat = max(1, 16 // batch)
                    case = f"M={subvectors}, batch {batch}, cores {cores}, {way}"
                    yield {
                        "name": NAME, "case": case, "peer": "faiss.IndexPQFastScan",
                        "docs": num_docs, "k": K, "recall": recall,
                        **compare(ours, peer, pairs=pairs, repeat=repeat),
                        "versions": versions() | faiss_build(),
                    }  # fmt: skip


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields cases for each number of parts and batch, on one core and on two."""
    from jaxir.mesh import cpu_cores

    if not hasattr(os, "sched_setaffinity"):
        print("adc4: cores cannot be chosen on this system", file=sys.stderr)
        return
    for cores in range(1, min(2, cpu_cores()) + 1):
        yield from pinned(__file__, cores, quick)


if __name__ == "__main__":
    main(_cases)
