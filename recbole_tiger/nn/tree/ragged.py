"""Products and softmaxes over lists of different lengths: the children of trie nodes, mostly few and sometimes many.

Input: rows that each have a list of children. Output: an inner product of every row with each of its children, and
`logsumexp` of each list, with derivatives; nothing is padded. What the rows of a batch choose among at each level of a
tree is laid out before anything is computed: a device is asked for all sizes that depend on the data at once, since it
finishes what it has to do before it answers, and waits for work afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tiger.decoding.trie import ExhaustedNodes, compact
from recbole_tiger.nn.tree.item_tree import ItemTree


def ranges(start: Tensor, count: Tensor, n: int | None = None) -> Tensor:
    """`start[i], start[i] + 1, …, start[i] + count[i] - 1` for every i, one after the other: int64 `[count.sum()]`.

    Where that sum is known as `n`, the device is not asked for it.
    """
    ends = count.cumsum(0)
    owner = torch.repeat_interleave(count, output_size=n)
    return torch.arange(len(owner), device=count.device) + (start - ends + count).index_select(0, owner)


@dataclass(frozen=True)
class ChildBlocks:
    """Rows that belong to nodes of one level, each paired with all the children of its node.

    Rows are in ascending order of their node, so that rows and children of a node are both contiguous: the pairs are
    dense blocks, one per distinct node, and both directions of the pairing are index arithmetic.
    """

    child: Tensor  # [S] children of the distinct nodes, ascending
    row_start: Tensor  # [N + 1] first pair of each row
    column: Tensor  # [M] position in `child` of each pair, row by row
    child_start: Tensor  # [S + 1] first pair of each child when they are listed child by child
    child_row: Tensor  # [M] row of each pair, child by child
    child_pair: Tensor  # [M] number of that pair, row by row

    @classmethod
    def of(cls, nodes: Tensor, first: Tensor, count: Tensor, sizes: tuple[int, int, int]) -> ChildBlocks:
        """Blocks of rows at `nodes` `[N]`, ascending; `first` and `count` give the children of every node.

        `sizes` are the last three of `block_sizes`.
        """
        n_blocks, n_child, n_pairs = sizes
        opens = _opens(nodes)
        block = opens.cumsum(0) - 1
        block_row = compact(torch.arange(len(nodes), device=nodes.device), opens, n_blocks)
        distinct = nodes[block_row]
        n_rows = torch.cat([block_row[1:], block_row.new_full((1,), len(nodes))]) - block_row
        n_children = count[distinct]
        block_child = n_children.cumsum(0) - n_children
        row_count = n_children[block]
        row_start = F.pad(row_count.cumsum(0), (1, 0))
        child_block = torch.repeat_interleave(n_children, output_size=n_child)
        child_count = n_rows[child_block]
        child_row = ranges(block_row[child_block], child_count, n_pairs)
        within = torch.arange(n_child, device=nodes.device) - block_child[child_block]
        return cls(
            child=ranges(first[distinct], n_children, n_child),
            row_start=row_start,
            column=ranges(block_child[block], row_count, n_pairs),
            child_start=F.pad(child_count.cumsum(0), (1, 0)),
            child_row=child_row,
            child_pair=row_start[child_row] + torch.repeat_interleave(within, child_count, output_size=n_pairs),
        )


def _opens(nodes: Tensor) -> Tensor:
    """bool `[N]`: is a node of an ascending list another than the one before?"""
    opens = torch.ones_like(nodes, dtype=torch.bool)
    torch.ne(nodes[1:], nodes[:-1], out=opens[1:])
    return opens


def block_sizes(nodes: Tensor, n_children: Tensor, kept: Tensor) -> Tensor:
    """Rows, distinct nodes, children of these, and pairs of rows and children: int64 `[4]`.

    Args:
        nodes, n_children: of each row, `[N]`, by ascending node.
        kept: bool `[N]`, whether a row counts; the same for all rows of a node.
    """
    opens = _opens(nodes) & kept
    return torch.stack([kept.sum(), opens.sum(), (n_children * opens).sum(), (n_children * kept).sum()])


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
    levels = [_of_level(tree, level, paths, seen, branching, by_node) for level in range(tree.trie.depth)]
    counts = [next(level) for level in levels]
    asked = [count for of_level in counts for count in of_level]
    sizes = iter(torch.stack(asked).tolist() if asked else [])
    found: list[Choices | None] = []
    for level, of_level in zip(levels, counts, strict=True):
        try:
            level.send([next(sizes) for _ in of_level])
        except StopIteration as done:
            found.append(done.value)
    return found


def _of_level(
    tree: ItemTree, level: int, paths: Tensor, seen: ExhaustedNodes | None, branching: bool, by_node: bool
) -> Generator[list[Tensor], list[int], Choices | None]:
    """The choices of a level: yields what counts their sizes, is sent these and returns the choices."""
    if level and branching and tree.trie.max_degree[level] == 1:
        yield []
        return None
    row = node = beside = None
    if seen is not None:
        row, node = seen.pairs(level)
        if level:
            beside = tree.trie.parent(level, node) == paths[row, level - 1]
    if not (level and by_node):
        size = yield [] if beside is None else [beside.sum()]
        return Choices(None, None, _chosen(row, node, beside, size))
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
    n_rows, n_blocks, n_child, n_pairs, *n_repeated = yield counts
    if not n_rows:
        return None
    sizes = n_blocks, n_child, n_pairs
    blocks = ChildBlocks.of(compact(nodes, kept, n_rows), tree.first[level], tree.count[level], sizes)
    return Choices(compact(order, kept, n_rows), blocks, _chosen(row, node, beside, n_repeated))


def _chosen(
    row: Tensor | None, node: Tensor | None, beside: Tensor | None, size: list[int]
) -> tuple[Tensor, Tensor] | None:
    if row is None or node is None:
        return None
    if beside is None:
        return row, node
    return compact(row, beside, size[0]), compact(node, beside, size[0])


def sampled_products(rows: Tensor, columns: Tensor, row_start: Tensor, column: Tensor) -> Tensor:
    """`rows[i] · columns[column[m]]` for the pairs `m` from `row_start[i]` up to `row_start[i + 1]`: `[M]`.

    Without derivative. Args: rows `[N, d]`, columns `[S, d]`, row_start `[N + 1]`, column `[M]`. Numbers of 16 bits are
    multiplied in float32: torch's product of sparse patterns has no other kernel for them on CUDA.
    """
    if rows.dtype in (torch.bfloat16, torch.float16):
        return sampled_products(rows.float(), columns.float(), row_start, column).to(rows.dtype)
    pattern = torch.sparse_csr_tensor(
        row_start, column, rows.new_zeros(len(column)), (len(rows), len(columns)), check_invariants=False
    )
    products: Tensor = torch.sparse.sampled_addmm(pattern, rows, columns.t(), beta=0.0).values()
    return products


class _PairProducts(torch.autograd.Function):
    """`sampled_products` over blocks, with derivatives that compute nothing but the pairs either."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, children: Tensor, blocks: ChildBlocks) -> Tensor:
        ctx.save_for_backward(rows, children)
        ctx.blocks = blocks
        return sampled_products(rows, children, blocks.row_start, blocks.column)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (rows, children), blocks = ctx.saved_tensors, ctx.blocks
        gradient = gradient.contiguous()
        of_rows = of_children = None
        if ctx.needs_input_grad[0]:
            of_rows = F.embedding_bag(
                blocks.column,
                children,
                blocks.row_start,
                mode="sum",
                per_sample_weights=gradient,
                include_last_offset=True,
            )
        if ctx.needs_input_grad[1]:
            of_children = F.embedding_bag(
                blocks.child_row,
                rows,
                blocks.child_start,
                mode="sum",
                per_sample_weights=gradient.index_select(0, blocks.child_pair),
                include_last_offset=True,
            )
        return of_rows, of_children, None


def pair_products(rows: Tensor, children: Tensor, blocks: ChildBlocks) -> Tensor:
    """Inner product of each row `[N, d]` with each of its children `[S, d]`: `[M]`, row by row."""
    products: Tensor = _PairProducts.apply(rows, children, blocks)  # type: ignore[no-untyped-call]
    return products


def segment_log_sum_exp(values: Tensor, start: Tensor) -> Tensor:
    """`logsumexp` of each segment `values[start[i]:start[i + 1]]`, none of which is empty: `[N]`."""
    count = start.diff()
    owner = torch.repeat_interleave(count, output_size=len(values))
    highest = values.new_full((len(count),), -torch.inf).scatter_reduce_(0, owner, values.detach(), "amax")
    total = torch.zeros_like(highest).index_add(0, owner, (values - highest.index_select(0, owner)).exp())
    return total.log() + highest


def silence_sparse_warning() -> None:
    """Spend torch's once-per-process warning that sparse CSR tensors are in beta: their products are tested here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.zeros(0, dtype=torch.long), torch.zeros(0), (1, 1))
