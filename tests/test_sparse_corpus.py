"""Encoding into sparse rows: as the model has them, pruned, resumed, bounded."""

import itertools

import jax
import numpy as np
import pytest
from tiny_pq import many_documents
from tiny_sparse import tiny_sparse

from jaxir import sparse_corpus
from jaxir.checkpoints.model_dir import model_from_parts
from jaxir.data.collection import open_collection
from jaxir.encode import encode_texts
from jaxir.errors import InputError
from jaxir.mesh import make_mesh
from jaxir.sparse.postings import SparseRows
from jaxir.sparse_corpus import (
    SparseTextEncoder,
    encode_sparse_corpus,
    join_rows,
)


@pytest.fixture
def model(tmp_path):
    return tiny_sparse(tmp_path / "words")


@pytest.fixture
def collection(tmp_path):
    return open_collection(str(many_documents(tmp_path / "many", 11)))


def dense(rows, width):
    out = np.zeros((len(rows.offsets) - 1, width), np.float32)
    for i, (start, stop) in enumerate(itertools.pairwise(rows.offsets)):
        out[i, rows.tokens[start:stop]] = rows.weights[start:stop]
        assert (np.diff(rows.tokens[start:stop]) > 0).all()
    return out


def texts_of(collection):
    return list(collection.docs.texts(range(len(collection.docs))))


def encode(model, collection, place, **changes):
    options = {"shard_rows": 4, "batch_tokens": 64, "mesh": make_mesh(1)} | changes
    return encode_sparse_corpus(model, collection, place, **options)


@pytest.mark.parametrize("activation", ["log1p", "log1p_log1p"])
def test_rows_are_the_models(tmp_path, collection, activation):
    model = tiny_sparse(tmp_path / "words", activation=activation)
    corpus = encode(model, collection, tmp_path / "rows")
    assert [path.name for path in corpus.paths] == [
        f"rows-0000{i}.npz" for i in range(3)
    ]
    rows = join_rows(list(corpus.open()))
    expected = encode_texts(model, texts_of(collection), side="doc")
    np.testing.assert_allclose(dense(rows, expected.shape[1]), expected, atol=1e-5)
    assert corpus.num_docs == 11
    assert corpus.postings == len(rows.tokens) == (expected > 0).sum()
    assert rows.tokens.dtype == np.int32
    assert [len(part.offsets) for part in corpus.open()[1:]] == [5, 4]


def test_what_is_expanded(model, collection, tmp_path):
    """Tokens of the text, and weights of others, as they are counted one by one."""
    corpus = encode(model, collection, tmp_path / "rows")
    weights = encode_texts(model, texts_of(collection), side="doc")
    words = expanded = 0
    for text, row in zip(texts_of(collection), weights, strict=True):
        own = set(model.tokenizer.pieces([text])[0].tolist())
        own -= set(model.config.special_ids)
        words += len(own)
        expanded += len(set(np.flatnonzero(row).tolist()) - own)
    assert (corpus.words, corpus.expanded) == (words, expanded)
    assert expanded > 0


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_gathered_on_the_device(model, collection, ratio, devices, monkeypatch):
    """The same rows, bit for bit, also where there was too little room at first."""
    monkeypatch.setattr(sparse_corpus, "_ROOM", 2)
    made = {"side": "doc", "prune_ratio": ratio, "mesh": make_mesh(devices)}
    plain, compact = (
        SparseTextEncoder(model, **made, compact=compact) for compact in (False, True)
    )
    ids = plain.tokenize([*texts_of(collection), ""])
    expected, found = plain.rows(ids), compact.rows(ids)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert compact._room > 2


def test_pruning(model, collection, tmp_path):
    """Strictly above the ratio of the row's largest: the largest itself stays."""
    whole = dense(join_rows(list(encode(model, collection, tmp_path / "a").open())), 40)
    corpus = encode(model, collection, tmp_path / "b", prune_ratio=0.6)
    pruned = dense(join_rows(list(corpus.open())), 40)
    kept = whole > np.float32(0.6) * whole.max(axis=1, keepdims=True)
    np.testing.assert_array_equal(pruned, np.where(kept, whole, 0))
    assert kept.any(axis=1).all()
    assert kept.sum() < (whole > 0).sum()


def test_empty_documents(tmp_path, capsys):
    """Nothing in the text, nothing in the row, even where special tokens are pooled."""
    folder = many_documents(tmp_path / "many", 4)
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    lines[1:3] = ['{"_id": "d1", "text": ""}', '{"_id": "d2", "text": "§"}']
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    model = tiny_sparse(tmp_path / "words", pool_special=True)
    found = open_collection(str(folder), allow_empty=True)
    corpus = encode(model, found, tmp_path / "rows")
    (rows,) = corpus.open()
    assert (np.diff(rows.offsets) == 0).tolist() == [False, True, True, False]
    assert corpus.empty == 2
    assert "2 of 4 documents have no weights: nothing finds" in capsys.readouterr().err


def test_goes_on(model, collection, tmp_path, monkeypatch, capsys):
    """An interrupted run keeps its shards; another model's or ratio's are discarded."""
    real, calls = sparse_corpus._write_shard, []

    def interrupted(path, *args):
        calls.append(path.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(path, *args)

    monkeypatch.setattr(sparse_corpus, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(model, collection, tmp_path / "part")
    part = encode(model, collection, tmp_path / "part")
    assert calls == [f"rows-0000{i}.npz" for i in (0, 1, 2, 2)]
    assert "8 of 11 documents are encoded already" in capsys.readouterr().err
    whole = encode(model, collection, tmp_path / "whole")
    assert part._replace(paths=()) == whole._replace(paths=())
    for one, other in zip(part.paths, whole.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()
    encode(model, collection, tmp_path / "part", prune_ratio=0.5)
    assert "holds another encoding; starting over" in capsys.readouterr().err


def test_a_diverged_model(model, collection, tmp_path):
    params = jax.tree.map(lambda x: x, model.params)
    params["head"]["bias"] = np.full_like(params["head"]["bias"], np.nan)
    broken = model_from_parts("sparse", model.config, params, model.tokenizer)
    for compact in (False, True):
        encoder = SparseTextEncoder(broken, side="doc", compact=compact)
        with pytest.raises(InputError, match="may have diverged: train it with a lo"):
            encoder.rows(encoder.tokenize(["rivers carry water"]))
    with pytest.raises(
        InputError, match=r"rows-00000\.npz: the model gives values that"
    ):
        encode(broken, collection, tmp_path / "rows")
    assert not list((tmp_path / "rows").glob("*.npz"))


def test_mistakes(model, collection, make_tiny_model, tmp_path):
    for message, changes in {
        "prune_ratio: 1.0; expected from 0 to less than 1": {"prune_ratio": 1.0},
        "prune_ratio: -0.1;": {"prune_ratio": -0.1},
        "doc length: 65 tokens; expected 3 to 64": {"max_length": 65},
    }.items():
        with pytest.raises(InputError, match=message):
            encode(model, collection, tmp_path / "rows", **changes)
    with pytest.raises(InputError, match="of kind 'dense'; expected kind 'sparse'"):
        encode(make_tiny_model(), collection, tmp_path / "rows")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("")
    with pytest.raises(InputError, match="a directory that is not an encoding"):
        encode(model, collection, tmp_path / "mine")


def test_no_rows():
    none = join_rows([])
    assert (none.offsets.tolist(), len(none.tokens)) == ([0], 0)
    assert isinstance(none, SparseRows)
