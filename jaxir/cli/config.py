"""The only importer of gin: parses files and bindings, and calls what they configure.

Library code carries no gin decorator.  Files under ``gin/`` say
``from __gin__ import dynamic_registration`` and import the modules whose functions and
dataclasses they bind.
"""

import contextlib
import importlib
import inspect
import logging
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxir.errors import InputError
from jaxir.files import resource_directory

__all__ = [
    "configured",
    "configured_from",
    "configured_run",
    "operative_config",
    "parse_gin",
    "reject_unused",
    "split_gin_flags",
]

_PLACE = re.compile(r'In file "([^"]*)", line (\d+)')
_BAD_TOKEN = re.compile(r"Failed to parse token '([^']*)'")


_known_roots: set[str] = set()  # gin can add a search path but not forget one


def _gin() -> Any:
    """The gin package; it reads importlib.util without importing it."""
    importlib.import_module("importlib.util")
    return importlib.import_module("gin")


@contextlib.contextmanager
def _files_alone() -> Iterator[None]:
    """Includes are files: gin would look for a Python package of that name as well.

    It fails over a folder such as ``runs/`` in the working directory, and logs each
    path that it tries; our error names them once.
    """
    config = _gin().config
    readers = config._FILE_READERS  # gin has no way to forget one
    config._FILE_READERS = [(open, os.path.isfile)]
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        config._FILE_READERS = readers


def split_gin_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates ``--gin.NAME=VALUE`` from other words.

    Returns:
      The bindings as gin statements ``NAME = VALUE``, and the remaining words.

    Raises:
      InputError: a ``--gin.`` flag without ``=``.

    Example::

      >>> split_gin_flags(["--gin.TRAIN_STEPS=10", "--quiet"])
      (['TRAIN_STEPS = 10'], ['--quiet'])
    """
    bindings, others = [], []
    for word in words:
        if not word.startswith("--gin."):
            others.append(word)
            continue
        name, equals, value = word.removeprefix("--gin.").partition("=")
        if not equals or not name:
            raise InputError(word, "no value", "--gin.NAME=VALUE")
        bindings.append(f"{name} = {value}")
    return bindings, others


def _find(file: str, search_paths: Sequence[Path]) -> Path:
    for candidate in (Path(file), *(root / file for root in search_paths)):
        if candidate.is_file():
            return candidate
    looked = ", ".join(str(root) for root in (Path.cwd(), *search_paths))
    raise InputError(file, f"no such gin file; looked in {looked}")


def _explain(error: Exception, files: Sequence[str]) -> InputError:
    """One line from gin's several: the place, what is wrong, what to do."""
    text = str(error)
    place = _PLACE.search(text)
    if place:
        where: str = f"{place[1]}:{place[2]}"
    else:
        where = ", ".join(files) or "gin"
    token = _BAD_TOKEN.search(text)
    if token:
        return InputError(
            where, f"{token[1]!r} is no value", "a number, a 'string' or a %MACRO",
            "strings need quotes of their own",
        )  # fmt: skip
    lines = [line.strip() for line in text.splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith("In "))
    said = re.sub(r" in config string:.*$", "", said)  # gin quotes the whole config
    said = (said or repr(error)).rstrip(". ")
    required = re.match(r"(\w+)/macro\.value set to `%gin\.REQUIRED`", said)
    if required:
        return InputError(
            where,
            f"{required[1]} has no value",
            remedy=f"give --gin.{required[1]}=VALUE",
        )
    if "Required bindings" in said or "REQUIRED" in said:
        return InputError(where, said, remedy="give it with --gin.NAME=VALUE")
    return InputError(where, said, remedy="see the header of the gin file")


def _reject_unknown_macros(bindings: Sequence[str]) -> None:
    """A macro nobody defined or uses would be accepted by gin and then ignored."""
    gin = _gin()

    config = gin.config_str()
    for statement in bindings:
        name = statement.partition("=")[0].strip()
        if "." in name or "@" in name or "/" in name:
            continue  # a parameter: gin itself checks that it exists
        if not re.search(rf"^{name} = |%{name}\b", config, re.MULTILINE):
            macros = sorted(set(re.findall(r"^([A-Z][A-Z0-9_]*) = ", config, re.M)))
            raise InputError(
                f"--gin.{name}", "no such macro in the gin files",
                f"one of {', '.join(macros)}" if macros else "a file that has it",
                "check the spelling" if macros else "name the file with --gin_file",
            )  # fmt: skip


def _fits(value: Any, hint: Any) -> bool:
    """Whether a literal is of an annotated type; what is not a literal's type fits."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if hint in (None, type(None)):
        return value is None
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if origin is tuple:
        return isinstance(value, tuple | list)  # gin's tuples may be lists
    return True


def _check_types() -> None:
    """A literal of another type than the parameter's would fail deep inside, or later.

    Raises:
      InputError: names the macro or parameter, its value and the type it should have.
    """
    gin = _gin()

    bound = gin.config._CONFIG  # gin has no public way to list its bindings
    for (_, selector), values in list(bound.items()):
        if selector == "gin.macro":
            continue
        target = inspect.unwrap(gin.get_configurable(selector))
        try:
            hints = typing.get_type_hints(target)
        except (NameError, TypeError):
            continue  # annotations that are only for type checkers
        for parameter, value in values.items():
            name = f"{selector.rpartition('.')[2]}.{parameter}"
            while isinstance(value, gin.config.ConfigurableReference):
                macro = (value.scoped_selector.rpartition("/")[0], "gin.macro")
                if macro not in bound:
                    break
                name, value = macro[0], bound[macro].get("value")
            literal = value is None or isinstance(value, bool | int | float | str)
            hint = hints.get(parameter, Any)
            if literal and not _fits(value, hint):
                expected = getattr(hint, "__name__", str(hint))
                raise InputError(f"--gin.{name}", repr(value), expected)


def parse_gin(
    files: Sequence[str],
    bindings: Sequence[str] = (),
    *,
    search_paths: Sequence[str] = (),
) -> None:
    """Clears gin's state and reads files, then bindings, which win.

    Args:
      files: gin files, looked up as given, then under ``search_paths``, then under
        jaxir's own ``gin/``.
      bindings: statements such as ``"TRAIN_STEPS = 100"``.
      search_paths: further folders for files and their ``include`` lines.

    Raises:
      InputError: a file that is not there, or a name or value gin does not accept.
    """
    gin = _gin()

    gin.clear_config()
    roots = [*(Path(path) for path in search_paths), resource_directory("gin")]
    for root in map(str, roots):
        if root not in _known_roots:
            gin.add_config_file_search_path(root)
            _known_roots.add(root)
    found = [str(_find(file, roots)) for file in files]
    try:
        with _files_alone():
            gin.parse_config_files_and_bindings(
                found, None, finalize_config=False, skip_unknown=False
            )
        _reject_unknown_macros(bindings)
        for statement in bindings:
            found = [f"--gin.{statement.partition('=')[0].strip()}"]
            gin.parse_config(statement, skip_unknown=False)
        found = list(files)
        gin.finalize()
        _check_types()
    except InputError:
        raise
    except (ValueError, ImportError, AttributeError, SyntaxError, OSError,
            RuntimeError, TypeError, LookupError) as error:  # fmt: skip
        raise _explain(error, found) from error


def reject_unused(bindings: Sequence[str], default: Callable[..., Any]) -> None:
    """Refuses what would be accepted and then ignored: bindings that no part reads.

    Args:
      bindings: the statements given beside the files, as to :func:`parse_gin`.
      default: what runs where no file sets ``RUN``.

    Raises:
      InputError: names the first such binding.
    """
    gin = _gin()

    bound = gin.config._CONFIG  # as in _check_types
    waiting: list[tuple[str, str]] = [("RUN", "gin.macro")]
    if waiting[0] not in bound:
        waiting.append(("", f"{default.__module__}.{default.__qualname__}"))
    read = set(waiting)
    while waiting:
        key = waiting.pop()
        # a function's bindings count in every scope, a macro's name is its scope
        same = [k for k in bound if k == key or (k[1] == key[1] != "gin.macro")]
        for reference in gin.config.iterate_references([bound[k] for k in same]):
            if reference.config_key not in read:
                read.add(reference.config_key)
                waiting.append(reference.config_key)
    for statement in bindings:
        name = statement.partition("=")[0].strip()
        owner = name.rpartition("/")[2].rpartition(".")[0]
        if owner:  # a parameter, by as much of its owner's name as is unique
            known = any(f".{used}".endswith(f".{owner}") for _, used in read)
        else:
            known = (name, "gin.macro") in read
        if not known:
            raise InputError(
                f"--gin.{name}", "nothing of this run reads it",
                "a value of the model, task and run at hand", "leave it out",
            )  # fmt: skip


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with the parsed bindings as its defaults.

    Raises (when called):
      InputError: a binding that is required and missing, or that the function or a
        dataclass it configures refuses.
    """
    return _explained(_gin().get_configurable(function))


def _explained(bound: Callable[..., Any]) -> Callable[..., Any]:
    """A function of gin's whose missing bindings are told in one line."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return bound(*args, **kwargs)
        except RuntimeError as error:
            if "Required bindings" in str(error) or "REQUIRED" in str(error):
                raise _explain(error, ()) from error
            raise

    return call


def configured_from(
    files: Sequence[str], bindings: Sequence[str], target: Callable[..., Any]
) -> Any:
    """What ``target``, a dataclass, becomes with the values of gin files.

    Args:
      files: as for :func:`parse_gin`.
      bindings: statements beside the files, which win.
      target: what is called.

    Raises:
      InputError: as :func:`parse_gin`; files that say nothing of ``target``, or a
        binding that it does not read.
    """
    parse_gin(files, bindings)
    selector = f"{target.__module__}.{target.__qualname__}"
    if ("", selector) not in _gin().config._CONFIG:  # as in _check_types
        name = target.__qualname__
        raise InputError(
            ", ".join(files) or "--gin", f"nothing about {name}", f"values of {name}",
            "see the folder gin/search",
        )  # fmt: skip
    reject_unused(bindings, target)
    return configured(target)()


def configured_run(default: Callable[..., Any]) -> Callable[..., Any]:
    """What the parsed files run: the function their macro ``RUN`` names.

    Args:
      default: where no file says ``RUN = @module.function``.

    Raises:
      InputError: ``RUN`` is something else; when called, as :func:`configured`.
    """
    gin = _gin()

    if ("RUN", "gin.macro") not in gin.config._CONFIG:
        return configured(default)
    # read as a macro, so that the operative config repeats it
    with gin.config_scope("RUN"):
        run = gin.get_configurable("gin.macro")()
    if not callable(run):
        raise InputError("--gin.RUN", repr(run), "a function, as in @fit.fit")
    return _explained(run)


def operative_config() -> str:
    """The bindings that were used, as a gin file that repeats the run."""
    gin = _gin()

    return gin.operative_config_str()
