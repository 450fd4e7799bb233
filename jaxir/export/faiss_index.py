"""Indexes of kind ``pq`` to Faiss's files and back: ``jaxir convert faiss:FILE``.

A file has codes and codec, and a number for each document.  What it lacks comes from
elsewhere: the encoder from a model, the documents' own ids from their collection, the
i-th document of which has the number i.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxir.data.collection import Collection, open_collection
from jaxir.errors import InputError
from jaxir.export.faiss_io import FaissCodes, read_faiss, write_faiss
from jaxir.files import atomic_file, check_output, locked
from jaxir.index_job import BuildOptions, Job, writing
from jaxir.manifest import DocIdFile, Manifest, check_replaceable, read_manifest
from jaxir.openers import Opening, model_of
from jaxir.pq_index import (
    CODES,
    new_codes,
    pq_details,
    quantized_model,
    read_pq,
)
from jaxir.progress import say

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model

__all__ = ["convert_index", "export_faiss", "import_faiss"]

_SCHEME = "faiss:"

_BLOCK = 1 << 20  # documents copied at a time
_TAGS = (b"Ix", b"Iw")  # of what may be replaced by a file of Faiss


def convert_index(
    source: str,
    target: str,
    *,
    model: str | None = None,
    collection: str | None = None,
    tokenizer: str | None = None,
    layout: str | None = None,
) -> dict[str, Any]:
    """``jaxir convert`` of an index: from a file of Faiss, or to one.

    Args:
      source: ``faiss:FILE``, or the directory of an index, ``jaxir:`` before it or not.
      target: the other of the two.
      model: what encoded the documents of a file.
      collection: the documents of a file.
      tokenizer: for a model that comes without one.
      layout: of the file that is written; None for ``flat``.

    Returns:
      ``kind``, ``fingerprint`` of the model, ``num_docs`` and ``path`` of what was
      written.

    Raises:
      InputError: as :func:`import_faiss` and :func:`export_faiss`; an option that is
        missing, or of no use.
    """
    given = {
        "--model": model, "--collection": collection, "--tokenizer": tokenizer,
        "--layout": layout,
    }  # fmt: skip
    unwanted = [name for name, value in given.items() if value is not None]
    if target.startswith(_SCHEME):
        unwanted = [name for name in unwanted if name != "--layout"]
        path = target.removeprefix(_SCHEME)
        if unwanted or source.startswith(_SCHEME):
            where, found = (*unwanted, "FROM")[0], "given for a file that is written"
            raise InputError(where, found, "jaxir:INDEX faiss:FILE")
        place = Path(source.removeprefix("jaxir:")).expanduser()
        manifest = export_faiss(place, Path(path).expanduser(), layout=layout or "flat")
    else:
        scheme, _, path = target.partition(":")
        usage = "faiss:FILE jaxir:INDEX --model MODEL --collection COLLECTION"
        if scheme != "jaxir":
            raise InputError("TO", repr(target), usage)
        if layout is not None or model is None or collection is None:
            where = "--model" if model is None else "--collection"
            found = "not given for a file of Faiss"
            if layout is not None:
                where, found = "--layout", "given for a file that is read"
            raise InputError(where, found, usage)
        manifest = import_faiss(
            Path(source.removeprefix(_SCHEME)).expanduser(),
            Path(path).expanduser(),
            model=model, collection=collection, tokenizer=tokenizer,
        )  # fmt: skip
    return {
        "kind": manifest.kind,
        "fingerprint": manifest.model_fingerprint,
        "num_docs": manifest.counts["docs"],
        "path": str(Path(path).expanduser()),
    }


def import_faiss(
    path: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    model: "Model | str | os.PathLike",
    collection: Collection | str | os.PathLike,
    tokenizer: str | os.PathLike | None = None,
) -> Manifest:
    """Makes an index of kind ``pq`` of a file that Faiss wrote.

    Of a bi-encoder, the centroids of the file are both what queries are scored with and
    what documents that come later are assigned to.  A JPQ model keeps its assignment.

    Args:
      path: the file; see :func:`jaxir.export.faiss_io.read_faiss`.
      directory: where the index shall stand.
      model: what encoded the documents, of kind ``dense`` or ``jpq``, as ``load_model``
        takes it.
      collection: the documents, in the order of their numbers in the file.  Where those
        numbers are not 0, 1, 2 and so on, in whatever order, they are the documents'
        own ids.
      tokenizer: for a model that comes without one.

    Returns:
      The manifest of the new index.

    Raises:
      InputError: a file that cannot be read, another number of documents, numbers that
        are no ids, a model of another width or with another rotation, or a place that
        holds something else.
    """
    from jaxir.checkpoints.model_dir import load_model, save_model

    directory = Path(directory)
    check_replaceable(directory)
    found = read_faiss(path)
    if not isinstance(collection, Collection):
        collection = open_collection(os.fspath(collection))
    order = _order(found.ids, collection, path)
    if isinstance(model, (str, os.PathLike)):
        model = load_model(model, tokenizer=tokenizer)
    own = _joined(model, found, path)
    job = Job(own, collection, directory, BuildOptions())
    with locked(directory), writing(job, "pq", pq_details(own)) as folder:
        codes = new_codes(folder, *found.packed.shape)
        for start in range(0, found.packed.shape[1], _BLOCK):
            rows = slice(start, start + _BLOCK)
            taken = rows if order is None else order[rows]
            codes[:, rows] = found.packed[:, taken]
        codes.flush()
        save_model(folder / "model", own)
    return read_manifest(directory)


def _order(
    ids: np.ndarray, collection: Collection, path: str | os.PathLike
) -> np.ndarray | None:
    """Of each document of the collection its place in the file; None for the same."""
    docs = collection.docs
    if len(ids) != len(docs):
        raise InputError(
            path, f"{len(ids):,} documents",
            f"{len(docs):,}, those of {collection.name!r}",
            "name the collection that was indexed",
        )  # fmt: skip
    numbers = np.arange(len(ids))
    if np.array_equal(ids, numbers):
        return None
    order = np.argsort(ids, kind="stable")
    if np.array_equal(ids[order], numbers):
        return order
    rows = docs.rows(str(number) for number in ids.tolist())
    if (rows < 0).any():
        number = int(ids[np.argmin(rows)])
        raise InputError(
            path, f"a document of number {number}",
            f"0 to {len(ids) - 1:,}, or ids of {collection.name!r}",
        )  # fmt: skip
    return np.argsort(rows)


def _joined(model: "Model", found: FaissCodes, path: str | os.PathLike) -> "Model":
    """The model with the file's codec: what queries are scored with."""
    from jaxir.checkpoints.model_dir import model_from_parts
    from jaxir.pq.model import codec_spec

    spec, where = found.codec.spec, model.path or "model"
    if model.kind == "dense":
        try:
            return quantized_model(model, found.codec)
        except InputError as error:
            raise InputError(path, str(error), remedy="name its encoder") from error
    if model.kind != "jpq":
        raise InputError(where, f"of kind {model.kind!r}", "kind 'dense' or 'jpq'")
    if codec_spec(model.config) != spec:
        raise InputError(
            path, f"{spec.subvectors} parts of {spec.bits} bits of width {spec.width}",
            f"the shape that {where} has",
        )  # fmt: skip
    codec = model.params["codec"]
    if not np.array_equal(codec["rotation"], np.asarray(found.codec.rotation)):
        raise InputError(
            path, f"a rotation other than that of {where}", "the same",
            "name the model that goes with the file",
        )  # fmt: skip
    centroids = np.asarray(found.codec.centroids)
    if np.array_equal(codec["centroids"], centroids):
        return model
    say(f"{path}: its centroids take the place of those of {where}")
    params = model.params | {"codec": codec | {"centroids": centroids}}
    return model_from_parts("jpq", model.config, params, model.tokenizer)


def export_faiss(
    directory: str | os.PathLike, path: str | os.PathLike, *, layout: str = "flat"
) -> Manifest:
    """Writes an index of kind ``pq`` as a file that ``faiss.read_index`` opens.

    Searched there with vectors of the model's query encoder, it gives the same
    documents with the same scores.  Faiss's number of a document is its row; beside the
    file stands ``<file>.ids.txt`` with the documents' own ids, one a line.

    Args:
      directory: the index.
      path: where the file shall stand.
      layout: ``flat`` (``OPQ{M},PQ{M}x8``) or ``ivf`` (``OPQ{M},IVF1,PQ{M}x8``, as
        JPQ's authors have it).

    Returns:
      The index's manifest.

    Raises:
      InputError: no index, one of another kind or damaged, another layout, or a place
        that holds something else.
    """
    import jax
    import jax.numpy as jnp

    from jaxir.pq.model import codec_spec, searching_codec

    directory, path = Path(directory), Path(path)
    manifest = read_pq(directory, "can become a file of Faiss")
    _check_file(path)
    model = model_of(Opening(directory, manifest))
    codes = np.load(directory / CODES, mmap_mode="r")
    spec = codec_spec(model.config)
    shape = (spec.doc_bytes, manifest.counts["docs"])
    if codes.dtype != np.uint8 or codes.shape != shape:
        found = f"codes of {codes.dtype} {list(codes.shape)}"
        raise InputError(directory / CODES, found, f"uint8 {list(shape)}")
    codec = searching_codec(jax.tree.map(jnp.asarray, model.params))
    ids = path.with_name(f"{path.name}.ids.txt")
    with atomic_file(ids) as out:
        out.writelines(f"{doc_id}\n" for doc_id in DocIdFile(directory))
        write_faiss(path, codec, codes, layout=layout)
    return manifest


def _check_file(path: Path) -> None:
    """A file of Faiss may be replaced, and nothing else."""
    check_output(path)
    if path.suffix == ".gz":
        raise InputError(path, "a compressed file", "a name that ends otherwise")
    if path.is_file():
        with path.open("rb") as stream:
            tag = stream.read(2)
        if tag and tag not in _TAGS:
            raise InputError(
                path, "a file stands here that is not Faiss's", "a new name",
                "choose another; nothing was written",
            )  # fmt: skip
