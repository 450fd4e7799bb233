"""The smallest vocabulary and backbone of the checkpoint tests."""

from jaxir.nn.bert import BertConfig

__all__ = ["WORDS", "tiny_backbone"]

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a river of clay engine bread"


def tiny_backbone(words: str) -> BertConfig:
    """One layer of width 16 over the words of a vocabulary, separated by spaces."""
    return BertConfig(
        vocab_size=len(words.split()),
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=24,
        max_positions=24,
    )
