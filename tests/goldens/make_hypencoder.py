"""Records what PyTorch's hyperhead and q-net say.

``PYTHONPATH=tests python tests/goldens/make_hypencoder.py`` writes ``hypencoder.npz``
beside this file: for each case the head's random weights by their names in a released
checkpoint (``CASE/weights/...``), the inputs (``states``, ``mask``, ``docs``), the
generated tensors (``kernel_{i}``, ``bias_{i}``), the scores, and the gradients of
``sum(scores * cotangent)`` (``gradients/...``, ``gradients/states``,
``gradients/docs``).  Computed in float64 and recorded in float32.  Needs torch; the
network is ``tests/hyper_torch.py``.
"""

from pathlib import Path

import numpy as np
import torch
from hyper_torch import Head, randomize, scores, to_numpy

CASES = {
    "released": {"state_width": 8, "widths": (12, 12, 12), "scale": "released"},
    "paper": {"state_width": 8, "widths": (12, 12, 12), "scale": "paper"},
    "uneven": {"state_width": 6, "widths": (8, 8, 12, 12, 10), "scale": "released"},
}
OPTIONS = {
    "released": {},
    "paper": {"activation": "gelu", "residual_on_last": True},
    "uneven": {"activation": "leaky_relu", "norm_before_residual": False},
}


def make(case: str) -> dict[str, np.ndarray]:
    """Weights, inputs, outputs and gradients of one case."""
    head = Head(**CASES[case])
    randomize(head, seed=0)
    head = head.double()
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator).double()
        return drawn.requires_grad_()

    states, docs = draw(3, 5, head.state_width), draw(7, CASES[case]["widths"][0])
    cotangent = draw(3, 7).detach()
    mask = torch.arange(5)[None] < torch.tensor([5, 1, 3])[:, None]
    kernels, biases = head(states, mask)
    found = scores(kernels, biases, docs, **OPTIONS[case])
    (found * cotangent).sum().backward()
    arrays = {
        "states": states, "mask": mask, "docs": docs, "cotangent": cotangent,
        "scores": found,
        "gradients/states": states.grad, "gradients/docs": docs.grad,
    }  # fmt: skip
    arrays |= {f"kernel_{i}": x for i, x in enumerate(kernels)}
    arrays |= {f"bias_{i}": x for i, x in enumerate(biases)}
    arrays |= {f"weights/{name}": x for name, x in head.state_dict().items()}
    arrays |= {f"gradients/{name}": x.grad for name, x in head.named_parameters()}
    return {
        name: array.astype(np.float32) if array.dtype == np.float64 else array
        for name, array in to_numpy(arrays).items()
    }


if __name__ == "__main__":
    path = Path(__file__).parent / "hypencoder.npz"
    recorded = {
        f"{case}/{name}": array for case in CASES for name, array in make(case).items()
    }
    np.savez_compressed(path, **recorded)
    print(path, path.stat().st_size)
