"""Hypencoder's head and q-net in plain PyTorch, from the description of the paper.

The oracle of ``jaxir.hyper`` and what ``goldens/make_hypencoder.py`` records.  Names of
parameters are those of the released checkpoints, so that a state dict of this head is
the head's part of one, less the prefix ``query_encoder.``.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
}


class Head(torch.nn.Module):
    """Token states to ``(kernels [B, in, out], biases [B, out])``, the output last.

    Args:
      state_width: width of the token states.
      widths: of the q-net, from its input to its last block's result.
      scale: ``released`` or ``paper``.
    """

    def __init__(self, state_width: int, widths: Sequence[int], scale: str) -> None:
        super().__init__()
        self.scale, self.state_width = scale, state_width
        # one (rows, width) a tensor: kernels, the output's as the last, then biases
        pairs = [*zip(widths[1:], widths[:-1], strict=True), (1, widths[-1])]
        tensors = [*pairs, *((1, width) for width in widths[1:])]
        self.depth = len(widths) - 1

        def parameters(shapes):
            return torch.nn.ParameterList([torch.zeros(shape) for shape in shapes])

        def linears(shapes):
            return torch.nn.ModuleList([torch.nn.Linear(*shape) for shape in shapes])

        self.hyper_base_matrices = parameters([(1, *pair) for pair in pairs])
        self.hyper_base_vectors = parameters([(1, width) for width in widths[1:]])
        self.weight_query_embeddings = parameters([(1, *pair) for pair in pairs])
        self.bias_query_embeddings = parameters([(1, 1, w) for w in widths[1:]])
        self.weight_hyper_projection = linears([(w, w) for _, w in pairs])
        self.bias_hyper_projection = linears([(w, w) for w in widths[1:]])
        self.key_projections = linears([(state_width, w) for _, w in tensors])
        self.value_projections = linears([(state_width, w) for _, w in tensors])

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> tuple[list, list]:
        kernels, biases = [], []
        for j in range(2 * self.depth + 1):
            is_bias = j > self.depth
            i = j - self.depth - 1 if is_bias else j
            query = (
                self.bias_query_embeddings if is_bias else self.weight_query_embeddings
            )[i]
            project = (
                self.bias_hyper_projection if is_bias else self.weight_hyper_projection
            )[i]
            rows, width = query.shape[1:]
            scale = rows if self.scale == "released" else self.state_width
            logits = query @ self.key_projections[j](states).transpose(1, 2)
            logits = logits / math.sqrt(scale)
            logits = logits.masked_fill(~mask[:, None, :], float("-inf"))
            mixed = torch.softmax(logits, dim=-1) @ self.value_projections[j](states)
            normal = F.layer_norm(torch.relu(mixed), (width,), eps=1e-5)
            if is_bias:
                biases.append(project(normal)[:, 0] + self.hyper_base_vectors[i])
            else:
                generated = project(normal) + self.hyper_base_matrices[i]
                kernels.append(generated.transpose(1, 2))
        return kernels, biases


def scores(
    kernels: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    docs: torch.Tensor,
    *,
    activation: str = "relu",
    layer_norm: bool = True,
    norm_before_residual: bool = True,
    residual: bool = True,
    residual_on_last: bool = False,
    norm_eps: float = 1e-5,
    gates: torch.Tensor | None = None,
) -> torch.Tensor:
    """``[B, n]`` scores of documents ``[n, E]``; the output's kernel is the last."""
    x = docs[None].expand(len(kernels[0]), -1, -1)
    last = len(biases) - 1
    for i, (kernel, bias) in enumerate(zip(kernels[:-1], biases, strict=True)):
        y = ACTIVATIONS[activation](torch.bmm(x, kernel) + bias[:, None, :])
        if layer_norm and norm_before_residual:
            y = F.layer_norm(y, y.shape[-1:], eps=norm_eps)
        if gates is not None:
            y = y * gates[:, i, None, None]
        if residual and x.shape == y.shape and (residual_on_last or i < last):
            y = y + x
        if layer_norm and not norm_before_residual:
            y = F.layer_norm(y, y.shape[-1:], eps=norm_eps)
        x = y
    return torch.bmm(x, kernels[-1])[:, :, 0]


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Moves every parameter; a random key decides how."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / math.sqrt(parameter.shape[-1]))


def to_numpy(tensors: Any) -> dict[str, np.ndarray]:
    """A state dict, or a mapping of tensors, as numpy arrays."""
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}
