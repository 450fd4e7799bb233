"""Records what PyTorch's encoders say: ``python tests/goldens/make_bert.py``.

Needs torch and transformers.  Writes ``bert.npz``, ``roberta.npz``, ``distilbert.npz``
beside this file: the random weights by their Hugging Face names (``weights/...``), the
inputs (``ids``, ``mask``, ``type_ids``) and the outputs (``states``, ``pooled``), and
for the masked-language model ``mlm_logits`` of the tied head.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

SIZES = {"vocab_size": 50, "max_position_embeddings": 20}
WIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = {
    "bert": (
        transformers.BertConfig(**SIZES, **WIDE, intermediate_size=24),
        transformers.BertForMaskedLM,
    ),
    "roberta": (
        transformers.RobertaConfig(
            **SIZES,
            **WIDE,
            intermediate_size=24,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        ),
        transformers.RobertaForMaskedLM,
    ),
    "distilbert": (
        transformers.DistilBertConfig(
            **SIZES, dim=16, hidden_dim=24, n_layers=2, n_heads=2
        ),
        transformers.DistilBertForMaskedLM,
    ),
}


def make(family: str) -> dict[str, np.ndarray]:
    """Weights, inputs and outputs of one family."""
    config, model_class = CONFIGS[family]
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():  # biases and norms start at 0 and 1: move every parameter
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    rng = np.random.default_rng(0)
    lengths = np.array([16, 9, 3])
    mask = np.arange(16)[None] < lengths[:, None]
    ids = np.where(mask, rng.integers(3, 50, mask.shape), model.config.pad_token_id)
    inputs = {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask.astype(np.int64)),
    }
    arrays = {"ids": ids.astype(np.int32), "mask": mask}
    if family == "bert":
        types = np.broadcast_to(np.arange(16)[None] >= 5, mask.shape) & mask
        inputs["token_type_ids"] = torch.tensor(types.astype(np.int64))
        arrays["type_ids"] = types.astype(np.int32)
    with torch.no_grad():
        arrays["states"] = model.base_model(**inputs).last_hidden_state.numpy()
        arrays["mlm_logits"] = model(**inputs).logits.numpy()
    for name, tensor in model.state_dict().items():
        arrays[f"weights/{name}"] = tensor.numpy()
    return arrays


if __name__ == "__main__":
    for family in CONFIGS:
        path = Path(__file__).parent / f"{family}.npz"
        np.savez_compressed(path, **make(family))
        print(path, path.stat().st_size)
