"""Start-up of the command line: ``jaxir --help`` against importing its rivals.

The bound is 0.4 s for ``--help``, without importing JAX.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator

from timing import compare, versions

NAME = "startup"


def _process(code: str) -> Callable[[], None]:
    def start() -> None:
        subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True
        )

    return start


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields one case a rival: the time from nothing to help, or to its import."""
    ours = _process("from jaxir.cli.main import main; main(['--help'])")
    pairs = 3 if quick else 7
    for peer, module in (
        ("python -c pass", "sys"),
        ("import transformers", "transformers"),
        ("import sentence_transformers", "sentence_transformers"),
    ):
        if importlib.util.find_spec(module) is None:
            continue
        times = compare(ours, _process(f"import {module}"), pairs=pairs)
        yield {
            "name": NAME, "case": f"--help / {peer}", "peer": peer,
            **times, "versions": versions(),
        }  # fmt: skip
