"""``jaxir serve`` in a process of its own: signals, indexes that change, overload."""

import asyncio
import gc
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from tiny_service import (
    KINDS,
    Process,
    dense_model,
    in_thread,
    make_service,
    write_documents,
)

from jaxir.checkpoints.model_dir import load_model
from jaxir.cli.main import main
from jaxir.encode import encode_texts
from jaxir.errors import InputError
from jaxir.index import build_index
from jaxir.search import open_index
from jaxir.serve.access import Log
from jaxir.serve.app import Service
from jaxir.serve.fields import Limits
from jaxir.serve.load import Client, differences, load
from jaxir.serve.server import Loader as ServiceLoader
from jaxir.serve.server import Models, bind
from jaxir.serve.systems import Plan, Systems
from jaxir.serve.works import Query
from jaxir.types import Ranking

QUERIES = ["water from the mountains", "bread", "an engine burns fuel", "steel clay"]


def body(i=0, k=5):
    return json.dumps({"query": QUERIES[i % len(QUERIES)], "k": k}).encode()


class Loader:
    """Connections that ask without an end, in a thread, until they are told to stop.

    Attributes:
      answers: ``(number of the request, its answer)`` in the order of arrival.
    """

    def __init__(self, port, *, connections=8, bodies=body, stop_when_refused=False):
        self.port, self.bodies, self.answers = port, bodies, []
        self._stop, self._count = threading.Event(), 0
        self._until_refused = stop_when_refused
        work = lambda: asyncio.run(self._all(connections))  # noqa: E731
        self._thread = threading.Thread(target=work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive()

    async def _all(self, connections):
        await asyncio.gather(*(self._one() for _ in range(connections)))

    async def _one(self):
        client = Client(self.port)
        while not self._stop.is_set():
            number = self._count
            self._count += 1
            answer = await client.ask(
                "POST", "/search", self.bodies(number), {"x-request-id": f"r{number}"}
            )
            self.answers.append((number, answer))
            if answer.status == 0:
                if self._until_refused:
                    return
                await asyncio.sleep(0.05)
        client.close()

    def wait_for(self, count):
        """Waits for so many more answers."""
        wanted = len(self.answers) + count
        for _ in range(1200):
            if len(self.answers) >= wanted:
                return
            threading.Event().wait(0.05)
        raise AssertionError(f"{len(self.answers)} answers of {wanted}")


def test_sigterm_loses_nothing_that_was_accepted(own):
    def many(i):  # work that piles up
        return json.dumps({"queries": QUERIES * 8, "k": 10}).encode()

    options = ["--index", str(own / "dense"), "--no_warm_up", "--watch", "0"]
    with Process(own, *options) as service:
        with Loader(
            service.port, connections=24, bodies=many, stop_when_refused=True
        ) as loader:
            loader.wait_for(60)
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(60) == 0
        events = service.events()
    got = {f"r{number}" for number, answer in loader.answers if answer.status == 200}
    asked = [event for event in events if event["event"] == "request"]
    accepted = {event["id"] for event in asked if event["path"] == "/search"}
    assert accepted == got
    assert {answer.status for _, answer in loader.answers} <= {200, 0}
    at = next(i for i, event in enumerate(events) if event["event"] == "closing")
    assert events[at]["in_flight"] > 0  # it was in the middle
    assert sum(event["event"] == "request" for event in events[at:]) > 0
    assert events[-1]["event"] == "closed"
    for _, answer in loader.answers:
        if answer.status == 200:
            assert len(answer.json()["results"]) == len(QUERIES) * 8


@pytest.mark.slow
def test_an_index_is_exchanged_under_load(own, tmp_path):
    before = open_index(own / "dense")
    options = ["--index", f"main={own / 'dense'}", "--watch", "0.2"]
    options += ["--max_k", "10", "--max_batch", "4"]  # few shapes to compile, twice
    with Process(own, *options) as service, Loader(service.port) as loader:
        loader.wait_for(100)
        docs = write_documents(tmp_path / "new", first=100)
        build_index(dense_model(tmp_path / "words", 1), str(docs), own / "dense")
        service.wait_for("index_exchanged")
        exchanged = len(loader.answers)
        loader.wait_for(100)
    after = open_index(own / "dense")
    assert before.doc_ids[0] == "river0"
    assert after.doc_ids[0] == "river100"
    truth = [
        (searcher.search_texts(QUERIES, 12), searcher.doc_ids)
        for searcher in (before, after)
    ]
    kinds = []
    for number, answer in loader.answers:
        assert answer.status == 200, answer
        (result,) = answer.json()["results"]
        i = number % len(QUERIES)
        same = [
            differences(result["hits"], Ranking(ids[i], scores[i]), names) == ""
            for (ids, scores), names in truth
        ]
        assert sum(same) == 1, result
        kinds.append(same.index(True))
    assert kinds[0] == 0
    assert kinds[-1] == 1
    # At most what was under way was still answered by the old one.
    assert sum(kind == 0 for kind in kinds[exchanged:]) <= 8
    errors = {event["status"] for event in service.events() if "status" in event}
    assert errors == {200}


def test_an_index_that_cannot_be_opened_stays_as_it_was(own, tmp_path):
    index = own / "bm25"
    options = ["--index", str(index), "--watch", "0.1"]
    with Process(own, *options) as service, Loader(service.port) as loader:
        loader.wait_for(20)
        (index / "manifest.json").write_text("{")
        failed = service.wait_for("index_failed")
        assert "InputError" in failed["error"]
        loader.wait_for(20)
        shutil.rmtree(index)  # gone: nothing to open
        loader.wait_for(20)
        docs = write_documents(tmp_path / "new", first=100)
        build_index("bm25", str(docs), index)
        service.wait_for("index_exchanged")
        loader.wait_for(20)
        service.process.send_signal(signal.SIGHUP)
        service.wait_for("index_exchanged", 2)
        loader.wait_for(20)
    assert {answer.status for _, answer in loader.answers} == {200}
    (result,) = loader.answers[-1][1].json()["results"]
    assert all(hit["doc_id"][-3:].isdigit() for hit in result["hits"])
    assert result["hits"]


def test_an_old_index_goes(own):
    """Nothing holds on to what was exchanged."""
    service = Service(Systems(), log=Log(io.StringIO()))
    plan = Plan("bm25", str(own / "bm25"))
    loader = ServiceLoader(service, [plan], Models(), warm_up=False)

    async def main():
        await loader.open_all()
        system = service.systems.open["bm25"]
        await service.batcher.submit(system.work(3), [Query("a", 3)], 1e12)
        old = weakref.ref(system.searcher)
        del system
        await loader.look()
        assert old() is not None  # it has not changed
        await loader.look(changed_only=False)
        gc.collect()
        return old

    assert asyncio.run(main())() is None
    assert service.metrics.value("jaxir_index_swaps_total", index="bm25") == 1
    assert service.state == "ready"
    loader.close()
    service.batcher.close()


def test_embeddings_follow_their_index(own, tmp_path):
    service = Service(Systems(), log=Log(io.StringIO()))
    plans = [Plan(kind, str(own / kind)) for kind in ("dense", "bm25")]
    loader = ServiceLoader(
        service, plans, Models(embedder=("dense", None)), warm_up=False
    )

    async def main():
        await loader.open_all()
        first = service.systems.embedder
        docs = write_documents(tmp_path / "new")
        build_index(dense_model(tmp_path / "words", 1), str(docs), own / "dense")
        await loader.look()
        return first, service.systems.embedder

    first, second = asyncio.run(main())
    texts = ["bread", "water"]
    before, after = (
        [one.vector for one in embedder.works["doc"].run(texts)]
        for embedder in (first, second)
    )
    model = load_model(own / "dense" / "model")
    np.testing.assert_allclose(after, encode_texts(model, texts, side="doc"), atol=1e-5)
    assert np.abs(np.array(before) - after).max() > 1e-3
    loader.close()
    service.batcher.close()
    wrong = ServiceLoader(service, plans, Models(embedder=("bm25", None)))
    with pytest.raises(InputError, match="bm25: an index of kind 'bm25' to embed with"):
        asyncio.run(wrong.open_all())
    wrong.close()


def test_requests_of_all_sorts_at_once(place):
    """Whoever shares a batch, everybody gets what a lone request gets."""
    service = make_service(place, limits=Limits(batch=16))
    draw = random.Random(3)
    asked = []
    for _ in range(300):
        text = " ".join(draw.choices(" ".join(QUERIES).split(), k=draw.randint(1, 9)))
        asked.append(
            draw.choice(
                [("/search", {"query": text, "k": draw.randint(1, 12),
                              "index": draw.choice(KINDS)}),
                 ("/search", {"query": text, "k": 3, "rerank": 8}),
                 ("/search", {"queries": [text, "bread"], "k": 2, "index": "sparse",
                              "explain": True}),
                 ("/rerank", {"query": text, "documents": QUERIES}),
                 ("/v1/embeddings", {"input": [text, "bread"]})]
            )
        )  # fmt: skip

    async def ask(port, requests, concurrency):
        answers = {}
        places = iter(enumerate(requests))

        async def one():
            client = Client(port)
            for i, (path, value) in places:
                answers[i] = await client.ask("POST", path, json.dumps(value).encode())
            client.close()

        await asyncio.gather(*(one() for _ in range(concurrency)))
        return [answers[i] for i in range(len(requests))]

    with in_thread(service) as port:
        together = asyncio.run(ask(port, asked, 32))
        alone = asyncio.run(ask(port, asked, 1))
    for request, one, other in zip(asked, together, alone, strict=True):
        assert (one.status, other.status) == (200, 200)
        assert alike(one.json(), other.json()), (request, one.body, other.body)


def alike(one, other):
    """Equal, numbers up to rounding, whatever differs from time to time left out."""
    if isinstance(one, dict):
        keys = one.keys() - {"id", "took_ms"}
        same = keys == other.keys() - {"id", "took_ms"}
        return same and all(alike(one[key], other[key]) for key in keys)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float):
        return one == pytest.approx(other, rel=1e-4, abs=1e-5)
    return one == other


def test_draining_says_so_and_answers(own):
    options = ["--index", str(own / "bm25"), "--drain", "3", "--watch", "0"]
    with Process(own, *options) as service:
        service.process.send_signal(signal.SIGTERM)
        service.wait_for("closing")

        async def main():
            client = Client(service.port)
            ready = await client.ask("GET", "/ready")
            return ready, await client.ask("POST", "/search", body())

        ready, answer = asyncio.run(main())
        assert (ready.status, ready.json()) == (503, {"status": "closing"})
        assert ready.headers["connection"] == "close"
        assert answer.status == 200
        service.process.send_signal(signal.SIGTERM)  # asked for twice: at once
        assert service.process.wait(30) == 0


def test_before_it_is_ready(own):
    service = Process(own, "--index", str(own / "dense"))
    port = service.wait_for("listening")["port"]

    async def main():
        client = Client(port)
        asked = [("GET", "/health", b""), ("POST", "/search", body())]
        return [await client.ask(*words) for words in asked]

    health, search = asyncio.run(main())
    assert (health.status, search.status) == (200, 503)
    assert search.headers["retry-after"] == "2"
    service.process.send_signal(signal.SIGTERM)  # while indexes are opened
    assert service.process.wait(120) == 0
    assert "ready" not in {event["event"] for event in service.events()}


def fails(*options):
    command = [sys.executable, "-m", "jaxir", "serve", *map(str, options)]
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=surroundings, timeout=120
    )
    assert done.returncode == 2, done
    return done.stderr


def test_mistakes_at_the_start_are_one_line(own, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = fails("--index", own / "bm25", "--port", port)
        assert f"127.0.0.1:{port}: cannot listen here" in said
        assert said.count("\n") == 1
    said = fails("--index", own / "nothing", "--port", 0)
    assert "no such directory" in said
    assert said.count("\n") == 1
    said = fails("--rerank", own / "bm25", "--port", 0)
    assert said.count("\n") == 1
    assert main(["serve", "--index", "i", "--texts", "a", "--texts", "b"]) == 2
    assert "--texts: twice for every index" in capsys.readouterr().err


def test_an_address_of_another_machine():
    with pytest.raises(InputError, match=r"192.0.2.1:0: cannot listen here"):
        bind("192.0.2.1", 0)
    with pytest.raises(InputError, match="cannot listen here"):
        bind("127.0.0.1", 99_999)


def test_answers_are_sent_at_once():
    """asyncio turns Nagle's algorithm off only where the protocol is named."""
    with bind("127.0.0.1", 0) as listener:
        client = socket.create_connection(listener.getsockname())
        taken, _ = listener.accept()
        assert taken.proto == socket.IPPROTO_TCP
        client.close()
        taken.close()


def test_overload_gives_429_and_recovers(place):
    limits = Limits(queue=4)
    service = make_service(place, kinds=("bm25",), models=False, limits=limits)
    held, begun = threading.Event(), threading.Event()
    work = service.systems.open["bm25"].work(5)
    real = work.run

    def run(items):
        begun.set()
        assert held.wait(60)
        return real(items)

    work.run = run
    with in_thread(service) as port:

        async def main():
            first = asyncio.create_task(load(port, [body()] * 4, concurrency=4))
            assert await asyncio.to_thread(begun.wait, 60)
            while service.in_flight < 4:
                await asyncio.sleep(0.01)
            refused = await load(port, [body()] * 20, concurrency=20)
            other = await Client(port).ask("GET", "/health")
            held.set()
            served = await first
            return (
                refused,
                other,
                served,
                await load(port, [body()] * 40, concurrency=4),
            )

        refused, other, served, after = asyncio.run(main())
    assert {answer.status for answer in refused} == {429}
    for answer in refused:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["error"]["type"] == "rate_limit_error"
    assert other.status == 200
    assert {answer.status for answer in served + after} == {200}
    assert service.metrics.value("jaxir_rejected_total") == 20
    assert service.in_flight == 0


def test_deadlines(place):
    limits = Limits(deadline=0.3)
    service = make_service(place, kinds=("bm25",), models=False, limits=limits)
    held = threading.Event()
    work = service.systems.open["bm25"].work(5)
    real = work.run
    work.run = lambda items: (held.wait(60), real(items))[1]
    with in_thread(service) as port:
        late = asyncio.run(load(port, [body()] * 3, concurrency=3))
        held.set()
        after = asyncio.run(load(port, [body()] * 3, concurrency=1))
    for answer in late:
        assert answer.status == 504
        assert answer.json()["error"]["message"] == "no answer within 0.3 seconds"
        assert answer.json()["error"]["type"] == "timeout_error"
    assert {answer.status for answer in after} == {200}
    assert service.metrics.value("jaxir_deadline_total") == 3
