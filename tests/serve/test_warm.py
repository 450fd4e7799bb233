"""After the warm-up nothing is compiled, whatever is asked."""

import asyncio
import contextlib
import random
import time

import jax.monitoring
import pytest
from tiny_hypencoders import tiny_hypencoder
from tiny_service import dense_model, make_service, write_documents

from jaxir.index import BuildOptions, build_index
from jaxir.index_job import PqOptions
from jaxir.serve.fields import Limits
from jaxir.serve.systems import Plan, open_system
from jaxir.serve.warm import search_sizes
from jaxir.serve.works import Query, embed_plan, sizes_to

WORDS = ["rivers", "carry", "water", "an", "engine", "burns", "bread", "unknown"]


@contextlib.contextmanager
def compilations():
    """The programs that are compiled in the block."""
    found = []

    def listen(name, seconds, **_):
        if name.endswith("backend_compile_duration"):
            found.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def texts_of(draw, most, count):
    return [
        " ".join(draw.choices(WORDS, k=draw.randint(0, most))) for _ in range(count)
    ]


def run(service, work, items):
    return asyncio.run(service.batcher.submit(work, items, time.monotonic() + 60))


def test_listening_hears_a_compilation():
    with compilations() as found:
        jax.jit(lambda x: x * 3 + random.random())(1.0)
    assert found


@pytest.mark.slow
def test_nothing_is_compiled_afterwards(place):
    limits = Limits(k=20, batch=8)
    service = make_service(place, limits=limits, warm_up=True)
    draw = random.Random(0)
    systems = service.systems
    with compilations() as found:
        for system in systems.open.values():
            for count in range(1, 9):
                for text in texts_of(draw, 40, 3):
                    queries = [*texts_of(draw, 40, count - 1), text]
                    k = draw.randint(1, 20)
                    asked = [Query(query, k) for query in queries]
                    assert len(run(service, system.work(k), asked)) == count
        for count in (1, 2, 3, 7, 8):
            for side in ("query", "doc"):
                run(service, systems.embedder.works[side], texts_of(draw, 60, count))
        for count in (1, 2, 5, 17, 32, 40):
            documents = texts_of(draw, 60, count)
            (query,) = texts_of(draw, 30, 1)
            run(service, systems.ranker.work, [(query, doc) for doc in documents])
    assert found == []
    service.batcher.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pq", "hypencoder"])
def test_other_kinds(place, tmp_path, kind):
    docs = write_documents(tmp_path / "docs", each=6)
    if kind == "pq":
        model = dense_model(tmp_path / "words")
        options = BuildOptions(pq=PqOptions(subvectors=4, bits=4))
        build_index(model, str(docs), tmp_path / "i", kind="pq", options=options)
    else:
        build_index(tiny_hypencoder(tmp_path / "words"), str(docs), tmp_path / "i")
    plan, draw = Plan("i", str(tmp_path / "i")), random.Random(1)
    system = open_system(plan, Limits(k=5, batch=4), tick=lambda: None)
    assert system.searcher.kind == kind
    with compilations() as found:
        for count in range(1, 5):
            queries = texts_of(draw, 40, count)
            hits = system.work(5).run([Query(text, 5) for text in queries])
            direct = system.searcher.search_texts(queries, 5)
            for i, one in enumerate(hits):
                rows = [row for row in direct.doc_ids[i].tolist() if row >= 0]
                assert [hit["doc_id"] for hit in one] == [
                    system.searcher.doc_ids[row] for row in rows
                ]
    assert found == []


def test_a_tick_ends_it(place):
    def stop():
        raise RuntimeError("enough")

    plan = Plan("dense", str(place / "indexes" / "dense"))
    with pytest.raises(RuntimeError, match="enough"):
        open_system(plan, Limits(), tick=stop)


def test_sizes():
    assert search_sizes("bm25", 64) == (4,)
    assert search_sizes("bm25", 1) == (1,)
    assert search_sizes("dense", 64) == (1, 4, 16, 64)
    assert search_sizes("dense", 1) == (1,)
    assert search_sizes("hypencoder", 64) == (1, 2, 4, 8)
    assert sizes_to(1) == (1,)
    assert sizes_to(5) == (1, 2, 4, 5)


def test_shapes_of_embeddings_are_few(place):
    from jaxir.checkpoints.model_dir import load_model
    from jaxir.encode import TextEncoder
    from jaxir.mesh import make_mesh

    model = load_model(place / "indexes" / "dense" / "model")
    encoder = TextEncoder(model, side="doc", mesh=make_mesh(1), batch_tokens=64)
    shapes = set()
    for count in range(1, 20):
        for length in range(1, 33):
            plan = embed_plan(encoder, [length] * count)
            assert sum(len(part.rows) for part in plan) == count
            assert all(part.shape[1] >= length for part in plan)
            shapes |= {part.shape for part in plan}
    assert shapes == {(1, 16), (4, 16), (2, 32)}
