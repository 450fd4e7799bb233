"""Records what PyTorch's sparse encoders say: ``python tests/goldens/make_sparse.py``.

Needs torch and transformers.  Writes ``sparse.npz`` beside this file, over the random
weights of ``bert.npz`` and ``distilbert.npz``: texts (``ids``, ``mask``; one of special
tokens alone, one of nothing), token weights (``idf``), vectors of queries as the
released code makes them, and for each case ``FAMILY/ACTIVATION/all|words`` (states of
all tokens pooled, or of words alone) the documents' ``weights``, their ``flops``, and
gradients of ``sum(weights * cotangent) + flops`` by their Hugging Face names.  Computed
in float64 and recorded in float32.
"""

from pathlib import Path

import numpy as np
import torch
from make_bert import CONFIGS

FOLDER = Path(__file__).parent
SPECIAL = (0, 1, 2, 3, 4)
ACTIVATIONS = {
    "log1p": lambda x: torch.log1p(torch.relu(x)),
    "log1p_log1p": lambda x: torch.log1p(torch.log1p(torch.relu(x))),
}
LEARNED = {
    "bert": (
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.output.dense.weight",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.LayerNorm.bias",
        "cls.predictions.bias",
    ),
    "distilbert": (
        "distilbert.embeddings.word_embeddings.weight",
        "vocab_transform.weight",
        "vocab_layer_norm.weight",
        "vocab_projector.bias",
    ),
}


def texts() -> tuple[np.ndarray, np.ndarray]:
    """Texts between the special tokens 1 and 2, with some more inside."""
    rng = np.random.default_rng(7)
    lengths = np.array([16, 9, 5, 2, 0])
    mask = np.arange(16)[None] < lengths[:, None]
    ids = np.where(mask, rng.integers(3, 50, mask.shape), 0)
    for row, length in enumerate(lengths):
        if length:
            ids[row, 0], ids[row, length - 1] = 1, 2
    return ids, mask


def queries(ids: np.ndarray, mask: np.ndarray, idf: torch.Tensor) -> torch.Tensor:
    """Binary rows by scattering, special tokens set to 0, times ``relu(idf)``."""
    binary = torch.zeros(len(ids), len(idf), dtype=idf.dtype)
    binary.scatter_(1, torch.tensor(ids), torch.tensor(mask).to(idf.dtype))
    binary[:, list(SPECIAL)] = 0
    return binary * torch.relu(idf)


def make(family: str, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """The cases of one family."""
    config, model_class = CONFIGS[family]
    recorded = np.load(FOLDER / f"{family}.npz")
    state = {
        name.removeprefix("weights/"): torch.tensor(recorded[name])
        for name in recorded.files
        if name.startswith("weights/")
    }
    arrays = {}
    for name, activation in ACTIVATIONS.items():
        for pooled in ("all", "words"):
            model = model_class(config).eval()
            model.load_state_dict(state)
            model = model.double()
            where = mask & ~np.isin(ids, SPECIAL) if pooled == "words" else mask
            logits = model(
                input_ids=torch.tensor(ids),
                attention_mask=torch.tensor(mask.astype(np.int64)),
            ).logits
            kept = torch.tensor(where).double().unsqueeze(-1)
            weights = activation(torch.max(logits * kept, dim=1)[0])
            columns = torch.ones(logits.shape[-1], dtype=torch.float64)
            columns[list(SPECIAL)] = 0
            weights = weights * columns
            flops = torch.sum(torch.mean(torch.abs(weights), dim=0) ** 2)
            cotangent = torch.sin(torch.arange(weights.numel())).reshape(weights.shape)
            (torch.sum(weights * cotangent) + flops).backward()
            case = f"{family}/{name}/{pooled}"
            arrays[f"{case}/weights"] = weights.detach().numpy()
            arrays[f"{case}/flops"] = flops.detach().numpy()
            parameters = dict(model.named_parameters())
            for parameter in LEARNED[family]:
                gradient = parameters[parameter].grad.numpy()
                arrays[f"{case}/gradients/{parameter}"] = gradient
    return arrays


def make_all() -> dict[str, np.ndarray]:
    """Inputs, queries, and the cases of both families."""
    ids, mask = texts()
    idf = torch.tensor(np.random.default_rng(8).uniform(-0.2, 6, 50))
    arrays = {"idf": idf.numpy(), "queries": queries(ids, mask, idf).numpy()}
    for family in LEARNED:
        arrays |= make(family, ids, mask)
    recorded = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
    return recorded | {"ids": ids.astype(np.int32), "mask": mask}


if __name__ == "__main__":
    path = FOLDER / "sparse.npz"
    np.savez_compressed(path, **make_all())
    print(path, path.stat().st_size)
