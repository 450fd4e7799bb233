"""The model directory: everything a model needs to be used again, whole or absent.

::

    model.json             kind, format version, architecture, fingerprint
    params/                Orbax
    tokenizer/             tokenizer.json, or what the tokenizer is made of
    operative_config.gin   the gin configuration that trained it
    MODEL_CARD.md          what it is, what it was trained on, what it reaches

``model.json`` is written last: a directory without it holds no model.  Training keeps
``checkpoints/`` and ``metrics.jsonl`` in the same place, which saving does not touch.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxir import __version__
from jaxir.checkpoints.card import write_card
from jaxir.checkpoints.imports import Imported, import_folder, import_named
from jaxir.checkpoints.rules import check_shapes, flatten
from jaxir.checkpoints.weights import read_json, resolve
from jaxir.errors import InputError
from jaxir.families import config_from_dict, config_to_dict, family
from jaxir.files import STAGING, atomic_file, disk_errors, made_parents
from jaxir.text import Tokenizer, check_like, load_tokenizer
from jaxir.types import Params

__all__ = [
    "FORMAT_VERSION",
    "Model",
    "fingerprint",
    "load_model",
    "model_from_parts",
    "params_fingerprint",
    "save_model",
]

FORMAT_VERSION = 1
"""Of ``model.json``; a reader refuses a higher one."""

_PARTS = ("params", "tokenizer", "operative_config.gin", "MODEL_CARD.md")


class Model(NamedTuple):
    """A model ready for use.

    Attributes:
      kind: its family's name.
      config: its family's configuration.
      params: its parameters, float32 arrays in host memory.
      tokenizer: its tokenizer.
      fingerprint: sha256 of configuration and parameters, in hexadecimal.
      path: where it came from, or empty.
    """

    kind: str
    config: Any
    params: Params
    tokenizer: Tokenizer
    fingerprint: str
    path: str


def fingerprint(kind: str, config: Any, params: Params) -> str:
    """The sha256 that stands for a model: same value, same vectors.

    Over the kind, the configuration as sorted JSON, and each parameter's path, type,
    shape and bytes in the order of their paths.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([kind, config_to_dict(config)], sort_keys=True).encode())
    _digest_params(digest, params)
    return digest.hexdigest()


def params_fingerprint(params: Params) -> str:
    """The sha256 of parameters alone: paths, types, shapes and bytes."""
    digest = hashlib.sha256()
    _digest_params(digest, params)
    return digest.hexdigest()


def _digest_params(digest: Any, params: Params) -> None:
    for path, leaf in flatten(params).items():
        array = np.asarray(leaf)
        digest.update(f"\n{path} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)


def model_from_parts(
    kind: str, config: Any, params: Params, tokenizer: Tokenizer, *, path: str = ""
) -> Model:
    """A model of parts in memory, as training leaves them; computes its fingerprint.

    Args:
      kind: a name in ``families.FAMILIES``.
      config: of that family.
      params: parameters on any device; they are copied to host memory.
      tokenizer: the tokenizer of its training.
      path: where it came from.
    """
    host = jax.tree.map(_to_host, params)
    return Model(kind, config, host, tokenizer, fingerprint(kind, config, host), path)


def _to_host(leaf: Any) -> np.ndarray:
    """An array in host memory, gathered where its parts lie with other processes."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def save_model(
    directory: str | os.PathLike,
    model: Model,
    *,
    operative_config: str = "",
    card: str | None = None,
    metrics: Mapping[str, float] | None = None,
    command: str = "",
    training_data: str = "",
    licence: str = "",
) -> str:
    """Writes a model directory, in place of the model that stands there, if any.

    Everything is written beside the old parts first and renamed at the end.  Of several
    processes, each may call this; the first one writes.

    Args:
      directory: where; made if absent.
      model: what to write; its fingerprint is computed anew.
      operative_config: the gin configuration that trained it.
      card: the model card; one is made of what follows if None.
      metrics: what it reaches, by name.
      command: the command that made it.
      training_data: the collection and split, or the checkpoint it was made from.
      licence: of the weights; a reminder to check the sources' if empty.

    Returns:
      The fingerprint.

    Raises:
      InputError: the disk is full or the place cannot be written.
    """
    directory = Path(directory)
    model = model_from_parts(*model[:4], path=str(directory))
    if jax.process_index() != 0:
        return model.fingerprint
    if card is None:
        card = write_card(
            model.kind,
            model.config,
            model.params,
            model.fingerprint,
            metrics=metrics or {},
            command=command,
            training_data=training_data,
            licence=licence,
        )
    description = {
        "kind": model.kind,
        "format_version": FORMAT_VERSION,
        "jaxir_version": __version__,
        "fingerprint": model.fingerprint,
        "num_parameters": sum(x.size for x in jax.tree.leaves(model.params)),
        "architecture": config_to_dict(model.config),
    }
    with disk_errors(directory), made_parents(directory / "model.json"):
        for left in directory.glob(f"{STAGING}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=directory))
        try:
            _save_params(staging / "params", model.params)
            (staging / "tokenizer").mkdir()
            model.tokenizer.save(staging / "tokenizer")
            (staging / "MODEL_CARD.md").write_text(card, "utf-8")
            (staging / "operative_config.gin").write_text(operative_config, "utf-8")
            with atomic_file(staging / "model.json") as out:
                out.write(json.dumps(description, indent=2) + "\n")
            _exchange(staging, directory)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return model.fingerprint


def _exchange(staging: Path, directory: Path) -> None:
    """Puts the new parts in the place of the old ones, or leaves the old ones."""
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        os.replace(source, target)
        moved.append((source, target))

    try:
        # Between the first move and the last the directory holds no model.
        for part in ("model.json", *_PARTS):
            if (directory / part).exists():
                move(directory / part, staging / f"old.{part}")
        for part in (*_PARTS, "model.json"):
            move(staging / part, directory / part)
    except BaseException:
        for source, target in reversed(moved):
            os.replace(target, source)
        raise


def load_model(
    spec: str | os.PathLike,
    *,
    kind: str | None = None,
    tokenizer: str | os.PathLike | None = None,
) -> Model:
    """Loads a model from wherever it is.

    ==================== ============================================================
    spec                 what it is
    ==================== ============================================================
    a folder             ours (``model.json``), sentence-transformers
                         (``modules.json``), or Hugging Face's: a T5 (kind ``t5``),
                         a sequence classifier with one label (``rank_bert``), a
                         Hypencoder of its authors (``hypencoder``), a SPLADE or one
                         of OpenSearch's (``sparse``), or a bare BERT, RoBERTa or
                         DistilBERT (``dense``)
    ``hf:ID``            the same, from the Hugging Face hub or its cache
    ``dpr:Q,C``          DPR's question and context encoders, folders or ``hf:ID``
    ``jpq:Q,D``          JPQ's query and document encoders, likewise (kind ``jpq``)
    ``t5x:PATH``         a T5X checkpoint of a T5 (kind ``t5``), with a tokenizer in
                         its folder or beside it, or ``tokenizer=``
    ==================== ============================================================

    Args:
      spec: see above.
      kind: the family that is asked for; any if None.
      tokenizer: the tokenizer to take instead of the model's own, as
        ``text.load_tokenizer`` takes it.

    Raises:
      InputError: no model there, one of another kind, one with parts missing, no
        tokenizer, one with more entries than the model, or a BERT's for a T5.
    """
    text = os.fspath(spec)
    found = import_named(text)
    if found is None:
        directory = resolve(text)
        if (directory / "model.json").is_file():
            model = _load_own(directory, kind)
            if tokenizer is None:
                return model
            _check_sort(tokenizer, model.kind)
            loaded = _tokenizer(tokenizer, model.config)
            check_like(loaded, model.tokenizer)
            return model._replace(tokenizer=loaded)
        found = import_folder(directory, text)
    return _imported(found, text, kind, tokenizer)


def _load_own(directory: Path, kind: str | None) -> Model:
    path = directory / "model.json"
    data = read_json(path, object)
    required = {"kind", "format_version", "fingerprint", "architecture"}
    if not isinstance(data, dict) or required - set(data):
        raise InputError(path, "not the description of a jaxir model")
    for key, kind_of_value in (("kind", str), ("format_version", int)):
        if not isinstance(data[key], kind_of_value):
            raise InputError(
                path, f"{key} {data[key]!r}", kind_of_value.__name__, "copy it anew"
            )
    if data["format_version"] > FORMAT_VERSION:
        raise InputError(
            path,
            f"format_version {data['format_version']}",
            f"at most {FORMAT_VERSION}",
            "upgrade jaxir",
        )
    row = family(data["kind"], where=path)
    _check_kind(directory, row.kind, kind)
    config = config_from_dict(row.kind, data["architecture"], where=path)
    for part in ("params", "tokenizer"):
        if not (directory / part).is_dir():
            found = f"{part}/ is missing"
            raise InputError(
                directory, found, "a whole model directory", "copy it anew"
            )
    shapes = jax.eval_shape(lambda: row.init(config, jax.random.key(0)))
    params = _load_params(directory / "params", shapes)
    tokenizer = load_tokenizer(directory / "tokenizer")
    return Model(
        row.kind, config, params, tokenizer, data["fingerprint"], str(directory)
    )


def _check_kind(where: object, found: str, wanted: str | None) -> None:
    if wanted is not None and found != wanted:
        raise InputError(
            where,
            f"a model directory of another kind, {found!r}",
            f"{wanted!r}",
            "give the directory of such a model",
        )


def _imported(
    found: Imported, spec: str, kind: str | None, tokenizer: str | os.PathLike | None
) -> Model:
    """A model out of an import, with its tokenizer."""
    _check_kind(spec, found.kind, kind)
    place = found.tokenizer_path if tokenizer is None else tokenizer
    if place is None:
        raise InputError(
            spec,
            "no tokenizer in its folder or beside it",
            "tokenizer.json or spiece.model",
            "name one: tokenizer=FOLDER, or --tokenizer FOLDER",
        )
    if tokenizer is not None:
        _check_sort(tokenizer, found.kind)
    loaded = found.tokenizer(_tokenizer(place, found.config), found.config, place)
    return model_from_parts(found.kind, found.config, found.params, loaded, path=spec)


def _check_sort(place: str | os.PathLike, kind: str) -> None:
    """A BERT's tokenizer is smaller than a T5's table, and its ids mean other words."""
    if kind in ("t5", "rank_t5") and len(load_tokenizer(place).frame.prefix):
        raise InputError(
            place, "a tokenizer that puts a token before a text", "a T5's, with </s> "
            "behind it", "take the tokenizer that the model was trained with",
        )  # fmt: skip


def _tokenizer(place: str | os.PathLike, config: Any) -> Tokenizer:
    """The tokenizer at a place; each of its tokens needs a row of the model's table."""
    loaded = load_tokenizer(place)
    rows = getattr(config, "backbone", config).vocab_size
    if loaded.vocab_size > rows:
        raise InputError(
            place,
            f"a tokenizer of {loaded.vocab_size:,} tokens",
            f"at most {rows:,}, the rows of the model's table",
            "take the tokenizer that the model was trained with",
        )
    return loaded


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """Orbax's stable interface, without its commentary: what fails raises as well."""
    from orbax.checkpoint import v1 as ocp

    def other_than_orbax(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or "orbax" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(other_than_orbax)
    try:
        yield ocp
    finally:
        logger.removeFilter(other_than_orbax)


def _save_params(path: Path, params: Params) -> None:
    with _orbax() as ocp:
        # Only this process writes: Orbax must not wait for the others.
        context = ocp.Context()
        context.multiprocessing.active_processes = {0}
        with context:
            ocp.save(path.absolute(), params)  # Orbax takes no relative path


def _load_params(path: Path, shapes: Any) -> Params:
    """Parameters of exactly these names and shapes, in host memory."""
    try:
        with _orbax() as ocp:
            found = ocp.metadata(path.absolute()).metadata
            if found is None:
                raise OSError("damaged files")
            check_shapes(found, shapes, where=path)
            empty = jax.tree.map(lambda x: np.empty(x.shape, np.float32), shapes)
            return ocp.load(path.absolute(), empty)
    except InputError:
        raise
    # Orbax and tensorstore tell of damage in exceptions of a dozen types.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            path, f"cannot be read ({reason[0]})", "whole parameters", "copy it anew"
        ) from error
