"""The encoders against PyTorch's, recorded and live, and the promises around them."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig, BertEncoder, init_params
from jaxir.types import TokenBatch

GOLDENS = Path(__file__).parent.parent / "goldens"

TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 24,
    "max_positions": 20,
}
CONFIGS = {
    "bert": BertConfig(**TINY),
    "roberta": BertConfig(
        **TINY,
        family="roberta",
        type_vocab_size=1,
        position_offset=2,
        norm_eps=1e-5,
        pad_id=1,
    ),
    "distilbert": BertConfig(**TINY, family="distilbert", type_vocab_size=0),
}

# Hugging Face's words for ours, applied in order to each weight's name.
RENAMES = [
    (r"^(bert|roberta|distilbert)\.", ""),
    (r"^(encoder|transformer)\.", ""),
    (r"^layer\.(\d+)\.", r"layer_\1/"),
    (r"^embeddings\.(word|position|token_type)_embeddings", r"embeddings/\1"),
    (r"^embeddings\.LayerNorm", "embeddings/norm"),
    (r"attention\.self\.(query|key|value)", r"attention/\1"),
    (r"attention\.output\.dense", "attention/out"),
    (r"attention\.output\.LayerNorm", "attention_norm"),
    (r"attention\.q_lin", "attention/query"),
    (r"attention\.k_lin", "attention/key"),
    (r"attention\.v_lin", "attention/value"),
    (r"attention\.out_lin", "attention/out"),
    (r"sa_layer_norm", "attention_norm"),
    (r"output_layer_norm|output\.LayerNorm", "mlp_norm"),
    (r"ffn\.lin1|intermediate\.dense", "mlp/wi"),
    (r"ffn\.lin2|output\.dense", "mlp/wo"),
    (r"^pooler\.dense", "pooler"),
]


def params_of(weights: dict[str, np.ndarray]) -> dict:
    """Our parameters from a PyTorch state dict of a backbone."""
    flat = {}
    for name, array in weights.items():
        if re.match(r"(cls\.|lm_head\.|vocab_)", name):
            continue
        for pattern, ours in RENAMES:
            name = re.sub(pattern, ours, name)
        path, kind = name.rsplit(".", 1)
        if kind == "weight" and path.endswith("norm"):
            kind = "scale"
        elif kind == "weight" and path.startswith("embeddings/"):
            kind = "embedding"
        elif kind == "weight":
            kind, array = "kernel", array.T
        flat[f"{path}/{kind}"] = jnp.asarray(array)
    return traverse_util.unflatten_dict(flat, sep="/")


def golden(family: str) -> tuple[dict, TokenBatch, np.ndarray]:
    """Parameters, inputs and states that make_bert.py recorded."""
    data = np.load(GOLDENS / f"{family}.npz")
    weights = {k.removeprefix("weights/"): data[k] for k in data if "weights/" in k}
    types = data.get("type_ids")
    return (
        params_of(weights),
        TokenBatch(data["ids"], data["mask"], types),
        data["states"],
    )


def apply(config: BertConfig, params: dict, tokens: TokenBatch, **kwargs):
    """The encoder under jit, as it is always run."""
    run = jax.jit(
        lambda params, tokens: BertEncoder(config).apply(
            {"params": params}, tokens, **kwargs
        )
    )
    return run(params, tokens)


def random_tokens(*lengths: int, width: int = 12) -> TokenBatch:
    rng = np.random.default_rng(1)
    mask = np.arange(width)[None] < np.array(lengths)[:, None]
    ids = np.where(mask, rng.integers(3, 50, mask.shape), 0)
    return TokenBatch(ids.astype(np.int32), mask)


@pytest.mark.parametrize("family", CONFIGS)
def test_equals_the_recorded_outputs_of_pytorch(family):
    params, tokens, states = golden(family)
    output = apply(CONFIGS[family], params, tokens)
    real = tokens.mask
    np.testing.assert_allclose(output.states[real], states[real], atol=1e-5)
    assert output.pooled is None


@pytest.mark.parametrize("family", CONFIGS)
def test_golden_parameter_tree(family):
    config = CONFIGS[family]
    params = init_params(config, jax.random.key(0))
    flat = traverse_util.flatten_dict(params, sep="/")
    tree = {name: list(array.shape) for name, array in sorted(flat.items())}
    assert tree == json.loads((GOLDENS / f"{family}_tree.json").read_text())
    assert all(array.dtype == jnp.float32 for array in flat.values())


@pytest.mark.parametrize("family", CONFIGS)
def test_equals_pytorch_live_and_in_its_gradient(family):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    wide = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes = {"vocab_size": 60, "max_position_embeddings": 40}
    if family == "bert":
        theirs = transformers.BertModel(
            transformers.BertConfig(**sizes, **wide, intermediate_size=48)
        )
    elif family == "roberta":
        theirs = transformers.RobertaModel(
            transformers.RobertaConfig(
                **sizes,
                **wide,
                intermediate_size=48,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
            )
        )
    else:
        theirs = transformers.DistilBertModel(
            transformers.DistilBertConfig(
                **sizes, dim=32, hidden_dim=48, n_layers=3, n_heads=4
            )
        )
    theirs = theirs.eval()
    ours = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        intermediate_size=48,
        max_positions=40,
        type_vocab_size=CONFIGS[family].type_vocab_size,
        position_offset=CONFIGS[family].position_offset,
        norm_eps=CONFIGS[family].norm_eps,
        pooler=family != "distilbert",
    )
    tokens = random_tokens(24, 11, 2, width=24)
    # RoBERTa finds padding by its id
    ids = np.where(tokens.mask, tokens.ids, CONFIGS[family].pad_id)
    output = theirs(
        input_ids=torch.tensor(ids, dtype=torch.long),
        attention_mask=torch.tensor(tokens.mask),
    )
    states = output.last_hidden_state
    weights = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
    params = params_of(weights)
    real = tokens.mask
    target = np.random.default_rng(2).normal(size=states.shape).astype(np.float32)
    target[~real] = 0

    @jax.jit
    def loss(params):
        output = BertEncoder(ours).apply({"params": params}, TokenBatch(ids, real))
        return jnp.sum(output.states * target), output

    (_, got), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    np.testing.assert_allclose(
        got.states[real], states.detach().numpy()[real], atol=1e-5
    )
    if got.pooled is not None:
        np.testing.assert_allclose(
            got.pooled, output.pooler_output.detach().numpy(), atol=1e-5
        )

    (states * torch.tensor(target)).sum().backward()
    named = {
        k: np.zeros(v.shape, np.float32) if v.grad is None else v.grad.numpy()
        for k, v in theirs.named_parameters()
    }
    theirs_gradient = params_of(named)
    for path, ours_g in traverse_util.flatten_dict(gradient, sep="/").items():
        theirs_g = traverse_util.flatten_dict(theirs_gradient, sep="/")[path]
        np.testing.assert_allclose(ours_g, theirs_g, atol=2e-4, err_msg=path)


def test_padding_does_not_matter():
    config = CONFIGS["bert"]
    params = golden("bert")[0]
    short = random_tokens(5, 5, width=5)
    long = TokenBatch(
        np.pad(short.ids, ((0, 0), (0, 7)), constant_values=9),
        np.pad(short.mask, ((0, 0), (0, 7))),
    )
    np.testing.assert_allclose(
        apply(config, params, short).states,
        apply(config, params, long).states[:, :5],
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_padding_are_finite_forward_and_backward(dtype):
    config = BertConfig(**TINY, dtype=dtype, pooler=True)
    params = init_params(config, jax.random.key(0))
    tokens = random_tokens(6, 0)

    @jax.jit
    @jax.grad
    def gradient(params):
        output = BertEncoder(config).apply({"params": params}, tokens)
        return jnp.sum(jnp.square(output.states)) + jnp.sum(output.pooled)

    assert np.isfinite(apply(config, params, tokens).states).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient(params)))


def test_bfloat16_computes_in_bfloat16_near_float32():
    params, tokens, states = golden("bert")
    config = BertConfig(**TINY, dtype="bfloat16")
    output = apply(config, params, tokens)
    assert output.states.dtype == jnp.bfloat16
    got = np.asarray(output.states, np.float32)[tokens.mask]
    assert np.abs(got - states[tokens.mask]).max() < 0.15


def test_remat_changes_neither_value_nor_gradient():
    params, tokens, _ = golden("roberta")

    def loss(config, params):
        output = BertEncoder(config).apply(
            {"params": params},
            tokens,
            deterministic=False,
            rngs={"dropout": jax.random.key(3)},
        )
        return jnp.mean(jnp.square(output.states))

    plain = CONFIGS["roberta"]
    saved = BertConfig(**{**plain.__dict__, "remat": True})
    a = jax.jit(jax.value_and_grad(lambda p: loss(plain, p)))(params)
    b = jax.jit(jax.value_and_grad(lambda p: loss(saved, p)))(params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_dropout_follows_its_key_and_only_when_asked():
    params, tokens, states = golden("bert")
    config = CONFIGS["bert"]

    @jax.jit
    def run(seed):
        return (
            BertEncoder(config)
            .apply(
                {"params": params},
                tokens,
                deterministic=False,
                rngs={"dropout": jax.random.key(seed)},
            )
            .states
        )

    np.testing.assert_array_equal(run(0), run(0))
    assert np.abs(run(0) - run(1)).max() > 0.1
    mean = np.mean([run(seed) for seed in range(30)], axis=0)
    assert np.abs(mean - states)[tokens.mask].mean() < 0.3  # unbiased, roughly


def test_no_recompilation_for_the_same_shapes():
    params = golden("bert")[0]
    traced = 0

    @jax.jit
    def run(params, tokens):
        nonlocal traced
        traced += 1
        return BertEncoder(CONFIGS["bert"]).apply({"params": params}, tokens).states

    for lengths in ((3, 4), (12, 1), (5, 5)):
        run(params, random_tokens(*lengths))
    assert traced == 1


def test_too_long_texts_are_refused():
    params = golden("roberta")[0]
    tokens = random_tokens(19, width=19)
    with pytest.raises(InputError, match=r"texts of 19 tokens; expected at most 18"):
        apply(CONFIGS["roberta"], params, tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, "3 heads for a width of 16; expected a divisor"),
        ({"num_heads": 0}, "0 heads for a width of 16; expected a divisor"),
        ({"activation": "swish2"}, r"BertConfig.activation: 'swish2'; expected one of"),
        ({"family": "albert"}, r"BertConfig.family: 'albert'"),
        ({"dtype": "float16"}, r"BertConfig.dtype: 'float16'"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(InputError, match=message):
        BertConfig(**{**TINY, **change})
