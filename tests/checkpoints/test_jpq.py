"""JPQ's authors' towers: against PyTorch, both ways, and what does not fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_roberta import TEXTS, byte_level_tokenizer, roberta_config

from jaxir.checkpoints.imports import import_folder
from jaxir.checkpoints.jpq import (
    check_expressible,
    export_jpq,
    is_expressible,
    is_jpq,
    load_jpq,
)
from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.checkpoints.rules import flatten
from jaxir.checkpoints.weights import read_weights, save_weights
from jaxir.dense.model import DenseConfig, encode_doc, encode_query
from jaxir.encode import TextEncoder
from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig
from jaxir.pq.codec import rotate
from jaxir.pq.model import query_vectors, searching_codec
from jaxir.text import pad_batch
from jaxir.types import TokenBatch

torch = pytest.importorskip("torch")

WIDTH, PARTS = 16, 4
IDS = [[0, 9, 8, 7, 2], [0, 17, 2]]


class RobertaDot(torch.nn.Module):
    """The authors' class by its description: first token, linear, layer norm."""

    def __init__(self, config) -> None:
        super().__init__()
        from transformers import RobertaModel

        self.roberta = RobertaModel(config, add_pooling_layer=False)
        self.embeddingHead = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = torch.nn.LayerNorm(config.hidden_size)

    def forward(self, ids, mask):
        states = self.roberta(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.norm(self.embeddingHead(states[:, 0]))


def drawn(seed: int, **changes) -> RobertaDot:
    torch.manual_seed(seed)
    module = RobertaDot(roberta_config(**changes)).eval()
    with torch.no_grad():
        for parameter in module.parameters():  # no bias zero, no scale one
            parameter.normal_(0.0, 0.2)
    return module


def vectors_of(module) -> np.ndarray:
    longest = max(map(len, IDS))
    ids = torch.tensor([x + [1] * (longest - len(x)) for x in IDS])
    with torch.no_grad():
        return module(ids, (ids != 1).long()).numpy()


def vectors(encode, found) -> np.ndarray:
    params = jax.tree.map(jnp.asarray, found.params)
    run = jax.jit(lambda params: encode(found.config, params, tokens()))
    return np.asarray(run(params))


def tokens() -> TokenBatch:
    batch = pad_batch([np.array(x) for x in IDS], length=8, pad_id=1)
    return TokenBatch(jnp.asarray(batch.ids), jnp.asarray(batch.mask))


def codec_tensors(seed: int, size: int = 256) -> dict[str, np.ndarray]:
    rotation = np.linalg.qr(np.random.default_rng(9).normal(size=(WIDTH, WIDTH)))[0]
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(PARTS, size, WIDTH // PARTS)).astype(np.float32)
    return {"centroids": centroids, "rotation": rotation.astype(np.float32)}


def write(folder, module, *, name="RobertaDot", codec=None, bin_file=False, **extras):
    """A folder as ``save_pretrained`` of the authors' environment leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = module.roberta.config.to_dict() | {"architectures": [name]} | extras
    (folder / "config.json").write_text(json.dumps(config))
    state = dict(module.state_dict())
    state |= {key: torch.from_numpy(x) for key, x in (codec or {}).items()}
    if bin_file:  # with what 2020's files carry besides
        state["roberta.embeddings.position_ids"] = torch.arange(40)[None]
        state["roberta.pooler.dense.weight"] = torch.zeros(WIDTH, WIDTH)
        state["roberta.pooler.dense.bias"] = torch.zeros(WIDTH)
        torch.save(state, folder / "pytorch_model.bin")
    else:
        arrays = {key: x.numpy() for key, x in state.items()}
        save_weights(folder / "model.safetensors", arrays)
    return folder


def pair(place, *, size: int = 256, **extras):
    """``m4.marcopass.query.encoder`` and its sibling, two JPQTowers."""
    modules = {}
    for seed, side in enumerate(("query", "doc")):
        modules[side] = drawn(seed)
        write(
            place / f"m4.marcopass.{side}.encoder", modules[side], name="JPQTower",
            codec=codec_tensors(seed, size), MCQ_M=PARTS, MCQ_K=size, **extras,
        )  # fmt: skip
    return modules


def same(found, wanted) -> None:
    assert set(flatten(found)) == set(flatten(wanted))
    for path, array in flatten(wanted).items():
        np.testing.assert_array_equal(flatten(found)[path], array, err_msg=path)


@pytest.mark.parametrize("bin_file", [False, True])
def test_a_robertadot_gives_the_same_vectors(tmp_path, bin_file):
    module = drawn(0)
    folder = write(tmp_path / "a", module, bin_file=bin_file)
    found = load_jpq(folder)
    assert found.kind == "dense"
    assert found.config.backbone.position_offset == 2
    assert found.config.backbone.norm_eps == 1e-5
    assert (found.config.query_length, found.config.doc_length) == (32, 38)
    ours = vectors(encode_query, found)
    np.testing.assert_allclose(ours, vectors_of(module), atol=1e-5)
    np.testing.assert_array_equal(vectors(encode_doc, found), ours)


def test_no_pickle_is_executed(tmp_path):
    folder = write(tmp_path / "a", drawn(0))
    (folder / "model.safetensors").unlink()
    torch.save({"a": print}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="nothing was executed"):
        load_jpq(folder)


def test_two_robertadots_are_separate_towers(tmp_path):
    modules = [drawn(0), drawn(1)]
    for name, module in zip("ab", modules, strict=True):
        write(tmp_path / name, module)
    found = load_jpq(tmp_path / "a", tmp_path / "b")
    assert (found.kind, found.config.towers) == ("dense", "separate")
    for encode, module in zip((encode_query, encode_doc), modules, strict=True):
        ours = vectors(encode, found)
        np.testing.assert_allclose(ours, vectors_of(module), atol=1e-5)


@pytest.mark.parametrize("size", [256, 16])
def test_two_jpqtowers_are_one_model(tmp_path, size):
    modules = pair(tmp_path, size=size)
    assert is_jpq(tmp_path)
    found = load_jpq(tmp_path)
    assert (found.kind, found.config.subvectors) == ("jpq", PARTS)
    assert found.config.bits == {256: 8, 16: 4}[size]
    codec = found.params["codec"]
    for seed, name in enumerate(("centroids", "assignment")):
        np.testing.assert_array_equal(
            codec[name], codec_tensors(seed, size)["centroids"]
        )
    # Their vectors come out rotated; ours are, where the codec cuts them.
    cut = searching_codec(jax.tree.map(jnp.asarray, found.params))
    ours = rotate(cut, jnp.asarray(vectors(query_vectors, found)))
    rotation = codec_tensors(0)["rotation"]
    wanted = vectors_of(modules["query"]) @ rotation.T
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_both_may_be_named(tmp_path):
    pair(tmp_path)
    names = [
        str(tmp_path / f"m4.marcopass.{side}.encoder") for side in ("query", "doc")
    ]
    tokenizer = byte_level_tokenizer(tmp_path / "roberta")
    named = load_model("jpq:" + ",".join(names), tokenizer=tokenizer)
    assert named.kind == "jpq"
    together = load_model(tmp_path, tokenizer=tokenizer)
    assert together.fingerprint == named.fingerprint
    save_model(tmp_path / "own", named)
    assert load_model(tmp_path / "own").fingerprint == named.fingerprint
    with pytest.raises(InputError, match="jpq:a: one encoder; expected jpq:QUERY,DOC"):
        load_model("jpq:a")


@pytest.mark.parametrize("kind", ["shared", "separate", "jpq"])
def test_out_and_in_again(tmp_path, kind):
    if kind == "jpq":
        pair(tmp_path / "a")
        found = load_jpq(tmp_path / "a")
        names = ["m4.query.encoder", "m4.doc.encoder"]
        theirs = [f"m4.marcopass.{side}.encoder" for side in ("query", "doc")]
    elif kind == "separate":
        write(tmp_path / "a" / "query.encoder", drawn(0))
        write(tmp_path / "a" / "doc.encoder", drawn(1))
        found = load_jpq(tmp_path / "a")
        names = theirs = ["query.encoder", "doc.encoder"]
    else:
        write(tmp_path / "a", drawn(0))
        found = load_jpq(tmp_path / "a")
        names = theirs = ["."]
    export_jpq(found.kind, found.config, found.params, tmp_path / "b")
    for name, before in zip(names, theirs, strict=True):
        wanted = read_weights(tmp_path / "a" / before)
        same(read_weights(tmp_path / "b" / name), wanted)
    again = load_jpq(tmp_path / "b")
    assert again.config == found.config
    same(again.params, found.params)
    export_jpq(*again[:3], tmp_path / "c")
    for path in (tmp_path / "b").rglob("*.*"):
        if path.is_file():
            other = tmp_path / "c" / path.relative_to(tmp_path / "b")
            assert path.read_bytes() == other.read_bytes()


def test_what_we_write_runs_in_pytorch(tmp_path):
    from transformers import RobertaConfig

    pair(tmp_path / "a")
    found = load_jpq(tmp_path / "a")
    export_jpq("jpq", found.config, found.params, tmp_path / "b")
    folder = tmp_path / "b" / "m4.query.encoder"
    config = RobertaConfig.from_pretrained(folder)
    assert (config.MCQ_M, config.MCQ_K) == (PARTS, 256)
    module = RobertaDot(config).eval()
    state = {key: torch.from_numpy(x.copy()) for key, x in read_weights(folder).items()}
    codec = {key: state.pop(key) for key in ("centroids", "rotation")}
    module.load_state_dict(state, strict=True)
    ours = vectors(query_vectors, found)
    np.testing.assert_allclose(ours, vectors_of(module), atol=1e-5)
    assert codec["rotation"].shape == (WIDTH, WIDTH)


def test_texts_are_read_in_lower_case(tmp_path):
    folder = write(tmp_path / "a", drawn(0))
    given = byte_level_tokenizer(tmp_path / "roberta")
    with pytest.raises(InputError, match="no tokenizer in its folder or beside it"):
        load_model(folder)
    model = load_model(folder, tokenizer=given)
    small, large = (
        [ids.tolist() for ids in model.tokenizer.encode(texts, 30)]
        for texts in (TEXTS, [text.upper() for text in TEXTS])
    )
    assert small == large
    encoder = TextEncoder(model, side="query")
    np.testing.assert_array_equal(encoder(["RIVERS"]), encoder(["rivers"]))
    save_model(tmp_path / "own", model)
    own = load_model(tmp_path / "own")
    assert own.tokenizer.fingerprint == model.tokenizer.fingerprint
    with pytest.raises(InputError, match="tells A from a; expected one that takes A"):
        load_model(tmp_path / "own", tokenizer=given)
    export_jpq("dense", own.config, own.params, tmp_path / "b", tokenizer=own.tokenizer)
    again = load_model(tmp_path / "b")
    assert again.fingerprint == model.fingerprint
    assert again.tokenizer.fingerprint == model.tokenizer.fingerprint


def test_another_tokenizer_is_refused(tmp_path):
    folder = write(tmp_path / "a", drawn(0, vocab_size=400))
    given = byte_level_tokenizer(tmp_path / "roberta")
    with pytest.raises(InputError, match="of 340 tokens; expected 400, the rows"):
        load_model(folder, tokenizer=given)
    folder = write(tmp_path / "b", drawn(0, vocab_size=6))
    words = tmp_path / "vocab.txt"
    words.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    with pytest.raises(InputError, match=r"with \[2\] before and \[3\] behind a text"):
        load_model(folder, tokenizer=words)


def test_the_whole_difference_is_told(tmp_path):
    folder = write(tmp_path / "a", drawn(0))
    weights = dict(read_weights(folder))
    del weights["norm.bias"], weights["roberta.encoder.layer.0.output.dense.bias"]
    weights["classifier.weight"] = np.zeros((2, WIDTH), np.float32)
    weights["embeddingHead.bias"] = np.zeros(3, np.float32)
    save_weights(folder / "model.safetensors", weights)
    with pytest.raises(InputError) as caught:
        load_jpq(folder)
    for part in (
        "- norm.bias (for projection_norm/bias)",
        "- roberta.encoder.layer.0.output.dense.bias",
        "+ classifier.weight [2, 16]",
        "≠ embeddingHead.bias gives [3], not [16]",
    ):
        assert part in str(caught.value)


def test_towers_that_are_not_of_one_model(tmp_path):
    pair(tmp_path)
    query, doc = (
        tmp_path / f"m4.marcopass.{side}.encoder" for side in ("query", "doc")
    )
    with pytest.raises(InputError, match="one JPQTower; expected two, for queries and"):
        load_jpq(query)
    plain = write(tmp_path / "plain", drawn(0))
    with pytest.raises(InputError, match="a tower of another bits, subvectors; exp"):
        load_jpq(query, plain)
    deeper = write(tmp_path / "deeper", drawn(0, num_hidden_layers=1))
    with pytest.raises(InputError, match="a tower of another backbone; expected as"):
        load_jpq(plain, deeper)
    other = codec_tensors(1) | {"rotation": np.eye(WIDTH, dtype=np.float32)}
    write(doc, drawn(1), name="JPQTower", codec=other, MCQ_M=PARTS, MCQ_K=256)
    with pytest.raises(InputError, match="a rotation other than the query encoder's"):
        load_jpq(tmp_path)


@pytest.mark.parametrize(
    ("extras", "found"),
    [
        ({"MCQ_M": 5}, "MCQ_M 5, MCQ_K 256; expected a divisor of 16, and 256 or 16"),
        ({"MCQ_K": 100}, "MCQ_M 4, MCQ_K 100"),
        ({"MCQ_M": "4"}, "MCQ_M '4'"),
        ({"MCQ_M": 2}, r"≠ centroids gives \[4, 256, 4\], not \[2, 256, 8\]"),
        ({"model_type": "bert"}, "model_type 'bert'; expected 'roberta'"),
        ({"jaxir_jpq": 1}, "jaxir_jpq 1; expected an object"),
        ({"jaxir_jpq": {"colour": 1}}, "unknown key colour"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, extras, found):
    base = {"MCQ_M": PARTS, "MCQ_K": 256}
    folder = write(
        tmp_path / "a", drawn(0), name="JPQTower", codec=codec_tensors(0),
        **base | extras,
    )  # fmt: skip
    with pytest.raises(InputError, match=found):
        load_jpq(folder, folder)


def test_another_model_beside_a_tower(tmp_path):
    folder = write(tmp_path / "a", drawn(0))
    other = write(tmp_path / "b", drawn(0), name="RobertaModel")
    assert not is_jpq(other)
    assert not is_jpq(tmp_path)
    with pytest.raises(InputError, match=r"architectures \['RobertaModel'\]; expect"):
        load_jpq(folder, other)
    with pytest.raises(InputError, match=r"weights do not fit: .*embeddingHead"):
        import_folder(other, str(other))  # as a bare encoder: nothing is dropped


def test_what_the_authors_classes_cannot_compute(tmp_path):
    config = DenseConfig(BertConfig(8, 16, 1, 2), query_length=8, doc_length=8)
    assert not is_expressible(config)
    with pytest.raises(
        InputError, match=r"pooling='mean'.*expected pooling='cls'.*family='roberta'"
    ):
        check_expressible(config, "out")
    with pytest.raises(InputError, match="which RobertaDot computes; keep it as"):
        export_jpq("dense", config, {}, tmp_path / "out")
