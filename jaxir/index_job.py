"""What building an index of any kind takes: the choices, the vectors, the exchange.

``jaxir/index.py`` has the kinds; this is what they share.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxir.bm25 import Bm25Config
from jaxir.data.collection import Collection
from jaxir.errors import InputError
from jaxir.manifest import Manifest, write_doc_ids, write_index

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.encode import EncodedCorpus

__all__ = [
    "BuildOptions",
    "Job",
    "PqOptions",
    "SparseOptions",
    "changing",
    "encoded",
    "link",
    "remembered_path",
    "worth_keeping",
    "writing",
]


@dataclasses.dataclass(frozen=True)
class PqOptions:
    """What may be chosen for an index of kind ``pq``; None stands for the default.

    A model of kind ``jpq`` brings its codec: then only ``codes`` may be given.

    Attributes:
      subvectors: ``M``, parts of a vector; 24 by default.
      bits: of a part's code, 8 (the default) or 4.
      rotation: ``opq`` (the default) or ``none``.
      train_size: documents that the codec is trained on; 65,536 by default, which is
        what Faiss would draw of more.
      seed: of that draw and of k-means; 0 by default.
      vectors: a finished index of kind ``dense``, of the same model and collection,
        whose vectors are taken in the place of encoding.
      codes: an index of kind ``pq`` whose codes are taken, for a model that was trained
        with them.

    Raises:
      InputError: a number or a name that is not possible.
    """

    subvectors: int | None = None
    bits: int | None = None
    rotation: str | None = None
    train_size: int | None = None
    seed: int | None = None
    vectors: str | os.PathLike | None = None
    codes: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        for name, known in (("bits", (8, 4)), ("rotation", ("opq", "none"))):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise InputError(name, str(value), " or ".join(map(str, known)))
        _check_positive(self, "subvectors", "train_size")
        if self.seed is not None and not 0 <= self.seed < 2**31:
            raise InputError("seed", str(self.seed), "0 or more, of 31 bits")

    def given(self) -> list[str]:
        """Names of what was chosen."""
        return _given(self)


@dataclasses.dataclass(frozen=True)
class SparseOptions:
    """What may be chosen for an index of kind ``sparse``; None stands for the default.

    Attributes:
      prune_ratio: keep weights of a document that are above so much of its largest; 0
        (the default) keeps all.
      tokenizer: with the model ``bm25``: a model or a tokenizer, whose tokens are then
        the terms; BM25's weights become those of a sparse index.

    Raises:
      InputError: a number that is not possible.
    """

    prune_ratio: float | None = None
    tokenizer: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.prune_ratio is not None and not 0 <= self.prune_ratio < 1:
            found = str(self.prune_ratio)
            raise InputError("prune_ratio", found, "from 0 to less than 1")

    def given(self) -> list[str]:
        """Names of what was chosen."""
        return _given(self)


def _given(options: Any) -> list[str]:
    names = [field.name for field in dataclasses.fields(options)]
    return [name for name in names if getattr(options, name) is not None]


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What may be chosen when an index is built; each kind reads its own.

    Attributes:
      batch_tokens: tokens of a batch of documents; None for the encoder's default.
      max_length: cuts documents shorter than the model does; None for the model's.
      dtype: of stored vectors, ``float32`` or ``float16`` (half the size); of kind
        ``pq`` those that stand on the disk until their codes are made; of kind
        ``sparse`` the weights, of which ``uint8`` is a quarter.
      shard_rows: documents of a shard; None for the encoder's default.
      self_contained: keep a copy of the model in the index, so that it can be moved;
        otherwise the index remembers the model's path.
      neighbors: of each document in the graph that a Hypencoder's index can be searched
        along (the paper has 100); None for no graph.
      graph_backend: what finds them exactly, ``jax`` or ``faiss``.
      bm25: parameters of BM25.
      pq: of product quantization.
      sparse: of posting lists.
    """

    batch_tokens: int | None = None
    max_length: int | None = None
    dtype: str = "float32"
    shard_rows: int | None = None
    self_contained: bool = True
    neighbors: int | None = None
    graph_backend: str = "jax"
    bm25: Bm25Config = dataclasses.field(default_factory=Bm25Config)
    pq: PqOptions = dataclasses.field(default_factory=PqOptions)
    sparse: SparseOptions = dataclasses.field(default_factory=SparseOptions)

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.dtype not in ("float32", "float16", "uint8"):
            expected = "float32 or float16, or uint8 of kind sparse"
            raise InputError("dtype", repr(self.dtype), expected)
        if self.graph_backend not in ("jax", "faiss"):
            raise InputError("graph_backend", repr(self.graph_backend), "jax or faiss")
        _check_positive(self, "batch_tokens", "max_length", "shard_rows", "neighbors")


_OTHER_SPECS = ("package:", "dpr:", "jpq:", "t5x:")


def _check_positive(options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(name, str(value), "a positive number")


class Job(NamedTuple):
    """One call of ``build_index``.

    Attributes:
      model: None for kinds without one.
      collection: what to index.
      directory: where the index shall stand.
      options: what was chosen.
    """

    model: "Model | None"
    collection: Collection
    directory: Path
    options: BuildOptions


def remembered_path(path: str) -> str:
    """Where a model is, from wherever it is looked for later; an id stays an id.

    Args:
      path: as ``load_model`` was given it, or empty.
    """
    folder = Path(path.removeprefix("hf:")).expanduser()
    elsewhere = path.startswith("hf:") and not folder.is_dir()
    if not path or elsewhere or path.startswith(_OTHER_SPECS):
        return path
    return os.path.abspath(folder)


@contextlib.contextmanager
def encoded(
    model: "Model", collection: Collection, place: Path, options: BuildOptions
) -> "Iterator[EncodedCorpus]":
    """Vectors of documents, for as long as an index is made of them.

    They are removed when the block ends well.  Otherwise they stay, and the next call
    goes on with them; so it does with the shards of an encoding that was interrupted.

    Args:
      model: encodes the documents.
      collection: the documents.
      place: for the vectors, beside the index.
      options: batches, lengths, type and shards.

    Raises:
      InputError: as ``encode_corpus``.
    """
    from jaxir.encode import SHARD_ROWS, encode_corpus

    with worth_keeping(place):
        found = encode_corpus(
            model,
            collection,
            place,
            batch_tokens=options.batch_tokens,
            shard_rows=options.shard_rows or SHARD_ROWS,
            max_length=options.max_length,
            dtype=options.dtype,  # type: ignore[arg-type]
        )
    yield found
    shutil.rmtree(place)


@contextlib.contextmanager
def worth_keeping(partial: Path) -> Iterator[None]:
    """A failed encoding without a single shard leaves nothing to go on from.

    Args:
      partial: where the shards go.
    """
    try:
        yield
    except InputError:
        if (partial / "encoding.json").is_file() and not any(partial.glob("*.np[yz]")):
            shutil.rmtree(partial)
        raise


@contextlib.contextmanager
def writing(job: Job, kind: str, details: Mapping[str, Any]) -> Iterator[Path]:
    """``write_index`` with what all kinds have: the ids and where they came from."""
    docs = job.collection.docs
    with write_index(
        job.directory,
        kind=kind,
        counts={"docs": len(docs)},
        model_fingerprint=job.model.fingerprint if job.model else "",
        details={
            "collection": job.collection.name,
            "collection_fingerprint": docs.fingerprint,
            **details,
        },
    ) as folder:
        write_doc_ids(folder, docs.doc_ids())
        yield folder


@contextlib.contextmanager
def changing(
    source: Path, manifest: Manifest, *, without: tuple[str, ...], target: Path
) -> Iterator[Path]:
    """Yields the files of an index in a new folder, which becomes one when it ends.

    Files are not copied where the system knows links.

    Args:
      source: the index that stands.
      manifest: what the new one shall say of itself; ``files`` are still the old ones.
      without: how the names of files begin that are left out.
      target: where the new index shall stand, the old one's place or another.
    """
    with write_index(
        target,
        kind=manifest.kind,
        counts=manifest.counts,
        model_fingerprint=manifest.model_fingerprint,
        details=manifest.details,
    ) as folder:
        for name in manifest.files:
            if not name.startswith(without):
                link(source / name, folder / name)
        yield folder


def link(source: Path, target: Path) -> None:
    """A second name for a file, or for all in a folder; else, where need be, a copy."""
    if source.is_dir():
        for path in source.rglob("*"):
            if path.is_file():
                link(path, target / path.relative_to(source))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(os.path.realpath(source), target)  # not the link that a file may be
    except OSError:
        shutil.copyfile(source, target)
