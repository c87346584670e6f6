"""The network of RQ-VAE: embeddings `[b, dim]` to latents `[b, latent_dim]` and back, and the codebooks between."""

from __future__ import annotations

import math

import torch
from torch import nn


class RQVAENetwork(nn.Module):
    """Encoder, codebooks and decoder.

    Args:
        dim: width of the embeddings.
        hidden_sizes: encoder's layers; the decoder's are the same, mirrored.
        latent_dim: width of the latent.
        codebook_shapes: `(codes, width)` of every level.
        generator: draws the weights, as `torch.nn.Linear` would: U(-b, b), b = 1 / sqrt(inputs).
    """

    def __init__(
        self,
        dim: int,
        hidden_sizes: list[int],
        latent_dim: int,
        codebook_shapes: list[tuple[int, int]],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        sizes = [dim, *hidden_sizes, latent_dim]
        self.encoder = _mlp(sizes, generator)
        self.decoder = _mlp(sizes[::-1], generator)
        self.codebooks = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in codebook_shapes)


def _mlp(sizes: list[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        # skip_init leaves the global random state alone
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        bound = 1 / math.sqrt(inputs)
        with torch.no_grad():
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.uniform_(-bound, bound, generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
