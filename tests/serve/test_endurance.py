"""The service goes on, and ends when it is told to, whatever happens around it."""

import asyncio
import contextlib
import io
import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from jaxir.serve.access import Log
from jaxir.serve.app import Service
from jaxir.serve.load import load
from jaxir.serve.server import Loader, Models, _hear_faults
from jaxir.serve.systems import Plan, Systems


@contextlib.contextmanager
def started(*words, **streams):
    """A process; killed at the end if it is still there."""
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, text=True, env=surroundings, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def ends(process):
    """Whether SIGTERM ends it, well."""
    process.send_signal(signal.SIGTERM)
    return process.wait(60) == 0


def broken():
    """A pipe's end whose reader left."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


SERVE = [sys.executable, "-m", "jaxir", "serve", "--no_warm_up", "--port"]

STUCK = """
import sys, threading
from jaxir.serve import server
server.open_system = lambda *_, **__: threading.Event().wait()  # a long compilation
from jaxir.cli.main import main
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_closing_waits_for_no_compilation(own):
    words = [sys.executable, "-c", STUCK, "--index", str(own / "bm25"), "--port", "0"]
    with started(*words, stdout=subprocess.PIPE) as process:
        assert '"listening"' in process.stdout.readline()
        assert ends(process)
        assert '"closed"' in process.stdout.read()


def test_a_log_that_is_not_read(own):
    """Requests are answered and signals heard, though nobody takes the lines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reader, writer = os.pipe()
    words = [*SERVE, str(port), "--index", str(own / "bm25")]
    with started(*words, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        assert "stop with Ctrl-C" in process.stderr.readline()
        answers = asyncio.run(load(port, [b"{}"] * 1000, concurrency=4))
        assert {answer.status for answer in answers} == {400}
        assert ends(process)
    os.close(reader)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_whose_reader_left_or_that_is_not_there(own, stream, closed):
    line = "exec " + shlex.join([*SERVE, "0", "--index", str(own / "bm25")])
    if closed:
        line += {"stdout": " >&-", "stderr": " 2>&-"}[stream]
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    writer = broken()
    streams = {stream: writer, other: subprocess.PIPE}
    with started("sh", "-c", line, **streams) as process:
        os.close(writer)
        sign = {"stderr": "stop with Ctrl-C", "stdout": '"ready"'}[other]
        assert any(sign in said for said in getattr(process, other))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert ends(process)


def test_watching_goes_on_whatever_is_raised(own, monkeypatch):
    from jaxir.serve import server

    class Panic(BaseException):
        """As the libraries in Rust raise it: no Exception."""

    out = io.StringIO()
    service = Service(Systems(), log=Log(out))
    plan = Plan("bm25", str(own / "bm25"))
    loader = Loader(service, [plan], Models(), warm_up=False)
    real_open, real_stamp, raised = server.open_system, server.read_stamp, []

    def first_raises(real, error):
        def call(*words, **more):
            if error not in raised:
                raised.append(error)
                raise error
            return real(*words, **more)

        return call

    async def main():
        await loader.open_all()
        assert service.metrics.value("jaxir_index_swaps_total", index="bm25") == 0
        error = first_raises(real_stamp, ValueError("a look"))
        monkeypatch.setattr(server, "read_stamp", error)
        monkeypatch.setattr(server, "RETRY", 0)
        monkeypatch.setattr(server, "open_system", first_raises(real_open, Panic("no")))
        os.utime(own / "bm25" / "manifest.json")
        watching = asyncio.create_task(loader.watch(0.01))
        while not service.metrics.value("jaxir_index_swaps_total", index="bm25"):
            assert not watching.done()
            await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    said = {event["event"]: event.get("error") for event in events}
    assert said["watch_failed"] == "ValueError: a look"
    assert said["index_failed"] == "RuntimeError: Panic: no"
    assert "index_exchanged" in said
    loader.close()
    service.batcher.close()


def test_what_is_asked_many_times_is_opened_once(own):
    service = Service(Systems(), log=Log(io.StringIO()))
    loader = Loader(service, [Plan("bm25", str(own / "bm25"))], Models(), warm_up=False)

    async def main():
        opening = asyncio.create_task(loader.open_all())
        await asyncio.sleep(0)
        hups = [loader.look(changed_only=False) for _ in range(5)]  # while it opens
        await asyncio.gather(opening, *hups)
        first = service.metrics.value("jaxir_index_swaps_total", index="bm25")
        await loader.look(changed_only=False)
        return first, service.metrics.value("jaxir_index_swaps_total", index="bm25")

    assert asyncio.run(main()) == (1, 2)
    loader.close()
    service.batcher.close()


def test_faults_of_the_server_fill_no_disk(own):
    out = io.StringIO()
    service = Service(Systems(), log=Log(out))

    async def main():
        loop = asyncio.get_running_loop()
        _hear_faults(service, loop)
        logger = logging.getLogger("uvicorn.error")
        for _ in range(100):
            error = OSError(24, "Too many open files")
            about = {"message": "accept failed", "exception": error}
            loop.call_exception_handler(about)
            logger.error("a fault")
            logger.warning("a malformed request")

    asyncio.run(main())
    (line,) = out.getvalue().splitlines()
    assert json.loads(line)["error"] == "OSError: [Errno 24] Too many open files"
    service.batcher.close()
