"""The authors' Hypencoders: both ways, against PyTorch, and what does not fit."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.checkpoints.huggingface import export_backbone
from jaxir.checkpoints.hypencoder import (
    export_hypencoder,
    is_hypencoder,
    load_hypencoder,
)
from jaxir.checkpoints.model_dir import load_model, model_from_parts
from jaxir.checkpoints.rules import flatten
from jaxir.checkpoints.weights import read_weights, resolve, save_weights
from jaxir.errors import InputError
from jaxir.hyper.model import (
    HypencoderConfig,
    encode_doc,
    encode_query,
    init_params,
    match,
)
from jaxir.hyper.qnet import QNetSpec
from jaxir.nn.bert import BertConfig
from jaxir.types import TokenBatch

TINY = BertConfig(
    vocab_size=11, hidden_size=16, num_layers=2, num_heads=4, intermediate_size=24,
    max_positions=20,
)  # fmt: skip
CONFIG = HypencoderConfig(TINY, QNetSpec(16, (16, 16)), query_length=9, doc_length=12)
OTHER = dataclasses.replace(
    CONFIG,
    qnet=QNetSpec(
        16, (16, 12, 8), activation="gelu", norm_before_residual=False, residual=False
    ),
    pooling="mean",
    towers="separate",
    query_template="query: {text}",
)
LAST = dataclasses.replace(
    CONFIG, qnet=QNetSpec(16, (16,), layer_norm=False, residual_on_last=True)
)

QUERY, PASSAGE = "query_encoder.transformer.", "passage_encoder.transformer."
GOLDEN = "JAXIR_HYPENCODER_6_LAYER"  # names the folder where it is not in hf's cache


def params_of(config: HypencoderConfig):
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(0.0, 0.3, x.shape).astype(np.float32), shapes
    )


def check_equal(found, wanted) -> None:
    assert set(flatten(found)) == set(flatten(wanted))
    for path, array in flatten(wanted).items():
        np.testing.assert_array_equal(flatten(found)[path], array, err_msg=path)


def batch_of(lengths, seed: int) -> TokenBatch:
    mask = np.arange(max(lengths))[None, :] < np.array(lengths)[:, None]
    ids = np.random.default_rng(seed).integers(2, 11, mask.shape)
    return TokenBatch(jnp.asarray(np.where(mask, ids, 0)), jnp.asarray(mask))


def our_scores(config: HypencoderConfig, params, queries, docs) -> np.ndarray:
    @jax.jit
    def run(params):
        weights = encode_query(config, params, queries)
        return match(config, weights, encode_doc(config, params, docs))

    return np.asarray(run(params))


def edit(path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_options(path, **changes) -> None:
    """Changes ``converter_kwargs``; None removes an option."""
    data = json.loads(path.read_text())
    options = data["query_encoder_kwargs"]["converter_kwargs"] | changes
    kept = {name: x for name, x in options.items() if x is not None}
    data["query_encoder_kwargs"]["converter_kwargs"] = kept
    path.write_text(json.dumps(data))


@pytest.fixture
def folder(tmp_path):
    """CONFIG as the authors would have it: no key of ours, its BERT in ``encoder/``."""
    place = tmp_path / "released"
    export_hypencoder(CONFIG, params_of(CONFIG), place)
    data = json.loads((place / "config.json").read_text())
    del data["jaxir_hypencoder"]
    (place / "config.json").write_text(json.dumps(data))
    return place


@pytest.mark.parametrize("config", [CONFIG, OTHER, LAST], ids=["a", "b", "c"])
def test_out_and_in_again_is_the_same_model(config, tokenizer, tmp_path):
    params = params_of(config)
    place = tmp_path / "a"
    export_hypencoder(config, params, place, tokenizer=tokenizer)
    assert is_hypencoder(place)
    found = load_hypencoder(place)
    assert found.config == config
    check_equal(found.params, params)
    export_hypencoder(*found, tmp_path / "b", final=place)
    for name in ("model.safetensors", "config.json"):
        again = (tmp_path / "b" / name).read_bytes()
        assert again == (place / name).read_bytes()
    model = model_from_parts("hypencoder", config, params, tokenizer)
    assert load_model(place).fingerprint == model.fingerprint


def test_bert_base_is_named_and_others_lie_beside(tmp_path):
    export_hypencoder(CONFIG, params_of(CONFIG), tmp_path, final=tmp_path / "there")
    data = json.loads((tmp_path / "config.json").read_text())
    name = str(tmp_path / "there" / "encoder")
    for side in ("query_encoder_kwargs", "passage_encoder_kwargs"):
        assert data[side]["model_name_or_path"] == name
    assert data["query_encoder_kwargs"]["base_encoder_output_dim"] == 16
    assert data["query_encoder_kwargs"]["converter_kwargs"] == {
        "vector_dimensions": [16, 16, 16, 1],
        "activation_type": "relu",
        "do_layer_norm": True,
        "layer_norm_before_residual": True,
        "do_residual": True,
        "do_residual_on_last": False,
    }
    weights = read_weights(tmp_path)
    ours = read_weights(tmp_path / "encoder")
    for name, array in ours.items():
        theirs = weights[f"passage_encoder.transformer.{name}"]
        np.testing.assert_array_equal(theirs, array)
    assert len(weights) == len(ours) + 8 * 5


def released(depth: int, width: int, shared: bool, seed: int = 0):
    """The released model over random weights, and its ``config.json``."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from hyper_torch import Head, randomize
    from transformers import BertConfig as TheirConfig
    from transformers import BertModel

    sizes = TheirConfig(
        vocab_size=11, hidden_size=width, num_hidden_layers=2,
        num_attention_heads=width // 64 or 4, intermediate_size=24,
        max_position_embeddings=20,
    )  # fmt: skip
    model = torch.nn.Module()
    model.query_encoder = Head(width, [width] * (depth + 1), "released")
    model.query_encoder.transformer = BertModel(sizes)
    model.passage_encoder = torch.nn.Module()
    model.passage_encoder.transformer = BertModel(sizes)
    if shared:
        model.passage_encoder.transformer = model.query_encoder.transformer
    randomize(model, seed)
    kwargs = {"model_name_or_path": "somebody/bert-tiny", "freeze_transformer": False}
    data = {
        "architectures": ["HypencoderDualEncoder"],
        "query_encoder_kwargs": kwargs
        | {
            "base_encoder_output_dim": width,
            "embedding_representation": None,
            "converter_kwargs": {
                "vector_dimensions": [width] * (depth + 1) + [1],
                "activation_type": "relu",
                "do_residual_on_last": False,
            },
        },
        "passage_encoder_kwargs": kwargs | {"pooling_type": "cls"},
        "loss_type": ["margin_mse"],
        "loss_kwargs": [{}],
        "torch_dtype": "float32",
        "transformers_version": "4.45.2",
    }
    return model.eval(), data | ({"shared_encoder": True} if shared else {})


def their_scores(model, queries: TokenBatch, docs: TokenBatch) -> np.ndarray:
    import torch
    from hyper_torch import scores

    def states(encoder, tokens):
        ids, mask = (torch.tensor(np.asarray(x)) for x in tokens[:2])
        encoded = encoder.transformer(input_ids=ids.long(), attention_mask=mask)
        return encoded.last_hidden_state, mask

    with torch.no_grad():
        weights = model.query_encoder(*states(model.query_encoder, queries))
        return scores(*weights, states(model.passage_encoder, docs)[0][:, 0]).numpy()


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("depth", [2, 4])
def test_scores_are_pytorch_s(depth, shared, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    model, data = released(depth, 128, shared)
    (tmp_path / "config.json").write_text(json.dumps(data))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    # One storage under two names, once in the file.
    once = sum(x.numel() for x in model.parameters()) * 4
    assert (tmp_path / "pytorch_model.bin").stat().st_size < 1.1 * once + 50_000
    config, params = load_hypencoder(tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "'somebody/bert-tiny' is not at hand; its tensors are a BERT's of 2" in said
    assert "2 layers, taken to have 2 heads" in said
    assert config.towers == ("shared" if shared else "separate")
    assert set(params) == ({"shared"} if shared else {"query", "doc"}) | {"head"}
    assert config.qnet == QNetSpec(128, (128,) * depth)
    assert (config.query_length, config.doc_length) == (20, 20)  # of 20 positions
    queries, docs = batch_of([7, 4, 9], seed=1), batch_of([12, 5, 8, 3], seed=2)
    wanted = their_scores(model, queries, docs)
    assert wanted.std() > 0.01
    found = our_scores(config, params, queries, docs)
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


def twice(folder):
    """A folder's arrays, those of the shared encoder under both of its names."""
    weights = read_weights(folder)
    names = [n for n in weights if n.startswith(PASSAGE)]
    return weights | {n.replace(PASSAGE, QUERY): weights[n] for n in names}


@pytest.mark.parametrize("kept", ["query", "mixed", "both"])
def test_a_shared_encoder_may_have_either_name(kept, folder):
    wanted = load_hypencoder(folder)
    one = twice(folder)
    if kept != "both":
        for number, name in enumerate([n for n in one if n.startswith(PASSAGE)]):
            # Conversions keep one name of each tensor.
            other = kept == "mixed" and number % 2
            del one[name.replace(PASSAGE, QUERY) if other else name]
    save_weights(folder / "model.safetensors", one)
    found = load_hypencoder(folder)
    assert found.config == wanted.config
    check_equal(found.params, wanted.params)
    neither = {n: x for n, x in one.items() if ".transformer." not in n}
    save_weights(folder / "model.safetensors", neither)
    with pytest.raises(
        InputError, match=r"no query_.*no passage_.*expected an encoder"
    ):
        load_hypencoder(folder)


def test_two_encoders_under_one_flag_say_so(folder):
    weights = twice(folder)
    name = f"{PASSAGE}embeddings.LayerNorm.bias"
    weights[name] = weights[name] + 1
    save_weights(folder / "model.safetensors", weights)
    with pytest.raises(
        InputError, match="1 of the two encoders' tensors differ, as emb"
    ):
        load_hypencoder(folder)
    edit(folder / "config.json", shared_encoder=False)
    assert load_hypencoder(folder).config.towers == "separate"
    one = {n: x for n, x in weights.items() if not n.startswith(QUERY)}
    save_weights(folder / "model.safetensors", one)
    with pytest.raises(InputError, match=r"no query_encoder.transformer.*expected two"):
        load_hypencoder(folder)


def test_weights_that_do_not_fit_show_the_whole_difference(folder):
    weights = dict(read_weights(folder))
    del weights["query_encoder.key_projections.4.bias"]
    weights["query_encoder.hyper_base_matrices.2"] = np.zeros((1, 1, 15), np.float32)
    weights["query_encoder.hyper_scale"] = np.zeros(1, np.float32)
    del weights[f"{PASSAGE}encoder.layer.1.output.dense.bias"]
    save_weights(folder / "model.safetensors", weights)
    with pytest.raises(InputError) as error:
        load_hypencoder(folder)
    said = str(error.value)
    assert "- query_encoder.key_projections.4.bias (for head/bias_1/key/bias)" in said
    assert "+ query_encoder.hyper_scale [1]" in said
    assert "query_encoder.hyper_base_matrices.2 gives [1, 15], not [1, 16]" in said
    assert f"- {PASSAGE}encoder.layer.1.output.dense.bias (for" in said
    assert "\n" not in said


def test_options_left_out_have_the_released_defaults(folder, capsys):
    path = folder / "config.json"
    spec = load_hypencoder(folder).config.qnet
    options = ("activation_type", "do_layer_norm", "layer_norm_before_residual")
    edit_options(path, **dict.fromkeys([*options, "do_residual"]))
    assert load_hypencoder(folder).config.qnet == spec == QNetSpec(16, (16, 16))
    data = json.loads(path.read_text())
    converter = data["query_encoder_kwargs"]["converter_kwargs"]
    converter |= {"do_residual_on_last": None, "do_dropout": True, "dropout_prob": 0.2}
    data["passage_encoder_kwargs"] = {"pooling_type": "mean"}
    path.write_text(json.dumps(data))
    capsys.readouterr()
    config = load_hypencoder(folder).config
    assert config.qnet == QNetSpec(16, (16, 16), residual_on_last=True)
    assert config.pooling == "mean"
    said = " ".join(capsys.readouterr().err.split())
    assert "do_dropout is left out" in said
    assert "where the released code's counts padding" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_swish": True}, "unknown do_swish in converter_kwargs; expected keys amo"),
        ({"activation_type": "swish"}, "'swish'; expected one of relu, tanh"),
        ({"activation_type": 3}, "activation_type 3; expected a str"),
        ({"do_residual": 1}, "do_residual 1; expected a bool"),
        ({"vector_dimensions": [16, 1]}, r"\[16, 1\]; expected at least three widths"),
        ({"vector_dimensions": [16, 16, 16]}, "the last of them 1"),
        ({"vector_dimensions": [16, "16", 1]}, "at least three widths"),
        (
            {"vector_dimensions": [16, 8, 16, 1]},
            r"widths \[16, 8, 16\]; expected equal",
        ),
        ({"vector_dimensions": [8, 8, 8, 1]}, "input_width=8; expected 16"),
        (
            {"do_residual": False, "do_residual_on_last": True},
            "residual_on_last without residual; expected a residual at the other",
        ),
    ],
)
def test_a_q_net_that_the_released_code_refuses(folder, changes, message):
    edit_options(folder / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        load_hypencoder(folder)


def test_what_is_no_hypencoder_s_configuration_says_so(folder):
    path = folder / "config.json"
    edit(path, passage_encoder_kwargs={"pooling_type": "max"})
    with pytest.raises(
        InputError, match="pooling_type 'max'; expected 'cls' or 'mean'"
    ):
        load_hypencoder(folder)
    edit(path, jaxir_hypencoder=5)
    edit(path, passage_encoder_kwargs={})
    with pytest.raises(InputError, match="jaxir_hypencoder 5; expected an object"):
        load_hypencoder(folder)
    edit(path, query_encoder_kwargs={"model_name_or_path": "bert"})  # a bi-encoder's
    with pytest.raises(InputError, match="no converter_kwargs; expected an object"):
        load_hypencoder(folder)
    edit(path, passage_encoder_kwargs=None)
    with pytest.raises(InputError, match="passage_encoder_kwargs None; expected"):
        load_hypencoder(folder)


def test_which_folders_are_hypencoders(folder, tmp_path):
    assert is_hypencoder(folder)
    assert not is_hypencoder(tmp_path)
    export_backbone(TINY, params_of(CONFIG)["shared"]["backbone"], tmp_path)
    assert not is_hypencoder(tmp_path)


def test_the_shape_of_an_encoder_is_its_own_file_s(folder, tmp_path, monkeypatch):
    wanted = load_hypencoder(folder)
    assert wanted.config.backbone == TINY  # four heads, as encoder/ says
    (folder / "encoder").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"do not tell the shape of '/.*copy it there"):
        load_hypencoder(folder)  # 16 wide, and the named folder is gone
    names = {"model_name_or_path": str(tmp_path / "elsewhere")}
    data = json.loads((folder / "config.json").read_text())
    data["query_encoder_kwargs"] |= names
    data["passage_encoder_kwargs"] |= names
    (folder / "config.json").write_text(json.dumps(data))
    assert load_hypencoder(folder).config == wanted.config
    # In Hugging Face's cache, as its authors' name is.
    import huggingface_hub

    def cached(repository, file):
        assert repository == "google/bert_four_heads"
        return str(tmp_path / "elsewhere" / file)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    names = {"model_name_or_path": "google/bert_four_heads"}
    data["query_encoder_kwargs"] |= names
    data["passage_encoder_kwargs"] |= names
    (folder / "config.json").write_text(json.dumps(data))
    assert load_hypencoder(folder).config == wanted.config


def test_two_encoders_are_of_one_shape(tmp_path):
    place = tmp_path / "a"
    export_hypencoder(OTHER, params_of(OTHER), place)
    encoder = (place / "encoder").rename(tmp_path / "encoder")
    other = dataclasses.replace(TINY, num_heads=2)
    export_backbone(other, params_of(OTHER)["doc"]["backbone"], tmp_path / "other")
    data = json.loads((place / "config.json").read_text())
    del data["jaxir_hypencoder"]
    data["query_encoder_kwargs"]["model_name_or_path"] = str(encoder)
    for doc, found in ((encoder, TINY), (tmp_path / "other", None)):
        data["passage_encoder_kwargs"]["model_name_or_path"] = str(doc)
        (place / "config.json").write_text(json.dumps(data))
        if found:
            assert load_hypencoder(place).config.backbone == found
    with pytest.raises(InputError, match="two encoders of different shapes"):
        load_hypencoder(place)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"similarity": "cosine"}, "similarity='cosine'; expected 'dot', which"),
        ({"projection_size": 16}, "projection_size=16; expected None, which the rel"),
        ({"attention_scale": "paper"}, "attention_scale='paper'; expected 'released'"),
        ({"pooling": "max"}, "pooling='max'; expected 'cls' or 'mean', which"),
        ({"qnet": {"num_vectors": 2}}, "qnet.num_vectors=2; expected 1, which"),
        ({"qnet": {"norm_eps": 1e-6}}, "qnet.norm_eps=1e-06; expected 1e-05, which"),
        (
            {"qnet": {"gated": True, "residual_on_last": True}},
            "qnet.gated=True; expected False",
        ),
        (
            {"qnet": {"gated": True, "residual_on_last": True}, "warm_start": True},
            "warm_start=True; expected False",
        ),
        ({"qnet": {"hidden": (8, 8)}}, r"widths \[16, 8, 8\]; expected equal widths"),
        (
            {"qnet": {"residual": False, "residual_on_last": True}},
            "residual_on_last without residual",
        ),
    ],
    ids=str,
)
def test_what_the_released_code_cannot_compute_is_refused(changes, found, tmp_path):
    qnet = dataclasses.replace(CONFIG.qnet, **changes.get("qnet", {}))
    config = dataclasses.replace(CONFIG, **changes | {"qnet": qnet})
    with pytest.raises(InputError, match=found):
        export_hypencoder(config, {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_templates_are_kept_and_told(tmp_path, capsys):
    export_hypencoder(OTHER, params_of(OTHER), tmp_path)
    said = " ".join(capsys.readouterr().err.split())
    assert "knows no templates; write texts by them" in said
    assert "mean counts padding, where ours does not" in said


def test_the_authors_example():
    """Scores of the released six-layer model, as its authors print them."""
    try:
        place = resolve(os.environ.get(GOLDEN) or "hf:jfkback/hypencoder.6_layer")
    except InputError:
        if GOLDEN in os.environ:
            raise
        pytest.skip(f"hypencoder.6_layer is not in hf's cache; {GOLDEN} names a folder")
    model = load_model(place, kind="hypencoder")
    queries = [
        "how many states are there in india",
        "when do concussion symptoms appear",
    ]
    docs = [
        "India has 28 states and 8 union territories.",
        "Concussion symptoms can appear immediately or up to 72 hours after the "
        "injury.",
    ]

    def batch(texts):
        encoded = model.tokenizer.encode(texts, 64)
        width = max(map(len, encoded))
        ids = np.stack([np.pad(x, (0, width - len(x))) for x in encoded])
        mask = [np.arange(width) < len(x) for x in encoded]
        return TokenBatch(jnp.asarray(ids.astype(np.int32)), jnp.asarray(mask))

    found = our_scores(model.config, model.params, batch(queries), batch(docs))
    wanted = [[-12.1192, -32.7046], [-34.0934, -13.5832]]
    # Norms of nearly dead blocks magnify rounding: PyTorch's own float32 and float64
    # differ by 0.01 on random weights of this size.
    np.testing.assert_allclose(found, wanted, atol=0.02)
