"""What waits is worked on together, in turn, by one thread; nothing is lost."""

import asyncio
import threading
import time

import pytest

from jaxir.serve.batching import Batcher, Work, batch_size
from jaxir.serve.fields import ServiceError

SOON = 60.0


def later() -> float:
    return time.monotonic() + SOON


class Recorded:
    """A sort of work that waits to be let go, and remembers its batches."""

    def __init__(self, name="w", sizes=(1, 2, 4, 8), *, held=False):
        self.batches, self.threads = [], set()
        self.gate, self.begun = threading.Event(), threading.Event()
        if not held:
            self.gate.set()
        self.work = Work(name, self.run, sizes)

    def run(self, items):
        self.batches.append(list(items))
        self.threads.add(threading.current_thread().name)
        self.begun.set()
        assert self.gate.wait(SOON)
        return [10 * item for item in items]


@pytest.fixture
def batcher():
    made = Batcher()
    yield made
    made.close()


async def until(event):
    assert await asyncio.to_thread(event.wait, SOON)


def test_sizes():
    sizes = (1, 4, 16, 64)
    assert [batch_size(n, sizes) for n in (1, 2, 4, 5, 15, 16, 33, 43, 64, 99)] == [
        1, 2, 4, 4, 15, 16, 16, 43, 64, 64,
    ]  # fmt: skip
    assert batch_size(3, (4,)) == 3
    assert batch_size(2, (16,)) == 2


def test_a_lone_request_is_alone(batcher):
    recorded = Recorded()

    async def main():
        return [await batcher.submit(recorded.work, [i], later()) for i in range(3)]

    assert asyncio.run(main()) == [[0], [10], [20]]
    assert recorded.batches == [[0], [1], [2]]
    assert recorded.threads == {"jaxir-work"}


def test_what_waits_is_taken_together(batcher):
    recorded = Recorded(held=True)

    async def main():
        ask = [asyncio.create_task(batcher.submit(recorded.work, [0], later()))]
        await until(recorded.begun)
        for i in range(1, 13):
            ask.append(asyncio.create_task(batcher.submit(recorded.work, [i], later())))
        await asyncio.sleep(0.05)
        assert batcher.waiting() == 12
        assert 1 <= batcher.retry_after() <= 60
        recorded.gate.set()
        return await asyncio.gather(*ask)

    assert asyncio.run(main()) == [[10 * i] for i in range(13)]
    assert recorded.batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12]]


def test_items_of_a_request_keep_their_order(batcher):
    recorded = Recorded()

    async def main():
        many = batcher.submit(recorded.work, range(21), later())
        few = batcher.submit(recorded.work, [100, 101], later())
        return await asyncio.gather(many, few)

    many, few = asyncio.run(main())
    assert many == [10 * i for i in range(21)]
    assert few == [1000, 1010]
    assert max(map(len, recorded.batches)) == 8
    assert asyncio.run(batcher.submit(recorded.work, [], later())) == []


def test_sorts_of_work_take_turns(batcher):
    order = []
    slow, quick = Recorded("slow", (1,), held=True), Recorded("quick", (1,))
    slow.work.run = lambda items: (order.append("slow"), slow.run(items))[1]
    quick.work.run = lambda items: (order.append("quick"), quick.run(items))[1]

    async def main():
        long = asyncio.create_task(batcher.submit(slow.work, range(5), later()))
        await until(slow.begun)
        short = asyncio.create_task(batcher.submit(quick.work, [1, 2], later()))
        await asyncio.sleep(0.05)
        slow.gate.set()
        await asyncio.gather(long, short)

    asyncio.run(main())
    assert order == ["slow", "slow", "quick", "slow", "quick", "slow", "slow"] or (
        order == ["slow", "quick", "slow", "quick", "slow", "slow", "slow"]
    )


def test_a_short_request_does_not_wait_for_a_long_one(batcher):
    recorded = Recorded(held=True)

    async def main():
        long = asyncio.create_task(batcher.submit(recorded.work, range(40), later()))
        await until(recorded.begun)
        short = asyncio.create_task(batcher.submit(recorded.work, [100], later()))
        other = asyncio.create_task(
            batcher.submit(recorded.work, range(200, 216), later())
        )
        await asyncio.sleep(0.05)
        assert batcher.waiting() == 32 + 1 + 16
        recorded.gate.set()
        return await asyncio.gather(long, short, other)

    long, short, other = asyncio.run(main())
    assert long == [10 * i for i in range(40)]
    assert other == [10 * i for i in range(200, 216)]
    assert short == [1000]
    place = next(i for i, batch in enumerate(recorded.batches) if 100 in batch)
    assert place <= 2
    kinds = [batch[0] // 100 for batch in recorded.batches if 100 not in batch]
    assert kinds == [0, 0, 2, 0, 2, 0, 0]


def test_at_the_deadline(batcher):
    held, other = Recorded(held=True), Recorded("other")

    async def main():
        begun = asyncio.create_task(
            batcher.submit(held.work, [1], time.monotonic() + 0.2)
        )
        await until(held.begun)
        waiting = asyncio.create_task(
            batcher.submit(other.work, [2], time.monotonic() + 0.2)
        )
        for task in (begun, waiting):  # being worked on, and not yet begun
            with pytest.raises(TimeoutError):
                await task
        held.gate.set()
        return await batcher.submit(other.work, [3], later())

    assert asyncio.run(main()) == [30]
    assert other.batches == [[3]]  # what nobody waits for is not begun


def test_who_gives_up_is_not_worked_for(batcher):
    held, other = Recorded(held=True), Recorded("other")

    async def main():
        first = asyncio.create_task(batcher.submit(held.work, [1], later()))
        await until(held.begun)
        gone = asyncio.create_task(batcher.submit(other.work, [2], later()))
        await asyncio.sleep(0.05)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        held.gate.set()
        await first
        return await batcher.submit(other.work, [3], later())

    assert asyncio.run(main()) == [30]
    assert other.batches == [[3]]


def test_one_mistake_does_not_spoil_the_others(batcher):
    gate, begun = threading.Event(), threading.Event()

    def run(items):
        begun.set()
        assert gate.wait(SOON)
        if "bad" in items:
            raise ValueError("a bad item")
        return items

    work = Work("w", run, (1, 2, 4, 8))

    async def main():
        first = asyncio.create_task(batcher.submit(work, ["a"], later()))
        await asyncio.to_thread(begun.wait, SOON)
        rest = [
            asyncio.create_task(batcher.submit(work, [item], later()))
            for item in ("b", "bad", "c", "d")
        ]
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    a, b, bad, c, d = asyncio.run(main())
    assert (a, b, c, d) == (["a"], ["b"], ["c"], ["d"])
    assert isinstance(bad, ValueError)


class Panic(BaseException):
    """As the libraries in Rust raise it: no Exception."""


def panic():
    raise Panic("in Rust")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda items: items[1:], "1 results of 2 items"),
        (lambda items: [next(iter(()))], "StopIteration"),
        (lambda items: panic(), "Panic: in Rust"),
    ],
)
def test_work_that_goes_wrong_is_told(batcher, run, said):
    work = Work("w", run, (1, 2))
    with pytest.raises(RuntimeError, match=said):
        asyncio.run(batcher.submit(work, [1, 2], later()))
    assert asyncio.run(batcher.submit(Recorded().work, [1], later())) == [10]


def test_the_thread_goes_on_whatever_is_raised():
    def observe(*batch):
        raise Panic("in the metrics")

    batcher, work = Batcher(observe), Recorded().work
    for i in range(3):
        assert asyncio.run(batcher.submit(work, [i], later())) == [10 * i]
    assert batcher.close(SOON)


def test_closing_waits_no_longer_than_it_is_told():
    batcher, held = Batcher(), Recorded(held=True)

    async def main():
        asked = asyncio.create_task(batcher.submit(held.work, [1], later()))
        await until(held.begun)
        assert not batcher.close(0.01)
        held.gate.set()
        return await asked

    assert asyncio.run(main()) == [10]
    assert batcher.close(SOON)


def test_closing_finishes_what_waits():
    batcher, held = Batcher(), Recorded(held=True)

    async def main():
        asked = [
            asyncio.create_task(batcher.submit(held.work, [i], later()))
            for i in range(5)
        ]
        await until(held.begun)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.05)
        with pytest.raises(ServiceError, match="closing") as refused:
            await batcher.submit(held.work, [9], later())
        assert refused.value.status == 503
        held.gate.set()
        await closing
        return await asyncio.gather(*asked)

    assert asyncio.run(main()) == [[0], [10], [20], [30], [40]]


def test_batches_are_told():
    told = []
    batcher = Batcher(lambda *batch: told.append(batch))
    recorded = Recorded("search")
    asyncio.run(batcher.submit(recorded.work, [1, 2, 3], later()))
    batcher.close()
    ((name, items, waited, worked),) = told
    assert (name, items) == ("search", 3)
    assert waited >= 0
    assert worked >= 0


def test_requests_of_several_loops(batcher):
    recorded = Recorded()
    found = {}

    def ask(i):
        found[i] = asyncio.run(batcher.submit(recorded.work, [i], later()))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert found == {i: [10 * i] for i in range(8)}
