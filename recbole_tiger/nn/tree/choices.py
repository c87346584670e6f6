"""What a batch chooses among at each level of a tree, laid out before anything is computed.

Input: a tree and the paths of the items of a batch. Output: index tensors whose sizes depend on the data. A device is
asked for all these sizes at once: it finishes what it has to do before it answers, and waits for work afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_tiger.decoding.trie import ExhaustedNodes, compact
from recbole_tiger.nn.tree.item_tree import ItemTree
from recbole_tiger.nn.tree.ragged import ChildBlocks, block_sizes


@dataclass(frozen=True)
class Choices:
    """The choices of a level.

    Attributes:
        rows: `[n]` rows of the batch that have a choice, in ascending order of the node that they choose below; None:
            all rows, as they come.
        blocks: the children of these nodes; None where the rows are as they come.
        repeated: positions among the rows and nodes, each `[m]`, of nodes beside the rows' paths all of whose items
            have been seen; None without `seen`.
    """

    rows: Tensor | None
    blocks: ChildBlocks | None
    repeated: tuple[Tensor, Tensor] | None


def choices_of(
    tree: ItemTree, paths: Tensor, seen: ExhaustedNodes | None, *, branching: bool, by_node: bool
) -> list[Choices | None]:
    """The choices of all levels, None where no row has any.

    Args:
        paths: `[N, L]` nodes of the rows' items at each level.
        seen: nodes all of whose items each row has seen, or None.
        branching: only rows below whose node there is more than one child have a choice.
        by_node: rows are laid out by their node at levels from 1 on.
    """
    drafts = [_Draft.of(tree, level, paths, seen, branching, by_node) for level in range(tree.trie.depth)]
    counts = [count for draft in drafts for count in draft.counts]
    sizes: list[int] = torch.stack(counts).tolist() if counts else []
    found = []
    for draft in drafts:
        own, sizes = sizes[: len(draft.counts)], sizes[len(draft.counts) :]
        found.append(draft.finish(own))
    return found


@dataclass(frozen=True)
class _Draft:
    """A level before its sizes are known: what counts them, and what makes its choices of them."""

    counts: list[Tensor]
    finish: Callable[[list[int]], Choices | None]

    @classmethod
    def of(
        cls, tree: ItemTree, level: int, paths: Tensor, seen: ExhaustedNodes | None, branching: bool, by_node: bool
    ) -> _Draft:
        if level and branching and tree.trie.max_degree[level] == 1:
            return cls([], lambda sizes: None)
        row = node = beside = None
        if seen is not None:
            row, node = seen.pairs(level)
            if level:
                beside = tree.trie.parent(level, node) == paths[row, level - 1]
        if not (level and by_node):
            return cls(*_as_they_come(row, node, beside))
        above = paths[:, level - 1]
        order = above.argsort(stable=True)
        nodes = above.index_select(0, order)
        n_children = tree.count[level].index_select(0, nodes)
        kept = n_children > 1 if branching else torch.ones_like(n_children, dtype=torch.bool)
        counts = [*block_sizes(nodes, n_children, kept).unbind()]
        if row is not None and beside is not None:
            position = torch.empty_like(order).scatter_(0, order, torch.where(kept, kept.cumsum(0) - 1, -1))
            row = position.index_select(0, row)
            beside &= row >= 0
            counts.append(beside.sum())

        def finish(sizes: list[int]) -> Choices | None:
            n_rows, n_blocks, n_child, n_pairs, *n_repeated = sizes
            if not n_rows:
                return None
            blocks = ChildBlocks.of(
                compact(nodes, kept, n_rows), tree.first[level], tree.count[level], (n_blocks, n_child, n_pairs)
            )
            repeated = _chosen(row, node, beside, n_repeated)
            return Choices(compact(order, kept, n_rows), blocks, repeated)

        return cls(counts, finish)


def _as_they_come(
    row: Tensor | None, node: Tensor | None, beside: Tensor | None
) -> tuple[list[Tensor], Callable[[list[int]], Choices]]:
    """Counts and `finish` of a level whose rows are not laid out."""
    counts = [] if beside is None else [beside.sum()]
    return counts, lambda sizes: Choices(None, None, _chosen(row, node, beside, sizes))


def _chosen(
    row: Tensor | None, node: Tensor | None, beside: Tensor | None, size: list[int]
) -> tuple[Tensor, Tensor] | None:
    if row is None or node is None:
        return None
    if beside is None:
        return row, node
    return compact(row, beside, size[0]), compact(node, beside, size[0])
