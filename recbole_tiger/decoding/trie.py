"""Prefix trie of a catalogue in plain arrays that a search can index.

Input: codes `[n_items, id_length]`. Output: a `PrefixTrie`. The prefixes of every length are ranked by one sort, so the
children of a node are a contiguous range of the next level and no table of next states is needed: a node costs one
codeword and one offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recbole_tiger.decoding.trie_arrays import (
    ChildRanges,
    IntArray,
    checked_items,
    checked_sizes,
    lexicographic_order,
    token_dtype,
)


def compact(values: Tensor, kept: Tensor, n: int) -> Tensor:
    """`values[kept]` for a mask that is known to have `n` true entries: int64 `[n]`, and no device is asked for it."""
    position = torch.where(kept, kept.flatten().cumsum(0).view_as(kept) - 1, n)
    return values.new_empty(n + 1).scatter_(0, position.flatten(), values.flatten())[:n]


def _repeated(ascending: Tensor) -> Tensor:
    """bool `[B, S]`: is a number the same as the one before it in its row?"""
    repeated = torch.zeros_like(ascending, dtype=torch.bool)
    torch.eq(ascending[:, 1:], ascending[:, :-1], out=repeated[:, 1:])
    return repeated


@dataclass(frozen=True)
class ExhaustedNodes:
    """Nodes with no item left below them when some items are taken away, for each of several rows of a batch.

    Made by `PrefixTrie.exhausted`.

    Attributes:
        keys: per level, and once more for the items themselves as positions in `items`: a sorted vector, equally long
            for every row, of `row * (N + 1) + node` for the N nodes of the level, each once; filled up with N.
        n_nodes: N of each.
        n_rows: rows of the batch.
    """

    keys: list[Tensor]
    n_nodes: tuple[int, ...]
    n_rows: int

    def has(self, level: int, rows: Tensor, nodes: Tensor) -> Tensor:
        """bool: are `nodes` of `level` exhausted for `rows`? Shapes that broadcast."""
        sorted_keys, keys = self.keys[level], rows * (self.n_nodes[level] + 1) + nodes
        index = torch.searchsorted(sorted_keys, keys).clamp_(max=len(sorted_keys) - 1)
        return sorted_keys[index] == keys

    def count(self, level: int, rows: Tensor, first: Tensor, count: Tensor) -> Tensor:
        """Number exhausted for `rows` of the nodes `first, …, first + count - 1` of `level`; shapes that broadcast."""
        base = rows * (self.n_nodes[level] + 1) + first
        return torch.searchsorted(self.keys[level], base + count) - torch.searchsorted(self.keys[level], base)

    @cached_property
    def _found(self) -> tuple[list[Tensor], list[Tensor], list[int]]:
        """Nodes `[n_rows, S]` of all levels, which of them to count, and how many: the device is asked once for all."""
        nodes, there = [], []
        for keys, n_nodes in zip(self.keys, self.n_nodes, strict=True):
            row = torch.arange(self.n_rows, device=keys.device)[:, None]
            node = keys.view(self.n_rows, len(keys) // max(self.n_rows, 1)) - row * (n_nodes + 1)
            nodes.append(node)
            there.append(node < n_nodes)
        return nodes, there, torch.stack([each.sum() for each in there]).tolist()

    def pairs(self, level: int) -> tuple[Tensor, Tensor]:
        """Rows and exhausted nodes of `level`, each `[n]`, every pair once."""
        nodes, there, counts = self._found
        node, kept, n = nodes[level], there[level], counts[level]
        row = torch.arange(self.n_rows, device=node.device)[:, None].expand_as(node)
        return compact(row, kept, n), compact(node, kept, n)


class PrefixTrie:
    """Every prefix of every semantic ID of a catalogue, level by level in lexicographic order.

    A node of level `l` (0-based) is a prefix of `l + 1` codewords; the root stands above level 0. The leaves, the nodes
    of level `depth - 1`, are the distinct semantic IDs. Items are kept in the order of their leaves; items on the same
    ID (duplicates) follow each other in ascending item number. Build one with `from_codes`.

    Attributes:
        level_sizes: codebook size of each level.
        tokens: per level, codeword of each node `[N_l]`, in the smallest integer type that holds the level's codes.
        ranges: per level, the children of each node in the next level; at the last level, its items as positions in
            `items`.
        items: item numbers in leaf order `[n_items]`, int32.
        n_nodes: number of nodes per level.
        max_degree: most children below one node, per level of the children (`max_degree[0]` is the root's); one more
            entry at the end counts the items of one semantic ID.
    """

    def __init__(
        self,
        level_sizes: Sequence[int],
        tokens: Sequence[Tensor],
        ranges: Sequence[ChildRanges],
        items: Tensor,
        max_degree: Sequence[int] | None = None,
    ) -> None:
        self.level_sizes = tuple(int(size) for size in level_sizes)
        self.tokens = list(tokens)
        self.ranges = list(ranges)
        self.items = items
        self.n_nodes = tuple(len(level) for level in self.tokens)
        if max_degree is None:
            max_degree = (self.n_nodes[0], *(ranges.max_count() for ranges in self.ranges))
        self.max_degree = tuple(max_degree)
        self._position: Tensor | None = None
        self._dense: dict[int, Tensor] = {}

    @classmethod
    def from_codes(cls, codes: IntArray, level_sizes: Sequence[int] | int, items: IntArray | None = None) -> PrefixTrie:
        """Build the trie of a catalogue, on the CPU.

        Args:
            codes: integers `[n_items, id_length]`, one row per item; equal rows share a leaf.
            level_sizes: codebook size of each level, or one for all.
            items: distinct positive item numbers `[n_items]` of the rows; by default 1, 2, …

        Raises:
            ValueError: an empty catalogue, an impossible shape, a code outside its codebook, a bad item number.
        """
        codes = np.asarray(codes)
        sizes, n_items = checked_sizes(codes, level_sizes), len(codes)
        items = np.arange(1, n_items + 1) if items is None else checked_items(items, n_items)
        # Ties are kept in ascending order of their item numbers.
        rows = None if (np.diff(items) > 0).all() else np.argsort(items)
        order = lexicographic_order(codes if rows is None else codes[rows], sizes)
        order = order if rows is None else rows[order]
        tokens, ranges = [], []
        new = np.zeros(n_items, dtype=bool)  # does row i of the sorted catalogue open a node of this level?
        new[0] = True
        starts_above = np.zeros(1, dtype=np.int64)
        for level, size in enumerate(sizes):
            column = codes[order, level].astype(token_dtype(size))
            new[1:] |= column[1:] != column[:-1]
            starts = np.flatnonzero(new)
            ranges.append(ChildRanges.from_starts(starts_above, starts, n_items))
            tokens.append(torch.from_numpy(column[starts]))
            starts_above = starts
        ranges.append(ChildRanges.from_starts(starts_above, np.arange(n_items), n_items))
        return cls(sizes, tokens, ranges[1:], torch.from_numpy(items[order].astype(np.int32)))

    @property
    def depth(self) -> int:
        """Codewords per semantic ID."""
        return len(self.level_sizes)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def device(self) -> torch.device:
        return self.items.device

    @property
    def has_duplicates(self) -> bool:
        """Do several items share a semantic ID?"""
        return self.max_degree[-1] > 1

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, item numbers included."""
        arrays = [self.items, *self.tokens, *(a for level in self.ranges for a in level.arrays().values())]
        return sum(array.numel() * array.element_size() for array in arrays)

    def to(self, device: torch.device | str) -> PrefixTrie:
        """The same trie on `device`; itself if it is there already."""
        if torch.device(device) == self.device:
            return self
        return PrefixTrie(
            self.level_sizes,
            [level.to(device) for level in self.tokens],
            [level.to(device) for level in self.ranges],
            self.items.to(device),
            self.max_degree,
        )

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """First child and number of children of `nodes` (any shape, int64) of `level`, both int64.

        At the last level the children are items, as positions in `items`; level -1 is that of the root, node 0.
        """
        if level < 0:
            return torch.zeros_like(nodes), torch.full_like(nodes, self.n_nodes[0])
        ranges = self.ranges[level]
        first = ranges.first(nodes)
        return first, ranges.first(nodes + 1) - first

    def item_range(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in `items`, from and up to, of all the items below `nodes` of `level`."""
        low, high = nodes, nodes + 1
        for ranges in self.ranges[level:]:
            low, high = ranges.first(low), ranges.first(high)
        return low, high

    def parent(self, level: int, nodes: Tensor) -> Tensor:
        """Parents, at `level - 1`, of `nodes` of `level`; with `level == depth` the leaves of positions in `items`.

        A node number one past the last one (a sentinel) has the parent number one past the last one.
        """
        return self.ranges[level - 1].parent(nodes)

    def position(self, items: Tensor) -> Tensor:
        """Positions in `items` of item numbers (any shape); `n_items` for a number outside the catalogue, 0 too."""
        if self._position is None:
            # Kept after the first use: only the exclusion of items needs it, 4 bytes per item.
            self._position = torch.full((int(self.items.max()) + 1,), self.n_items, dtype=torch.int32)
            self._position = self._position.to(self.device)
            self._position[self.items.long()] = torch.arange(self.n_items, dtype=torch.int32, device=self.device)
        known = (items >= 0) & (items < len(self._position))
        found = self._position[torch.where(known, items, 0)].long()
        return torch.where(known, found, self.n_items)

    def exhausted(self, items: Tensor) -> ExhaustedNodes:
        """Nodes without an item left when `items` `[B, S]` are taken away, row by row; unknown numbers are ignored."""
        if items.shape[1] == 0:
            items = items.new_zeros((len(items), 1))
        position = self.position(items).sort(1).values
        position = torch.where(_repeated(position), self.n_items, position).sort(1).values
        rows = torch.arange(len(items), device=items.device)[:, None]
        keys = [(rows * (self.n_items + 1) + position).flatten()]
        node = position
        for level in range(self.depth - 1, -1, -1):
            node = self.parent(level + 1, node)
            n_nodes = self.n_nodes[level]
            inside = node < n_nodes
            n_gone = torch.searchsorted(node, node, right=True) - torch.searchsorted(node, node)
            low, high = self.item_range(level, torch.where(inside, node, 0))
            inside &= (n_gone == high - low) & ~_repeated(node)
            empty = torch.where(inside, node, n_nodes).sort(1).values
            keys.append((rows * (n_nodes + 1) + empty).flatten())
        return ExhaustedNodes(keys[::-1], (*self.n_nodes, self.n_items), len(items))

    def leaf_of(self, items: Tensor) -> Tensor:
        """The leaf (semantic ID) of item numbers (any shape); one past the last leaf for a number outside."""
        return self.parent(self.depth, self.position(items))

    def dense_children(self, level: int) -> Tensor:
        """Child of each node of `level` by codeword, `[N_level, level_sizes[level + 1]]` int32, -1 for none.

        Built at the first use and kept: for levels with few nodes only.
        """
        if level not in self._dense:
            table = torch.full(
                (self.n_nodes[level], self.level_sizes[level + 1]), -1, dtype=torch.int32, device=self.device
            )
            child = torch.arange(self.n_nodes[level + 1], device=self.device)
            table[self.parent(level + 1, child), self.tokens[level + 1].long()] = child.int()
            self._dense[level] = table
        return self._dense[level]

    def find(self, codes: Tensor) -> Tensor:
        """Leaf of each semantic ID `[…, depth]`, -1 where it belongs to no item: int64 `[…]`.

        A shorter last dimension finds prefixes instead, as nodes of its level.
        """
        shape = codes.shape[:-1]
        node = torch.zeros(shape, dtype=torch.long, device=codes.device)
        found = torch.ones(shape, dtype=torch.bool, device=codes.device)
        for level in range(codes.shape[-1]):
            low, count = self.children(level - 1, node)
            wanted = codes[..., level]
            tokens, last = self.tokens[level], self.n_nodes[level] - 1
            # Binary search inside [low, low + count): the smallest child whose codeword is not below the wanted one.
            left, right = low, low + count
            for _ in range(self.max_degree[level].bit_length()):
                middle = (left + right) // 2
                below = (tokens[middle.clamp(max=last)].long() < wanted) & (left < right)
                left = torch.where(below, middle + 1, left)
                right = torch.where(below, right, torch.where(left < right, middle, right))
            node = left.clamp(max=last)
            found = found & (left < low + count) & (tokens[node].long() == wanted)
        return torch.where(found, node, -1)

    def next_codes(self, prefix: Sequence[int]) -> Tensor:
        """Codewords that may follow `prefix` (shorter than an ID), ascending int64; empty for an unknown prefix."""
        if len(prefix) >= self.depth:
            raise ValueError(f"no codeword follows a whole semantic ID of {self.depth}")
        node = self.find(torch.tensor(list(prefix), dtype=torch.long, device=self.device))
        if node < 0:
            return torch.empty(0, dtype=torch.long, device=self.device)
        first, count = self.children(len(prefix) - 1, node)
        return self.tokens[len(prefix)][int(first) : int(first + count)].long()

    def first_item(self, leaves: Tensor) -> Tensor:
        """Smallest item number on each of `leaves` (any shape), int64."""
        return self.items[self.children(self.depth - 1, leaves)[0]].long()

    def paths(self) -> Tensor:
        """Nodes of all levels on the way to each item, `[n_items, depth]` int64 in the order of `items`."""
        node = torch.arange(self.n_items, device=self.device)
        columns = []
        for level in range(self.depth, 0, -1):
            node = self.parent(level, node)
            columns.append(node)
        return torch.stack(columns[::-1], 1)

    def codes(self) -> Tensor:
        """Semantic IDs `[n_items, depth]` int64 in the order of `items`."""
        return torch.stack([tokens[node].long() for tokens, node in zip(self.tokens, self.paths().T, strict=True)], 1)
