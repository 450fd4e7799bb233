"""A service over indexes of a few documents, in this process or in one of its own."""

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from tiny_rerankers import bert_tokenizer, tiny_reranker
from tiny_sparse import tiny_sparse

from jaxir.checkpoints.model_dir import model_from_parts, save_model
from jaxir.dense.model import DenseConfig, init_params
from jaxir.index import build_index
from jaxir.nn.bert import BertConfig
from jaxir.serve.access import Keys, Log
from jaxir.serve.app import Service
from jaxir.serve.connections import Connection
from jaxir.serve.fields import Limits
from jaxir.serve.server import bind
from jaxir.serve.systems import Plan, Systems, open_embedder, open_ranker, open_system

__all__ = ["KINDS", "Process", "in_thread", "listening", "make_place", "make_service"]

KINDS = ("dense", "bm25", "sparse")
"""Names of the indexes, which are their kinds; the first is the default."""

TOPICS = {
    "river": "rivers carry water from the mountains to the sea past banks of clay",
    "engine": "an engine burns fuel and turns a shaft that drives wheels of steel",
    "bread": "bakers knead dough of flour and yeast and bake bread in hot ovens",
}


def write_documents(folder: Path, *, first: int = 0, each: int = 4) -> Path:
    """A collection of three topics, whose ids begin to count at ``first``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for topic, text in TOPICS.items():
        words = text.split()
        for i in range(each):
            body = " ".join(words[i:] + words[:i])
            rows.append({"_id": f"{topic}{first + i}", "title": topic, "text": body})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "corpus.jsonl").write_text(lines)
    return folder


def dense_model(folder: Path, seed: int = 0):
    """A random dense model over the documents' words."""
    tokenizer = bert_tokenizer(folder)
    backbone = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2,
        intermediate_size=32, max_positions=64,
    )  # fmt: skip
    config = DenseConfig(backbone, query_length=24, doc_length=32)
    params = init_params(config, jax.random.key(seed))
    return model_from_parts("dense", config, params, tokenizer)


def make_place(folder: Path) -> Path:
    """Writes ``docs``, ``indexes/KIND`` and ``reranker``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXIR_CACHE", str(folder / "cache"))
        docs = write_documents(folder / "docs")
        models = {
            "dense": dense_model(folder / "words"),
            "bm25": "bm25",
            "sparse": tiny_sparse(folder / "words", query="idf"),
        }
        for kind, model in models.items():
            build_index(model, str(docs), folder / "indexes" / kind)
        save_model(folder / "reranker", tiny_reranker("bert", folder / "words"))
    return folder


def make_service(
    place: Path,
    *,
    kinds: tuple[str, ...] = KINDS,
    models: bool = True,
    texts: bool = True,
    limits: Limits | None = None,
    keys: tuple[str, ...] = (),
    log: Log | None = None,
    warm_up: bool = False,
) -> Service:
    """A service that is ready, in this process."""
    limits, systems = limits or Limits(), Systems()
    tick = (lambda: None) if warm_up else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXIR_CACHE", str(place / "cache"))
        for kind in kinds:
            docs = str(place / "docs") if texts else None
            plan = Plan(kind, str(place / "indexes" / kind), docs)
            systems.open[kind] = open_system(plan, limits, tick=tick)
        if models:
            spec = str(place / "reranker")
            systems.ranker = open_ranker("reranker", spec, tick=tick)
            model = str(place / "indexes" / "dense" / "model")
            systems.embedder = open_embedder("dense", model, limits, tick=tick)
    log = log or Log(open(os.devnull, "w"))  # noqa: SIM115
    service = Service(systems, limits=limits, keys=Keys(keys), log=log)
    service.state = "ready"
    return service


@contextlib.contextmanager
def listening(service: Service, most: int = 512) -> Iterator[int]:
    """Runs a service on a socket in a thread, with ``most`` connections; its port."""
    import uvicorn

    listener = bind("127.0.0.1", 0)
    http = functools.partial(Connection, service=service, most=most)
    config = uvicorn.Config(
        service.app, http=http, log_config=None, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve([listener])), daemon=True
    )
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


@contextlib.contextmanager
def in_thread(service: Service) -> Iterator[int]:
    """As :func:`listening`, for the last time."""
    try:
        with listening(service) as port:
            yield port
    finally:
        service.batcher.close()


class Process:
    """``jaxir serve`` in a process of its own; ends with the block.

    Args:
      place: of :func:`make_place`.
      options: more words of the command.
    """

    def __init__(self, place: Path, *options: str) -> None:
        self.log = place / f"log-{len(list(place.glob('log-*')))}.jsonl"
        command = [sys.executable, "-m", "jaxir", "serve", "--port", "0", *options]
        surroundings = os.environ | {
            "JAXIR_CACHE": str(place / "cache"), "JAX_NUM_CPU_DEVICES": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }  # fmt: skip
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, env=surroundings)
        self.port = 0

    def __enter__(self) -> "Process":
        self.wait_for("ready")
        self.port = self.wait_for("listening")["port"]
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def events(self) -> list[dict]:
        """What was written down so far."""
        text = self.log.read_text()
        return [json.loads(line) for line in text.splitlines(keepends=True)
                if line.endswith("\n")]  # fmt: skip

    def wait_for(self, event: str, count: int = 1) -> dict:
        """The ``count``-th line of a sort."""
        for _ in range(1200):
            found = [line for line in self.events() if line["event"] == event]
            if len(found) >= count:
                return found[count - 1]
            assert self.process.poll() is None or event == "closed", "it ended"
            time.sleep(0.1)
        raise AssertionError(f"no {event}: {self.events()}")
