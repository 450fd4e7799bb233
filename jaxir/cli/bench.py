"""Time the hot paths, each against a peer in the same process.

  jaxir bench startup topk
  jaxir bench encode --json
  jaxir bench --list

A line a case.  ``ratio`` is the peer's time over ours, so above 1 is faster than the
peer: the median over alternating pairs.  A peer that is not installed is named and
left out.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from types import ModuleType

from jaxir.errors import InputError
from jaxir.files import resource_directory

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks")
    parser.add_argument("--list", action="store_true", help="list the names and stop")
    parser.add_argument("--quick", action="store_true", help="smaller cases")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _benchmarks() -> dict[str, str]:
    """Name -> module, of every benchmark file."""
    folder = resource_directory("benchmarks")
    return {
        path.stem.replace("_", "-"): path.stem
        for path in sorted(folder.glob("*.py"))
        if path.stem not in ("__init__", "timing")
    }


def _load(name: str) -> ModuleType:
    folder = str(resource_directory("benchmarks"))
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that benchmarks share timing.py
    return importlib.import_module(name)


def _cases(names: list[str], quick: bool) -> Iterator[dict]:
    known = _benchmarks()
    for name in names:
        if name not in known:
            raise InputError(name, "no such benchmark", f"one of {', '.join(known)}")
    for name in names:
        yield from _load(known[name]).run(quick=quick)


def _line(case: dict) -> str:
    head = f"{case['name']:<14} {case['case']:<34}"
    if "peak_bytes" in case:
        peak, bound = case["peak_bytes"], case["bound_bytes"]
        verdict = "within" if peak <= bound else "ABOVE"
        return (
            f"{head} peak {peak / 2**20:,.0f} MiB, {verdict} bound {bound / 2**20:,.0f}"
        )
    if case.get("peer_s") is None:
        return f"{head} ours {case['ours_s']:.4g} s  (peer {case['peer']} is not here)"
    return (
        f"{head} ours {case['ours_s']:.4g} s  {case['peer']} {case['peer_s']:.4g} s  "
        f"ratio {case['ratio']:.2f}"
    )


def run(args: argparse.Namespace) -> int:
    if args.list or not args.names:
        print("\n".join(_benchmarks()))
        return 0
    from jaxir.mesh import use_cpu_cores

    use_cpu_cores()  # as the verbs index and search do
    for case in _cases(args.names, args.quick):
        print(json.dumps(case) if args.json else _line(case), flush=True)
    return 0
