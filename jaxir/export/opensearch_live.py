"""An index of kind ``sparse`` loaded into a live OpenSearch cluster.

A document's own id is its ``_id`` there, so that lines which arrive twice are one
document.  What the cluster has taken is noted beside the index after every request; a
loading that was interrupted, or that the cluster ended, goes on behind it.
"""

import dataclasses
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxir.data.collection import Collection
from jaxir.errors import InputError
from jaxir.export.opensearch import (
    index_body,
    loaded_settings,
    pipeline_body,
)
from jaxir.export.opensearch_client import RETRIED, Client, quoted
from jaxir.export.opensearch_config import OpenSearchConfig, check_name
from jaxir.export.opensearch_files import byte_sized, pipeline_name
from jaxir.export.sparse_source import (
    BulkDoc,
    SparseSource,
    bulk_documents,
    open_source,
    source_meta,
)
from jaxir.files import atomic_file, claimed
from jaxir.progress import progress_bar, say

__all__ = ["REQUEST_BYTES", "LoadReport", "load_index"]

REQUEST_BYTES = 8_000_000
"""Of a bulk request: OpenSearch's guide names 5 to 15 MB."""

_IN_FLIGHT = 2  # bulk requests at a time; the next is made while these are answered
_REASON = 300  # characters of an error of the cluster's


class LoadReport(NamedTuple):
    """What a loading did.

    Attributes:
      name: of the index in the cluster.
      docs: documents there now.
      sent: documents that this run sent.
      version: of the cluster.
    """

    name: str
    docs: int
    sent: int
    version: str


def load_index(
    directory: str | os.PathLike,
    client: Client,
    name: str,
    config: OpenSearchConfig | None = None,
    *,
    collection: Collection | None = None,
    max_bytes: int = REQUEST_BYTES,
) -> LoadReport:
    """Loads an index of kind ``sparse`` into a cluster, or goes on doing so.

    The index there is made if it does not stand.  Requests that the cluster is too busy
    for are sent again, of a bulk request the documents it did not take.

    Args:
      directory: the index.
      client: the cluster.
      name: of the index there.
      config: how the vectors stand; its version is the cluster's own.
      collection: has the texts, where ``config`` names a field for them.
      max_bytes: the largest bulk request.

    Raises:
      InputError: another cluster than OpenSearch, or one too old; an index that has
        another mapping or other documents; a document that it refuses; another number
        of documents in the end than the index has.
    """
    check_name(name)
    version = client.version()
    config = dataclasses.replace(config or OpenSearchConfig(), version=version)
    source = open_source(directory)
    place = Path(os.path.abspath(directory))  # "." has no name
    notes = place.with_name(f".{place.name}.{name}.loading.json")
    with claimed(notes):
        target = _Target(client, name, config, source)
        uuid, done = target.made()
        num_docs = int(source.manifest.counts["docs"])
        if done:
            say(f"{client.url}/{name}: holds these {num_docs:,} documents already")
            return LoadReport(name, num_docs, 0, version)
        start = _noted(notes, uuid, target.meta)
        if start:
            say(f"{client.url}/{name}: going on at document {start:,}")
        docs = bulk_documents(source, config, collection=collection, start=start)
        row = start
        bar = progress_bar(total=num_docs, initial=start, label="load", unit="doc")
        with bar:
            for count in _sent(client, name, byte_sized(docs, max_bytes)):
                row += count
                bar.update(count)
                _note(notes, uuid, target.meta, row)
        target.finish(num_docs)
        notes.unlink(missing_ok=True)
    return LoadReport(name, num_docs, row - start, version)


def _noted(path: Path, uuid: str, meta: Mapping[str, Any]) -> int:
    """The first row that the cluster may lack."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    same = isinstance(found, dict) and found.get("uuid") == uuid
    same = same and found.get("manifest") == meta["manifest"]
    rows = found.get("rows") if same else 0
    return rows if isinstance(rows, int) else 0


def _note(path: Path, uuid: str, meta: Mapping[str, Any], rows: int) -> None:
    with atomic_file(path) as out:
        json.dump({"uuid": uuid, "manifest": meta["manifest"], "rows": rows}, out)


class _Target:
    """The index in the cluster."""

    def __init__(
        self, client: Client, name: str, config: OpenSearchConfig, source: SparseSource
    ) -> None:
        self.client, self.name, self.config = client, name, config
        self.meta = source_meta(source, config)
        self._largest = source.largest_weight
        self._where, self._path = f"{client.url}/{name}", f"/{quoted(name)}"

    def made(self) -> tuple[str, bool]:
        """Its uuid, and whether it holds all documents; it is made if it is not."""
        config, pipeline = self.config, pipeline_name(self.name)
        if config.two_phase is not None:
            self.client.request(
                "PUT", f"/_search/pipeline/{quoted(pipeline)}", pipeline_body(config)
            )
        wanted = index_body(
            config,
            meta={**self.meta, "loaded": False},
            pipeline=None if config.two_phase is None else pipeline,
            largest_weight=self._largest,
        )
        found = self.client.index(self.name)
        stands = found is not None
        if found is None:
            # A second try may find what the first one made.
            reply = self.client.request("PUT", self._path, wanted, accept=(200, 400))
            found = self.client.index(self.name)
            if found is None:
                raise InputError(self._where, f"not made ({reply.reason})")
        self._check(found["mappings"], wanted["mappings"])
        self._check_shards(found["settings"]["index"])
        meta = (found["mappings"].get("_meta") or {}).get("jaxir")
        count = self._count()
        if meta is None:
            if count:
                raise InputError(
                    self._where, f"holds {count:,} documents of something else",
                    "an empty index", "choose another --name",
                )  # fmt: skip
            self._say_meta(loaded=False)
        elif any(meta.get(key) != value for key, value in self.meta.items()):
            raise InputError(
                self._where, "holds another index", "the one that is loaded",
                "delete it there, or choose another --name",
            )  # fmt: skip
        if stands and config.two_phase is not None:
            asked = {"index": {"search.default_pipeline": pipeline}}
            self.client.request("PUT", f"{self._path}/_settings", asked)
        done = bool(meta and meta.get("loaded")) and count == self.meta["docs"]
        if done and config.replicas is not None:
            self._settle()
        return str(found["settings"]["index"]["uuid"]), done

    def _check(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """That the fields which are written are of the types they shall have."""
        properties = found.get("properties", {})
        for field, mapping in wanted["properties"].items():
            have = properties.get(field)
            if have is None or not _agrees(mapping, have):
                raise InputError(
                    self._where, f"its field {field!r} is {_told(have)}",
                    _told(mapping), "delete it there, or choose another --name",
                )  # fmt: skip

    def _check_shards(self, settings: Mapping[str, Any]) -> None:
        have, wanted = int(settings["number_of_shards"]), self.config.shards
        if wanted not in (None, have):
            raise InputError(
                self._where, f"shards: {have}", str(wanted),
                "the number is fixed: delete it there, or choose another --name",
            )  # fmt: skip

    def _say_meta(self, *, loaded: bool) -> None:
        body = {"_meta": {"jaxir": {**self.meta, "loaded": loaded}}}
        self.client.request("PUT", f"{self._path}/_mapping", body)

    def _count(self) -> int:
        self.client.request("POST", f"{self._path}/_refresh")
        return int(self.client.request("GET", f"{self._path}/_count").body["count"])

    def _settle(self) -> None:
        settings = loaded_settings(self.config)
        self.client.request("PUT", f"{self._path}/_settings", settings)

    def finish(self, num_docs: int) -> None:
        """Makes what was loaded searchable, and counts it."""
        self._settle()
        count = self._count()
        if count != num_docs:
            raise InputError(
                self._where, f"{count:,} documents", f"the index's {num_docs:,}",
                "delete it there and load it again",
            )  # fmt: skip
        self._say_meta(loaded=True)


def _agrees(wanted: Any, have: Any) -> bool:
    """Whether a mapping has what is wanted, defaults beside it or not."""
    if isinstance(wanted, Mapping):
        return isinstance(have, Mapping) and all(
            _agrees(value, have.get(key)) for key, value in wanted.items()
        )
    try:
        return float(wanted) == float(have)
    except (TypeError, ValueError):
        return wanted == have


def _told(mapping: Any) -> str:
    if mapping is None:
        return "missing"
    return json.dumps(mapping, ensure_ascii=False)


def _sent(
    client: Client, name: str, groups: Iterator[Sequence[BulkDoc]]
) -> Iterator[int]:
    """Sends groups of documents, and tells in their order how many were taken."""
    waiting: deque[Future[int]] = deque()
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        try:
            for group in groups:
                waiting.append(pool.submit(_send, client, name, group))
                if len(waiting) > _IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _send(client: Client, name: str, docs: Sequence[BulkDoc]) -> int:
    """One bulk request, and again what the cluster was too busy for."""
    path = f"/{quoted(name)}/_bulk"
    params = {"filter_path": "errors,items.*._id,items.*.status,items.*.error"}
    left = list(docs)
    for attempt in range(client.attempts):
        data = b"".join(doc.lines for doc in left)
        reply = client.request("POST", path, data, params=params, accept=(200, 413))
        if reply.status == 413:
            if len(left) == 1:
                raise InputError(
                    f"document {left[0].doc_id}", f"{len(data):,} bytes, too many for "
                    "the cluster", "less than its http.max_content_length",
                )  # fmt: skip
            middle = len(left) // 2
            for half in (left[:middle], left[middle:]):
                _send(client, name, half)
            return len(docs)
        left = _refused(client, left, reply.body)
        if not left:
            return len(docs)
        if attempt < client.attempts - 1:
            client.pause(attempt)
    raise InputError(
        f"{client.url}/{name}", f"too busy for {len(left):,} documents", "",
        "run it again: it goes on from there",
    )  # fmt: skip


def _refused(client: Client, docs: Sequence[BulkDoc], body: Any) -> list[BulkDoc]:
    """The documents to send again.

    Raises:
      InputError: one that the cluster will not take, or an answer that is not of them.
    """
    items = [next(iter(item.values())) for item in body["items"]]
    if [item["_id"] for item in items] != [doc.doc_id for doc in docs]:
        raise InputError(client.url, "an answer about other documents", "those sent")
    wrong = [
        item
        for item in items
        if item["status"] >= 300 and item["status"] not in RETRIED
    ]
    if wrong:
        error = wrong[0].get("error") or {}
        reason = f"{error.get('type')}: {error.get('reason')}"[:_REASON]
        more = f"; {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise InputError(
            f"document {wrong[0]['_id']}", f"refused ({reason}){more}", "",
            "mend it and run again: it goes on from there",
        )  # fmt: skip
    pairs = zip(docs, items, strict=True)
    return [doc for doc, item in pairs if item["status"] in RETRIED]
