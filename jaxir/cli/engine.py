"""Flags of ``--engine``: an OpenSearch cluster in place of our own search.

``jaxir index`` loads an index of kind ``sparse`` into it, ``jaxir search`` asks it;
``jaxir export`` writes the same requests into files.
"""

import argparse
from typing import TYPE_CHECKING, Any

from jaxir.errors import InputError

if TYPE_CHECKING:
    from jaxir.export.opensearch_config import OpenSearchConfig
    from jaxir.sparse.search import TwoPhase

__all__ = [
    "ENGINES",
    "add_engine_arguments",
    "add_field_arguments",
    "engine_index",
    "engine_search",
    "field_config",
]

ENGINES = ("opensearch",)
"""Engines that a live index can be in."""

_PHASES = ("prune_type", "prune_ratio", "expansion_rate", "max_window_size")
_FIELDS = ("field", "texts", "shards", "replicas", "max_bytes", "two_phase", "seismic")


def _flagged(args: argparse.Namespace) -> "TwoPhase":
    """The numbers of `jaxir search`'s flags, and the defaults of the others."""
    from jaxir.sparse.search import TwoPhase

    given = {name: getattr(args, name) for name in _PHASES}
    return TwoPhase(
        **{name: value for name, value in given.items() if value is not None}
    )


# flag of our own search -> what it may be beside an engine
_OF_OURS: dict[str, tuple] = {
    "model": (None,), "explain": (None,), "mode": ("exhaustive",), "backend": ("jax",),
    "rescore": (0,), "method": (None, "two_phase"), "entry_points": (None,),
    "explore": (None,), "iterations": (None,), "rule": (None,),
    "no_early_stop": (False,), "graph_seed": (None,), "gin_file": ([],),
    "gin_bindings": ([],),
}  # fmt: skip


def add_field_arguments(parser: Any) -> None:
    """Declares how sparse vectors stand in OpenSearch."""
    parser.add_argument(
        "--field",
        help="type of the vectors' field: rank_features (default) or sparse_vector",
    )
    parser.add_argument(
        "--texts", metavar="COLLECTION", help="put titles and texts beside the vectors"
    )
    parser.add_argument("--shards", type=int, help="primary shards (1)")
    parser.add_argument("--replicas", type=int, help="copies of each of them (1)")
    parser.add_argument(
        "--seismic", metavar="KEY=VALUE", action="append",
        help="of sparse_vector's method, as n_postings=4000",
    )  # fmt: skip
    parser.add_argument(
        "--max_bytes", metavar="SIZE",
        help="of a bulk file or request (50MB, 8MB), as 10MB or 8MiB",
    )  # fmt: skip
    parser.add_argument(
        "--two_phase", nargs="*", metavar="KEY=VALUE",
        help="make a search pipeline of two phases the index's own, its numbers those "
        "given or OpenSearch's, as prune_ratio=0.4",
    )  # fmt: skip


def _numbers(flag: str, texts: list[str]) -> dict[str, float]:
    """What ``NAME=NUMBER`` words say."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise InputError(flag, repr(text), "NAME=NUMBER") from error
    return found


def _phases(texts: list[str]) -> "TwoPhase":
    """The numbers of ``--two_phase``, and the defaults of the others."""
    from jaxir.sparse.search import TwoPhase

    kinds = [text for text in texts if text.startswith("prune_type=")]
    given: dict[str, Any] = _numbers(
        "--two_phase", [text for text in texts if text not in kinds]
    )
    if kinds:
        given["prune_type"] = kinds[-1].partition("=")[2]
    for name in given:
        if name not in _PHASES:
            raise InputError("--two_phase", repr(name), "one of " + ", ".join(_PHASES))
    size = given.get("max_window_size")
    if size is not None:
        if size % 1 != 0:  # nor is what is not finite
            raise InputError("max_window_size", f"{size:g}", "a whole number")
        given["max_window_size"] = int(size)
    return TwoPhase(**given)


def field_config(
    args: argparse.Namespace, *, version: str | None = None
) -> "OpenSearchConfig":
    """What these flags say.

    Raises:
      InputError: something that OpenSearch refuses, or that nothing would read.
    """
    from jaxir.export.opensearch_config import OpenSearchConfig

    given = {name: getattr(args, name) for name in ("field", "shards", "replicas")}
    return OpenSearchConfig(
        **{name: value for name, value in given.items() if value is not None},
        version=version,
        text_name=None if args.texts is None else "text",
        two_phase=None if args.two_phase is None else _phases(args.two_phase),
        seismic=_numbers("--seismic", args.seismic or []),
    )


def add_engine_arguments(parser: argparse.ArgumentParser, *, loading: bool) -> None:
    """Declares ``--engine`` and what goes with it.

    Args:
      parser: of the verb.
      loading: whether the verb loads an index, rather than asks one.
    """
    group = parser.add_argument_group("a live cluster (--engine opensearch)")
    group.add_argument("--engine", help="opensearch: in place of our own search")
    group.add_argument("--url", help="of the cluster, as https://HOST:9200")
    group.add_argument("--name", help="of the index in the cluster")
    if loading:
        add_field_arguments(group)


def _started(args: argparse.Namespace, names: tuple[str, ...]) -> bool:
    """Whether an engine is asked for; what belongs to one is refused without it."""
    if args.engine is None:
        given = [name for name in names if getattr(args, name, None) is not None]
        if given:
            raise InputError(f"--{given[0]}", "given without --engine", "both")
        return False
    if args.engine not in ENGINES:
        raise InputError("--engine", repr(args.engine), "one of " + ", ".join(ENGINES))
    for name in ("url", "name"):
        if getattr(args, name) is None:
            raise InputError(f"--{name}", "not given", f"with --engine {args.engine}")
    return True


def engine_index(
    args: argparse.Namespace, building: tuple[str, ...] = ()
) -> int | None:
    """``jaxir index --engine``: loads an index; None where no engine is asked for.

    Args:
      args: of the verb.
      building: names of flags that build or change an index, refused beside it.

    Raises:
      InputError: as ``load_index``; flags that nothing would read.
    """
    if not _started(args, ("url", "name", *_FIELDS)):
        return None
    for name in building:
        if getattr(args, name, None) not in (None, False, []):
            raise InputError(
                f"--{name}", f"given with --engine {args.engine}", "--index alone",
                "build it first, without --engine",
            )  # fmt: skip
    import json
    import time

    from jaxir.data.collection import open_collection
    from jaxir.export.opensearch_client import Client
    from jaxir.export.opensearch_files import byte_count
    from jaxir.export.opensearch_live import REQUEST_BYTES, load_index
    from jaxir.progress import say

    config = field_config(args)
    start = time.perf_counter()
    report = load_index(
        args.index, Client(args.url), args.name, config,
        collection=None if args.texts is None else open_collection(args.texts),
        max_bytes=byte_count(args.max_bytes) if args.max_bytes else REQUEST_BYTES,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if args.json:
        told = {**report._asdict(), "url": args.url, "seconds": round(seconds, 3)}
        print(json.dumps(told))
        return 0
    say(
        f"{args.url}/{report.name}: {report.docs:,} documents, {report.sent:,} sent, "
        f"OpenSearch {report.version}, {seconds:.1f} s"
    )
    return 0


def engine_search(
    args: argparse.Namespace, queries: dict[str, str], *, two_phase: bool
) -> int | None:
    """``jaxir search --engine``: writes a run; None where no engine is asked for.

    Args:
      args: of the verb.
      queries: texts by id.
      two_phase: whether to search so, with the numbers of the flags.

    Raises:
      InputError: as ``search_cluster``.
    """
    if not _started(args, ("url", "name")):
        return None
    for name, usual in _OF_OURS.items():
        if getattr(args, name) not in usual:
            raise InputError(
                f"--{name}", f"given with --engine {args.engine}", "to be left out"
            )
    given = [name for name in _PHASES if getattr(args, name) is not None]
    if given and not two_phase:
        raise InputError(f"--{given[0]}", "given", "--method two_phase beside it")
    import json
    import time

    from jaxir.data.formats import write_run
    from jaxir.export.opensearch_client import Client
    from jaxir.export.opensearch_search import search_cluster
    from jaxir.progress import say

    start = time.perf_counter()
    run = search_cluster(
        args.index, Client(args.url), args.name, queries, k=args.k,
        two_phase=_flagged(args) if two_phase else None,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    write_run(args.output, run, tag=args.tag or "opensearch")
    results = sum(map(len, run.values()))
    if args.json:
        told = {
            "output": args.output, "url": args.url, "name": args.name,
            "queries": len(run), "results": results, "seconds": round(seconds, 3),
        }  # fmt: skip
        print(json.dumps(told))
        return 0
    say(
        f"{args.output}: {results} results of {len(run)} queries, "
        f"{1e3 * seconds / len(run):.1f} ms a query"
    )
    return 0
