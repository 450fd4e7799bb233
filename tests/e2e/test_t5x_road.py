"""A T5's whole road: out of T5X, ten steps on lists, into T5X; Hugging Face and back.

What is written for T5X is read by a reader of its layout that shares no code with ours:
flax' msgpack for the index, gzip and numpy for the zarr chunks.
"""

import gzip
import itertools
import json

import jax
import numpy as np
import pytest
from flax import serialization
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file
from tiny_rerankers import t5_tokenizer, tiny_t5

from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.checkpoints.t5x import write_t5x
from jaxir.cli.main import main
from jaxir.data.formats import read_run, write_run

SCORES = {f"{topic}{i}": -i for i in range(2) for topic in ("river", "engine", "bread")}


def jaxir(*words):
    assert main([*map(str, words), "--quiet"]) == 0


def zarr_array(folder):
    """An array of zarr's second version, chunk by chunk, every one present."""
    data = json.loads((folder / ".zarray").read_text())
    assert (data["zarr_format"], data["order"]) == (2, "C")
    assert data["compressor"]["id"] == "gzip"
    array = np.full(data["shape"], np.nan, data["dtype"])
    counts = [-(-n // c) for n, c in zip(data["shape"], data["chunks"], strict=True)]
    for index in itertools.product(*map(range, counts)):
        name = ".".join(map(str, index))
        chunk = np.frombuffer(
            gzip.decompress((folder / name).read_bytes()), data["dtype"]
        ).reshape(data["chunks"])
        place = tuple(
            slice(i * c, (i + 1) * c)
            for i, c in zip(index, data["chunks"], strict=True)
        )
        array[place] = chunk[tuple(slice(n) for n in array[place].shape)]
    return array


def t5x_checkpoint(folder):
    """Step and parameters of ``checkpoint_N`` by the rules of T5X's native layout."""
    index = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    assert sorted(index) == ["optimizer", "version"]
    assert int(index["version"]) == 3
    arrays = {}
    is_spec = lambda path, value: "kvstore" in value  # noqa: E731
    target = flatten_dict(index["optimizer"]["target"], is_leaf=is_spec)
    for path, spec in target.items():
        name = "target." + ".".join(path)
        assert spec["driver"] == "zarr"
        assert spec["kvstore"]["driver"] == "file"
        assert spec["kvstore"]["path"].rstrip("/") == name
        arrays["/".join(path)] = zarr_array(folder / name)
        assert list(arrays["/".join(path)].shape) == spec["metadata"]["shape"]
    written = {path.name for path in folder.iterdir()} - {"checkpoint"}
    assert written == {"target." + name.replace("/", ".") for name in arrays}
    return int(index["optimizer"]["state"]["step"]), arrays


def assert_same(found, params):
    wanted = flatten_dict(params, sep="/")
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["encdec", "enc"])
def test_from_t5x_by_ten_steps_to_t5x(head, tiny_collection, tmp_path):
    start = tiny_t5(tmp_path / "unused").params
    write_t5x(tmp_path / "t5x", start, step=1000)
    step, found = t5x_checkpoint(tmp_path / "t5x" / "checkpoint_1000")
    assert step == 1000
    assert_same(found, start)
    t5_tokenizer(tmp_path / "words")  # not beside the checkpoint
    queries = [f"q-{topic}-train" for topic in ("river", "engine", "bread")]
    write_run(tmp_path / "run.trec", dict.fromkeys(queries, SCORES))
    jaxir(
        "train", "--gin_file", "experiments/rankt5_small.gin",
        "--gin_file", f"tasks/rank/{head}_softmax.gin",
        f"--gin.COLLECTION={str(tiny_collection)!r}",
        f"--gin.CANDIDATES={str(tmp_path / 'run.trec')!r}",
        f"--gin.MODEL_PATH={'t5x:' + str(tmp_path / 't5x')!r}",
        f"--gin.TOKENIZER={str(tmp_path / 'words')!r}",
        "--gin.TRAIN_STEPS=10", "--gin.WARMUP=0", "--gin.BATCH_SIZE=8",
        "--gin.LIST_SIZE=3", "--gin.MAX_LENGTH=24",
        "--gin.POOLING=None",  # a T5X checkpoint does not tell: a T5's own
        "--model_dir", tmp_path / "model",
    )  # fmt: skip
    trained = load_model(tmp_path / "model")
    moved = flatten_dict(trained.params, sep="/")
    kept = [k for k, x in flatten_dict(start, sep="/").items() if k in moved]
    assert any(not np.array_equal(moved[k], found[k]) for k in kept)
    jaxir("convert", tmp_path / "model", f"t5x:{tmp_path / 'out'}")
    step, found = t5x_checkpoint(tmp_path / "out" / "checkpoint_0")
    assert step == 0
    assert_same(found, trained.params)
    # and it ranks as what was exported
    given = ["--run", tmp_path / "run.trec", "--collection", tiny_collection]
    length = ["--max_length", "24", "--output"]
    jaxir("rerank", "--model", tmp_path / "model", *given, *length, tmp_path / "a")
    spec = f"t5x:{tmp_path / 'out'}"
    jaxir("rerank", "--model", spec, *given, *length, tmp_path / "b")
    assert read_run(tmp_path / "a") == read_run(tmp_path / "b")


def test_hugging_face_and_back(tmp_path):
    for seed in range(2):
        save_model(tmp_path / "t5", tiny_t5(tmp_path / "words", seed))
        jaxir("convert", tmp_path / "t5", f"hf:{tmp_path / 'hf'}")
        jaxir("convert", f"hf:{tmp_path / 'hf'}", f"jaxir:{tmp_path / 'again'}")
        jaxir("convert", tmp_path / "again", f"hf:{tmp_path / 'hf2'}")
        model, again = load_model(tmp_path / "t5"), load_model(tmp_path / "again")
        assert model.fingerprint == again.fingerprint
        names = sorted(path.name for path in (tmp_path / "hf").iterdir())
        assert names == sorted(path.name for path in (tmp_path / "hf2").iterdir())
        for name in names:
            first, second = (tmp_path / place / name for place in ("hf", "hf2"))
            assert first.read_bytes() == second.read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("version", ["t5-1.0", "t5-1.1"])
def test_what_transformers_wrote_comes_back_bit_for_bit(version, tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = t5_tokenizer(tmp_path / "theirs")
    gated = version == "t5-1.1"
    config = transformers.T5Config(
        vocab_size=tokenizer.vocab_size, d_model=8, d_kv=4, d_ff=16, num_heads=2,
        num_layers=2, num_decoder_layers=1, tie_word_embeddings=not gated,
        feed_forward_proj="gated-gelu" if gated else "relu", decoder_start_token_id=0,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "theirs")
    jaxir("convert", f"hf:{tmp_path / 'theirs'}", f"jaxir:{tmp_path / 'ours'}")
    jaxir("convert", tmp_path / "ours", f"hf:{tmp_path / 'back'}")
    theirs, back = (
        load_file(tmp_path / place / "model.safetensors")
        for place in ("theirs", "back")
    )
    assert theirs.keys() <= back.keys()
    jax.tree.map(np.testing.assert_array_equal, theirs, {k: back[k] for k in theirs})
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "back")
    wanted = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path / "theirs"
    )
    for name, value in wanted.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], value, err_msg=name)
