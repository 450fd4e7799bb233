"""Hugging Face's T5: both versions, both ways, against PyTorch where it is there."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.checkpoints.rules import flatten
from jaxir.checkpoints.t5_huggingface import (
    config_from_huggingface,
    config_to_huggingface,
    export_t5,
    load_t5,
)
from jaxir.checkpoints.weights import read_weights, save_weights
from jaxir.errors import InputError
from jaxir.nn.t5 import (
    T5,
    T5Config,
    T5Encoder,
    init_encoder_params,
    init_params,
    stack_layers,
)
from jaxir.text import load_tokenizer
from jaxir.types import TokenBatch

SIZES = {
    "vocab_size": 40,
    "emb_dim": 16,
    "num_heads": 2,
    "head_dim": 6,
    "mlp_dim": 24,
    "num_encoder_layers": 3,
    "num_decoder_layers": 2,
}
V10 = T5Config(**SIZES)
V11 = T5Config(**SIZES, mlp_activations=("gelu", "linear"), logits_via_embedding=False)
VERSIONS = pytest.mark.parametrize("config", [V10, V11], ids=["1.0", "1.1"])


def params_of(config: T5Config, init=init_params):
    """Random parameters, norms as well, so that none can be taken for another."""
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(0.0, 0.3, x.shape).astype(np.float32), shapes
    )


def check_equal(found, wanted) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for path, array in flatten(wanted).items():
        np.testing.assert_array_equal(flatten(found)[path], array, err_msg=path)


_IDS = np.random.default_rng(1).integers(2, 40, (3, 9)).astype(np.int32)
MASK = np.arange(9)[None, :] < np.array([9, 4, 1])[:, None]
IDS = np.where(MASK, _IDS, 0).astype(np.int32)
START = np.array([[0, 5, 7], [0, 3, 3], [0, 0, 9]], np.int32)
TOKENS = TokenBatch(jnp.asarray(IDS), jnp.asarray(MASK))


def check_logits(theirs, config: T5Config, params) -> None:
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        wanted = theirs.eval()(
            input_ids=torch.tensor(IDS),
            attention_mask=torch.tensor(MASK),
            decoder_input_ids=torch.tensor(START),
        ).logits.numpy()
    found = jax.jit(T5(config).apply)({"params": params}, TOKENS, jnp.asarray(START))
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def add(folder, **arrays) -> None:
    weights = read_weights(folder)
    extra = {name.replace("__", "."): array for name, array in arrays.items()}
    save_weights(folder / "model.safetensors", weights | extra)


@VERSIONS
def test_out_and_in_again_is_the_same_to_the_last_bit(config, tmp_path):
    params = params_of(config)
    export_t5(config, params, tmp_path / "a")
    found = load_t5(tmp_path / "a")
    assert found.config == config
    check_equal(found.params, params)
    export_t5(found.config, found.params, tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        again = (tmp_path / "b" / name).read_bytes()
        assert again == (tmp_path / "a" / name).read_bytes()
    names = set(read_weights(tmp_path / "a"))
    assert "shared.weight" in names
    assert ("lm_head.weight" in names) == (config is V11)


def test_stacked_layers_are_written_one_by_one(tmp_path):
    params = params_of(V10)
    export_t5(V10, stack_layers(params), tmp_path)
    check_equal(load_t5(tmp_path).params, params)


def test_an_encoder_alone(tmp_path):
    params = params_of(V11, init_encoder_params)
    export_t5(V11, params, tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    assert data["architectures"] == ["T5EncoderModel"]
    found = load_t5(tmp_path)
    assert set(found.params) == {"token_embedder", "encoder"}
    check_equal(found.params, params)
    # Without a class's name, the weights tell.
    edit(tmp_path / "config.json", architectures=None)
    check_equal(load_t5(tmp_path).params, params)


def test_an_encoder_out_of_a_whole_model_s_weights(tmp_path):
    params = params_of(V10)
    export_t5(V10, params, tmp_path)
    edit(
        tmp_path / "config.json",
        architectures=["T5EncoderModel"], decoder_start_token_id=2,  # which it has not
    )  # fmt: skip
    params.pop("decoder")
    check_equal(load_t5(tmp_path).params, params)


def test_copies_of_the_table_are_accepted_when_equal(tmp_path):
    params = params_of(V10)
    export_t5(V10, params, tmp_path)
    table = params["token_embedder"]["embedding"]
    never_read = np.ones((32, 2), np.float32)
    add(
        tmp_path,
        encoder__embed_tokens__weight=table,
        decoder__embed_tokens__weight=table,
        lm_head__weight=table,
        decoder__block__0__layer__1__EncDecAttention__relative_attention_bias__weight=(
            never_read
        ),
    )
    check_equal(load_t5(tmp_path).params, params)
    weights = read_weights(tmp_path)
    weights.pop("shared.weight")  # some writers keep another name of the same table
    save_weights(tmp_path / "model.safetensors", weights)
    check_equal(load_t5(tmp_path).params, params)
    add(tmp_path, decoder__embed_tokens__weight=table + 1)
    with pytest.raises(
        InputError, match=r"do not fit: \+ decoder.embed_tokens.weight \[40"
    ):
        load_t5(tmp_path)


def test_a_tied_head_that_does_not_scale_becomes_one_of_its_own(tmp_path):
    """As transformers 5 makes and saves T5 1.1: tied, but unscaled."""
    export_t5(V11, params_of(V11), tmp_path)
    weights = read_weights(tmp_path)
    weights.pop("lm_head.weight")
    save_weights(tmp_path / "model.safetensors", weights)
    with pytest.raises(InputError, match=r"do not fit: - lm_head.weight"):
        load_t5(tmp_path)  # untied by its config.json: the head was lost
    edit(
        tmp_path / "config.json", tie_word_embeddings=True, scale_decoder_outputs=False
    )
    found = load_t5(tmp_path)
    assert found.config == V11
    kernel = found.params["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_array_equal(kernel, weights["shared.weight"].T)


def test_shards(tmp_path):
    params = params_of(V10)
    export_t5(V10, params, tmp_path)
    weights = read_weights(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    places = {}
    for number in range(3):
        shard = f"model-{number}.safetensors"
        part = {n: weights[n] for n in sorted(weights)[number::3]}
        save_weights(tmp_path / shard, part)
        places |= dict.fromkeys(part, shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    check_equal(load_t5(tmp_path).params, params)


@VERSIONS
def test_configurations_there_and_back(config):
    data = config_to_huggingface(config, encoder_only=False)
    assert config_from_huggingface(data) == config
    assert config_from_huggingface(json.loads(json.dumps(data))) == config


def test_configurations_that_leave_things_out():
    found = config_from_huggingface({"model_type": "t5"})
    assert found == T5Config(
        emb_dim=512, num_heads=8, mlp_dim=2048,
        num_encoder_layers=6, num_decoder_layers=6,
    )  # fmt: skip
    found = config_from_huggingface({"model_type": "mt5", "num_layers": 8})
    assert found.mlp_activations == ("gelu", "linear")
    assert not found.logits_via_embedding
    assert found.num_decoder_layers == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "umt5"}, r"config.json: model_type 'umt5'; expected one of t5"),
        (
            {"feed_forward_proj": "gelu"},
            "feed_forward_proj 'gelu'; expected one of rel",
        ),
        ({"d_model": "16"}, "d_model '16'; expected int"),
        ({"dropout_rate": True}, "dropout_rate True; expected a number"),
        (
            {"decoder_start_token_id": 2},
            "json: decoder_start_token_id 2, a variant that is not computed; expected "
            "pad_token_id, 0",
        ),
    ],
)
def test_a_config_we_cannot_follow_says_so(change, message, tmp_path):
    export_t5(V10, params_of(V10), tmp_path)
    edit(tmp_path / "config.json", **change)
    with pytest.raises(InputError, match=message):
        load_t5(tmp_path)


def test_another_architecture_shows_the_whole_difference(tmp_path):
    export_t5(V11, params_of(V11), tmp_path)
    config = config_to_huggingface(V10, encoder_only=False) | {"d_kv": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="weights do not fit") as caught:
        load_t5(tmp_path)
    text = str(caught.value)
    for part in (
        "- encoder.block.{0-2}.layer.1.DenseReluDense.wi.weight",
        "+ encoder.block.{0-2}.layer.1.DenseReluDense.wi_0.weight [24, 16]",
        "≠ encoder.block.{0-2}.layer.0.SelfAttention.v.weight gives [16, 12], not [16",
    ):
        assert part in text
    assert "\n" not in text


def test_what_cannot_be_exported_says_so(tmp_path):
    config = T5Config(**SIZES, mlp_activations=("gelu", "gelu"))
    with pytest.raises(InputError, match=r"mlp_activations: .*; expected one of \('re"):
        export_t5(config, params_of(config), tmp_path)
    params = params_of(V10) | {"extra": {"bias": np.zeros(2, np.float32)}}
    with pytest.raises(InputError, match=r"weights do not fit: \+ extra/bias \[2\]"):
        export_t5(V10, params, tmp_path)


@VERSIONS
def test_transformers_gives_the_same_logits(config, tmp_path):
    pytest.importorskip("torch")
    from transformers import T5ForConditionalGeneration

    params = params_of(config)
    export_t5(config, params, tmp_path)
    theirs = T5ForConditionalGeneration.from_pretrained(tmp_path)
    check_logits(theirs, config, params)


@VERSIONS
def test_transformers_encoder_gives_the_same_states(config, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import T5EncoderModel

    params = params_of(config)
    params.pop("decoder")
    export_t5(config, params, tmp_path)
    with torch.no_grad():
        wanted = T5EncoderModel.from_pretrained(tmp_path).eval()(
            input_ids=torch.tensor(IDS), attention_mask=torch.tensor(MASK)
        )
    found = jax.jit(T5Encoder(config).apply)({"params": params}, TOKENS).states
    np.testing.assert_allclose(
        np.asarray(found)[MASK],
        wanted.last_hidden_state.numpy()[MASK],
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("form", ["safetensors", "bin", "shards"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_what_transformers_saves_is_read(version, form, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import T5Config as TheirConfig
    from transformers import T5ForConditionalGeneration

    theirs = T5ForConditionalGeneration(
        TheirConfig(
            vocab_size=40, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_heads=2,
            feed_forward_proj="relu" if version == "1.0" else "gated-gelu",
            tie_word_embeddings=version == "1.0",
        )
    )  # fmt: skip
    if version == "1.1":  # a head of its own, as the released checkpoints have it
        theirs.lm_head.weight = torch.nn.Parameter(torch.randn(40, 16))
    if form == "bin":
        theirs.config.save_pretrained(tmp_path)
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        size = "20KB" if form == "shards" else "1GB"
        theirs.save_pretrained(tmp_path, max_shard_size=size)
    assert (tmp_path / "model.safetensors").exists() == (form == "safetensors")
    config, params = load_t5(tmp_path)
    assert config.logits_via_embedding == (version == "1.0")
    check_logits(theirs, config, params)


@pytest.mark.shared
def test_transformers_reads_the_tokenizer_beside_it(shared_data, tmp_path):
    from transformers import AutoTokenizer

    ours = load_tokenizer(shared_data / "tokenizers" / "t5")
    export_t5(V10, params_of(V10), tmp_path, tokenizer=ours)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "Query: why is the sky blue Document: Rayleigh scattering <extra_id_10>"
    assert theirs(text).input_ids == ours.encode([text], 99)[0].tolist()
