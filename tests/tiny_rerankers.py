"""Random cross-encoders of a few thousand parameters, with tokenizers made on the spot.

The vocabularies know the words of the tiny collection of ``conftest.py``.
"""

import json
from pathlib import Path

import jax

from jaxir.checkpoints.model_dir import Model, model_from_parts
from jaxir.nn import t5
from jaxir.nn.bert import BertConfig
from jaxir.nn.t5 import T5Config
from jaxir.rank.model import CrossEncoderConfig, RankT5Config, init_params
from jaxir.text import Tokenizer, load_tokenizer

__all__ = ["KINDS", "bert_tokenizer", "t5_tokenizer", "tiny_reranker", "tiny_t5"]

TEXTS = (
    "rivers carry water from the mountains to the sea past banks of clay "
    "an engine burns fuel and turns a shaft that drives wheels of steel "
    "bakers knead dough of flour and yeast and bake bread in hot ovens river"
)
WORDS = sorted(set(TEXTS.split()))
KINDS = ("encdec", "enc", "monot5", "bert")


def t5_tokenizer(folder: Path) -> Tokenizer:
    """Whole words and letters, sentinels, and T5's order of special tokens."""
    from tokenizers import Tokenizer as Rust
    from tokenizers import decoders, models, pre_tokenizers, processors

    specials = ["<pad>", "</s>", "<unk>"]
    sentinels = [f"<extra_id_{i}>" for i in range(12)]
    pieces = ["▁", *(f"▁{w}" for w in ["Query:", "Document:", "Relevant:", *WORDS])]
    pieces += ["▁true", "▁false", *"abcdefghijklmnopqrstuvwxyz:"]
    scored = [(token, 0.0) for token in specials]
    scored += [(piece, -float(1 + (len(piece) < 3) * 9)) for piece in pieces]
    rust = Rust(models.Unigram(scored, unk_id=2))
    rust.add_special_tokens([*specials, *sentinels])
    rust.pre_tokenizer = pre_tokenizers.Metaspace()
    rust.decoder = decoders.Metaspace()
    rust.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    rust.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(folder)


def bert_tokenizer(folder: Path) -> Tokenizer:
    """WordPiece over whole words."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]) + "\n")
    return load_tokenizer(folder)


def t5_config(tokenizer: Tokenizer) -> T5Config:
    return T5Config(
        vocab_size=tokenizer.vocab_size, emb_dim=8, num_heads=2, head_dim=4,
        mlp_dim=16, num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip


def tiny_t5(folder: Path, seed: int = 0) -> Model:
    """A T5 language model."""
    tokenizer = t5_tokenizer(folder)
    config = t5_config(tokenizer)
    params = t5.init_params(config, jax.random.key(seed))
    return model_from_parts("t5", config, params, tokenizer)


def tiny_reranker(kind: str, folder: Path, seed: int = 0, **changes) -> Model:
    """A cross-encoder: one of :data:`KINDS`."""
    config: CrossEncoderConfig | RankT5Config
    changes = {"max_length": 40} | changes
    if kind == "bert":
        tokenizer = bert_tokenizer(folder)
        backbone = BertConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1,
            num_heads=2, intermediate_size=32, max_positions=64,
        )  # fmt: skip
        config = CrossEncoderConfig(backbone, **changes)
    else:
        tokenizer = t5_tokenizer(folder)
        if kind == "monot5":
            changes["contrast_id"] = tokenizer.token_to_id("▁false")
            changes["template"] = "Query: {query} Document: {document} Relevant:"
        changes["target_id"] = tokenizer.token_to_id("<extra_id_10>")
        head = "enc" if kind == "enc" else "encdec"
        config = RankT5Config(t5_config(tokenizer), head=head, **changes)
    params = init_params(config, jax.random.key(seed))
    # Random scores lie close together: a sharper input table sets them apart.
    params = jax.tree.map(lambda x: x * 3, params)
    name = "rank_bert" if kind == "bert" else "rank_t5"
    return model_from_parts(name, config, params, tokenizer)
