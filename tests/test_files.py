"""Atomic writing: whole or absent, with one-line errors for a full disk."""

import errno
import gzip
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from jaxir import files
from jaxir.errors import InputError


def only(folder):
    return sorted(path.name for path in folder.iterdir())


def test_error_is_one_line():
    error = InputError("a.tsv:3", "found\nthis", "that", "do it")
    assert str(error) == "a.tsv:3: found this; expected that; do it"


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_round_trip(tmp_path, name):
    with files.atomic_file(tmp_path / "deep" / name) as out:
        out.write("q Q0 d 1 1.0 ä\n")
    with files.open_text(tmp_path / "deep" / name) as stream:
        assert stream.read() == "q Q0 d 1 1.0 ä\n"
    assert only(tmp_path / "deep") == [name]


def test_gzip_is_told_by_content_and_is_deterministic(tmp_path):
    for name in ("a.gz", "b.gz"):
        with files.atomic_file(tmp_path / name) as out:
            out.write("same")
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"same"
    (tmp_path / "plain_name").write_bytes((tmp_path / "a.gz").read_bytes())
    with files.open_text(tmp_path / "plain_name") as stream:
        assert stream.read() == "same"


def test_binary(tmp_path):
    with files.atomic_file(tmp_path / "x.bin", "wb") as out:
        out.write(b"\x00\xff")
    assert (tmp_path / "x.bin").read_bytes() == b"\x00\xff"


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_file(path) as out:
        out.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert only(tmp_path) == ["x.txt"]


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(InputError, match="no space left on the device"),
        files.atomic_file(tmp_path / "x.txt") as out,
    ):
        out.write("new")
    assert only(tmp_path) == []


def test_forbidden_place(tmp_path, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkstemp", forbidden)
    with (
        pytest.raises(InputError, match="cannot write here"),
        files.atomic_file(tmp_path / "x.txt"),
    ):
        pass


def test_a_place_is_checked_and_nothing_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "new" / "target")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    for name in ("new", "new/deep/x", "file", "link", "pipe"):
        files.check_output(tmp_path / name)
    with pytest.raises(InputError, match="a folder; expected the name of a file"):
        files.check_output(tmp_path)
    for name in ("file/x", "file/new/x"):
        with pytest.raises(InputError, match=r"x: cannot write here \(Not a directory"):
            files.check_output(tmp_path / name)
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(InputError, match=r"new/x: cannot write here \(Permission"):
        files.check_output(tmp_path / "new" / "x")
    assert sorted(tmp_path.rglob("*")) == before


def test_directory_replaces_as_a_whole(tmp_path):
    place = tmp_path / "index"
    for content in ("one", "two"):
        with files.atomic_directory(place) as folder:
            (folder / content).write_text(content)
    assert only(place) == ["two"]
    assert only(tmp_path) == ["index"]


def test_directory_failure_keeps_the_old_one(tmp_path):
    place = tmp_path / "index"
    with files.atomic_directory(place) as folder:
        (folder / "one").write_text("one")
    with pytest.raises(RuntimeError), files.atomic_directory(place) as folder:
        (folder / "two").write_text("two")
        raise RuntimeError
    assert only(place) == ["one"]
    assert only(tmp_path) == ["index"]


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        files.open_text(tmp_path / "nothing.tsv")


def test_resources(monkeypatch, tmp_path):
    assert (files.resource_directory("gin") / "runs").is_dir()
    with pytest.raises(InputError, match="not in this installation"):
        files.resource_directory("no-such-folder")
    monkeypatch.setenv("JAXIR_CACHE", str(tmp_path / "c"))
    assert files.cache_root() == tmp_path / "c"


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "x").startswith("ba7816bf8f01cfea")


def test_a_link_keeps_pointing_at_what_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "run.trec", tmp_path / "link.trec"
    for text in ("dangling", "replaced"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with files.atomic_file(link) as out:
            out.write(text)
        assert link.is_symlink()
        assert target.read_text() == text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with files.atomic_file(pipe) as out:
        out.write("through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


def test_lock_excludes_and_leaves_nothing(tmp_path):
    """Holders come and go, the file is removed each time, and no two are inside."""
    place, inside, most = tmp_path / "made" / "x", [], []

    def build():
        for _ in range(50):
            with files.locked(place):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 200
    assert list(place.parent.iterdir()) == []


def test_made_parents_go_when_the_block_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), files.made_parents(tmp_path / "a/b/c"):
        assert (tmp_path / "a" / "b").is_dir()
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []
    with files.made_parents(tmp_path / "a/b/c"):
        pass
    assert (tmp_path / "a" / "b").is_dir()


def test_the_outermost_place_is_named(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        pytest.raises(InputError, match=r"outer: no space left"),
        files.disk_errors(tmp_path / "outer"),
        files.disk_errors(tmp_path / "outer" / ".x.123"),
    ):
        raise full


def test_a_link_to_a_directory_keeps_pointing_at_what_is_written(tmp_path):
    (tmp_path / "big" / "index").mkdir(parents=True)
    (tmp_path / "index").symlink_to(tmp_path / "big" / "index")
    with files.atomic_directory(tmp_path / "index") as folder:
        (folder / "new").write_text("")
    assert (tmp_path / "index").is_symlink()
    assert only(tmp_path / "big" / "index") == ["new"]
    assert only(tmp_path / "big") == ["index"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it takes two steps")
def test_a_directory_is_exchanged_in_one_step(tmp_path, monkeypatch):
    place = tmp_path / "index"
    with files.atomic_directory(place) as folder:
        (folder / "one").write_text("")
    monkeypatch.setattr(os, "replace", None)  # which would leave a moment without
    with files.atomic_directory(place) as folder:
        (folder / "two").write_text("")
    assert only(place) == ["two"]
    assert only(tmp_path) == ["index"]


@pytest.mark.parametrize("system", ["linux", "darwin", "musl", "a disk that cannot"])
def test_a_directory_is_replaced_where_it_cannot_be_exchanged(
    tmp_path, monkeypatch, system
):
    library = SimpleNamespace(renameat2=lambda *args: -1)
    if system == "musl":
        library = SimpleNamespace()
    monkeypatch.setattr(files.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(sys, "platform", "darwin" if system == "darwin" else "linux")
    test_directory_replaces_as_a_whole(tmp_path)


def test_the_directory_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    monkeypatch.chdir(tmp_path / "index")
    with files.locked("."), files.atomic_directory(".") as folder:
        (folder / "new").write_text("")
        assert (tmp_path / ".index.lock").is_file()
    assert only(tmp_path) == ["index"]
    assert only(tmp_path / "index") == ["new"]


def test_a_link_has_the_lock_of_what_it_points_at(tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "link").symlink_to("index")
    with (
        files.claimed(tmp_path / "index"),
        pytest.raises(InputError, match="link: is being written already"),
        files.claimed(tmp_path / "link"),
    ):
        pass
    assert only(tmp_path) == ["index", "link"]


def test_a_directory_that_cannot_be_moved_in_leaves_the_old(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchanged", lambda *args: False)
    place, replace = tmp_path / "d", os.replace
    place.mkdir()
    (place / "old").write_text("")

    def once_refused(source, target):
        if target == place and not (source / "old").exists():
            raise OSError(errno.ENOSPC, "full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", once_refused)
    with pytest.raises(InputError, match="no space"), files.atomic_directory(place):
        pass
    assert only(tmp_path) == ["d"]
    assert only(place) == ["old"]
