"""Indexes of kind ``pq``: built of a bi-encoder, or of a model that was trained.

================ =====================================================================
``codes.npy``    uint8 ``[M, N]``; of 4 bits two parts share a byte, ``[M / 2, N]``
``ids.*``        the documents' own ids
``model/``       kind ``jpq``: towers, rotation, centroids
================ =====================================================================

Nothing else is left: the vectors that codes are made of go when they are made.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxir.data.collection import Collection
from jaxir.errors import InputError
from jaxir.index_job import (
    BuildOptions,
    Job,
    changing,
    encoded,
    remembered_path,
    writing,
)
from jaxir.manifest import Manifest, read_manifest
from jaxir.openers import Opening, model_of
from jaxir.progress import say

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.pq.codec import Codec
    from jaxir.types import Params

__all__ = [
    "CODES",
    "TRAIN_SIZE",
    "build_pq",
    "measured",
    "new_codes",
    "pq_details",
    "quantized_model",
    "read_pq",
    "take_codes",
    "write_codes",
]

CODES = "codes.npy"
"""The file of codes in an index."""

TRAIN_SIZE = 65_536
"""Documents that a codec is trained on: 256 for each of 256 centroids, as in Faiss."""

_MEASURED = 16_384
"""Documents that the error is measured on, drawn apart from those of the training."""


def quantized_model(model: "Model", codec: "Codec") -> "Model":
    """A bi-encoder with a codec: the JPQ model that training begins with.

    Its towers are the bi-encoder's, a shared one twice; queries are scored with the
    centroids that documents are assigned to.

    Args:
      model: of kind ``dense``.
      codec: of vectors of its width.

    Raises:
      InputError: a model of another kind, or a codec of another width.
    """
    from jaxir.checkpoints.model_dir import model_from_parts
    from jaxir.nn.tower import adapt_towers
    from jaxir.pq.model import JpqConfig, codec_params, codec_spec

    if model.kind != "dense":
        raise InputError("model", f"of kind {model.kind!r}", "kind 'dense'")
    fields = dataclasses.fields(model.config)
    values = {field.name: getattr(model.config, field.name) for field in fields}
    spec = codec.spec
    own = {"towers": "separate", "subvectors": spec.subvectors, "bits": spec.bits}
    config = JpqConfig(**values | own)
    if codec_spec(config) != spec:
        width = codec_spec(config).width
        raise InputError("codec", f"of vectors of width {spec.width}", f"width {width}")
    towers = adapt_towers(model.params, config.towers)
    params = {**towers, "codec": codec_params(codec)}
    return model_from_parts("jpq", config, params, model.tokenizer)


def pq_details(model: "Model", *, self_contained: bool = True) -> dict[str, Any]:
    """What the manifest of an index says of its codec and model.

    Args:
      model: of kind ``jpq``.
      self_contained: the index holds the model; otherwise it remembers its path.

    Raises:
      InputError: the path is to be remembered of a model that has none.
    """
    from jaxir.pq.model import codec_spec

    if not (self_contained or model.path):
        raise InputError(
            "self_contained", "False with a model that is made with the index",
            "True", "leave --without_model out: only the index has this codec",
        )  # fmt: skip
    spec = codec_spec(model.config)
    rotation = np.asarray(model.params["codec"]["rotation"])
    return {
        "width": spec.width,
        "subvectors": spec.subvectors,
        "bits": spec.bits,
        "rotation": "none" if np.array_equal(rotation, np.eye(spec.width)) else "opq",
        "doc_bytes": spec.doc_bytes,
        "compression": 4 * spec.width / spec.doc_bytes,
        "model_kind": model.kind,
        "model_path": remembered_path(model.path),
        "self_contained": self_contained,
    }


def build_pq(job: Job) -> None:
    """Writes an index of kind ``pq``: encodes, trains a codec if need be, quantizes.

    Args:
      job: its model is of kind ``jpq``, which brings a codec, or ``dense``.

    Raises:
      InputError: parts of unequal width, fewer documents to train on than centroids,
        vectors that are not finite or not of this model and collection, or an option
        that would be ignored.
    """
    from jaxir.checkpoints.model_dir import save_model
    from jaxir.dense.model import embedding_size
    from jaxir.pq import fit_codec
    from jaxir.pq.codec import CodecSpec
    from jaxir.pq.model import assigning_codec

    model, options, num_docs = job.model, job.options, len(job.collection.docs)
    assert model is not None
    chosen = options.pq
    if model.kind == "jpq":
        _refuse(chosen.given(), "a model of kind 'jpq', which brings its codec")
        details = pq_details(model, self_contained=options.self_contained)
    else:
        if not options.self_contained:
            pq_details(model._replace(path=""), self_contained=False)  # raises
        spec = CodecSpec(
            embedding_size(model.config), chosen.subvectors or 24, chosen.bits or 8
        )
        size, seed = chosen.train_size or TRAIN_SIZE, chosen.seed or 0
        # Before hours of encoding, not after.
        fit_codec.check_training_size(min(size, num_docs), spec)
    with _vectors(job) as (shards, max_length):
        if model.kind != "jpq":
            codec = fit_codec.fit_codec(
                fit_codec.sample_vectors(shards, size, seed), spec,
                rotation=chosen.rotation or "opq", seed=seed,
            )  # fmt: skip
            model = quantized_model(model, codec)
            details = pq_details(model)
        details |= {"max_length": max_length} | measured(model, shards)
        new = job._replace(model=model)
        with writing(new, "pq", details) as folder:
            codes = new_codes(folder, details["doc_bytes"], num_docs)
            write_codes(assigning_codec(model.params), shards, codes)
            codes.flush()
            if options.self_contained:
                save_model(folder / "model", model)


def _refuse(given: Sequence[str], beside: str) -> None:
    if given:
        raise InputError(given[0], f"given with {beside}", "to be left out")


@contextlib.contextmanager
def _vectors(job: Job) -> "Iterator[tuple[list[np.ndarray], int | None]]":
    """The documents' vectors, and the most tokens of a document if that was chosen."""
    model, options, source = job.model, job.options, job.options.pq.vectors
    assert model is not None
    if source is None:
        partial = job.directory.with_name(f"{job.directory.name}.partial")
        from jaxir.encode import as_bi_encoder

        with encoded(as_bi_encoder(model), job.collection, partial, options) as corpus:
            yield corpus.open(), options.max_length
        return
    if options.max_length is not None:
        _refuse(["max_length"], "vectors, which are made already")
    source = Path(source)
    manifest = read_manifest(source, kind="dense")
    if manifest.model_fingerprint != model.fingerprint:
        raise InputError(
            source, "vectors of another model", f"those of {model.path or 'the model'}",
            "leave --vectors out to encode the collection",
        )  # fmt: skip
    _check_collection(source, manifest, job.collection, "vectors")
    names = manifest.details["shards"]
    shards = [np.load(source / name, mmap_mode="r") for name in names]
    yield shards, manifest.details.get("max_length")


def _check_collection(
    source: Path, manifest: Manifest, collection: Collection, what: str
) -> None:
    if manifest.details.get("collection_fingerprint") != collection.docs.fingerprint:
        raise InputError(
            source, f"{what} of another collection, {manifest.details['collection']!r}",
            f"those of {collection.name!r} as it is",
            f"leave --{what} out to encode the collection",
        )  # fmt: skip


def measured(model: "Model", shards: Sequence[np.ndarray]) -> dict[str, Any]:
    """How well the codes stand for a sample of the vectors: said, and returned.

    Args:
      model: of kind ``jpq``.
      shards: ``[rows, E]`` vectors of documents.

    Raises:
      InputError: a vector that is not finite.
    """
    from jaxir.pq.fit_codec import sample_vectors, statistics
    from jaxir.pq.model import assigning_codec, codec_spec

    spec, sample = codec_spec(model.config), sample_vectors(shards, _MEASURED, seed=1)
    stats = statistics(assigning_codec(model.params), sample)
    unused = int(stats.unused.sum())
    say(
        f"codes of {spec.subvectors} x {spec.bits} bits: relative error "
        f"{stats.relative_error:.4f}, entropy {stats.entropy.mean():.2f} bits, "
        f"{unused} of {spec.subvectors * spec.centroids} centroids unused, "
        f"in {len(sample)} documents"
    )
    return {
        "relative_error": round(stats.relative_error, 6),
        "entropy": round(float(stats.entropy.mean()), 4),
        "unused_centroids": unused,
    }


def new_codes(folder: Path, doc_bytes: int, num_docs: int) -> np.memmap:
    """The file of codes in a new index, to be filled; it has its room on the disk.

    Args:
      folder: of the index.
      doc_bytes: rows of the file.
      num_docs: columns.
    """
    path, shape = folder / CODES, (doc_bytes, num_docs)
    codes = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    # A mapped page without room on the disk would end the process, not raise.
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return codes


def write_codes(codec: "Codec", shards: Sequence[np.ndarray], out: np.ndarray) -> None:
    """Codes of a corpus, as an index holds them.

    Args:
      codec: of the assignment.
      shards: ``[rows, E]`` vectors in order, plain or memory-mapped.
      out: takes the codes, ``[M, N]``, or ``[M / 2, N]`` where two share a byte.

    Raises:
      InputError: a vector that is not finite.
    """
    from jaxir.pq.codec import pack
    from jaxir.pq.fit_codec import quantize_shards

    if len(out) == len(codec.centroids):
        quantize_shards(codec, shards, out)
        return
    row = 0
    for shard in shards:
        codes = np.empty((len(codec.centroids), len(shard)), np.uint8)
        quantize_shards(codec, shard, codes)
        out[:, row : row + len(shard)] = pack(codes)
        row += len(shard)


def take_codes(
    model: "Model",
    collection: Collection | None,
    directory: Path,
    options: BuildOptions,
) -> None:
    """Writes an index of a trained model with the codes it was trained with.

    Codes and ids are not copied where the system knows links.

    Args:
      model: of kind ``jpq``; its towers' and its centroids' training left rotation,
        assignment and document tower as they were.
      collection: None, or what the codes must be of.
      directory: where the index shall stand; it may be that of the codes.
      options: ``pq.codes`` is the index with the codes.

    Raises:
      InputError: an index or a model of another kind, codes of another collection, or
        of a model with another rotation, assignment or document tower.
    """
    from jaxir.checkpoints.model_dir import save_model

    assert options.pq.codes is not None
    source = Path(options.pq.codes)
    _refuse([name for name in options.pq.given() if name != "codes"], "codes")
    if model.kind != "jpq":
        raise InputError(
            "model", f"of kind {model.kind!r} for codes", "kind 'jpq'",
            "leave --codes out",
        )  # fmt: skip
    manifest = read_pq(source, "codes are taken from")
    if collection is not None:
        _check_collection(source, manifest, collection, "codes")
    _check_same(source, model_of(Opening(source, manifest)).params, model.params)
    own = pq_details(model, self_contained=options.self_contained)
    new = manifest._replace(
        model_fingerprint=model.fingerprint, details=manifest.details | own
    )
    with changing(source, new, without=("model/",), target=directory) as folder:
        if options.self_contained:
            save_model(folder / "model", model)
        if read_pq(source, "codes are taken from") != manifest:
            raise InputError(source, "changed while it was read", remedy="try again")


def read_pq(directory: Path, what: str) -> Manifest:
    """The manifest of an index of kind ``pq``.

    Args:
      directory: the index.
      what: is done with it, to end the sentence "the only one that ...".

    Raises:
      InputError: no index, a damaged one, or one of another kind.
    """
    manifest = read_manifest(directory)
    if manifest.kind != "pq":
        raise InputError(
            directory, f"an index of kind {manifest.kind!r}",
            f"one of kind 'pq', the only one that {what}",
        )  # fmt: skip
    return manifest


def _check_same(source: Path, old: "Params", new: "Params") -> None:
    """Codes mean the same only to a model that would assign them as well."""
    from jaxir.checkpoints.model_dir import params_fingerprint

    for name, at in (
        ("rotation", ("codec", "rotation")),
        ("assignment", ("codec", "assignment")),
        ("document tower", ("doc",)),
    ):
        parts = [old, new]
        for key in at:
            parts = [part[key] for part in parts]
        before, after = (params_fingerprint({"part": part}) for part in parts)
        if before != after:
            raise InputError(
                source, f"codes of a model with another {name}", "the model's own",
                "take the index that it was trained with, or leave --codes out to "
                "encode the collection",
            )  # fmt: skip
