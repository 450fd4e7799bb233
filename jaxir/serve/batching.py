"""Micro-batching: what waits when the device becomes free is worked on together.

One thread does the work.  It takes turns between sorts of work (an index, a reranker)
and between requests of one sort, so that a long list to rerank holds up neither queries
nor short lists, and takes of each what is queued
at that moment: a lone request is begun at once, and batches grow only while the device
is busy anyway.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from jaxir.serve.fields import ServiceError

__all__ = ["Batcher", "Work", "batch_size"]


class Work:
    """A sort of work: one call for several items, of any requests.

    Args:
      name: for the metrics, as ``search`` or ``rerank``.
      run: results of items, in their order.
      sizes: numbers of items that ``run`` is compiled for, rising.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[Any]], Sequence[Any]],
        sizes: Sequence[int],
    ) -> None:
        self.name, self.run, self.sizes = name, run, tuple(sizes)


def batch_size(waiting: int, sizes: Sequence[int]) -> int:
    """How many of the items that wait are taken together.

    As many as there are, unless more than a third of the next size would be padding:
    then the size below, and the rest in the next turn.  Up to 4 rows padding is cheaper
    than a second call.

    Args:
      waiting: at least 1.
      sizes: what is compiled, rising.

    Example::

      >>> [batch_size(n, (1, 4, 16)) for n in (1, 2, 3, 5, 10, 11, 40)]
      [1, 2, 3, 4, 4, 11, 16]
    """
    if waiting >= sizes[-1]:
        return sizes[-1]
    above = next(size for size in sizes if size >= waiting)
    if above <= 4 or 3 * waiting >= 2 * above:
        return waiting
    return max((size for size in sizes if size <= waiting), default=waiting)


class _Job:
    """Items of one request that go together, and who waits for them."""

    rest: "_Job | None" = None  # the request's next ones; they queue when these went

    def __init__(
        self,
        items: list[Any],
        deadline: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.items, self.deadline, self.loop = items, deadline, loop
        self.future: asyncio.Future = loop.create_future()
        self.since = time.monotonic()

    def parts(self) -> Iterator["_Job"]:
        """This one and what comes after it."""
        job: _Job | None = self
        while job is not None:
            yield job
            job = job.rest

    def wanted(self) -> bool:
        return not self.future.done() and time.monotonic() < self.deadline


Observe = Callable[[str, int, float, float], None]
"""``observe(work's name, items, seconds waited, seconds worked)`` of each batch."""


class Batcher:
    """The thread that works, and what waits for it.

    Args:
      observe: is told of each batch, on that thread.
    """

    def __init__(self, observe: Observe | None = None) -> None:
        self._observe = observe
        self._queues: OrderedDict[Work, deque[_Job]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.0  # of an item, lately
        self._thread = threading.Thread(target=self._serve, name="jaxir-work")
        self._thread.daemon = True
        self._thread.start()

    def waiting(self) -> int:
        """Items that wait."""
        with self._changed:
            return self._waiting()

    def _waiting(self) -> int:
        jobs = (job for queue in self._queues.values() for job in queue)
        return sum(len(part.items) for job in jobs for part in job.parts())

    def retry_after(self) -> int:
        """Seconds until what waits now is done, 1 to 60."""
        return min(max(math.ceil(self.waiting() * self._seconds), 1), 60)

    async def submit(
        self, work: Work, items: Sequence[Any], deadline: float
    ) -> list[Any]:
        """Results of items, in their order.

        Args:
          work: what to do.
          items: cut into parts of the largest size; between two of them all others
            who wait get their turn.
          deadline: by ``time.monotonic()``; what is not begun by then never is.

        Raises:
          TimeoutError: at the deadline.
          ServiceError: 503, the service is closing.
        """
        loop, most = asyncio.get_running_loop(), work.sizes[-1]
        parts = [
            _Job(list(items[start : start + most]), deadline, loop)
            for start in range(0, len(items), most)
        ]
        for one, other in pairwise(parts):
            one.rest = other
        with self._changed:
            if self._closed:
                raise ServiceError(503, "the service is closing", kind="server_error")
            self._queues.setdefault(work, deque()).extend(parts[:1])
            self._changed.notify()
        try:
            async with asyncio.timeout_at(loop.time() + deadline - time.monotonic()):
                found = [await part.future for part in parts]
        finally:
            for part in parts:
                part.future.cancel()  # what is given up is not begun
        return [result for part in found for result in part]

    def close(self, seconds: float | None = None) -> bool:
        """Finishes what waits; nothing is taken any more.

        Args:
          seconds: the most to wait for that; None for as long as it takes.

        Returns:
          Whether all is done.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._queues and not self._closed:
                    self._changed.wait()
                if not self._queues:
                    return
                work, jobs = self._taken()
            try:
                if jobs:
                    self._work(work, jobs)
            except BaseException as error:
                # Whatever it is: without this thread nobody is answered any more.
                with contextlib.suppress(Exception):
                    _tell([(job, _told(error)) for job in jobs])
            del work, jobs  # an exchanged index must not live until the next request

    def _taken(self) -> tuple[Work, list[_Job]]:
        """The next sort of work in turn, and of it what goes into one batch."""
        work, queue = self._queues.popitem(last=False)
        while queue and not queue[0].wanted():
            queue.popleft()
        jobs: list[_Job] = []
        if queue:
            waiting = sum(len(job.items) for job in queue)
            most, count = batch_size(waiting, work.sizes), 0
            while queue and (not jobs or count + len(queue[0].items) <= most):
                job = queue.popleft()
                if job.wanted():
                    jobs.append(job)
                    count += len(job.items)
                    if job.rest is not None:
                        queue.append(job.rest)
        if queue:
            self._queues[work] = queue  # at the end: the others come first
        return work, jobs

    def _work(self, work: Work, jobs: list[_Job]) -> None:
        items = [item for job in jobs for item in job.items]
        start = time.monotonic()
        results: list[Any]
        try:
            found = list(work.run(items))
            if len(found) != len(items):
                raise RuntimeError(f"{len(found)} results of {len(items)} items")
            ends = iter(found)
            results = [[next(ends) for _ in job.items] for job in jobs]
        except BaseException as error:  # a panic of a Rust library is no Exception
            if len(jobs) > 1:  # one of them may be to blame: each for itself
                for job in jobs:
                    if job.wanted():
                        self._work(work, [job])
                return
            results = [_told(error)]
        stop = time.monotonic()
        each = (stop - start) / len(items)
        self._seconds = each if not self._seconds else 0.9 * self._seconds + 0.1 * each
        _tell(list(zip(jobs, results, strict=True)))
        if self._observe is not None:
            self._observe(work.name, len(items), start - jobs[0].since, stop - start)


def _told(error: BaseException) -> Exception:
    """An error that a future takes: it refuses a StopIteration."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"{type(error).__name__}: {error}")
    return told.with_traceback(error.__traceback__)


def _tell(answers: Sequence[tuple[_Job, Any]]) -> None:
    """Has results delivered, on the threads of those who wait."""
    loops: dict[asyncio.AbstractEventLoop, list] = {}
    for job, result in answers:
        loops.setdefault(job.loop, []).append((job.future, result))
    for loop, found in loops.items():
        with contextlib.suppress(RuntimeError):  # closed: nobody waits there
            loop.call_soon_threadsafe(_deliver, found)


def _deliver(answers: Sequence[tuple[asyncio.Future, Any]]) -> None:
    """Tells those who wait, on their own thread."""
    for future, result in answers:
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
