"""T5X's trees: version and sizes told from them, there and back, other models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.checkpoints.rules import flatten, unflatten
from jaxir.checkpoints.t5_huggingface import export_t5, load_t5
from jaxir.checkpoints.t5x import (
    load_t5x,
    one_by_one,
    read_t5x,
    t5_config_of,
    write_t5x,
)
from jaxir.checkpoints.t5x_native import write_native
from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig
from jaxir.nn.bert import init_params as init_bert
from jaxir.nn.t5 import (
    T5,
    T5Config,
    init_encoder_params,
    init_params,
    stack_layers,
)
from jaxir.types import TokenBatch

V10 = T5Config(
    vocab_size=40, emb_dim=16, num_heads=2, head_dim=6, mlp_dim=24,
    num_encoder_layers=3, num_decoder_layers=2,
)  # fmt: skip
V11 = dataclasses.replace(
    V10, mlp_activations=("gelu", "linear"), logits_via_embedding=False
)
VERSIONS = pytest.mark.parametrize("config", [V10, V11], ids=["1.0", "1.1"])


def params_of(config: T5Config, init=init_params):
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(0.0, 0.3, x.shape).astype(np.float32), shapes
    )


def check_equal(found, wanted) -> None:
    assert set(flatten(found)) == set(flatten(wanted))
    for path, array in flatten(wanted).items():
        np.testing.assert_array_equal(
            flatten(found)[path], array, err_msg=path, strict=True
        )


@VERSIONS
def test_there_and_back(config, tmp_path):
    params = params_of(config)
    place = write_t5x(tmp_path, params, step=3)
    assert place == tmp_path / "checkpoint_3"
    found = load_t5x(place)
    assert found.config == config
    check_equal(found.params, params)
    check_equal(read_t5x(tmp_path), params)


def test_an_encoder_alone(tmp_path):
    params = params_of(V10, init_encoder_params)
    write_t5x(tmp_path, params)
    found = load_t5x(tmp_path)
    # Nothing says how deep the decoder was that is not there.
    assert found.config == dataclasses.replace(V10, num_decoder_layers=3)
    check_equal(found.params, params)


def test_stacked_layers_are_written_one_by_one(tmp_path):
    params = params_of(V11)
    stacked = stack_layers(params)
    assert t5_config_of(stacked) == dataclasses.replace(V11, scan_layers=True)
    check_equal(one_by_one(stacked), params)
    assert one_by_one(params) is params
    write_t5x(tmp_path, stacked)
    check_equal(load_t5x(tmp_path).params, params)


@pytest.mark.parametrize("axis", [0, 1])
def test_scanned_checkpoints_are_taken_apart(axis, tmp_path):
    """T5X's scalable_t5: layers in one axis, each with a table of positions."""
    params = params_of(V10)
    scanned = jax.tree.map(np.asarray, stack_layers(params, axis=axis))
    for stack, count in (("encoder", 3), ("decoder", 2)):
        table = scanned[stack].pop("relpos_bias")["rel_embedding"]
        tables = np.stack([table] * count, axis=axis)
        scanned[stack][stack]["relpos_bias"] = {"rel_embedding": tables}
    write_native(tmp_path / "same", scanned, step=0)
    found = load_t5x(tmp_path / "same")
    assert found.config == V10
    check_equal(found.params, params)
    tables = scanned["decoder"]["decoder"]["relpos_bias"]["rel_embedding"].copy()
    tables[0, 0, 0] += 1
    scanned["decoder"]["decoder"]["relpos_bias"]["rel_embedding"] = tables
    write_native(tmp_path / "own", scanned, step=0)
    with pytest.raises(InputError, match=r"in each layer of the decoder \(umT5\); exp"):
        load_t5x(tmp_path / "own")


def test_half_precision_becomes_single(tmp_path):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params_of(V10))
    write_t5x(tmp_path, half)
    check_equal(
        load_t5x(tmp_path).params, jax.tree.map(lambda x: x.astype(np.float32), half)
    )


@VERSIONS
def test_t5x_and_hugging_face_hold_the_same_model(config, tmp_path):
    params = params_of(config)
    write_t5x(tmp_path / "t5x", params)
    first = load_t5x(tmp_path / "t5x")
    export_t5(first.config, first.params, tmp_path / "hf")
    second = load_t5(tmp_path / "hf")
    assert second.config == config
    check_equal(second.params, params)
    write_t5x(tmp_path / "again", second.params)
    for file in (tmp_path / "t5x").rglob("*"):
        if file.is_file():
            again = tmp_path / "again" / file.relative_to(tmp_path / "t5x")
            assert again.read_bytes() == file.read_bytes()


@pytest.mark.shared
def test_the_real_tiny_checkpoint(shared_data):
    file = shared_data / "t5x_tiny" / "test_t5_tiny.checkpoint_0"
    config, params = load_t5x(file)
    assert config == T5Config(
        vocab_size=32128, emb_dim=8, num_heads=4, head_dim=3, mlp_dim=16,
        num_encoder_layers=2, num_decoder_layers=2,
        mlp_activations=("gelu", "linear"), logits_via_embedding=False,
    )  # fmt: skip
    ids = jnp.arange(1, 7, dtype=jnp.int32).reshape(2, 3)
    tokens = TokenBatch(ids, jnp.ones((2, 3), bool))
    start = jnp.zeros((2, 1), jnp.int32)
    logits = jax.jit(T5(config).apply)({"params": params}, tokens, start)
    assert logits.shape == (2, 1, 32128)
    assert bool(jnp.isfinite(logits).all())


def test_sizes_of_a_tree_that_lacks_things_are_t5_s():
    assert t5_config_of({}) == T5Config()
    shapes = unflatten({"token_embedder/embedding": np.zeros((5, 4))})
    assert t5_config_of(shapes) == T5Config(vocab_size=5, emb_dim=4)


def test_another_architecture_shows_the_whole_difference(tmp_path):
    shapes = jax.eval_shape(lambda: init_bert(BertConfig(), jax.random.key(0)))
    tree = jax.tree.map(lambda x: np.zeros((1,) * len(x.shape), np.float32), shapes)
    write_native(tmp_path, tree, step=0)
    with pytest.raises(InputError, match="weights do not fit: - ") as caught:
        load_t5x(tmp_path)
    for part in (
        "- decoder/decoder_norm/scale",
        "- encoder/layers_{0-11}/mlp/wi/kernel",
        "+ embeddings/norm/bias [1]",
        "+ layer_{0-11}/mlp_norm/scale [1]",
    ):
        assert part in str(caught.value)


def test_a_layer_or_a_shape_that_does_not_fit_says_so(tmp_path):
    params = params_of(V10)
    layers = params["encoder"]
    del layers["layers_1"]
    layers["layers_2"]["mlp"]["wo"]["kernel"] = np.zeros((24, 15), np.float32)
    layers["extra"] = {"bias": np.zeros(2, np.float32)}
    write_t5x(tmp_path, params)
    with pytest.raises(
        InputError, match="weights do not fit: - encoder/layers_1/"
    ) as e:
        load_t5x(tmp_path)
    assert "+ encoder/extra/bias [2]" in str(e.value)
    assert "≠ encoder/layers_2/mlp/wo/kernel gives [24, 15], not [24, 16]" in str(
        e.value
    )
