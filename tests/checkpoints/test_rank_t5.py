"""RankT5 as a Hugging Face folder and as a T5X checkpoint: there and back, and read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.checkpoints.model_dir import load_model, model_from_parts
from jaxir.checkpoints.rank_t5 import export_rank_t5, is_rank_t5, load_rank_t5
from jaxir.checkpoints.t5_huggingface import export_t5, load_t5
from jaxir.checkpoints.t5x import write_t5x
from jaxir.checkpoints.weights import read_weights, save_weights
from jaxir.errors import InputError
from jaxir.nn.t5 import T5Config
from jaxir.rank.model import RankT5Config, init_params, score
from jaxir.types import TokenBatch

TINY = T5Config(
    vocab_size=11, emb_dim=8, num_heads=2, head_dim=3, mlp_dim=12,
    num_encoder_layers=2, num_decoder_layers=2,
)  # fmt: skip
ENCDEC = RankT5Config(TINY, target_id=7, contrast_id=4, max_length=20, eos=False)
ENC = RankT5Config(TINY, head="enc", pooling="mean", target_id=7, max_length=20)
CONFIGS = pytest.mark.parametrize("config", [ENCDEC, ENC], ids=["encdec", "enc"])

IDS = np.array([[5, 6, 7, 8, 9], [10, 9, 4, 0, 0]], np.int32)
TOKENS = TokenBatch(jnp.asarray(IDS), jnp.asarray(IDS > 0))


def params_of(config: RankT5Config):
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.normal(0.0, 0.4, x.shape).astype(np.float32), shapes
    )


@CONFIGS
def test_out_and_in_again_is_the_same_reranker(config, tokenizer, tmp_path):
    params = params_of(config)
    place = tmp_path / "hf"
    export_rank_t5(config, params, place, tokenizer=tokenizer)
    assert is_rank_t5(place)
    assert (place / "score_head.safetensors").exists() == (config is ENC)
    wanted = model_from_parts("rank_t5", config, params, tokenizer)
    found = load_model(place)
    assert (found.kind, found.config) == ("rank_t5", config)
    assert found.fingerprint == wanted.fingerprint
    # To everybody else it is a T5.
    assert load_t5(place).config == TINY


def test_a_t5_is_not_a_reranker(tmp_path):
    export_t5(TINY, params_of(ENCDEC), tmp_path)
    assert not is_rank_t5(tmp_path)


def test_encdec_scores_as_transformers_logits_say(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import T5ForConditionalGeneration

    params = params_of(ENCDEC)
    export_rank_t5(ENCDEC, params, tmp_path)
    theirs = T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = theirs(
            input_ids=torch.tensor(IDS),
            attention_mask=torch.tensor(IDS > 0),
            decoder_input_ids=torch.zeros((2, 1), dtype=torch.long),
        ).logits[:, 0, [7, 4]]
    wanted = torch.log_softmax(logits, -1)[:, 0].numpy()
    found = jax.jit(lambda p: score(ENCDEC, p, TOKENS))(params)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_enc_scores_as_the_documented_files_say(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import T5EncoderModel

    params = params_of(ENC)
    export_rank_t5(ENC, params, tmp_path)
    theirs = T5EncoderModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        states = theirs(
            input_ids=torch.tensor(IDS), attention_mask=torch.tensor(IDS > 0)
        ).last_hidden_state.numpy()
    head = read_weights(tmp_path / "score_head.safetensors")
    real = (IDS > 0)[..., None]
    pooled = (states * real).sum(1) / real.sum(1)
    wanted = pooled @ head["dense.weight"].T + head["dense.bias"]
    found = jax.jit(lambda p: score(ENC, p, TOKENS))(params)
    np.testing.assert_allclose(found, wanted[:, 0], atol=1e-4)


def test_an_encoder_with_its_head_in_t5x(tokenizer, tmp_path):
    params = params_of(ENC)
    write_t5x(tmp_path / "t5x", params)
    tokenizer.save(tmp_path / "t5x" / "tokenizer")
    found = load_model(f"t5x:{tmp_path / 't5x'}")
    assert (found.kind, found.config.head) == ("rank_t5", "enc")
    for x, y in zip(*map(jax.tree.leaves, (found.params, params)), strict=True):
        np.testing.assert_array_equal(x, y)


def test_settings_and_heads_that_do_not_fit_say_so(tmp_path):
    export_rank_t5(ENC, params_of(ENC), tmp_path)
    file = tmp_path / "score_head.safetensors"
    save_weights(file, {"dense.weight": np.zeros((2, 8), np.float32)})
    with pytest.raises(InputError, match=r"score_head.safetensors: weights do not fit"):
        load_rank_t5(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=r"score_head.safetensors: no weights"):
        load_rank_t5(tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"jaxir_reranker": {"poling": "cls"}}))
    with pytest.raises(InputError, match="unknown key poling in RankT5Config"):
        load_rank_t5(tmp_path)
    path.write_text(json.dumps(data | {"jaxir_reranker": "enc"}))
    with pytest.raises(InputError, match="jaxir_reranker is no object"):
        load_rank_t5(tmp_path)
