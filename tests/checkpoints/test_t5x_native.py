"""T5X's layouts on disk: what is written, read by hand; what others wrote, read here.

The writer is checked against T5X's rules (t5x/checkpoints.py: ``_get_spec``,
``_read_ts``, ``load_t5x_checkpoint``) by a reader of its own: msgpack, JSON and gzip.
"""

import gzip
import json
import shutil
from pathlib import Path

import jax
import msgpack
import numpy as np
import pytest
from flax import serialization

from jaxir.checkpoints.rules import flatten
from jaxir.checkpoints.t5x_native import (
    chunk_shape,
    find_checkpoint,
    read_arrays,
    write_native,
)
from jaxir.errors import InputError

SHAPES = {
    "encoder": {"layers_0": {"mlp": {"wi": {"kernel": (6, 10)}}}},
    "encoder_norm": {"scale": (6,)},
    "token_embedder": {"embedding": (12, 6)},
}


def tree(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def check_same(found: dict, wanted: dict) -> None:
    wanted = flatten(wanted)
    assert set(found) == set(wanted)
    for path, array in wanted.items():
        np.testing.assert_array_equal(found[path], array, strict=True)


def read_zarr_by_hand(folder: Path) -> np.ndarray:
    """Zarr version 2 from its definition: JSON, chunks by their numbers, gzip."""
    data = json.loads((folder / ".zarray").read_text())
    assert data["zarr_format"] == 2
    assert data["order"] == "C"
    assert data["compressor"]["id"] == "gzip"
    assert data["filters"] is None
    array = np.full(data["shape"], np.nan, data["dtype"])
    files = [file for file in folder.iterdir() if file.name != ".zarray"]
    for file in files:
        index = [int(n) for n in file.name.split(".")]
        place = tuple(
            slice(n * c, n * c + c) for n, c in zip(index, data["chunks"], strict=True)
        )
        chunk = np.frombuffer(gzip.decompress(file.read_bytes()), data["dtype"])
        array[place] = chunk.reshape(data["chunks"])
    assert len(files) == np.prod(np.array(data["shape"]) // data["chunks"])
    return array


def test_what_is_written_follows_t5x_s_rules(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxir.checkpoints.t5x_native.CHUNK_BYTES", 100)
    place = write_native(tmp_path, tree(), step=1234)
    assert place == tmp_path / "checkpoint_1234"
    raw = msgpack.unpackb((place / "checkpoint").read_bytes(), strict_map_key=False)
    assert set(raw) == {"version", "optimizer"}
    assert raw["version"] == 3
    assert set(raw["optimizer"]) == {"target", "state"}
    contents = serialization.msgpack_restore((place / "checkpoint").read_bytes())
    step = contents["optimizer"]["state"]["step"]
    assert (step.dtype, step.shape, int(step)) == (np.int32, (), 1234)
    specs = {}
    for path, array in flatten(tree()).items():
        node = raw["optimizer"]["target"]
        for key in path.split("/"):
            node = node[key]
        specs[path] = node
        # What T5X's reader takes apart, and deletes without asking.
        assert set(node) == {"driver", "dtype", "kvstore", "metadata"}
        assert (node["driver"], node["dtype"]) == ("zarr", "float32")
        assert set(node["metadata"]) == {"shape", "chunks", "compressor"}
        assert node["kvstore"]["driver"] == "file"
        name = node["kvstore"]["path"]
        assert name == "target." + path.replace("/", ".") + "/"
        np.testing.assert_array_equal(read_zarr_by_hand(place / name), array)
    assert specs["token_embedder/embedding"]["metadata"]["chunks"] == [4, 6]
    assert sorted(x.name for x in place.iterdir()) == [
        "checkpoint",
        "target.encoder.layers_0.mlp.wi.kernel",
        "target.encoder_norm.scale",
        "target.token_embedder.embedding",
    ]


def test_tensorstore_opens_it_as_t5x_does(tmp_path):
    import tensorstore as ts

    place = write_native(tmp_path, tree(), step=0)
    contents = serialization.msgpack_restore((place / "checkpoint").read_bytes())
    spec = contents["optimizer"]["target"]["token_embedder"]["embedding"]
    spec = ts.Spec(spec).to_json()
    del spec["metadata"]["chunks"]
    del spec["metadata"]["compressor"]
    spec["kvstore"]["path"] = f"{place}/{spec['kvstore']['path']}"
    found = ts.open(spec, open=True).result().read().result()
    np.testing.assert_array_equal(found, tree()["token_embedder"]["embedding"])


def test_there_and_back(tmp_path):
    place = write_native(tmp_path, tree(1), step=9)
    write_native(tmp_path, tree(2), step=10)
    check_same(read_arrays(place), tree(1))
    check_same(read_arrays(place / "checkpoint"), tree(1))
    check_same(read_arrays(tmp_path), tree(2))  # the last step, not the last name
    write_native(tmp_path, tree(3), step=10)
    check_same(read_arrays(tmp_path), tree(3))


@pytest.mark.parametrize("jax_array", [False, True])
def test_half_precision_and_jax_arrays(jax_array, tmp_path):
    params = jax.tree.map(lambda x: x.astype(jax.numpy.bfloat16), tree())
    if jax_array:
        params = jax.tree.map(jax.numpy.asarray, params)
    write_native(tmp_path, params, step=0)
    check_same(read_arrays(tmp_path), jax.tree.map(np.asarray, params))


def edit_index(place: Path, change) -> None:
    contents = serialization.msgpack_restore((place / "checkpoint").read_bytes())
    change(contents)
    (place / "checkpoint").write_bytes(serialization.msgpack_serialize(contents))


def test_specs_of_other_machines_and_versions(tmp_path):
    place = write_native(tmp_path, tree(), step=0)

    def change(contents):
        target = contents["optimizer"]["target"]
        spec = target["token_embedder"]["embedding"]
        bucket = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
        # The form of TensorStore before 0.1.14, on a bucket that is not ours.
        spec["path"] = spec["kvstore"]["path"]
        spec["kvstore"] = bucket
        spec = target["encoder_norm"]["scale"]
        spec["kvstore"] = {
            "driver": "gfile",
            "path": "/cns/x/" + "target.encoder_norm.scale/",
        }
        # Small arrays may stand in the index.
        mlp = target["encoder"]["layers_0"]["mlp"]["wi"]
        mlp["kernel"] = tree()["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
        # Slots of the optimizer are not even looked at.
        slot = {"driver": "nonsense", "kvstore": {}, "metadata": {}}
        contents["optimizer"]["state"]["param_states"] = {"a": slot}

    edit_index(place, change)
    check_same(read_arrays(tmp_path), tree())


def test_bfloat16_as_version_2_stored_it(tmp_path):
    half = jax.tree.map(lambda x: x.astype(jax.numpy.bfloat16), tree())
    write_native(tmp_path, jax.tree.map(lambda x: x.view(np.uint16), half), step=0)
    check_same(read_arrays(tmp_path), half)


def test_one_file_with_large_arrays_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    contents = {"version": 3, "optimizer": {"target": tree(), "state": {"step": 1}}}
    file = tmp_path / "checkpoint_1"
    file.write_bytes(serialization.msgpack_serialize(contents))
    assert b"__msgpack_chunked_array__" in file.read_bytes()
    check_same(read_arrays(file), tree())
    check_same(read_arrays(tmp_path), tree())


@pytest.mark.shared
def test_the_real_legacy_file(shared_data):
    arrays = read_arrays(shared_data / "t5x_tiny" / "test_t5_tiny.checkpoint_0")
    assert len(arrays) == 52
    assert arrays["decoder/logits_dense/kernel"].shape == (8, 32128)
    assert {x.dtype for x in arrays.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("ocdbt", [True, False])
@pytest.mark.parametrize("inner", ["", "state"])
def test_orbax_directories(ocdbt, inner, tmp_path):
    import orbax.checkpoint as ocp

    slots = jax.tree.map(lambda x: {"v": x}, tree(5))
    contents = {
        "target": tree(),
        "state": {"step": np.array(7, np.int32), "param_states": slots},
    }
    place = tmp_path / "checkpoint_7" / inner
    saver = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt))
    saver.save(place, contents)
    saver.close()
    check_same(read_arrays(tmp_path), tree())
    check_same(read_arrays(tmp_path / "checkpoint_7"), tree())


def test_orbax_s_first_layout_names_its_folders(tmp_path):
    place = write_native(tmp_path, tree(), step=0)
    names = jax.tree.map(lambda x: 0, tree())

    def placeholder(path, _):
        keys = ".".join(key.key for key in path)
        return f"PLACEHOLDER://target.{keys}"

    contents = {
        "_optimizer": {"target": jax.tree_util.tree_map_with_path(placeholder, names)}
    }
    (place / "checkpoint").write_bytes(serialization.msgpack_serialize(contents))
    check_same(read_arrays(place), tree())


@pytest.mark.parametrize(
    ("shape", "most", "wanted"),
    [
        ((4, 6), 24, [4, 6]),
        ((4, 6), 23, [4, 3]),
        ((7,), 6, [1]),
        ((), 1, []),
        ((32128, 1024), 2**24, [16064, 1024]),
    ],
)
def test_chunks_divide_evenly(shape, most, wanted):
    assert chunk_shape(shape, most) == wanted


def drop_array(place):
    shutil.rmtree(place / "target.encoder_norm.scale")


def drop_chunk(place):
    (place / "target.encoder_norm.scale" / "0").unlink()


def cut_chunk(place):
    chunk = place / "target.encoder_norm.scale" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])


def cut_index(place):
    index = place / "checkpoint"
    index.write_bytes(index.read_bytes()[:90])


def empty_target(place):
    edit_index(place, lambda contents: contents["optimizer"].update(target={}))


def word_for_array(place):
    edit_index(place, lambda c: c["optimizer"]["target"].update(encoder_norm="x"))


def other_shape(place):
    def change(contents):
        norm = contents["optimizer"]["target"]["encoder_norm"]["scale"]
        norm["metadata"]["shape"] = [8]

    edit_index(place, change)


def other_driver(place):
    def change(contents):
        contents["optimizer"]["target"]["encoder_norm"]["scale"]["driver"] = "n5"

    edit_index(place, change)


def mesh_tensorflow(place):
    (place / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            drop_array,
            "1 of 3 arrays are missing, such as target.encoder_norm.scale; the",
        ),
        (drop_chunk, r"target.encoder_norm.scale: chunk 0 is missing; the copy is"),
        (cut_chunk, r"checkpoint_0: cannot be read \(.*\); expected zarr arrays"),
        (cut_index, r"checkpoint: cannot be read \(.*\); expected T5X's msgpack"),
        (empty_target, "no parameters in it; expected a T5X checkpoint"),
        (word_for_array, "checkpoint: encoder_norm is no array but str"),
        (other_shape, r"encoder_norm.scale: shape \[6\]; expected \[8\]; the copy is"),
        (other_driver, "an array stored by 'n5'; expected zarr"),
        (mesh_tensorflow, "a checkpoint of Mesh TensorFlow; expected T5X's; convert"),
    ],
)
def test_damage_says_what_is_wrong(damage, message, tmp_path):
    place = write_native(tmp_path, tree(), step=0)
    damage(place)
    with pytest.raises(InputError, match=message):
        read_arrays(tmp_path)


def test_a_damaged_orbax_directory_says_so(tmp_path):
    (tmp_path / "_METADATA").write_text("{")
    with pytest.raises(InputError, match=r"cannot be read \(.*\); expected Orbax's"):
        read_arrays(tmp_path)


def test_places_without_a_checkpoint_say_so(tmp_path):
    with pytest.raises(
        InputError, match=r"no T5X checkpoint here; expected checkpoint_N"
    ):
        find_checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"no such file or folder.*; check the path"):
        find_checkpoint(tmp_path / "x")
    with pytest.raises(InputError, match="copy it to this machine first: gcloud"):
        find_checkpoint(Path("gs://t5-data/pretrained_models/t5x"))
