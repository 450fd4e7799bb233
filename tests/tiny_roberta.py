"""A tiny RoBERTa as PyTorch's libraries write it: vocabulary, tokenizer, towers."""

import json
from pathlib import Path

__all__ = ["TEXTS", "byte_level_tokenizer", "roberta_config"]

TEXTS = [
    "Rivers carry water from the mountains to the Sea.",
    "An engine burns fuel, and turns a shaft!",
    "BAKERS knead dough of flour & yeast; they don't bake it at 230 degrees...",
]

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def byte_level_tokenizer(folder: Path, *, size: int = 340, texts=TEXTS) -> Path:
    """Writes ``tokenizer.json`` as roberta-base has it: cased, no space before a text.

    ``vocab.json`` and ``merges.txt`` stand beside it, of the same tokens.
    """
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Both cases, so that a tokenizer that keeps the case shows it.
    both = [text for one in texts for text in (f" {one}", f" {one.lower()}", one)]
    tokenizer.train_from_iterator(both * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = json.loads(tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    return folder


def roberta_config(vocab_size: int = 340, **changes):
    """``RobertaConfig`` of two layers of width 16."""
    from transformers import RobertaConfig

    return RobertaConfig(
        **{
            "vocab_size": vocab_size, "hidden_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 24,
            "max_position_embeddings": 40, "type_vocab_size": 1,
            "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0,
            "eos_token_id": 2,
        } | changes
    )  # fmt: skip
