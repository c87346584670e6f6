"""What item content adds to item embeddings: item numbers in, a linear map of their frozen content vectors out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Small, so that a network starts near the one without content; a vector's dimensions have standard deviation 1.
INIT_STD = 0.002


class ContentMap(nn.Module):
    """A linear map without bias of each item's vector.

    Args:
        vectors: `[n + 1, dim]`, padding row 0 zero. They are no part of the weights: their owner keeps them.
        width: of the map's output.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(width, vectors.shape[1]), std=INIT_STD))

    def forward(self, items: Tensor) -> Tensor:
        """`[…, width]` of `items` (any shape); zero for padding."""
        return F.embedding(items, self.vectors).to(self.weight.dtype) @ self.weight.t()
