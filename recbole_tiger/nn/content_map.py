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
        vectors: `[n + 1, dim]`, padding row 0 zero.
        width: of the map's output.
        stored: the vectors are a part of the weights' `state_dict`; else their owner keeps them.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, width: int, *, stored: bool = False) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=stored)
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(width, vectors.shape[1]), std=INIT_STD))

    def forward(self, items: Tensor) -> Tensor:
        """`[…, width]` of `items` (any shape); zero for padding."""
        return self.map(F.embedding(items, self.vectors))

    def map(self, vectors: Tensor) -> Tensor:
        """The map of vectors `[…, dim]`: `[…, width]`."""
        return vectors.to(self.weight.dtype) @ self.weight.t()

    def all_items(self) -> Tensor:
        """`[n + 1, width]` of padding and all items."""
        return self.map(self.vectors)


class ContentTable(nn.Module):
    """The weight of an embedding table whose items have content, for `torch.nn.utils.parametrize`.

    Args:
        content: of the first rows, padding and items; rows after these, such as a mask token's, have none.
        alone: the map is an item's whole row; else it is added to a row of the item's own.
    """

    def __init__(self, content: ContentMap, *, alone: bool) -> None:
        super().__init__()
        self.content = content
        self.alone = alone

    def forward(self, own: Tensor) -> Tensor:
        """The table `[m, width]` from its own rows: of all `m`, or with `alone` of those that are no items."""
        mapped = self.content.all_items()
        if self.alone:
            return torch.cat([own[:1], mapped[1:], own[1:]])
        return own + F.pad(mapped, (0, 0, 0, len(own) - len(mapped)))

    def right_inverse(self, table: Tensor) -> Tensor:
        """The own rows that a table starts with."""
        return torch.cat([table[:1], table[len(self.content.vectors) :]]) if self.alone else table
