"""Ending on a signal: after a whole step, saved, and quietly."""

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["TrainingInterrupted", "collect_signals"]


class TrainingInterrupted(SystemExit):
    """A signal ended training after a whole step, which was saved.

    Not caught, it ends the process quietly with code 128 + signal, as shells expect.
    """

    def __init__(self, step: int, number: int) -> None:
        super().__init__(128 + number)
        self.step = step


@contextlib.contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT; the second one acts as it did before."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may set handlers
        return
    previous = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(number: int, _: object) -> None:
        received.append(number)
        restore()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        restore()
