"""Writing that is whole or absent, and reading that does not care about gzip.

Every file and directory that jaxir leaves behind goes through :func:`atomic_file` or
:func:`atomic_directory`: written under a temporary name beside its place, flushed to
the disk and renamed.  An interrupted or failed write leaves what was there before.
"""

import contextlib
import ctypes
import errno
import gzip
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jaxir.errors import InputError

__all__ = [
    "STAGING",
    "atomic_directory",
    "atomic_file",
    "cache_root",
    "check_output",
    "claimed",
    "disk_errors",
    "locked",
    "made_parents",
    "named_place",
    "open_text",
    "resource_directory",
    "sha256_file",
]


STAGING = ".saving."
"""How the name begins of a folder whose parts will replace those beside it."""


def named_place(path: str | os.PathLike) -> Path:
    """A place by a name of its own, which ``.`` and ``..`` are not.

    What is written in its stead stands beside it, under a name made of that one.

    Args:
      path: any.

    Example::

      >>> named_place(".").name == Path.cwd().name, named_place("a/b").name
      (True, 'b')
    """
    place = Path(path)
    return place if place.name not in ("", "..") else Path(os.path.abspath(place))


# a file stands where a folder should, or a folder where a file should
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, *_NO_FOLDER)


def _is_full(error: object) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # Orbax and TFDS tell of it in exceptions of their own.
    texts = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "Not enough disk")
    return any(text in str(error) for text in texts)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a forbidden place into a user's one-line error."""
    try:
        yield
    except Exception as found:
        # Of nested blocks the outermost names the place: it is the one a person gave.
        nested = isinstance(found, InputError) and isinstance(found.__cause__, OSError)
        error = found.__cause__ if nested else found
        if _is_full(error):
            raise InputError(
                path,
                "no space left on the device",
                remedy="free space or choose another place; nothing was written",
            ) from error
        if isinstance(error, OSError) and error.errno in _FORBIDDEN:
            raise InputError(
                path,
                f"cannot write here ({error.strerror})",
                remedy="choose a place you may write to; nothing was written",
            ) from error
        raise


@contextlib.contextmanager
def made_parents(path: Path) -> Iterator[None]:
    """Makes the missing parents of ``path``; they go again if the block fails."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something else stands there by now
            for folder in missing:
                folder.rmdir()
        raise


@contextlib.contextmanager
def _encoded(raw: Any, suffix: str, mode: str) -> Iterator[Any]:
    """``raw`` as what is written to it: text or bytes, compressed for ``.gz``."""
    with contextlib.ExitStack() as stack:
        stream: Any = raw
        if suffix == ".gz":
            # mtime 0: the same content gives the same bytes
            stream = gzip.GzipFile(fileobj=raw, mode="wb", mtime=0)
            stack.callback(stream.close)
        if "b" not in mode:
            stream = io.TextIOWrapper(stream, "utf-8", newline="\n")
        yield stream
        stream.flush()
        if isinstance(stream, io.TextIOWrapper):
            stream.detach()


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens ``path`` for writing; it appears only when the block ends well.

    A name that ends in ``.gz`` is compressed.  Missing parent directories are made.  A
    link keeps pointing at what is written; a device or pipe, such as ``/dev/stdout``,
    is written to and never replaced.

    Args:
      path: where the file shall stand.
      mode: ``"w"`` (UTF-8 text) or ``"wb"``.

    Raises:
      InputError: the disk is full or the place cannot be written.

    Example::

      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
      >>> with atomic_file(path) as out:
      ...     _ = out.write("whole")
      >>> path.read_text()
      'whole'
    """
    path = Path(path)
    suffix = path.suffix
    if path.exists() and not (path.is_file() or path.is_dir()):
        with (
            disk_errors(path),
            path.open("wb") as raw,
            _encoded(raw, suffix, mode) as s,
        ):
            yield s
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    with disk_errors(path), made_parents(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as raw:
                with _encoded(raw, suffix, mode) as stream:
                    yield stream
                raw.flush()
                os.fsync(raw.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def check_output(path: str | os.PathLike) -> None:
    """Raises now what :func:`atomic_file` would raise of ``path`` after hours of work.

    Nothing is made or written.

    Raises:
      InputError: ``path`` is a folder, a file stands in its way, or the nearest folder
        above it may not be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(path, "a folder", "the name of a file", "choose another")
    with disk_errors(path):
        if path.exists() and not path.is_file():  # a device or pipe
            return
        place = Path(os.path.realpath(path)).parent
        while not place.exists():
            place = place.parent
        number = 0
        if not place.is_dir():
            number = errno.ENOTDIR
        elif not os.access(place, os.W_OK | os.X_OK):
            number = errno.EACCES
        if number:
            raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary directory that takes the place of ``path`` at the end.

    An existing ``path`` is replaced as a whole, and only after the new one is complete:
    on Linux in one step, so that there is no moment without one, elsewhere in two.  A
    link keeps pointing at what is written.

    Raises:
      InputError: the disk is full or the place cannot be written.
    """
    given, path = Path(path), Path(os.path.realpath(path))
    with disk_errors(given), made_parents(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary.chmod(0o755)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb+") as stream:
                        os.fsync(stream.fileno())
            if path.exists() and _exchanged(temporary, path):
                pass  # the old one is the temporary one now
            elif path.exists():
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
                os.replace(path, old / path.name)
                try:
                    os.replace(temporary, path)
                except BaseException:
                    os.replace(old / path.name, path)
                    old.rmdir()
                    raise
                shutil.rmtree(old)
            else:
                os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step; false where system or disk cannot."""
    if sys.platform != "linux":
        return False
    here, both = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(here, os.fsencode(one), here, os.fsencode(other), both) == 0


@contextlib.contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Lets one process at a time build what shall stand at ``path``; others wait.

    The lock is a hidden file beside ``path``; it ends with the process and the file
    with the block.  Where the system has no file locks (Windows), nothing is excluded
    and the last builder wins.

    Raises:
      InputError: the place cannot be written.
    """
    path = Path(path)
    with disk_errors(path), made_parents(path), _holding(path, wait=True):
        yield


@contextlib.contextmanager
def claimed(path: str | os.PathLike) -> Iterator[None]:
    """Keeps ``path`` for the one who writes it; a second one is refused at once.

    The lock is that of :func:`locked`.

    Raises:
      InputError: another is writing it, or the place cannot be written.
    """
    path = Path(path)
    with contextlib.ExitStack() as held:
        with disk_errors(path):  # at the beginning alone: the block has its own
            held.enter_context(made_parents(path))
            try:
                held.enter_context(_holding(path, wait=False))
            except BlockingIOError as error:
                raise InputError(
                    path, "is being written already", "one writer at a time",
                    "let it end, or choose another place",
                ) from error  # fmt: skip
        yield


@contextlib.contextmanager
def _holding(path: Path, *, wait: bool) -> Iterator[None]:
    """Holds the lock of ``path``; raises BlockingIOError rather than wait, if told."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    real = Path(os.path.realpath(path))  # by whatever name it goes
    place = real.with_name(f".{real.name}.lock")
    while True:
        lock = place.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise
        # The holder before us removed the file: a lock on it excludes nobody.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), place.stat()):
                break
        lock.close()
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        lock.close()


def open_text(path: str | os.PathLike) -> io.TextIOWrapper:
    """Opens a UTF-8 text file for reading, gzip or plain, told by its first bytes.

    Raises:
      InputError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", remedy="check the path")
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    if compressed:
        packed: Any = gzip.GzipFile(path, "rb")
        return io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
    return path.open(encoding="utf-8", newline="\n")


def sha256_file(path: str | os.PathLike) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_root() -> Path:
    """Where derived data may be kept: ``$JAXIR_CACHE`` or ``~/.cache/jaxir``."""
    return Path(os.environ.get("JAXIR_CACHE") or Path.home() / ".cache" / "jaxir")


def resource_directory(name: str) -> Path:
    """The directory ``gin`` or ``benchmarks``, of the wheel or of the source tree.

    Raises:
      InputError: neither the wheel nor the source tree carries it.
    """
    package = Path(__file__).parent
    for candidate in (package / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise InputError(name, "not in this installation", remedy="reinstall jaxir")
