"""Prepared training lists: a TFDS dataset in ArrayRecord, read without TensorFlow.

The directory is a TFDS data directory, so that any TFDS user can open it::

    source = tfds.data_source("jaxir_lists", split="train", data_dir=directory)
    dataset = tfds.load("jaxir_lists", split="train", data_dir=directory)

and besides holds ``lists.json``: the fingerprints of the collection and of the split's
queries, whose rows the records speak of.  A record has ``query_id``, ``query_row``, and
as sequences of one length ``doc_ids``, ``doc_rows``, ``labels`` and ``scores`` (empty
without a teacher).
"""

import contextlib
import functools
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.data.collection import Collection
from jaxir.data.lists import TrainingList
from jaxir.data.table import ListTable, build_table
from jaxir.errors import InputError
from jaxir.files import atomic_directory
from jaxir.progress import progress_bar

__all__ = [
    "DATASET_NAME",
    "PreparedLists",
    "is_prepared",
    "open_lists",
    "prepare_lists",
]

DATASET_NAME = "jaxir_lists"
"""The name under which TFDS knows the dataset."""

_VERSION = "1.0.0"
_META = "lists.json"
_META_VERSION = 1
_CHUNK = 4096


@functools.cache
def _builder_class() -> type:
    """The TFDS builder; its class is made here because importing TFDS takes seconds."""
    import tensorflow_datasets as tfds

    class JaxirLists(tfds.core.GeneratorBasedBuilder):
        """Training lists over a collection."""

        name = DATASET_NAME
        VERSION = tfds.core.Version(_VERSION)
        RELEASE_NOTES = {_VERSION: "Queries with graded, optionally scored documents."}  # noqa: RUF012
        records: Iterable[dict[str, Any]] = ()

        def _info(self) -> tfds.core.DatasetInfo:
            """Features of a record."""
            return tfds.core.DatasetInfo(
                builder=self,
                description="Training lists over a collection, made by jaxir.",
                features=tfds.features.FeaturesDict(
                    {
                        "query_id": tfds.features.Text(),
                        "query_row": np.int32,
                        "doc_ids": tfds.features.Sequence(tfds.features.Text()),
                        "doc_rows": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                        "labels": tfds.features.Tensor(shape=(None,), dtype=np.float32),
                        "scores": tfds.features.Tensor(shape=(None,), dtype=np.float32),
                    }
                ),
                disable_shuffling=True,  # the order of the lists is kept
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            """One split, whatever the collection calls its own."""
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            """Records with their number as key."""
            yield from enumerate(self.records)

    return JaxirLists


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """TFDS draws bars, logs and prints to standard output, which is for results."""
    import tensorflow_datasets as tfds
    from absl import logging as absl_logging

    level = absl_logging.get_absl_logger().level
    tfds.disable_progress_bar()
    absl_logging.get_absl_logger().setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.get_absl_logger().setLevel(level)
        tfds.enable_progress_bar()


def _records(
    table: ListTable, collection: Collection, query_ids: Sequence[str]
) -> Iterator[dict[str, Any]]:
    docs = collection.docs
    numbers = range(len(table))
    for i in progress_bar(numbers, label="preparing training lists", unit="list"):
        items = slice(int(table.bounds[i]), int(table.bounds[i + 1]))
        row = int(table.query_rows[i])
        none = np.zeros(0, np.float32)
        yield {
            "query_id": query_ids[row],
            "query_row": row,
            "doc_ids": [docs.doc_id(doc) for doc in table.doc_rows[items]],
            "doc_rows": table.doc_rows[items],
            "labels": table.labels[items],
            "scores": none if table.scores is None else table.scores[items],
        }


def _ids_fingerprint(query_ids: Iterable[str]) -> str:
    """The sha256 of ids in their order: rows mean the same only while it holds."""
    return hashlib.sha256("\n".join(query_ids).encode()).hexdigest()


def prepare_lists(
    lists: Iterable[TrainingList],
    collection: Collection,
    split: str,
    directory: str | os.PathLike,
) -> Path:
    """Writes training lists as a TFDS dataset.

    Lists that no loss can use, without a positive and without scores, are left out.

    Args:
      lists: the lists; their order is kept.
      collection: that they are about.
      split: whose queries they ask.
      directory: where to; it appears complete or not at all, and replaces what was
        there.

    Returns:
      The path of the directory.

    Raises:
      InputError: lists that do not fit the collection (see
        :func:`~jaxir.data.table.build_table`), or no space.
    """
    import tensorflow_datasets as tfds

    table = build_table(lists, collection, split, need_positive=False)
    query_ids = list(collection.queries(split))
    with atomic_directory(directory) as temporary, _quiet_tfds():
        builder = _builder_class()(data_dir=str(temporary), file_format="array_record")
        builder.records = _records(table, collection, query_ids)
        # by default TFDS first asks its bucket on the network
        offline = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=offline)
        meta = {
            "format_version": _META_VERSION,
            "collection": collection.name,
            "collection_fingerprint": collection.docs.fingerprint,
            "queries_fingerprint": _ids_fingerprint(query_ids),
            "split": split,
            "num_lists": len(table),
            "num_items": len(table.doc_rows),
            "scored": table.scores is not None,
        }
        (temporary / _META).write_text(json.dumps(meta, indent=2) + "\n")
    return Path(directory)


class PreparedLists(Sequence[TrainingList]):
    """Prepared lists by number; made by :func:`open_lists`.

    Attributes:
      directory: where they are.
      split: whose queries they ask.
      collection_fingerprint: of the collection that they were prepared from.
      queries_fingerprint: of the ids of the split's queries, whose rows they name.
      source: the records as TFDS gives them, a random-access data source that Grain
        reads (``grain.MapDataset.source``).
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self.directory = Path(directory)
        try:
            meta = json.loads((self.directory / _META).read_text())
            version, self.split = meta["format_version"], str(meta["split"])
            self.collection_fingerprint = str(meta["collection_fingerprint"])
            self.queries_fingerprint = str(meta["queries_fingerprint"])
            self._name = str(meta["collection"])
            self._scored, count = bool(meta["scored"]), int(meta["num_lists"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                self.directory, "no prepared training lists",
                f"a directory with {_META}", "prepare them again",
            ) from error  # fmt: skip
        if version != _META_VERSION:
            raise InputError(
                self.directory, f"lists of format {version}", f"format {_META_VERSION}",
                "prepare them again",
            )  # fmt: skip
        import tensorflow_datasets as tfds

        try:
            with _quiet_tfds():
                folder = self.directory / DATASET_NAME / _VERSION
                builder = tfds.builder_from_directory(str(folder))
                self.source = builder.as_data_source(split="train")
        except Exception as error:  # TFDS raises a dozen kinds for a torn directory
            raise InputError(
                self.directory, f"damaged training lists ({error})",
                remedy="prepare them again",
            ) from error  # fmt: skip
        if len(self.source) != count:
            raise InputError(
                self.directory, f"{len(self.source)} lists", f"{count}",
                "prepare them again",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        """The list of this number."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        record = self.source[range(len(self))[index]]
        scores = tuple(record["scores"].tolist()) if self._scored else None
        return TrainingList(
            record["query_id"].decode(),
            tuple(doc.decode() for doc in record["doc_ids"]),
            tuple(record["labels"].tolist()),
            scores,
        )

    def table(self) -> ListTable:
        """All lists as arrays over rows; 12 bytes a document."""
        parts: list[tuple[np.ndarray, ...]] = []
        queries: list[int] = []
        with progress_bar(total=len(self), label="reading lists", unit="list") as bar:
            for start in range(0, len(self), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(self)))
                for record in self.source.__getitems__(list(chunk)):
                    queries.append(int(record["query_row"]))
                    parts.append(
                        (record["doc_rows"], record["labels"], record["scores"])
                    )
                bar.update(len(chunk))
        sizes = [len(rows) for rows, _, _ in parts]
        rows, labels, scores = map(np.concatenate, zip(*parts, strict=True))
        return ListTable(
            np.array(queries, np.int32),
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            rows.astype(np.int32),
            labels.astype(np.float32),
            scores.astype(np.float32) if self._scored else None,
        )


def is_prepared(path: str | os.PathLike) -> bool:
    """Whether a path is a directory, and so should be one of prepared lists."""
    return Path(path).is_dir()


def open_lists(
    directory: str | os.PathLike,
    *,
    collection: Collection | None = None,
    split: str | None = None,
) -> PreparedLists:
    """Opens what :func:`prepare_lists` wrote.

    Args:
      directory: the prepared lists.
      collection: when given, must be the one that they were prepared from.
      split: when given, must be the one that they were prepared from.

    Raises:
      InputError: not such a directory, a damaged one, or one over another collection
        or split.
    """
    prepared = PreparedLists(directory)
    if (
        collection is not None
        and collection.docs.fingerprint != prepared.collection_fingerprint
    ):
        raise InputError(
            directory, f"lists over another collection ({prepared._name})",
            f"lists over {collection.path}", "prepare them from this collection",
        )  # fmt: skip
    if split is not None and split != prepared.split:
        raise InputError(
            directory, f"lists of split {prepared.split!r}", f"split {split!r}",
            "leave the split out or prepare that one",
        )  # fmt: skip
    if collection is not None:
        query_ids = collection.queries(prepared.split)
        if _ids_fingerprint(query_ids) != prepared.queries_fingerprint:
            raise InputError(
                directory, f"lists over other queries of split {prepared.split!r}",
                f"those of {collection.path}", "prepare them again",
            )  # fmt: skip
    return prepared
