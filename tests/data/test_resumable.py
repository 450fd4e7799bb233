"""Interrupted work ends with the same bytes as work that was never stopped."""

import gzip

import pytest

from jaxir.data.resumable import resumable_lines
from jaxir.errors import InputError


def _work(path, settings, *, stop_at=None):
    with resumable_lines(path, settings) as out:
        for n in range(6):
            if str(n) in out.done:
                continue
            if n == stop_at:
                raise KeyboardInterrupt
            out.append(str(n), [f"é{n}"] * n, {"lines": n})
        return out.counts["lines"], set(out.done)


@pytest.mark.parametrize("stop_at", [0, 1, 4, 5])
def test_resume_is_uninterrupted(tmp_path, stop_at):
    _work(tmp_path / "whole.txt", {"a": 1})
    path = tmp_path / "stopped.txt"
    with pytest.raises(KeyboardInterrupt):
        _work(path, {"a": 1}, stop_at=stop_at)
    assert not path.exists()
    assert _work(path, {"a": 1})[0] == 15
    assert path.read_bytes() == (tmp_path / "whole.txt").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stopped.txt", "whole.txt"]


def test_a_torn_last_line_is_done_again(tmp_path):
    path = tmp_path / "out.txt"
    with pytest.raises(KeyboardInterrupt):
        _work(path, {}, stop_at=4)
    partial = tmp_path / "out.txt.partial"
    whole = partial.read_bytes()
    for cut in range(1, 40, 7):
        partial.write_bytes(whole[:-cut])
        with pytest.raises(KeyboardInterrupt):
            _work(path, {}, stop_at=4)
        assert partial.read_bytes() == whole
    assert _work(path, {})[1] == set("012345")


@pytest.mark.parametrize(
    ("line", "damage"),
    [
        (0, b"\xff\n"), (1, b"[]\n"), (2, b"\xff\n"), (3, b'{"key": "2", "lin\x00\n'),
        (3, b'{"key": "2", "lines": ["a"], "counts": 1}\n'), (4, b'{"key": 3}\n'),
    ],
)  # fmt: skip
def test_from_a_damaged_line_on_it_is_done_again(tmp_path, capsys, line, damage):
    _work(tmp_path / "whole.txt", {})
    path, partial = tmp_path / "out.txt", tmp_path / "out.txt.partial"
    with pytest.raises(KeyboardInterrupt):
        _work(path, {}, stop_at=5)
    lines = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join([*lines[:line], damage, *lines[line + 1 :]]))
    assert _work(path, {})[0] == 15
    assert path.read_bytes() == (tmp_path / "whole.txt").read_bytes()
    said = capsys.readouterr().err
    assert ("of other settings" in said) == (line == 0)
    assert (f"partial:{line + 1}: damaged; done again" in said) == (line > 0)


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "new" / "out.txt"
    with resumable_lines(path, {}) as out:
        out.append("0", ["a"])
        with (
            pytest.raises(InputError, match=r"out.txt: is being written already; exp"),
            resumable_lines(path, {}),
        ):
            raise AssertionError("the work began")
        out.append("1", ["b"])
    assert path.read_text() == "a\nb\n"
    assert list(path.parent.iterdir()) == [path]


def test_other_settings_start_over(tmp_path, capsys):
    path = tmp_path / "out.txt"
    with pytest.raises(KeyboardInterrupt):
        _work(path, {"a": 1}, stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        _work(path, {"a": 2}, stop_at=0)
    assert "of other settings or input; starting over" in capsys.readouterr().err
    assert _work(path, {"a": 2})[0] == 15


def test_gzip(tmp_path):
    _work(tmp_path / "out.txt.gz", {})
    text = gzip.decompress((tmp_path / "out.txt.gz").read_bytes()).decode()
    assert text.startswith("é1\né2\né2\n")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken.partial").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name, message in (
        ("file/out.txt", r"cannot write here \(.*; choose a place"),
        ("folder", "a folder; expected the name of a file; choose another"),
        ("taken", r"taken.partial: cannot write \(.*; make room or choose another"),
    ):
        with (
            pytest.raises(InputError, match=message),
            resumable_lines(tmp_path / name, {}),
        ):
            raise AssertionError("the work began")
    assert sorted(tmp_path.rglob("*")) == before
