"""The tokens whose logits are a T5's score, by their names in its vocabulary."""

from typing import Any

from jaxir.errors import InputError
from jaxir.text import Tokenizer

__all__ = ["MONOT5_TEMPLATE", "TARGET_TOKEN", "token_changes"]

TARGET_TOKEN = "<extra_id_10>"
"""The token whose logit is RankT5's score (arXiv 2210.10634, section 4.1)."""

MONOT5_TEMPLATE = "Query: {query} Document: {document} Relevant:"
"""How monoT5 writes a pair (arXiv 2003.06713, section 3)."""


def token_changes(
    model: Any, head: str | None, target: str | None, contrast: str | None
) -> dict[str, Any]:
    """The changes of a configuration that a head and tokens' names stand for.

    Args:
      model: from ``load_model``; ``head`` and tokens are of a T5 or ``rank_t5`` only.
      head: a name in ``config.HEADS``; None for the model's own, EncDec of a T5.
      target: EncDec's token; None for the model's own, ``<extra_id_10>`` of a T5.
      contrast: a second token, for monoT5's score; a T5 then has monoT5's template.

    Raises:
      InputError: another kind of model, tokens without a decoder, or a token that is
        not in the vocabulary.
    """
    if model.kind not in ("t5", "rank_t5"):
        named = {"head": head, "target_token": target, "contrast_token": contrast}
        for name, value in named.items():
            if value is not None:
                raise InputError(
                    name, f"{value!r} for a model of kind {model.kind!r}", "a T5",
                    "leave it out",
                )  # fmt: skip
        return {}
    changes: dict[str, Any] = {}
    if model.kind == "t5":
        head = head or "encdec"
        if target is None and head == "encdec":
            target = TARGET_TOKEN
        if contrast is not None:
            changes["template"] = MONOT5_TEMPLATE
    if head is not None:
        changes["head"] = head
    for name, token in (("target_token", target), ("contrast_token", contrast)):
        if token is not None and (head or model.config.head) != "encdec":
            raise InputError(
                name, f"{token!r} for the head 'enc', which reads no vocabulary",
                "the head 'encdec'", "leave it out",
            )  # fmt: skip
    if target is not None:
        changes["target_id"] = _token_id("target_token", target, model.tokenizer)
    if contrast is not None:
        changes["contrast_id"] = _token_id("contrast_token", contrast, model.tokenizer)
    return changes


def _token_id(name: str, token: str, tokenizer: Tokenizer) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        marked = f"▁{token}"  # sentencepiece's mark of a word's beginning
        known = tokenizer.token_to_id(marked) is not None
        raise InputError(
            name, f"{token!r} is not in the vocabulary of {tokenizer.name}",
            "one of its tokens",
            f"write {marked!r}" if known else "write it as the vocabulary spells it",
        )  # fmt: skip
    return found
