"""Others' sparse encoders: both ways, against their libraries, and misfits."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import WORDS, tiny_backbone

from jaxir.checkpoints.masked_lm import export_masked_lm, load_masked_lm
from jaxir.checkpoints.model_dir import load_model, model_from_parts
from jaxir.checkpoints.rules import flatten
from jaxir.checkpoints.sparse import export_sparse, load_sparse
from jaxir.checkpoints.sparse_layout import is_sparse
from jaxir.checkpoints.weights import read_weights, resolve, save_weights
from jaxir.cli.convert import convert
from jaxir.encode import encode_texts
from jaxir.errors import InputError
from jaxir.families import family
from jaxir.lm.masked import MaskedLMConfig
from jaxir.sparse.model import SparseConfig, init_params
from jaxir.sparse_encoder import load_sparse_encoder

TEXTS = ["a river of clay", "bread", "engine engine of a", "clay wheels", ""]
BACKBONE = tiny_backbone(WORDS)
CONFIG = SparseConfig(
    BACKBONE, special_ids=(0, 1, 2, 3, 4), pool_special=True, query_length=9,
    doc_length=12,
)  # fmt: skip
DISTILBERT = dataclasses.replace(BACKBONE, family="distilbert", type_vocab_size=0)
ROBERTA = dataclasses.replace(
    BACKBONE, family="roberta", type_vocab_size=1, position_offset=1, norm_eps=1e-5
)
VARIANTS = {
    "bert": CONFIG,
    "distilbert": dataclasses.replace(
        CONFIG, backbone=DISTILBERT, activation="log1p_log1p"
    ),
    "roberta": dataclasses.replace(CONFIG, backbone=ROBERTA),
    "encoder": dataclasses.replace(CONFIG, query="encoder"),
    "binary": dataclasses.replace(CONFIG, query="binary"),
    "untied": dataclasses.replace(CONFIG, tied=False),
    "prompts": dataclasses.replace(
        CONFIG, doc_template="a {text}", query_template="of {text}", doc_length=24
    ),
}
ROUTED = [name for name in VARIANTS if name != "encoder"]


def params_of(config: SparseConfig):
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(0.0, 0.5, x.shape).astype(np.float32), shapes
    )
    scale = np.abs(params["idf"]["scale"])
    return params | {"idf": {"scale": np.ones(11, np.float32)}} | (
        {"idf": {"scale": scale}} if config.query == "idf" else {}
    )  # fmt: skip


def vectors(model, side: str) -> np.ndarray:
    return np.asarray(encode_texts(model, TEXTS, side=side))


def edit(path, **changes) -> None:
    """Changes keys of a JSON file; None removes one."""
    data = json.loads(path.read_text()) | changes
    kept = {name: x for name, x in data.items() if x is not None}
    path.write_text(json.dumps(kept))


def without_packaging(folder, *, keep=("idf.json",)) -> None:
    """Leaves what a folder has that no library for sparse encoders wrote."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix == ".json" and path.name not in (
            *keep, "config.json", "tokenizer.json", "tokenizer_config.json",
        ):  # fmt: skip
            path.unlink()
    edit(folder / "config.json", jaxir_sparse=None)


@pytest.fixture
def written(tmp_path, tokenizer):
    """``written(name) -> folder, model``: a variant, exported."""

    def write(name: str = "bert"):
        config = VARIANTS[name]
        params, folder = params_of(config), tmp_path / name
        export_sparse(config, params, folder, tokenizer=tokenizer)
        return folder, model_from_parts("sparse", config, params, tokenizer)

    return write


@pytest.mark.parametrize("name", VARIANTS)
def test_out_and_in_again_is_the_same_model(name, written, tokenizer, tmp_path):
    folder, model = written(name)
    assert is_sparse(folder)
    found = load_sparse(folder)
    assert found.config == model.config
    for path, array in flatten(model.params).items():
        np.testing.assert_array_equal(flatten(found.params)[path], array, err_msg=path)
    assert load_model(folder).fingerprint == model.fingerprint
    export_sparse(*found[:2], tmp_path / "again", tokenizer=tokenizer)
    for path in folder.rglob("*"):
        if path.is_file():
            again = tmp_path / "again" / path.relative_to(folder)
            assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", VARIANTS)
def test_others_open_what_is_written(name, written):
    """SparseEncoder's own vectors, special tokens' columns apart."""
    library = pytest.importorskip("sentence_transformers")
    folder, model = written(name)
    theirs = library.SparseEncoder(str(folder), device="cpu")
    assert theirs.similarity_fn_name == "dot"
    special = list(model.config.special_ids)
    for side, encode in (
        ("doc", theirs.encode_document),
        ("query", theirs.encode_query),
    ):
        wanted = encode(TEXTS).to_dense().numpy()
        wanted[:, special] = 0.0
        found = vectors(model, side)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert np.any(found > 0.1)


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "untied"])
def test_transformers_opens_what_is_written(name, written):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder, model = written(name)
    theirs, told = transformers.AutoModelForMaskedLM.from_pretrained(
        str(folder), output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    ids = model.tokenizer.encode(["a river of clay"], 12)[0]
    with torch.no_grad():
        logits = theirs.eval()(torch.tensor(ids[None].astype(np.int64))).logits[0]
    wanted = torch.log1p(torch.relu(torch.max(logits, 0)[0]))
    if name == "distilbert":
        wanted = torch.log1p(wanted)
    wanted[list(model.config.special_ids)] = 0.0
    found = encode_texts(model, ["a river of clay"], side="doc")[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("routed", [True, False])
def test_what_sentence_transformers_writes(activation, routed, written, tmp_path):
    """Its present packaging, with an encoder in a folder of its own."""
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sparse_encoder.modules")
    folder, _ = written("bert")
    without_packaging(folder, keep=())
    encoder = modules.Transformer(str(folder), transformer_task="fill-mask")
    pooling = modules.SpladePooling("max", activation_function=activation)
    table = {word: 0.5 * i for i, word in enumerate(WORDS.split())}
    (tmp_path / "idf.json").write_text(json.dumps(table))
    listed = [encoder, pooling]
    if routed:
        static = modules.SparseStaticEmbedding.from_json(
            str(tmp_path / "idf.json"), encoder.tokenizer, frozen=True
        )
        listed = [modules.Router.for_query_document([static], [encoder, pooling])]
    theirs = library.SparseEncoder(modules=listed, device="cpu")
    theirs.save_pretrained(str(tmp_path / "st"))
    ours = load_model(tmp_path / "st", kind="sparse")
    assert ours.config.query == ("idf" if routed else "encoder")
    assert ours.config.activation == (
        "log1p" if activation == "relu" else "log1p_log1p"
    )
    assert (ours.config.doc_length, ours.config.special_ids) == (12, (0, 1, 2, 3, 4))
    for side, encode in (
        ("doc", theirs.encode_document),
        ("query", theirs.encode_query),
    ):
        wanted = encode(TEXTS).to_dense().numpy()
        wanted[:, :5] = 0.0
        np.testing.assert_allclose(vectors(ours, side), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_a_folder_that_does_not_say_its_activation(name, written, tmp_path):
    folder, model = written(name)
    without_packaging(folder)
    assert is_sparse(folder)
    message = (
        "no file that says the activation of its model; expected 'log1p' .*or "
        r"'log1p_log1p' \(OpenSearch v3\); give it: activation=… to load_sparse_encod"
    )
    for load in (load_model, load_sparse, load_sparse_encoder):
        with pytest.raises(InputError, match=message):
            load(folder)
    activation = model.config.activation
    found = load_sparse_encoder(folder, activation=activation)
    assert found.config.query == "idf"
    for side in ("query", "doc"):
        np.testing.assert_allclose(vectors(found, side), vectors(model, side))
    target = tmp_path / "converted"
    convert(f"hf:{folder}", f"jaxir:{target}", changes={"activation": activation})
    assert load_model(target).fingerprint == found.fingerprint


def test_a_masked_language_model_alone_is_none(written, tmp_path):
    folder, model = written("encoder")
    without_packaging(folder)
    assert not is_sparse(folder)
    assert load_model(folder).kind == "dense"  # as ever: a bare BERT
    with pytest.raises(InputError, match="no file that says the activation"):
        load_sparse_encoder(folder, query="encoder")
    found = load_sparse_encoder(folder, activation="log1p", query="encoder")
    np.testing.assert_allclose(vectors(found, "doc"), vectors(model, "doc"))
    target = tmp_path / "converted"
    changes = {"activation": "log1p", "query": "encoder", "doc_length": 7}
    convert(f"hf:{folder}", f"jaxir:{target}", changes=changes)
    config = load_model(target).config
    assert (config.query, config.doc_length) == ("encoder", 7)


def test_convert_both_ways(written, tmp_path):
    folder, model = written("distilbert")
    convert(f"hf:{folder}", f"jaxir:{tmp_path / 'ours'}")
    convert(f"jaxir:{tmp_path / 'ours'}", f"hf:{tmp_path / 'theirs'}")
    assert load_model(tmp_path / "theirs").fingerprint == model.fingerprint


def test_their_old_names_and_copies_of_tied_arrays(written):
    folder, model = written("bert")
    weights = read_weights(folder)
    table = weights["bert.embeddings.word_embeddings.weight"]
    norm = "cls.predictions.transform.LayerNorm"
    weights[f"{norm}.gamma"] = weights.pop(f"{norm}.weight")
    weights[f"{norm}.beta"] = weights.pop(f"{norm}.bias")
    weights["cls.predictions.decoder.bias"] = weights.pop("cls.predictions.bias")
    weights["cls.predictions.decoder.weight"] = table
    weights["cls.seq_relationship.weight"] = np.zeros((2, 16), np.float32)
    weights["bert.pooler.dense.weight"] = np.zeros((16, 16), np.float32)
    weights["bert.embeddings.position_ids"] = np.arange(24)
    save_weights(folder / "model.safetensors", weights)
    assert load_model(folder).fingerprint == model.fingerprint
    weights["cls.predictions.decoder.weight"] = table + 1
    save_weights(folder / "model.safetensors", weights)
    with pytest.raises(InputError, match=r"differs from .*tie_word_embeddings is true"):
        load_model(folder)
    edit(folder / "config.json", tie_word_embeddings=False)
    found = load_model(folder)
    assert not found.config.tied
    np.testing.assert_array_equal(
        found.params["head"]["decoder"]["kernel"], (table + 1).T
    )


def test_the_whole_difference_is_told(written):
    folder, _ = written("distilbert")
    weights = read_weights(folder)
    del weights["vocab_transform.weight"], weights["vocab_layer_norm.bias"]
    weights["vocab_projector.bias"] = np.zeros(12, np.float32)
    weights["classifier.weight"] = np.zeros((2, 16), np.float32)
    save_weights(folder / "model.safetensors", weights)
    with pytest.raises(InputError, match="weights do not fit") as caught:
        load_sparse(folder)
    told = str(caught.value)
    for part in (
        "- vocab_transform.weight (for head/transform/kernel)",
        "- vocab_layer_norm.bias (for head/norm/bias)",
        "+ classifier.weight [2, 16]",
        "≠ vocab_projector.bias gives [12], not [11]",
    ):
        assert part in told


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "document_1_SpladePooling/config.json",
            {"pooling_strategy": "sum"},
            "pooling_strategy 'sum'; expected 'max'",
        ),
        (
            "document_1_SpladePooling/config.json",
            {"activation_function": "gelu"},
            "activation_function 'gelu'; expected 'relu' or 'log1p_relu'",
        ),
        (
            "document_1_SpladePooling/config.json",
            {"activation_function": None},
            "no file that says the activation",
        ),
        ("config.json", {"model_type": "mpnet"}, "'mpnet'; expected one of bert"),
        (
            "router_config.json",
            {"structure": {"document": ["", "x"], "query": ["x"]}},
            r"documents by MLMTransformer, \?; expected MLMTransformer, SpladePooling",
        ),
        (
            "router_config.json",
            {
                "structure": {
                    "document": ["", "document_1_SpladePooling"],
                    "query": [""],
                }
            },
            "queries by MLMTransformer; expected SparseStaticEmbedding, or what",
        ),
    ],
    ids=str,
)
def test_what_is_not_computed_is_refused(file, changes, message, written):
    folder, _ = written("bert")
    edit(folder / "config.json", jaxir_sparse=None)
    edit(folder / file, **changes)
    with pytest.raises(InputError, match=message):
        load_sparse(folder)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": np.ones(10)}, r"shape \[10\]; expected \[11\], one for each token"),
        ({"weight": np.ones(12)}, r"shape \[12\]; expected \[11\]"),
        ({"weight": np.ones((11, 1))}, r"shape \[11, 1\]"),
        ({"weight": np.full(11, np.nan)}, "no finite number from 0"),
        ({"weight": np.full(11, -1.0)}, "no finite number from 0"),
        ({"idf": np.ones(11)}, "arrays idf; expected 'weight' alone"),
    ],
    ids=str,
)
def test_a_table_of_another_tokenizer_is_refused(weights, message, written):
    folder, _ = written("bert")
    edit(folder / "config.json", jaxir_sparse=None)
    save_weights(folder / "query_0_SparseStaticEmbedding/model.safetensors", weights)
    with pytest.raises(InputError, match=message):
        load_sparse(folder)


def test_a_table_by_name(written):
    """``query_0_IDF`` of older folders, and the table in ``idf.json``."""
    folder, model = written("bert")
    edit(folder / "config.json", jaxir_sparse=None)
    (folder / "query_0_SparseStaticEmbedding/model.safetensors").unlink()
    text = (folder / "router_config.json").read_text()
    old = "sentence_transformers.sparse_encoder.models.IDF.IDF"
    text = text.replace(
        "sentence_transformers.sparse_encoder.models.SparseStaticEmbedding", old
    )
    (folder / "router_config.json").write_text(text)
    found = load_sparse(folder)
    np.testing.assert_array_equal(
        found.params["idf"]["scale"], model.params["idf"]["scale"]
    )
    (folder / "idf.json").write_text('{"[PAD]": 1, "la": 2}')
    with pytest.raises(InputError, match="1 tokens, as 'la', that the tokenizer does"):
        load_sparse(folder)
    (folder / "idf.json").unlink()
    with pytest.raises(InputError, match="no table of token weights; expected model"):
        load_sparse(folder)


def test_an_activation_that_is_not_the_files(written):
    folder, _ = written("bert")
    for load in (load_sparse, load_sparse_encoder):
        with pytest.raises(
            InputError, match="activation 'log1p' in its files, 'log1p_log1p' asked"
        ):
            load(folder, activation="log1p_log1p")


def test_what_others_have_not_is_refused(tokenizer, tmp_path, capsys):
    prior = dataclasses.replace(CONFIG, lexical_prior=True)
    with pytest.raises(InputError, match="with a lexical prior; expected one without"):
        export_sparse(prior, {}, tmp_path / "out", tokenizer=tokenizer)
    behind = dataclasses.replace(CONFIG, doc_template="{text} of")
    with pytest.raises(InputError, match="at the end: a prompt stands before it"):
        export_sparse(behind, {}, tmp_path / "out", tokenizer=tokenizer)
    assert not (tmp_path / "out").exists()
    words = dataclasses.replace(CONFIG, pool_special=False)
    export_sparse(words, params_of(words), tmp_path / "out", tokenizer=tokenizer)
    said = " ".join(capsys.readouterr().err.split())
    assert "other code pools the states of special tokens too" in said
    assert load_sparse(tmp_path / "out").config == words


def test_a_head_without_a_table_of_its_own(tmp_path):
    with pytest.raises(InputError, match="0 arrays named …embeddings"):
        config = MaskedLMConfig(BACKBONE)
        params = {name: params_of(CONFIG)[name] for name in ("backbone", "head")}
        export_masked_lm(config, params, tmp_path)
        weights = read_weights(tmp_path)
        del weights["bert.embeddings.word_embeddings.weight"]
        save_weights(tmp_path / "model.safetensors", weights)
        load_masked_lm(tmp_path)


QUERY, DOC = "What's the weather in ny now?", "Currently New York is rainy."
TERMS = {
    "ny": 5.772862, "weather": 4.568416, "now": 3.589550, "?": 3.331255,
    "what": 2.769884, "'": 1.575072, "s": 1.427258, "in": 0.498926, "the": 0.135302,
}  # fmt: skip
RELEASED = "opensearch-project/opensearch-neural-sparse-encoding-doc-"


@pytest.mark.parametrize(
    ("version", "activation", "score"),
    [("v1", "log1p", 12.8465), ("v3-distill", "log1p_log1p", 11.1105)],
)
def test_the_authors_example(version, activation, score):
    """The similarity that the model's card prints, and the query's weights."""
    name = f"JAXIR_SPARSE_DOC_{version[:2].upper()}"
    try:
        place = resolve(os.environ.get(name) or f"hf:{RELEASED}{version}")
    except InputError:
        if name in os.environ:
            raise
        pytest.skip(f"doc-{version} is not in hf's cache; {name} names a folder")
    model = load_sparse_encoder(place, activation=activation)
    assert model.config.query == "idf"
    query, doc = (
        jnp.asarray(encode_texts(model, [text], side=side))
        for text, side in ((QUERY, "query"), (DOC, "doc"))
    )
    (found,) = np.nonzero(query[0])
    weights = dict(zip(model.tokenizer.tokens(found), query[0, found], strict=True))
    assert weights == pytest.approx(TERMS, abs=1e-5)
    np.testing.assert_allclose(
        family("sparse").match(model.config, query, doc), [[score]], atol=1e-3
    )
