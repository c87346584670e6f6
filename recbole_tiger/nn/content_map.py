"""What item content adds to embeddings: items or nodes in, a linear map of their frozen content vectors out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.nn.tree.item_tree import ItemTree

#: Small, so that a network starts near the one without content; a vector's dimensions have standard deviation 1.
INIT_STD = 0.002
_SUMMED_AT_ONCE = 65536  # items whose vectors are in single precision at a time


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


class NodeVectors(nn.Module):
    """The mean vector of the items below each node of a tree; of a node with one item, that item's.

    Args:
        vectors: `[n + 1, dim]` of the items, padding row 0 zero.
        tree: of the same items.
    """

    means: Tensor

    def __init__(self, vectors: Tensor, tree: ItemTree) -> None:
        super().__init__()
        kind = torch.promote_types(vectors.dtype, torch.float32)
        # A node has a row in one of two tables, and in the other row 0, which is zero.
        means = [vectors.new_zeros((1, vectors.shape[1]), dtype=kind)]
        for level in range(tree.trie.depth):
            node = tree.paths[1:, level]
            several = node.bincount(minlength=tree.trie.n_nodes[level]) > 1
            mean_row = torch.where(several, several.cumsum(0) + sum(map(len, means)) - 1, 0)
            below = several[node].nonzero().squeeze(1)
            total = vectors.new_zeros((int(several.sum()), vectors.shape[1]), dtype=kind)
            for part in below.split(_SUMMED_AT_ONCE):
                row = mean_row[node[part]] - sum(map(len, means))
                total.index_add_(0, row, vectors[part + 1].to(kind))
            count = node.bincount(minlength=len(several))[several]
            item_row = torch.zeros_like(mean_row).index_put((node,), torch.arange(1, len(vectors), device=node.device))
            self.register_buffer(f"item_row_{level}", torch.where(several, 0, item_row), persistent=False)
            self.register_buffer(f"mean_row_{level}", mean_row, persistent=False)
            means.append(total / count[:, None])
        self.register_buffer("means", torch.cat(means), persistent=False)

    def forward(self, vectors: Tensor, level: int, nodes: Tensor) -> Tensor:
        """`[S, dim]` of `nodes` `[S]` of a level, from the same vectors of the items."""
        item_row = self.get_buffer(f"item_row_{level}").index_select(0, nodes)
        mean_row = self.get_buffer(f"mean_row_{level}").index_select(0, nodes)
        return F.embedding(item_row, vectors) + F.embedding(mean_row, self.means)


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
