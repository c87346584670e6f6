"""Frozen content of the nodes of a tree: vectors of its items in, the mean of those below a node out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.nn.tree.item_tree import ItemTree

_SUMMED_AT_ONCE = 65536  # items whose vectors are in single precision at a time


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
