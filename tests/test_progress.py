"""Bars appear on terminals alone, whatever the terminal says of itself."""

import contextlib
import io
import os
import struct

import pytest

from jaxir import progress

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")


@pytest.fixture(autouse=True)
def _not_quiet(monkeypatch):
    """Whatever an earlier test's ``--quiet`` left in this process."""
    monkeypatch.setattr(progress, "_quiet", False)


def drawn(monkeypatch, columns, walk):
    """What ``walk()`` writes to a pseudo-terminal of so many columns."""
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(
        theirs,
        termios.TIOCSWINSZ,
        struct.pack("HHHH", 24 if columns else 0, columns, 0, 0),
    )
    monkeypatch.delenv("JAXIR_QUIET", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        walk()
    parts = []
    with contextlib.suppress(OSError):  # the end: nobody writes any more
        while part := os.read(ours, 65536):
            parts.append(part)
    os.close(ours)
    return b"".join(parts).decode()


def walk():
    for _ in progress.progress_bar(range(3), label="outer", unit="doc"):
        list(progress.progress_bar(range(2), label="inner"))


@pytest.mark.parametrize("columns", [0, 100])
def test_a_bar_has_rate_and_time_left(monkeypatch, columns):
    text = drawn(monkeypatch, columns, walk)
    last = [line for line in text.split("\r") if line.startswith("outer: 100%")][-1]
    assert "3/3 [" in last
    assert "<" in last  # the time left
    assert "doc/s" in last
    assert len(last.split("\n")[0].rstrip()) <= (columns or 80)


def test_inner_bars_leave_no_line(monkeypatch):
    text = drawn(monkeypatch, 80, walk)
    assert "inner:" in text
    assert text.count("\n") - text.count("\x1b[A") == 1  # the outer's alone


def test_silent_elsewhere(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    walk()
    assert progress.sys.stderr.getvalue() == ""
    monkeypatch.setenv("JAXIR_QUIET", "1")
    progress.say("nothing")
    assert progress.sys.stderr.getvalue() == ""


def test_quiet_silences_a_terminal(monkeypatch):
    progress.set_quiet(True)
    try:
        assert (
            drawn(
                monkeypatch,
                80,
                lambda: (walk(), print(end=".", file=progress.sys.stderr)),
            )
            == "."
        )
    finally:
        progress.set_quiet(False)
