"""Arrays of a prefix trie, and how they are built on the CPU: checks of a catalogue's codes, and one sort.

Input: codes `[n_items, id_length]`, codebook sizes and item numbers. Output: what a `PrefixTrie` is built of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.integer[Any]]
Rows = npt.NDArray[np.int64]

MAX_DEPTH = 65
MAX_CODEBOOK = 65_536
# Rows of the catalogue fit into the low bits of a sort key, and their numbers into int32.
_MAX_ITEMS = 2**31 - 2


@dataclass(frozen=True)
class ChildRanges:
    """Where the children of each of the N nodes of one level stand in the next level.

    `offsets` [N + 1] int32: node `i` has the children `offsets[i]` up to `offsets[i + 1]`. Deep levels are mostly
    chains, where storing only the nodes that branch is smaller: `branching` [m] are their numbers, `extra` [m] how many
    children beyond one each all up to and including this one have. Neither: every node has one child, its own number.
    """

    offsets: Tensor | None = None
    branching: Tensor | None = None
    extra: Tensor | None = None

    @classmethod
    def from_starts(cls, above: npt.NDArray[np.int64], below: npt.NDArray[np.int64], n_items: int) -> ChildRanges:
        """Ranges from the rows of the sorted catalogue at which the nodes of a level and of the next one start."""
        if len(above) == len(below):
            return cls()
        offsets = np.searchsorted(below, np.append(above, n_items))
        branching = np.flatnonzero(np.diff(offsets) > 1)
        if 4 * len(branching) > len(above):
            return cls(offsets=torch.from_numpy(offsets.astype(np.int32)))
        extra = offsets[branching + 1] - (branching + 1)
        return cls(
            branching=torch.from_numpy(branching.astype(np.int32)),
            extra=torch.from_numpy(extra.astype(np.int32)),
        )

    def arrays(self) -> dict[str, Tensor]:
        """The arrays that there are, by name."""
        named = {"offsets": self.offsets, "branching": self.branching, "extra": self.extra}
        return {name: array for name, array in named.items() if array is not None}

    def to(self, device: torch.device | str) -> ChildRanges:
        """The same ranges on `device`."""
        return ChildRanges(**{name: array.to(device) for name, array in self.arrays().items()})

    def first(self, nodes: Tensor) -> Tensor:
        """First child of `nodes` (int64, any shape, N allowed), int64."""
        if self.offsets is not None:
            return self.offsets[nodes].long()
        if self.branching is None or self.extra is None:
            return nodes
        before = torch.searchsorted(self.branching, nodes.int())  # branching nodes with a smaller number
        return nodes + torch.where(before > 0, self.extra[(before - 1).clamp_(min=0)], 0)

    def parent(self, children: Tensor) -> Tensor:
        """Node of each of `children` (int64, any shape); one number past the last child gives N."""
        if self.offsets is not None:
            return torch.searchsorted(self.offsets, children.int(), right=True) - 1
        if self.branching is None or self.extra is None:
            return children
        first = self.first(self.branching.long()).int()
        at = torch.searchsorted(first, children.int(), right=True) - 1  # the last branching node that starts here
        near = at.clamp(min=0)
        node = torch.maximum(self.branching[near].long(), children - self.extra[near])
        return torch.where(at >= 0, node, children)

    def max_count(self) -> int:
        """Most children of one node."""
        if self.offsets is not None:
            return int(self.offsets.diff().max())
        if self.extra is None:
            return 1
        return 1 + int(self.extra.diff(prepend=self.extra.new_zeros(1)).max())


def checked_sizes(codes: IntArray, level_sizes: Sequence[int] | int) -> list[int]:
    """Codebook size of each level, once the codes are found to fit."""
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes must be integers [n_items, id_length], but they are {codes.dtype} {list(codes.shape)}")
    n_items, depth = codes.shape
    if n_items == 0:
        raise ValueError("the catalogue is empty: a prefix trie needs at least one item")
    if n_items > _MAX_ITEMS:
        raise ValueError(f"a prefix trie holds at most {_MAX_ITEMS} items, but there are {n_items}")
    if not 1 <= depth <= MAX_DEPTH:
        raise ValueError(f"a semantic ID has 1 to {MAX_DEPTH} codewords, but codes has {depth} columns")
    sizes = [int(size) for size in np.atleast_1d(level_sizes)]
    if np.ndim(level_sizes) == 0:
        sizes *= depth
    if len(sizes) != depth:
        raise ValueError(f"level_sizes names {len(sizes)} codebooks, but the semantic IDs have {depth} codewords")
    for level, size in enumerate(sizes):
        if not 1 <= size <= MAX_CODEBOOK:
            raise ValueError(f"codebook size {size} of level {level} is not between 1 and {MAX_CODEBOOK}")
        low, high = int(codes[:, level].min()), int(codes[:, level].max())
        if low < 0 or high >= size:
            raise ValueError(f"level {level} has codes from {low} to {high}, outside its codebook of {size}")
    return sizes


def checked_items(items: IntArray, n_items: int) -> Rows:
    """Item numbers of the rows, once they are found to be distinct and in range."""
    items = np.asarray(items)
    if items.shape != (n_items,) or not np.issubdtype(items.dtype, np.integer):
        raise ValueError(f"items must be {n_items} integers, one per row of codes")
    if items.min() < 1 or items.max() > _MAX_ITEMS:
        raise ValueError(f"item numbers must lie between 1 and {_MAX_ITEMS}; 0 is padding")
    if len(np.unique(items)) < n_items:
        raise ValueError("items holds a number twice: one item has one semantic ID")
    return items.astype(np.int64)


def lexicographic_order(codes: IntArray, sizes: Sequence[int]) -> Rows:
    """Stable order of the rows of `codes`, by one 64-bit key where it fits, by several where not."""
    n_items, depth = codes.shape
    row_bits = max(1, (n_items - 1).bit_length())
    keys: list[Rows] = []
    bits = 64
    for level in range(depth):
        width = max(1, (sizes[level] - 1).bit_length())
        if bits + width > 63:
            keys.append(codes[:, level].astype(np.int64))
            bits = width
        else:
            keys[-1] <<= width
            keys[-1] |= codes[:, level].astype(np.int64, copy=False)
            bits += width
    if len(keys) == 1 and bits + row_bits <= 63:
        # The row number in the low bits makes every key distinct: a plain sort is stable and carries the order along.
        key = keys[0]
        key <<= row_bits
        key |= np.arange(n_items)
        key.sort()
        key &= (1 << row_bits) - 1
        return key
    order: Rows = np.lexsort(keys[::-1])
    return order


def token_dtype(size: int) -> type[np.generic]:
    """Smallest integer type that holds the codes of a codebook and that torch has."""
    if size <= 2**8:
        return np.uint8
    return np.int16 if size <= 2**15 else np.int32
