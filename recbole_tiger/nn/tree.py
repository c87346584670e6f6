"""The network of TIGERTree in plain torch: histories with one token per item come in, log-likelihoods of items, or
logits of the children of trie nodes, go out.

A causal transformer gives a state after every item of a history. An item's probability is the product of the choices
on its path through the prefix trie of all Semantic IDs: at each node a softmax over the node's children, which are the
only codewords that continue the prefix to some item, so that the probabilities of all items sum to 1. It is the
hierarchical softmax of Morin & Bengio (2005) on a tree made of item content.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.decoding.trie import PrefixTrie

#: Row of the item and node tables that stands for "has no embedding": always zeros.
ABSENT = 0
_INIT_STD = 0.02


# ----------------------------------------------------------------------------------------------- ragged inner products


def ranges(start: Tensor, count: Tensor) -> Tensor:
    """`start[i], start[i] + 1, …, start[i] + count[i] - 1` for every i, one after the other: int64 `[count.sum()]`."""
    ends = count.cumsum(0)
    owner = torch.repeat_interleave(count)
    return torch.arange(len(owner), device=count.device) + (start - ends + count).index_select(0, owner)


@dataclass(frozen=True)
class ChildBlocks:
    """Rows that stand at nodes of one level, each paired with all the children of its node.

    Rows are in ascending order of their node, so that rows and children of a node are both contiguous: the pairs are
    dense blocks, one per distinct node, and both directions of the pairing are index arithmetic.

    Attributes:
        child: `[S]` children of the distinct nodes, ascending.
        row_start: `[N + 1]` where the pairs of each row start.
        column: `[M]` place in `child` of each pair, row by row.
        child_start: `[S + 1]` where the pairs of each child start when they are listed child by child.
        child_row: `[M]` row of each pair, child by child.
        child_pair: `[M]` number of that pair, row by row.
    """

    child: Tensor
    row_start: Tensor
    column: Tensor
    child_start: Tensor
    child_row: Tensor
    child_pair: Tensor

    @classmethod
    def of(cls, nodes: Tensor, first: Tensor, count: Tensor) -> ChildBlocks:
        """Blocks of rows at `nodes` `[N]`, ascending; `first` and `count` give the children of every node."""
        distinct, block, n_rows = torch.unique_consecutive(nodes, return_inverse=True, return_counts=True)
        n_children = count[distinct]
        block_row = n_rows.cumsum(0) - n_rows
        block_child = n_children.cumsum(0) - n_children
        row_count = n_children[block]
        row_start = F.pad(row_count.cumsum(0), (1, 0))
        child_block = torch.repeat_interleave(n_children)
        child_count = n_rows[child_block]
        child_row = ranges(block_row[child_block], child_count)
        within = torch.arange(len(child_block), device=nodes.device) - block_child[child_block]
        return cls(
            child=ranges(first[distinct], n_children),
            row_start=row_start,
            column=ranges(block_child[block], row_count),
            child_start=F.pad(child_count.cumsum(0), (1, 0)),
            child_row=child_row,
            child_pair=row_start[child_row] + torch.repeat_interleave(within, child_count),
        )


def sampled_products(rows: Tensor, columns: Tensor, row_start: Tensor, column: Tensor) -> Tensor:
    """`rows[i] · columns[column[m]]` for the pairs `m` from `row_start[i]` up to `row_start[i + 1]`: `[M]`.

    Without derivative. Args: rows `[N, d]`, columns `[S, d]`, row_start `[N + 1]`, column `[M]`.
    """
    pattern = torch.sparse_csr_tensor(
        row_start, column, rows.new_zeros(len(column)), (len(rows), len(columns)), check_invariants=False
    )
    return torch.sparse.sampled_addmm(pattern, rows, columns.t(), beta=0.0).values()


class _PairProducts(torch.autograd.Function):
    """`sampled_products` over blocks, with derivatives that touch nothing but the pairs either."""

    @staticmethod
    def forward(ctx, rows: Tensor, children: Tensor, blocks: ChildBlocks) -> Tensor:
        ctx.save_for_backward(rows, children)
        ctx.blocks = blocks
        return sampled_products(rows, children, blocks.row_start, blocks.column)

    @staticmethod
    def backward(ctx, gradient: Tensor):
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


def segment_log_sum_exp(values: Tensor, start: Tensor) -> Tensor:
    """`logsumexp` of each segment `values[start[i]:start[i + 1]]`, none of which is empty: `[N]`."""
    count = start.diff()
    owner = torch.repeat_interleave(count)
    highest = values.new_full((len(count),), -torch.inf).scatter_reduce_(0, owner, values.detach(), "amax")
    total = torch.zeros_like(highest).index_add(0, owner, (values - highest.index_select(0, owner)).exp())
    return total.log() + highest


def fast_dropout(x: Tensor, probability: float) -> Tensor:
    """Dropout from 16 random bits per element: a CPU draws them several times as fast as torch's Bernoulli numbers.

    The probability is rounded to a multiple of 2**-16; what is kept is scaled by the rounded one, so the mean is exact.
    """
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    dropped = round(probability * 2**16)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
    return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


# --------------------------------------------------------------------------------------------------------- the tree


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
        codes: np.ndarray,
        level_sizes: Sequence[int],
        trained: ItemTree | None = None,
        item_rows: Tensor | None = None,
    ) -> None:
        self.trie = PrefixTrie.from_codes(codes[1:], level_sizes)
        depth = self.trie.depth
        self.codes = torch.tensor(codes, dtype=torch.long).clamp_(min=0)
        node = torch.arange(self.trie.n_items)
        columns = []
        for level in range(depth, 0, -1):
            node = self.trie.parent(level, node)
            columns.append(node)
        self.paths = torch.zeros_like(self.codes)
        self.paths[self.trie.items.long()] = torch.stack(columns[::-1], 1)
        self.first: dict[int, Tensor] = {}
        self.count: dict[int, Tensor] = {}
        self.node_rows: dict[int, Tensor] = {}
        self.n_rows: dict[int, int] = {}
        for level in range(1, depth):
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


# ------------------------------------------------------------------------------------------------------ the network


@dataclass(frozen=True)
class TreeConfig:
    """Sizes and switches of a `TreeNetwork`.

    Attributes:
        hidden_size, n_layers, n_heads, inner_size: of the transformer; `inner_size` is the width of its MLP.
        max_length: the longest history.
        head_size: width of the residual MLP of each level.
        dropout: of embeddings, residuals and activations.
        attention_dropout: of attention weights.
        item_dropout: share of the history's item embeddings left out in training.
        item_embeddings: every item has an embedding on the input, beside its codewords.
        node_embeddings: every node of the trie has an embedding on the output, beside its codeword.
        tied: input and output share the codewords' embeddings and the nodes': an item's own embedding is then the sum
            over the nodes of its path.
        loss_over: `legal`: a level's softmax is over the children of the prefix; `level`: over all its codewords, as
            in TIGER.
        label_smoothing: share of the target's probability that is spread over what the softmax is over.
        sparse_gradients: item and node tables have sparse gradients, for `nn.row_adamw.RowAdamW`.
    """

    hidden_size: int = 128
    n_layers: int = 2
    n_heads: int = 4
    inner_size: int = 512
    max_length: int = 20
    head_size: int = 128
    dropout: float = 0.5
    attention_dropout: float = 0.0
    item_dropout: float = 0.3
    item_embeddings: bool = True
    node_embeddings: bool = True
    tied: bool = False
    loss_over: Literal["legal", "level"] = "legal"
    label_smoothing: float = 0.0
    sparse_gradients: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.n_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} cannot be divided among n_heads={self.n_heads} attention heads; "
                "choose a multiple"
            )


class Dropout(nn.Module):
    """`fast_dropout` while training."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return fast_dropout(x, self.probability) if self.training and self.probability else x


#: Groups of histories of similar length that attention pads to the longest of the group.
_LENGTH_GROUPS = 4


@dataclass(frozen=True)
class Packed:
    """Where the items of a batch of histories stand when they are written one history after the other, unpadded.

    Attributes:
        user, column: `[P]` history of each item, and its place in it.
        start: `[B]` number of each history's first item.
        groups: histories and width of each group of similar length.
        gather: rows of `[P * 3 * heads, d]` that are the queries, keys and values of each group, `[n, heads, width]`
            of each; past the end of a history its last item again, which no item before it sees.
        back: `[P * heads]` rows of all groups' outputs, one group after the other, that belong to each item.
    """

    user: Tensor
    column: Tensor
    start: Tensor
    groups: list[tuple[int, int]]
    gather: Tensor
    back: Tensor

    @classmethod
    def of(cls, lengths: Tensor, n_heads: int) -> Packed:
        """Of histories with `lengths` `[B]`, at least 1 each."""
        device = lengths.device
        user = torch.repeat_interleave(lengths)
        start = lengths.cumsum(0) - lengths
        head = torch.arange(n_heads, device=device)[:, None]
        groups, gather, n_rows = [], [], 0
        back = torch.empty(len(user) * n_heads, dtype=torch.long, device=device)
        for members in lengths.argsort(stable=True).tensor_split(min(_LENGTH_GROUPS, len(lengths))):
            length, width = lengths[members, None, None], int(lengths[members].max())
            place = torch.arange(width, device=device)
            item = start[members, None, None] + torch.minimum(place, length - 1)  # [n, 1, width]
            gather += [((item * 3 + part) * n_heads + head).flatten() for part in range(3)]
            row = torch.arange(len(members) * n_heads * width, device=device).view(len(members), n_heads, width)
            inside = (place < length).expand_as(row)
            back[(item * n_heads + head)[inside]] = row[inside] + n_rows
            n_rows += row.numel()
            groups.append((len(members), width))
        return cls(user, torch.arange(len(user), device=device) - start[user], start, groups, torch.cat(gather), back)


class _Attention(nn.Module):
    """Causal self-attention inside each history."""

    def __init__(self, config: TreeConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = Dropout(config.attention_dropout)
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        head_size = x.shape[1] // self.n_heads
        sizes = [n * self.n_heads * width for n, width in packed.groups for _ in range(3)]
        parts = self.qkv(x).view(-1, head_size).index_select(0, packed.gather).split(sizes)
        mixed = []
        for group, (n, width) in enumerate(packed.groups):
            shape = (n * self.n_heads, width, head_size)
            query, key, value = (part.view(shape) for part in parts[3 * group : 3 * group + 3])
            # Histories are short: on a CPU plain batched products take a third of the time of the fused attention.
            future = torch.full((width, width), -torch.inf, dtype=x.dtype, device=x.device).triu_(1)
            scores = torch.baddbmm(future, query, key.transpose(1, 2), alpha=head_size**-0.5)
            mixed.append(torch.bmm(self.dropout(scores.softmax(-1)), value).view(-1, head_size))
        return self.out(torch.cat(mixed).index_select(0, packed.back).view(x.shape))


class _Layer(nn.Module):
    """A pre-norm transformer layer on packed items `[P, hidden_size]`."""

    def __init__(self, config: TreeConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = _Attention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size)
        self.up = nn.Linear(config.hidden_size, config.inner_size)
        self.down = nn.Linear(config.inner_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), packed))
        inner = self.dropout(F.gelu(self.up(self.mlp_norm(x))))
        return x + self.dropout(self.down(inner))


class _Head(nn.Module):
    """The residual MLP of a level, on the sum of state and prefix."""

    def __init__(self, config: TreeConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.head_size)
        self.down = nn.Linear(config.head_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.dropout(F.gelu(self.up(x))))


class TreeNetwork(nn.Module):
    """The network. Its tables belong to the tree it was made with; `use` points it at a catalogue with more items.

    Item and node tables start at zero: what is never trained has no embedding of its own, and an item counts as what
    its codewords say until there is more to say.
    """

    def __init__(self, config: TreeConfig, tree: ItemTree) -> None:
        super().__init__()
        _silence_sparse_warning()
        self.config = config
        self.trained_tree = self.tree = tree
        self.level_sizes = tree.trie.level_sizes
        width = config.hidden_size

        def codewords() -> nn.ParameterList:
            return nn.ParameterList(
                nn.init.normal_(torch.empty(size, width), std=_INIT_STD) for size in self.level_sizes
            )

        self.codewords = codewords()
        self.output_codewords = self.codewords if config.tied else codewords()
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(config.max_length, width), std=_INIT_STD))
        self.node_tables = nn.ParameterDict()
        if config.node_embeddings:
            for level, n_rows in tree.n_rows.items():
                self.node_tables[str(level)] = nn.Parameter(torch.zeros(n_rows, width))
        from_nodes = config.tied and config.node_embeddings
        own_items = config.item_embeddings and not from_nodes
        self.item_table = nn.Parameter(torch.zeros(len(tree.codes), width)) if own_items else None
        self.item_from_nodes = config.item_embeddings and from_nodes
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(_Head(config) for _ in self.level_sizes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_INIT_STD)
                nn.init.zeros_(module.bias)

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        self.trained_tree = self.trained_tree.to(self.positions.device)
        self.tree = self.tree.to(self.positions.device)
        return self

    def use(self, codes: np.ndarray, level_sizes: Sequence[int], item_rows: Tensor) -> None:
        """Read and score the items of another table: of more items than the network was trained with.

        Args:
            codes: int64 `[n + 1, L]`, padding in row 0.
            level_sizes: codewords per level; a level may have more than the network was made for, which then have no
                embedding.
            item_rows: `[n + 1]` number that each item had in training, 0 for one that was not there.
        """
        self.tree = ItemTree(codes, level_sizes, self.trained_tree, item_rows).to(self.positions.device)

    # ----------------------------------------------------------------------------------------------- embeddings

    def _codewords(self, tables: nn.ParameterList, level: int, codes: Tensor) -> Tensor:
        """Embeddings of codes (any shape) of a level, zero for codes that were not there in training."""
        if self.tree.trie.level_sizes[level] <= self.level_sizes[level]:
            return F.embedding(codes, tables[level])
        known = codes < self.level_sizes[level]
        return F.embedding(torch.where(known, codes, 0), tables[level]) * known[..., None]

    def prefix_embedding(self, level: int, codes: Tensor) -> Tensor:
        """Sum of the codewords that stand before `level`: `[N, L]` codes -> `[N, hidden_size]`."""
        return sum(self._codewords(self.codewords, above, codes[:, above]) for above in range(level))

    def item_embedding(self, items: Tensor) -> Tensor:
        """Input of items `[P]`: codewords, plus what the item itself or its nodes add; zero for padding."""
        codes = self.tree.codes.index_select(0, items)
        depth = codes.shape[1]
        x = sum(self._codewords(self.codewords, level, codes[:, level]) for level in range(depth))
        x = x * (items > 0).to(x.dtype)[:, None]
        if not self.config.item_embeddings:
            return x
        present = self.tree.item_rows.index_select(0, items)
        if self.training and self.config.item_dropout:
            present = torch.where(torch.rand(len(items), device=items.device) < self.config.item_dropout, 0, present)
        if not self.item_from_nodes:
            return x + self._rows(self.item_table, present)
        paths = self.tree.paths.index_select(0, items)
        for level in range(1, depth):
            rows = torch.where(present > 0, self.tree.node_rows[level].index_select(0, paths[:, level]), ABSENT)
            x = x + self._rows(self.node_tables[str(level)], rows)
        return x

    def _rows(self, table: Tensor, rows: Tensor) -> Tensor:
        return F.embedding(rows, table, padding_idx=ABSENT, sparse=self.config.sparse_gradients)

    # --------------------------------------------------------------------------------------------------- states

    def states(self, history: Tensor, lengths: Tensor) -> tuple[Tensor, Packed]:
        """States after each item of each history, packed: `[P, hidden_size]`, row `start[b] + j` after j + 1 items.

        Args:
            history: `[B, H]` item numbers in time order, padded with 0 at the end; H may be 0.
            lengths: `[B]`; an empty history counts as one padding item.
        """
        packed = Packed.of(lengths.clamp(min=1), self.config.n_heads)
        items = (history if history.shape[1] else F.pad(history, (0, 1)))[packed.user, packed.column]
        x = self.dropout(self.item_embedding(items) + F.embedding(packed.column, self.positions))
        for layer in self.layers:
            x = layer(x, packed)
        return self.norm(x), packed

    def last_states(self, history: Tensor, lengths: Tensor) -> Tensor:
        """State after the whole of each history, `[B, hidden_size]`."""
        states, packed = self.states(history, lengths)
        return states.index_select(0, packed.start + lengths.clamp(min=1) - 1)

    # ------------------------------------------------------------------------------------------ item likelihoods

    def loss(self, states: Tensor, items: Tensor) -> Tensor:
        """Mean negative log-likelihood of `items` `[N]` after `states` `[N, d]`, labels smoothed where asked for."""
        return sum(part.sum() for _, part in self._level_losses(states, items, self.config.label_smoothing)) / len(
            items
        )

    def log_likelihood(self, states: Tensor, items: Tensor) -> Tensor:
        """Log-likelihood of each of `items` `[N]` after its state: `[N]`."""
        total = states.new_zeros(len(items))
        for rows, part in self._level_losses(states, items, 0.0):
            total = total - part if rows is None else total.index_add(0, rows, part, alpha=-1)
        return total

    def _level_losses(self, states: Tensor, items: Tensor, smoothing: float):
        """Per level: the rows that have a choice there (None: all), and their cross-entropies."""
        codes = self.tree.codes.index_select(0, items)
        paths = self.tree.paths.index_select(0, items)
        for level in range(self.tree.trie.depth):
            if self.config.loss_over == "level":
                yield None, self._loss_over_level(level, states, codes, paths, smoothing)
            elif level == 0:
                yield None, self._loss_over_roots(states, paths, smoothing)
            else:
                # Where a prefix has one continuation there is nothing to choose: probability 1.
                above = paths[:, level - 1]
                rows = (self.tree.count[level].index_select(0, above) > 1).nonzero().squeeze(1)
                if len(rows):
                    rows = rows.index_select(0, above.index_select(0, rows).argsort(stable=True))
                    yield rows, self._loss_over_children(level, states, codes, paths, rows, smoothing)

    def _loss_over_roots(self, states: Tensor, paths: Tensor, smoothing: float) -> Tensor:
        existing = self._codewords(self.output_codewords, 0, self.tree.trie.tokens[0].long())
        logits = self.heads[0](states) @ existing.t()
        return F.cross_entropy(logits, paths[:, 0], label_smoothing=smoothing, reduction="none")

    def _loss_over_children(
        self, level: int, states: Tensor, codes: Tensor, paths: Tensor, rows: Tensor, smoothing: float
    ) -> Tensor:
        first, count = self.tree.first[level], self.tree.count[level]
        codes, paths = codes.index_select(0, rows), paths.index_select(0, rows)
        hidden = self.heads[level](states.index_select(0, rows) + self.prefix_embedding(level, codes))
        above = paths[:, level - 1]
        blocks = ChildBlocks.of(above, first, count)
        logits = _PairProducts.apply(hidden, self.child_embedding(level, blocks.child), blocks)
        whole = segment_log_sum_exp(logits, blocks.row_start)
        chosen = logits.index_select(0, blocks.row_start[:-1] + paths[:, level] - first.index_select(0, above))
        if not smoothing:
            return whole - chosen
        n_children = blocks.row_start.diff()
        owner = torch.repeat_interleave(n_children)
        mean = torch.zeros_like(whole).index_add(0, owner, logits) / n_children
        return whole - (1 - smoothing) * chosen - smoothing * mean

    def _loss_over_level(self, level: int, states: Tensor, codes: Tensor, paths: Tensor, smoothing: float) -> Tensor:
        rows = None
        if level:
            rows = paths[:, level - 1].argsort(stable=True)
            states, codes, paths = (x.index_select(0, rows) for x in (states, codes, paths))
            hidden = self.heads[level](states + self.prefix_embedding(level, codes))
        else:
            hidden = self.heads[0](states)
        logits = hidden @ self.level_codewords(level).t()
        if level and self.config.node_embeddings:
            blocks = ChildBlocks.of(paths[:, level - 1], self.tree.first[level], self.tree.count[level])
            added = _PairProducts.apply(hidden, self._nodes(level, blocks.child), blocks)
            owner = torch.repeat_interleave(blocks.row_start.diff())
            token = self.tree.trie.tokens[level].long().index_select(0, blocks.child).index_select(0, blocks.column)
            place = owner * logits.shape[1] + token
            logits = logits.flatten().index_add(0, place, added).view_as(logits)
        losses = F.cross_entropy(logits, codes[:, level], label_smoothing=smoothing, reduction="none")
        return losses if rows is None else torch.zeros_like(losses).index_copy(0, rows, losses)

    # ---------------------------------------------------------------------------------------------------- output

    def level_codewords(self, level: int) -> Tensor:
        """Output embeddings of all codewords of a level, `[V, hidden_size]`."""
        codes = torch.arange(self.tree.trie.level_sizes[level], device=self.positions.device)
        return self._codewords(self.output_codewords, level, codes)

    def _nodes(self, level: int, nodes: Tensor) -> Tensor:
        rows = self.tree.node_rows[level].index_select(0, nodes)
        return self._rows(self.node_tables[str(level)], rows)

    def child_embedding(self, level: int, nodes: Tensor) -> Tensor:
        """What a state is multiplied with for the logits of `nodes` `[S]` of a level from 1 on: codeword plus node."""
        codes = self.tree.trie.tokens[level].index_select(0, nodes).long()
        embedded = self._codewords(self.output_codewords, level, codes)
        return embedded + self._nodes(level, nodes) if self.config.node_embeddings else embedded


class TreeStepDecoder:
    """A `StepDecoder`, `ForkableStepDecoder` and `ChildStepDecoder` of a `TreeNetwork` in evaluation mode.

    Args:
        network: the network.
        states: `[B, hidden_size]` state of each user.
    """

    def __init__(self, network: TreeNetwork, states: Tensor) -> None:
        self.network = network
        self.states = states
        self._codes: Tensor | None = None  # [B, K, level] codewords of each beam so far

    def begin(self) -> Tensor:
        return (self.network.heads[0](self.states) @ self.network.level_codewords(0).t())[:, None]

    def advance(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        self._follow(parents, codes)
        network, tree = self.network, self.network.tree
        hidden = self._hidden(level)
        logits = hidden @ network.level_codewords(level).t()  # [B * K, V]
        if network.config.node_embeddings:
            node = tree.trie.find(self._codes.flatten(0, 1))
            count = torch.where(node >= 0, tree.count[level][node.clamp(min=0)], 0)  # a prefix of no item: no children
            child = ranges(tree.first[level][node.clamp(min=0)], count)
            products = sampled_products(
                hidden,
                network.node_tables[str(level)],
                F.pad(count.cumsum(0), (1, 0)),
                tree.node_rows[level].index_select(0, child),
            )
            place = torch.repeat_interleave(count) * logits.shape[1] + tree.trie.tokens[level][child].long()
            logits.view(-1).index_add_(0, place, products)
        return logits.view(*codes.shape, -1)

    def advance_to_children(self, level: int, parents: Tensor, codes: Tensor, child: Tensor, count: Tensor) -> Tensor:
        self._follow(parents, codes)
        network, tree = self.network, self.network.tree
        # Beams with one child have nothing to choose: what its logit is changes nothing.
        rows = (count > 1).nonzero().squeeze(1)
        pairs = torch.repeat_interleave(count > 1, count).nonzero().squeeze(1)
        hidden = self._hidden(level, rows)
        logits = hidden.new_zeros(len(child))
        child = child.index_select(0, pairs)
        start = F.pad(count.index_select(0, rows).cumsum(0), (1, 0))
        tokens = tree.trie.tokens[level].index_select(0, child).long()
        products = sampled_products(hidden, network.level_codewords(level), start, tokens)
        if network.config.node_embeddings:
            node_rows = tree.node_rows[level].index_select(0, child)
            products += sampled_products(hidden, network.node_tables[str(level)], start, node_rows)
        return logits.index_copy_(0, pairs, products)

    def _follow(self, parents: Tensor, codes: Tensor) -> None:
        """Continue the beams `parents` `[B, K]` with `codes` `[B, K]`."""
        codes = codes[:, :, None]
        if self._codes is not None:
            before = self._codes.gather(1, parents[:, :, None].expand(-1, -1, self._codes.shape[2]))
            codes = torch.cat([before, codes], 2)
        self._codes = codes

    def _hidden(self, level: int, rows: Tensor | None = None) -> Tensor:
        """What the logits of a level are inner products with, for beams `rows` `[N]` of the flat `[B * K]` (None: all)."""
        n_users, n_beams, _ = self._codes.shape
        rows = torch.arange(n_users * n_beams, device=self.states.device) if rows is None else rows
        prefix = self.network.prefix_embedding(level, self._codes.flatten(0, 1).index_select(0, rows))
        return self.network.heads[level](self.states.index_select(0, rows // n_beams) + prefix)

    def fork(self) -> TreeStepDecoder:
        """A decoder in the same state that advances on its own; nothing is copied."""
        twin = TreeStepDecoder(self.network, self.states)
        twin._codes = self._codes
        return twin


def _silence_sparse_warning() -> None:
    """Spend torch's once-per-process warning that sparse CSR tensors are in beta: their products are tested here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.zeros(0, dtype=torch.long), torch.zeros(0), (1, 1))
