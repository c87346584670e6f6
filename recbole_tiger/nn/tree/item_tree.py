"""The prefix trie of a catalogue as networks read it.

Input: a Semantic ID table. Output: index tensors of items, nodes and their children.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recbole_tiger.decoding.trie import PrefixTrie

#: Row of the item and node tables for what has no embedding: always zeros.
ABSENT = 0


class ItemTree:
    """The prefix trie of a catalogue as the network reads it.

    Args:
        codes: int64 `[n_items + 1, L]` with padding row 0.
        level_sizes: codewords per level.
        trained: the tree that the network's tables were made for; None: this one. Nodes and items that it does not
            have are without embedding.
        item_rows: `[n_items + 1]` row of each item in the item table, 0 for none; None: the item's own number.

    Attributes:
        trie: prefix trie.
        codes: `[n_items + 1, L]`, row 0 all 0.
        paths: `[n_items + 1, L]` node of each item at each level; row 0 all 0.
        first, count: per level from 1 on, first child and number of children at that level of every node of the level
            above.
        node_rows: per level from 1 on, row of each node in the level's node table. Nodes of level 0 have none, since
            their codewords are theirs alone, nor have nodes without siblings, which are never chosen among others.
        n_rows: per level from 1 on, rows of the node table, `ABSENT` included.
    """

    def __init__(
        self,
        codes: npt.NDArray[np.int64],
        level_sizes: Sequence[int],
        trained: ItemTree | None = None,
        item_rows: Tensor | None = None,
    ) -> None:
        self.trie = PrefixTrie.from_codes(codes[1:], level_sizes)
        self.codes = torch.tensor(codes, dtype=torch.long).clamp_(min=0)
        self.paths = torch.zeros_like(self.codes)
        self.paths[self.trie.items.long()] = self.trie.paths()
        self.first: dict[int, Tensor] = {}
        self.count: dict[int, Tensor] = {}
        self.node_rows: dict[int, Tensor] = {}
        self.n_rows: dict[int, int] = {}
        for level in range(1, self.trie.depth):
            above = torch.arange(self.trie.n_nodes[level - 1])
            self.first[level], self.count[level] = self.trie.children(level - 1, above)
            nodes = torch.arange(self.trie.n_nodes[level])
            if trained is None:
                siblings = torch.repeat_interleave(self.count[level] > 1, self.count[level])
                self.node_rows[level] = torch.where(siblings, siblings.cumsum(0), ABSENT)
                self.n_rows[level] = 1 + int(siblings.sum())
            else:
                low, _ = self.trie.item_range(level, nodes)
                prefixes = self.codes[self.trie.items[low].long(), : level + 1]
                known = trained.trie.find(prefixes.to(trained.trie.device)).to(nodes.device)
                rows = trained.node_rows[level].to(nodes.device)
                self.node_rows[level] = torch.where(known >= 0, rows[known.clamp(min=0)], ABSENT)
                self.n_rows[level] = trained.n_rows[level]
        self.item_rows = torch.arange(len(codes)) if item_rows is None else item_rows

    def to(self, device: torch.device | str) -> ItemTree:
        """The same tree on `device`; itself if it is there already."""
        if torch.device(device) == self.trie.device:
            return self
        twin = object.__new__(ItemTree)
        twin.n_rows = self.n_rows
        twin.trie = self.trie.to(device)
        for name in ("codes", "paths", "item_rows"):
            setattr(twin, name, getattr(self, name).to(device))
        for name in ("first", "count", "node_rows"):
            setattr(twin, name, {level: value.to(device) for level, value in getattr(self, name).items()})
        return twin
