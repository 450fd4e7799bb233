"""Time the hot paths, each against a peer in the same process.

  jaxir bench startup topk
  jaxir bench encode --json
  jaxir bench hyper-graph --index I --queries C:split --output figure.svg
  jaxir bench limit --queries C:split --output figure.svg
  jaxir bench sparse-study --index I1 I2 --queries C:split --output figure.svg
  jaxir bench --list

A line a case.  ``ratio`` is the peer's time over ours, so above 1 is faster than the
peer: the median over alternating pairs; ``cpu ratio`` is that of processor times.  A
peer that is not installed is named and left out.  Three of them study data of yours and
draw a figure: hyper-graph varies the settings of a graph search (quality, time and
documents scored of each), limit counts the queries whose relevant documents free
vectors and free q-nets can put first, sparse-study compares sparse indexes (quality,
cost, and which tokens weigh).
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from jaxir.errors import InputError
from jaxir.files import resource_directory

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks")
    parser.add_argument("--list", action="store_true", help="list the names and stop")
    parser.add_argument("--quick", action="store_true", help="smaller cases")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    group = parser.add_argument_group("a study of data of yours")
    group.add_argument(
        "--index",
        nargs="+",
        help="hyper-graph: of a Hypencoder, with neighbors; sparse-study: one or more",
    )
    group.add_argument("--queries", help="COLLECTION:SPLIT, with judgments")
    group.add_argument("--output", help="the figure, an SVG file")
    group.add_argument("--k", type=int, help="hyper-graph: results a query (100)")
    group.add_argument("--rule", help="hyper-graph: paper (default) or released")


def _benchmarks() -> dict[str, str]:
    """Name -> module, of every benchmark file."""
    folder = resource_directory("benchmarks")
    return {
        path.stem.replace("_", "-"): path.stem
        for path in sorted(folder.glob("*.py"))
        if path.stem not in ("__init__", "memory", "timing")
    }


def _load(name: str) -> ModuleType:
    folder = str(resource_directory("benchmarks"))
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that benchmarks share memory.py and timing.py
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
    if "realised" in case:
        return f"{head} {case['realised']:,} of {case['queries']:,} queries"
    if "kept_rare" in case:
        kept = [case["kept_common"], case["kept_rare"]]
        common, rare = ("-" if mean is None else f"{mean:.3f}" for mean in kept)
        return (
            f"{head} nDCG@10 {case['nDCG@10']:.4f}  FLOPS {case['flops']:.2f}  "
            f"{case['tokens_per_doc']:.1f} tokens; kept weight of common tokens "
            f"{common}, of rare {rare}; common pay {case['paid_by_common']:.0%}"
        )
    if "nDCG@10" in case:
        return (
            f"{head} nDCG@10 {case['nDCG@10']:.4f}  scored {case['docs_scored']:,.0f} "
            f"({case['share_scored']:.1%})  {1e3 * case['ours_s']:.1f} ms a query"
        )
    rate = _rate(case) + _codes(case) + _served(case)
    if case.get("peer_s") is None:
        absent = f"  (peer {case['peer']} is not here)" if case["peer"] else ""
        return f"{head} ours {case['ours_s']:.4g} s{absent}{rate}"
    return (
        f"{head} ours {case['ours_s']:.4g} s  {case['peer']} {case['peer_s']:.4g} s  "
        f"ratio {case['ratio']:.2f}{rate}"
    )


def _rate(case: dict) -> str:
    """Operations a second, where a case counts them."""
    if "achieved" not in case:
        return ""
    rate = f"  {case['achieved'] / 1e12:.3g} TFLOP/s"
    if "fraction_of_peak" in case:
        rate += f", {case['fraction_of_peak']:.0%} of a product's rate"
    if "projected_s" in case:
        rate += f"; MS MARCO {case['projected_s']:.3g} s, paper {case['paper_s']} s"
    return rate


def _codes(case: dict) -> str:
    """What a search in codes finds and reads, where a case has it."""
    told = ""
    if "cpu_ratio" in case:
        told += f"  cpu ratio {case['cpu_ratio']:.2f}"
    if "recall" in case:
        told += f"  recall {case['recall']:.3f}"
    if "bytes_per_s" in case:
        told += f"  {case['bytes_per_s'] / 1e9:,.1f} GB/s"
    return told


def _served(case: dict) -> str:
    """What became of requests, where a case has it."""
    told = ""
    if "latency_ms" in case:
        shown = (f"{name} {ms:.1f}" for name, ms in case["latency_ms"].items())
        told += f"  {', '.join(shown)} ms"
    if "refused" in case:
        told += f"  {case['served']} served, {case['refused']} refused"
    checked = case.get("afterwards", case)
    if "wrong" in checked:
        then = "then " if checked is not case else ""
        told += (
            f"  {then}{checked['requests']} requests, {checked['errors']} errors, "
            f"{checked['wrong']} wrong"
        )
    return told


_STUDIES = {
    "hyper-graph": ("index", "queries", "output"),
    "limit": ("queries", "output"),
    "sparse-study": ("index", "queries", "output"),
}
"""What each study over data of one's own cannot do without."""

_DATA = ("index", "queries", "output", "k", "rule")
_OF_HYPER_GRAPH = ("k", "rule")


def _study(name: str, given: dict[str, Any]) -> Iterator[dict]:
    """The cases of a benchmark that has a function ``study`` for one's own data."""
    for flag in _STUDIES[name]:
        if flag not in given:
            raise InputError(
                f"--{flag}", f"missing for {name} over your data", "a value"
            )
    more = _OF_HYPER_GRAPH if name == "hyper-graph" else ()
    for flag in given:
        if flag not in (*_STUDIES[name], *more):
            raise InputError(f"--{flag}", f"given for {name}", "to be left out")
    if name == "hyper-graph":
        if len(given["index"]) > 1:
            found = f"{len(given['index'])} of them for {name}"
            raise InputError("--index", found, "one")
        given = given | {"index": given["index"][0]}
    return _load(_benchmarks()[name]).study(**given)


def run(args: argparse.Namespace) -> int:
    data = {flag: getattr(args, flag) for flag in _DATA}
    data = {flag: value for flag, value in data.items() if value is not None}
    if data:
        if args.names not in [[name] for name in _STUDIES]:
            found = " ".join(args.names) or "no name"
            expected = " or ".join(_STUDIES)
            raise InputError(f"--{next(iter(data))}", f"given with {found}", expected)
        for case in _study(args.names[0], data):
            print(json.dumps(case) if args.json else _line(case), flush=True)
        return 0
    if args.list or not args.names:
        print("\n".join(_benchmarks()))
        return 0
    from jaxir.mesh import use_cpu_cores

    use_cpu_cores()  # as the verbs index and search do
    for case in _cases(args.names, args.quick):
        print(json.dumps(case) if args.json else _line(case), flush=True)
    return 0
