"""``jaxir VERB …``: finds the verb's module, runs it, and turns mistakes into one line.

Only the module of the verb that is called is imported, so ``jaxir --help`` costs no
more than the interpreter.  Exit codes: 0 success, 2 a user's mistake (one line on
standard error), 1 a fault of ours (with its traceback), 130 interrupted.
"""

import argparse
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from jaxir import __version__
from jaxir.errors import InputError
from jaxir.progress import set_quiet

__all__ = ["VERBS", "main", "make_parser"]

VERBS = {
    "demo": "the whole road on the embedded collection: train, index, search, evaluate",
    "data": "make or check a collection folder",
    "train": "train a model as a gin file says",
    "index": "encode a collection and build an index",
    "search": "search an index with a collection's queries",
    "rerank": "score a run's best documents anew with a model",
    "fuse": "fuse several runs into one",
    "evaluate": "compare runs with judgments and significance tests",
    "mine": "mine hard negatives into training lists",
    "label": "score training lists with teachers",
    "export": "write a model or an index for other runtimes and engines",
    "serve": "search, rerank and embed over HTTP",
    "convert": "read and write other libraries' checkpoints",
    "bench": "time the hot paths against peers in the same process",
    "reproduce": "make the numbers of docs/results.md again, and compare",
}
"""Every verb with its one-line summary; module ``jaxir.cli.<verb>`` implements it."""


class _OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def make_parser(verb: str) -> argparse.ArgumentParser:
    """The argument parser of a verb, with the options every verb has."""
    module = importlib.import_module(f"jaxir.cli.{verb}")
    parser = _OneLineParser(
        prog=f"jaxir {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, no remarks")
    parser.set_defaults(command="")  # main() puts the whole command line here
    return parser


def _underscored(word: str) -> str:
    """``--batch-size=8`` as ``--batch_size=8``: people arrive with either habit."""
    name, equals, value = word.partition("=")
    if not name.startswith("--") or name.startswith("--gin."):
        return word
    return "--" + name[2:].replace("-", "_") + equals + value


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, text in VERBS.items())
    return (
        "usage: jaxir VERB [options]\n\n"
        "Neural information retrieval in JAX.\n\n"
        f"verbs:\n{verbs}\n\n"
        "  jaxir VERB --help says what a verb takes; jaxir --version, the version."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Args:
      argv: the words after ``jaxir``; the process's own by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"jaxir {__version__}")
        return 0
    verb, *rest = words
    if verb not in VERBS:
        known = ", ".join(VERBS)
        print(f"jaxir: unknown verb {verb!r}; expected one of {known}", file=sys.stderr)
        return 2
    try:
        parser = make_parser(verb)
        if parser.get_default("gin_bindings") is not None:
            from jaxir.cli.config import split_gin_flags

            bindings, rest = split_gin_flags(rest)
            parser.set_defaults(gin_bindings=bindings)
        parser.set_defaults(command=shlex.join(["jaxir", *words]))
        args = parser.parse_args([_underscored(word) for word in rest])
    except InputError as error:
        print(f"jaxir {verb}: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # argparse has already said why
        return int(stop.code or 0)
    set_quiet(args.quiet)
    try:
        return importlib.import_module(f"jaxir.cli.{verb}").run(args)
    except InputError as error:
        # gin adds lines of its own to a message that passes through it.
        print(f"jaxir {verb}: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"jaxir {verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left; nothing more can be said on that stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        print(f"jaxir {verb}: a fault of jaxir, see above", file=sys.stderr)
        return 1
    finally:
        set_quiet(False)  # for a caller in the same process


if __name__ == "__main__":
    sys.exit(main())
