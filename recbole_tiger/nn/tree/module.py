"""What networks over the tree of a catalogue share: embeddings of nodes and items, a softmax over a prefix's children.

Input: hidden states, one per item and level. Output: cross-entropies and log-likelihoods of the items' Semantic IDs. It
is the hierarchical softmax of Morin & Bengio (2005) on a tree made of item content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.decoding.trie import ExhaustedNodes
from recbole_tiger.nn.content_map import ContentMap
from recbole_tiger.nn.tree.item_softmax import item_cross_entropy
from recbole_tiger.nn.tree.item_tree import ABSENT, ItemTree
from recbole_tiger.nn.tree.node_vectors import NodeVectors
from recbole_tiger.nn.tree.ragged import (
    ChildBlocks,
    Choices,
    choices_of,
    pair_products,
    ranges,
    sampled_products,
    segment_log_sum_exp,
    silence_sparse_warning,
)

#: What the softmax of a level is over: the children of the prefix, or all codewords of the level.
Over = Literal["children", "level"]
#: What content does for the embeddings of nodes: nothing; they start at its map (True); or the map is a part of them.
ContentNodes = Literal[False, True, "map"]
#: Hidden states `[n, d]` at a level, of the rows `[n]` of a batch (None: of all rows).
HiddenOf = Callable[[int, "Tensor | None"], Tensor]
_Self = TypeVar("_Self", bound="TreeModule")

# A repetition's logit is a parameter times this: where nobody repeats, it goes far below zero in a few passes.
_REPEAT_SCALE = 20.0


@dataclass(frozen=True)
class RepeatedChildren:
    """Children of beams' nodes of which a user has interacted with all items; all `[n]`."""

    user: Tensor
    beam: Tensor
    node: Tensor


class TreeModule(nn.Module):
    """A network with embeddings of the nodes and items of a tree beside those of codewords.

    A node's logit is that of its codeword plus, with node embeddings, the inner product of the hidden state with the
    node's. The tables start at zero: what is never trained has no embedding but its codewords'. They belong to the tree
    that they were made for; `use` points the network at a catalogue with more items.

    A subclass calls `make_tables` in its `__init__` and defines `codeword_embedding`, and `whole_item_embedding` for a
    loss over all items. `seen` are the nodes of which a row has interacted with all items, None where it has no effect.

    Attributes:
        tree: what is read and scored.
        trained_tree: what the tables were made for.
        node_tables: per level from 1 on, `[n_rows, d]`; empty without node embeddings.
        item_table: `[n_items + 1, d]`, or None.
        content: the map of item content that is a part of every item's embedding, new items' too, or None.
        node_vectors: content of nodes, where the map of it is a part of their embeddings, or None.
        repeat_weight: None, or `[L + 1]`: what having interacted with all items of a node adds to its logit, for the
            nodes of each level and at the end for items, in units of `_REPEAT_SCALE`.
    """

    tree: ItemTree
    trained_tree: ItemTree
    node_tables: nn.ParameterDict
    item_table: nn.Parameter | None
    content: ContentMap | None
    node_vectors: NodeVectors | None
    repeat_weight: nn.Parameter | None
    sparse_gradients = False

    def make_tables(self, tree: ItemTree, width: int, *, nodes: bool, items: bool, repeats: bool = False) -> None:
        """Tables of zeros for the nodes and the items of a tree and for repetitions, where they are wanted."""
        silence_sparse_warning()
        self.trained_tree = self.tree = tree
        self.node_tables = nn.ParameterDict()
        if nodes:
            for level, n_rows in tree.n_rows.items():
                self.node_tables[str(level)] = nn.Parameter(torch.zeros(n_rows, width))
        self.item_table = nn.Parameter(torch.zeros(len(tree.codes), width)) if items else None
        self.repeat_weight = nn.Parameter(torch.zeros(tree.trie.depth + 1)) if repeats else None
        self.content = self.node_vectors = None

    def read_content(self, vectors: Tensor, width: int, nodes: ContentNodes) -> None:
        """Let items have content. A subclass calls this last, so that with one seed all else starts as without it.

        Args:
            vectors: `[n_items + 1, dim]`, see `ContentMap`.
            width: of an item's embedding.
            nodes: what the mean of the vectors below a node does for its embedding.
        """
        self.content = ContentMap(vectors, width)
        if not nodes:
            return
        self.node_vectors = NodeVectors(vectors, self.tree)
        if nodes != "map":
            with torch.no_grad():
                for level, table in self.node_tables.items():
                    table[self.tree.node_rows[int(level)]] = self._node_content(int(level))
                    table[ABSENT] = 0
            self.node_vectors = None

    def codeword_embedding(self, level: int, codes: Tensor) -> Tensor:
        """What a hidden state is multiplied with for the logits of codes (any shape) of a level: `[…, d]`."""
        raise NotImplementedError

    def whole_item_embedding(self, items: Tensor) -> Tensor:
        """What a state is multiplied with for the logits of `items` `[n]` in the softmax over all items: `[n, d]`."""
        raise NotImplementedError

    def _apply(self: _Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = next(self.parameters()).device
        self.trained_tree = self.trained_tree.to(device)
        self.tree = self.tree.to(device)
        return self

    def use(self, codes: npt.NDArray[np.int64], level_sizes: Sequence[int], item_rows: Tensor) -> None:
        """Read and score the items of another table: of more items than the network was trained with.

        Where items have content, `use_content` with that of the same items follows.

        Args:
            codes: int64 `[n + 1, L]`, padding in row 0.
            level_sizes: codewords per level.
            item_rows: `[n + 1]` number that each item had in training, 0 for one that was not there.
        """
        device = next(self.parameters()).device
        self.tree = ItemTree(codes, level_sizes, self.trained_tree, item_rows).to(device)

    def use_content(self, vectors: Tensor) -> None:
        """Read other `vectors` `[n + 1, dim]`: of the items of `tree`."""
        assert self.content is not None, "the network reads content"
        self.content.vectors = vectors.to(self.content.weight.device)
        if self.node_vectors is not None:
            self.node_vectors = NodeVectors(self.content.vectors, self.tree)

    def level_codewords(self, level: int) -> Tensor:
        """Output embeddings of all codewords of a level, `[V, d]`."""
        codes = torch.arange(self.tree.trie.level_sizes[level], device=self.tree.codes.device)
        return self.codeword_embedding(level, codes)

    def child_embedding(self, level: int, nodes: Tensor) -> Tensor:
        """What a hidden state is multiplied with for the logits of `nodes` `[S]` of a level from 1 on: `[S, d]`.

        The map of their content is apart, see `_block_products`.
        """
        embedded = self.codeword_embedding(level, self.tree.trie.tokens[level].index_select(0, nodes).long())
        return embedded + self._node_embedding(level, nodes) if self.node_tables else embedded

    def _node_embedding(self, level: int, nodes: Tensor) -> Tensor:
        return self.table_rows(self.node_tables[str(level)], self.tree.node_rows[level].index_select(0, nodes))

    def _node_content(self, level: int) -> Tensor:
        """The map of the content of all nodes of a level: `[n_nodes, d]`."""
        assert self.content is not None
        return self.content.map(self._vectors_of(level, torch.arange(self.tree.trie.n_nodes[level])))

    def _vectors_of(self, level: int, nodes: Tensor) -> Tensor:
        assert self.content is not None and self.node_vectors is not None, "nodes have content"
        vectors: Tensor = self.node_vectors(self.content.vectors, level, nodes.to(self.content.vectors.device))
        return vectors

    @property
    def nodes_add(self) -> bool:
        """Whether nodes from level 1 on add to the logits of their codewords."""
        return bool(self.node_tables) or self.node_vectors is not None

    def _block_products(self, level: int, hidden: Tensor, own: Tensor | None, blocks: ChildBlocks) -> Tensor:
        """Inner products of rows with their children's embeddings `own` `[S, d]` plus the map of their content: `[M]`.

        A hidden state goes backwards through the map, not the vectors of all children through it: those are more.
        """
        parts = [] if own is None else [pair_products(hidden, own, blocks)]
        if self.node_vectors is not None and self.content is not None:
            rows = hidden @ self.content.weight
            parts.append(pair_products(rows, self._vectors_of(level, blocks.child).to(rows.dtype), blocks))
        return reduce(add, parts)

    def node_products(self, level: int, hidden: Tensor, child: Tensor, start: Tensor) -> Tensor:
        """Inner products of hidden states with what nodes have beside their codewords: `[M]`, without derivative.

        Args:
            level: from 1 on.
            hidden: `[N, d]`.
            child: `[M]` nodes of the level.
            start: `[N + 1]`; those of row i are `child[start[i]:start[i + 1]]`.
        """
        if self.node_vectors is None or self.content is None:
            rows = self.tree.node_rows[level].index_select(0, child)
            return sampled_products(hidden, self.node_tables[str(level)], start, rows)
        nodes, column = child.unique(return_inverse=True)  # many beams have the same: they are mapped once
        added = self.content.map(self._vectors_of(level, nodes))
        if self.node_tables:
            added = added + self._node_embedding(level, nodes)
        return sampled_products(hidden, added, start, column)

    def with_first_content(self, logits: Tensor, hidden: Tensor) -> Tensor:
        """Logits `[…, V]` of level 0, whose nodes have no table, and what their content adds; `hidden` `[…, d]`."""
        if self.node_vectors is None:
            return logits
        return logits.index_add(-1, self.tree.trie.tokens[0].long(), hidden @ self._node_content(0).t())

    def table_rows(self, table: Tensor, rows: Tensor) -> Tensor:
        """Rows (any shape) of a node or item table; `ABSENT` is zero and never trained."""
        return F.embedding(rows, table, padding_idx=ABSENT, sparse=self.sparse_gradients)

    def item_rows(self, items: Tensor, dropped: float) -> Tensor:
        """Rows of `items` (any shape) in the item table; in training a share `dropped` is `ABSENT`, at random."""
        rows = self.tree.item_rows[items]
        if self.training and dropped:
            rows = torch.where(torch.rand(items.shape, device=items.device) < dropped, ABSENT, rows)
        return rows

    def beside_codewords(self, items: Tensor, dropped: float = 0.0) -> Tensor | None:
        """What items (any shape) have beside their codewords, `[…, d]`: an embedding of their own, and their content.

        None for neither; of the first a share `dropped` is left out in training.
        """
        own = None if self.item_table is None else self.table_rows(self.item_table, self.item_rows(items, dropped))
        if self.content is None:
            return own
        mapped: Tensor = self.content(items)
        return mapped if own is None else own + mapped

    def repeat_logit(self, level: int) -> Tensor:
        """What a repetition adds to the logit of a node of `level` (of an item: level L): a scalar."""
        assert self.repeat_weight is not None, "nothing is `seen` without a repeat bias"
        return _REPEAT_SCALE * self.repeat_weight[level]

    def level_losses(
        self, hidden_of: HiddenOf, items: Tensor, over: Over, smoothing: float, seen: ExhaustedNodes | None = None
    ) -> Iterator[tuple[Tensor | None, Tensor]]:
        """Cross-entropies of the codewords of `items` `[N]`, level by level.

        Args:
            hidden_of: the hidden states that the codewords are chosen by.
            over: what the softmax is over.
            smoothing: share of the target's probability that is spread over what the softmax is over.
            seen: of each of the N.

        Yields:
            the rows that have a choice at a level (None: all of them), and their cross-entropies.
        """
        codes = self.tree.codes.index_select(0, items)
        paths = self.tree.paths.index_select(0, items)
        by_node = over == "children" or self.nodes_add
        found = choices_of(self.tree, paths, seen, branching=over == "children", by_node=by_node)
        for level, choices in enumerate(found):
            if choices is None:  # where a prefix has one continuation there is nothing to choose: probability 1
                continue
            hidden = hidden_of(level, choices.rows)
            if over == "level":
                yield None, self._over_level(level, hidden, codes, choices, smoothing)
            elif level == 0:
                existing = self.codeword_embedding(0, self.tree.trie.tokens[0].long())
                if self.node_vectors is not None:
                    existing = existing + self._node_content(0)
                logits = hidden @ existing.t()
                if choices.repeated is not None:
                    logits = logits.index_put(choices.repeated, self.repeat_logit(0), accumulate=True)
                yield None, F.cross_entropy(logits, paths[:, 0], label_smoothing=smoothing, reduction="none")
            else:
                yield choices.rows, self._over_children(level, hidden, paths, choices, smoothing)

    def log_likelihoods(
        self, hidden_of: HiddenOf, items: Tensor, over: Over, seen: ExhaustedNodes | None = None
    ) -> Tensor:
        """Log-likelihood of each of `items` `[N]`: `[N]`."""
        total = torch.zeros(len(items), dtype=next(self.parameters()).dtype, device=items.device)
        for rows, part in self.level_losses(hidden_of, items, over, 0.0, seen):
            total = total - part if rows is None else total.index_add(0, rows, part, alpha=-1)
        return total

    def item_loss(self, states: Tensor, items: Tensor, seen: ExhaustedNodes | None = None) -> Tensor:
        """Mean cross-entropy over all items of `items` `[N]` after `states` `[N, d]`."""
        every = self.whole_item_embedding(torch.arange(1, len(self.tree.codes), device=items.device))
        repeated = added = None
        if seen is not None:
            depth = self.tree.trie.depth
            row, position = seen.pairs(depth)
            repeated, added = (row, self.tree.trie.items[position].long() - 1), self.repeat_logit(depth)
        return item_cross_entropy(states, every, items - 1, repeated, added)

    def item_logits(self, states: Tensor, items: Tensor, seen: ExhaustedNodes | None = None) -> Tensor:
        """Logits of `items` `[B, C]` in the softmax that `item_loss` trains, after `states` `[B, d]`: `[B, C]`."""
        wanted, index = torch.unique(items, return_inverse=True)
        logits = (states @ self.whole_item_embedding(wanted).t()).gather(1, index)
        if seen is None:
            return logits
        depth, rows = self.tree.trie.depth, torch.arange(len(items), device=items.device)[:, None]
        repeated = seen.has(depth, rows, self.tree.trie.position(items)) & (items > 0)
        return logits + repeated * self.repeat_logit(depth)

    def _over_children(self, level: int, hidden: Tensor, paths: Tensor, choices: Choices, smoothing: float) -> Tensor:
        """Cross-entropies over the children of the nodes that the rows of `choices` choose below."""
        assert choices.rows is not None and choices.blocks is not None, "rows are laid out by their node"
        first, blocks, paths = self.tree.first[level], choices.blocks, paths.index_select(0, choices.rows)
        above = paths[:, level - 1]
        logits = self._block_products(level, hidden, self.child_embedding(level, blocks.child), blocks)
        if choices.repeated is not None:
            row, node = choices.repeated
            pair = blocks.row_start[row] + node - first[above[row]]
            logits = logits.index_put((pair,), self.repeat_logit(level), accumulate=True)
        log_sum = segment_log_sum_exp(logits, blocks.row_start)
        chosen = logits.index_select(0, blocks.row_start[:-1] + paths[:, level] - first.index_select(0, above))
        if not smoothing:
            return log_sum - chosen
        n_children = blocks.row_start.diff()
        owner = torch.repeat_interleave(n_children, output_size=len(logits))
        mean = torch.zeros_like(log_sum).index_add(0, owner, logits) / n_children
        return log_sum - (1 - smoothing) * chosen - smoothing * mean

    def _over_level(self, level: int, hidden: Tensor, codes: Tensor, choices: Choices, smoothing: float) -> Tensor:
        """Cross-entropies over all codewords of a level, where those that lead to an item have what their nodes add."""
        rows, blocks = choices.rows, choices.blocks
        logits = hidden @ self.level_codewords(level).t()
        if level == 0:
            logits = self.with_first_content(logits, hidden)
        token = self.tree.trie.tokens[level].long()
        if blocks is not None:
            own = self._node_embedding(level, blocks.child) if self.node_tables else None
            added = self._block_products(level, hidden, own, blocks)
            owner = torch.repeat_interleave(blocks.row_start.diff(), output_size=len(blocks.column))
            index = owner * logits.shape[1] + token.index_select(0, blocks.child).index_select(0, blocks.column)
            logits = logits.flatten().index_add(0, index, added).view_as(logits)
        if choices.repeated is not None:
            row, node = choices.repeated
            logits = logits.index_put((row, token[node]), self.repeat_logit(level), accumulate=True)
        wanted = codes[:, level] if rows is None else codes[:, level].index_select(0, rows)
        losses = F.cross_entropy(logits, wanted, label_smoothing=smoothing, reduction="none")
        return losses if rows is None else torch.zeros_like(losses).index_copy(0, rows, losses)

    @torch.no_grad()
    def add_node_logits_(self, level: int, logits: Tensor, hidden: Tensor, codes: Tensor) -> None:
        """Add what nodes have to the logits of their codewords, in place, where there are node embeddings.

        Args:
            logits: `[N, V]` of all codewords of a level from 1 on.
            hidden: `[N, d]` that they are of.
            codes: `[N, level]`, the prefixes; one that leads to no item has no nodes below it.
        """
        if not self.nodes_add:
            return
        tree = self.tree
        node = tree.trie.find(codes)
        count = torch.where(node >= 0, tree.count[level][node.clamp(min=0)], 0)
        child = ranges(tree.first[level][node.clamp(min=0)], count)
        products = self.node_products(level, hidden, child, F.pad(count.cumsum(0), (1, 0)))
        index = torch.repeat_interleave(count) * logits.shape[1] + tree.trie.tokens[level][child].long()
        logits.view(-1).index_add_(0, index, products)

    @torch.no_grad()
    def add_repeat_logits_(
        self, level: int, logits: Tensor, seen: ExhaustedNodes | None, codes: Tensor | None = None
    ) -> None:
        """Add what repetitions add to logits `[B, K, V]` of all codewords of a level, in place.

        Args:
            seen: of each user.
            codes: prefixes `[B, K, level]`; at level 0 None, and K is 1.
        """
        if seen is None:
            return
        trie = self.tree.trie
        found = self.repeated_of_beams(level, seen, None if codes is None else trie.find(codes))
        logits[found.user, found.beam, trie.tokens[level][found.node].long()] += self.repeat_logit(level)

    @torch.no_grad()
    def repeated_of_beams(self, level: int, seen: ExhaustedNodes, above: Tensor | None) -> RepeatedChildren:
        """Children of `seen` at `level` of beams' nodes `above` `[B, K]` (-1: none); at level 0 None, of one beam."""
        user, node = seen.pairs(level)
        if above is None:
            return RepeatedChildren(user, torch.zeros_like(user), node)
        match, beam = (above[user] == self.tree.trie.parent(level, node)[:, None]).nonzero(as_tuple=True)
        return RepeatedChildren(user[match], beam, node[match])
