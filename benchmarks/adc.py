"""Search in codes of 8 bits, 200 000 documents, against ``faiss.IndexPQ``; its memory.

On a CPU, on one core and on two: a process for each that may run on no others, in which
both take turns.  Ours is the whole search of an index, with the rotation and the tables
of the queries, in codes that are a memory-mapped file; Faiss searches its own copy with
vectors that are rotated already.  On one core ``cpu_ratio`` is the ratio of processor
times, which other load on the machine disturbs less.

On an accelerator, 8,841,823 documents of 96 bytes, MS MARCO's: milliseconds a query and
bytes of codes a second for batches of 1, 16 and 64, by lookups, by lookups in one sum
over the parts, and by decoded blocks; beside them the paper's 0.09 s and the time of
reading the codes once.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from memory import printed, surroundings

NAME = "adc"
WIDTH, K = 768, 100
BATCHES = (1, 16)
MSMARCO, PAPER_S = 8_841_823, 0.09


def random_codec(subvectors: int, bits: int = 8) -> Any:
    """Normal centroids and an orthonormal rotation."""
    from jaxir.pq.codec import Codec, CodecSpec

    rng = np.random.default_rng(0)
    shape = CodecSpec(WIDTH, subvectors, bits).shape
    rotation, _ = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH), dtype=np.float32))
    return Codec(rotation, rng.standard_normal(shape, dtype=np.float32))


def random_codes(folder: str | Path, num_rows: int, num_docs: int) -> np.ndarray:
    """Bytes ``[num_rows, N]`` in a file, memory-mapped."""
    path = Path(folder) / f"{num_rows}.npy"
    rng = np.random.default_rng(1)
    np.save(path, rng.integers(0, 256, (num_rows, num_docs), dtype=np.uint8))
    return np.load(path, mmap_mode="r")


def faiss_build() -> dict:
    """What Faiss was compiled for: its speed depends on it."""
    import faiss

    return {
        "faiss": faiss.__version__,
        "faiss_options": faiss.get_compile_options().strip(),
        "faiss_threads": faiss.omp_get_max_threads(),
    }


def processor_ratio(
    ours: Callable[[], object], peer: Callable[[], object], pairs: int
) -> float:
    """As ``timing.compare``'s ratio, of the processor time of all threads."""
    import statistics
    import time

    def seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    ratios = []
    for _ in range(pairs):
        mine = seconds(ours)
        ratios.append(seconds(peer) / mine)
    return statistics.median(ratios)


# --- on a CPU -------------------------------------------------------------------------


def _cases(cores: int, quick: bool) -> Iterator[dict]:
    """What a process on so many cores measures."""
    import faiss
    from timing import compare, versions

    from jaxir.mesh import use_cpu_cores
    from jaxir.pq.faiss_search import faiss_index
    from jaxir.pq.search import open_codes

    use_cpu_cores()  # as jaxir search does
    faiss.omp_set_num_threads(cores)
    num_docs, pairs = (50_000, 3) if quick else (200_000, 9)
    rng = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as folder:
        for subvectors in (24, 48, 96):
            codec = random_codec(subvectors)
            codes = random_codes(folder, subvectors, num_docs)
            opened, index = open_codes(codec, codes), faiss_index(codec, codes)
            for batch in BATCHES:
                queries = rng.standard_normal((batch, WIDTH), dtype=np.float32)
                rotated = queries @ codec.rotation.T

                def ours(opened=opened, queries=queries) -> object:
                    return opened.search(queries, K)

                def peer(index=index, rotated=rotated) -> object:
                    return index.search(rotated, K)

                np.testing.assert_allclose(ours().scores, peer()[0], rtol=1e-4)
                repeat = max(1, 16 // batch)
                times = compare(ours, peer, pairs=pairs, repeat=repeat)
                if cores == 1:
                    times["cpu_ratio"] = processor_ratio(ours, peer, pairs * repeat)
                yield {
                    "name": NAME,
                    "case": f"M={subvectors}, batch {batch}, cores {cores}",
                    "peer": "faiss.IndexPQ", "docs": num_docs, "k": K, **times,
                    "versions": versions() | faiss_build(),
                }  # fmt: skip


_MEMORY = """
import gc, sys
from jaxir.mesh import use_cpu_cores
use_cpu_cores()
import numpy as np
from adc import K, WIDTH, random_codec
from memory import grown
from jaxir.pq.search import open_codes

queries = np.ones((16, WIDTH), np.float32)

def opened():
    codes = np.load(sys.argv[1], mmap_mode="r")
    return open_codes(random_codec(len(codes)), codes)

opened().search(queries, K)  # compiled; the file is no longer mapped
gc.collect()

def work():
    held = opened()
    for _ in range(3):
        held.search(queries, K)

print(grown(work))
"""


def _memory(quick: bool) -> Iterator[dict]:
    from timing import versions

    num_docs, subvectors = 200_000 if quick else 1_000_000, 96
    with tempfile.TemporaryDirectory() as folder:
        codes = random_codes(folder, subvectors, num_docs)
        yield {
            "name": NAME, "case": f"memory of {num_docs}x{subvectors}, batch 16",
            "peak_bytes": printed(_MEMORY, codes.filename),
            "bound_bytes": int(1.2 * codes.nbytes), "versions": versions(),
        }  # fmt: skip


def pinned(path: str, cores: int, quick: bool) -> Iterator[dict]:
    """The cases that a file's ``_cases`` yields in a process on so many cores."""
    words = [sys.executable, path, "--cores", str(cores)] + ["--quick"] * quick
    here = surroundings()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=here) as run:
        assert run.stdout is not None
        yield from map(json.loads, run.stdout)
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, words)


def main(cases: Callable[[int, bool], Iterator[dict]]) -> None:
    """What :func:`pinned` starts: binds itself to its cores, before JAX counts them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", type=int)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.cores :])
    for case in cases(args.cores, args.quick):
        print(json.dumps(case), flush=True)


# --- on an accelerator ----------------------------------------------------------------


def _one_sum(tables: Any, codes: Any, first: Any, count: int) -> Any:
    """Lookups as one sum over the parts, for the compiler to fuse."""
    import jax
    import jax.numpy as jnp

    piece = jax.lax.dynamic_slice_in_dim(codes, first, count, axis=1)
    part = jnp.expand_dims(jnp.arange(codes.shape[0]), 1)
    found = tables.at[:, part, piece].get(mode="promise_in_bounds")
    return jnp.sum(found, axis=1)


def _on_accelerator(quick: bool) -> Iterator[dict]:
    from functools import partial

    import jax
    import jax.numpy as jnp
    from timing import alone, versions

    from jaxir.pq.score import default_block_rows, make_queries, multiplies
    from jaxir.pq.search import exhaustive_search
    from jaxir.topk import streaming_top_k

    num_docs, subvectors = 2**20 if quick else MSMARCO, 96
    shape = (subvectors, num_docs)
    codes = jax.jit(lambda: jax.random.bits(jax.random.key(0), shape, jnp.uint8))()
    codec = jax.device_put(random_codec(subvectors))
    # Read once and reduced to a byte: no search is faster.
    read = jax.jit(jnp.max)
    floor = alone(lambda: jax.block_until_ready(read(codes)))["ours_s"]
    platform = jax.default_backend()

    @partial(jax.jit, static_argnames="rows")
    def one_sum(codec: Any, vectors: Any, codes: Any, rows: int) -> Any:
        tables = make_queries(codec, vectors)
        score = partial(_one_sum, tables, codes, count=rows)
        return streaming_top_k(lambda i: score(i * rows), num_docs // rows, K)

    for batch in (1, 16, 64):
        vectors = jax.random.normal(jax.random.key(1), (batch, WIDTH))

        def searched(multiply: bool, rows: int, vectors: Any = vectors) -> object:
            queries = make_queries(codec, vectors, multiply=multiply)
            return exhaustive_search(queries, codes, K, block_rows=rows)

        def summed(rows: int, vectors: Any = vectors) -> object:
            return one_sum(codec, vectors, codes, rows)

        ways: dict[str, Callable[[], object]] = {}
        for rows in (1 << 18, 1 << 20):
            ways[f"lookups, blocks of {rows}"] = partial(searched, False, rows)
        for rows in (1 << 16, 1 << 18):
            ways[f"one sum, blocks of {rows}"] = partial(summed, rows)
        for rows in (1 << 14, 1 << 16):
            ways[f"decoded, blocks of {rows}"] = partial(searched, True, rows)
        chosen = multiplies(platform, batch)
        queries = make_queries(codec, vectors, multiply=chosen)
        rule = f"{'decoded' if chosen else 'lookups'}, "
        rule += f"blocks of {default_block_rows(platform, queries)}"
        for way, work in ways.items():
            times = alone(lambda work=work: jax.block_until_ready(work()))
            per_query, rate = times["ours_s"] / batch, codes.nbytes / times["ours_s"]
            case = f"batch {batch}, {way}{' (chosen)' * (way == rule)}: "
            case += f"{1e3 * per_query:.3g} ms a query (paper {1e3 * PAPER_S:.0f}), "
            case += f"{rate / 1e9:.0f} GB/s (reading {codes.nbytes / floor / 1e9:.0f})"
            yield {
                "name": NAME, "case": case, "peer": None, **times,
                "query_s": per_query, "bytes_per_s": rate, "floor_s": floor,
                "paper_s": PAPER_S, "docs": num_docs, "versions": versions(),
            }  # fmt: skip


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields cases on one core, on two, and of memory; or rates on an accelerator."""
    import jax

    from jaxir.mesh import cpu_cores

    if jax.default_backend() != "cpu":
        yield from _on_accelerator(quick)
        return
    if not hasattr(os, "sched_setaffinity"):
        print("adc: cores cannot be chosen on this system", file=sys.stderr)
        return
    for cores in range(1, min(2, cpu_cores()) + 1):
        yield from pinned(__file__, cores, quick)
    yield from _memory(quick)


if __name__ == "__main__":
    main(_cases)
