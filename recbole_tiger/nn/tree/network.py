"""The network of TIGERTree in plain torch.

Input: histories with one token per item. Output: log-likelihoods of items. A causal transformer gives a state after
every item of a history. An item's probability is the product of the choices on its path through the prefix trie: at
each node a softmax over its children, the codewords that continue the prefix to some item, so that the probabilities of
all items sum to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.decoding.trie import ExhaustedNodes
from recbole_tiger.nn.dropout import dropout
from recbole_tiger.nn.tree.item_tree import ABSENT, ItemTree
from recbole_tiger.nn.tree.module import ContentNodes, HiddenOf, Over, TreeModule
from recbole_tiger.nn.tree.packed import Packed, PackedLayer

_INIT_STD = 0.02


@dataclass(frozen=True)
class TreeConfig:
    """Sizes and switches of a `TreeNetwork`."""

    hidden_size: int = 128
    n_layers: int = 2
    n_heads: int = 4
    inner_size: int = 512  # width of the transformer's MLP
    max_length: int = 20  # the longest history
    head_size: int = 128  # width of the residual MLP of each level
    dropout: float = 0.5  # of embeddings, residuals and activations
    attention_dropout: float = 0.0  # of attention weights
    item_dropout: float = 0.3  # share of the history's item embeddings left out in training
    item_embeddings: bool = True  # every item has an embedding on the input, beside its codewords
    node_embeddings: bool = True  # every node of the trie has an embedding on the output, beside its codeword
    head_attention: bool = False  # the choice of a codeword also attends to the states of all items of the history
    repeat_bias: bool = False  # a logit for previously interacted items, and for nodes of which all items are
    # Input and output share the embeddings of codewords and nodes: an item's own is the sum over the nodes of its path.
    tied: bool = False
    # `children`: the softmax is over the children of the prefix; `level`: all codewords of the level, as in TIGER
    loss_over: Over = "children"
    label_smoothing: float = 0.0  # share of the target's probability that is spread over what the softmax is over
    item_loss_weight: float = 0.0  # of a cross-entropy over all items, by the items' input embeddings; 0: none
    sparse_gradients: bool = False  # of the item and node tables, for `RowAdamW`
    content_nodes: ContentNodes = False  # with content: what the mean of the vectors below a node does for it

    def __post_init__(self) -> None:
        if self.hidden_size % self.n_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} cannot be divided among n_heads={self.n_heads} attention heads; "
                "choose a multiple"
            )


@dataclass(frozen=True)
class Seen:
    """The previously interacted items at each of N rows, where more than the last state depends on them.

    Attributes:
        memory: for head attention `[P, 2 * hidden_size]` keys and values of all packed items, else None.
        start, count: `[N]` those of row i are the packed items `start[i], …, start[i] + count[i] - 1`.
        nodes: for `repeat_bias` the nodes of which all items are among them, else None.
    """

    memory: Tensor | None
    start: Tensor
    count: Tensor
    nodes: ExhaustedNodes | None

    def take(self, rows: Tensor) -> Seen:
        """The same for `rows` `[n]`, without nodes."""
        return Seen(self.memory, self.start.index_select(0, rows), self.count.index_select(0, rows), None)


class _HeadAttention(nn.Module):
    """Attention of the sum of state and prefix to the states of all items of the history; shared by the levels."""

    def __init__(self, config: TreeConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.n_heads, self.rate = config.n_heads, config.attention_dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        """The sum plus what it attends to, `[N, Q, hidden_size]`, of Q sums `x` at each row of `seen`."""
        assert seen.memory is not None, "head attention has a memory"
        (n_rows, n_queries, width), longest = x.shape, int(seen.count.max())
        position = torch.arange(longest, device=x.device)
        item = seen.start[:, None] + torch.minimum(position, seen.count[:, None] - 1)  # [N, W]
        memory = seen.memory.index_select(0, item.flatten()).view(n_rows, longest, 2, self.n_heads, -1)
        key, value = memory.permute(2, 0, 3, 1, 4)  # [N, heads, W, head size]
        query = self.query(x).view(n_rows, n_queries, self.n_heads, -1).transpose(1, 2)
        scores = query @ key.transpose(2, 3) * key.shape[3] ** -0.5  # [N, heads, Q, W]
        scores = scores.masked_fill((position >= seen.count[:, None])[:, None, None], -torch.inf)
        mixed = dropout(scores.softmax(-1), self.rate, self.training) @ value
        added: Tensor = self.out(mixed.transpose(1, 2).reshape(n_rows, n_queries, width))
        return x + added


class _Head(nn.Module):
    """The residual MLP of a level, on the sum of state and prefix."""

    def __init__(self, config: TreeConfig) -> None:
        super().__init__()
        self.rate = config.dropout
        self.up = nn.Linear(config.hidden_size, config.head_size)
        self.down = nn.Linear(config.head_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.down(dropout(F.gelu(self.up(x)), self.rate, self.training))
        return x + added


class TreeNetwork(TreeModule):
    """The network; see `TreeModule` for its tables and its softmax.

    Args:
        vectors: `[n_items + 1, dim]` frozen content of the items, a map of which is added to their embeddings; or None.
    """

    def __init__(self, config: TreeConfig, tree: ItemTree, vectors: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.sparse_gradients = config.sparse_gradients
        self.level_sizes = tree.trie.level_sizes
        width = config.hidden_size

        def codewords() -> nn.ParameterList:
            return nn.ParameterList(
                nn.init.normal_(torch.empty(size, width), std=_INIT_STD) for size in self.level_sizes
            )

        self.codewords = codewords()
        self.output_codewords = self.codewords if config.tied else codewords()
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(config.max_length, width), std=_INIT_STD))
        # With tied embeddings what an item adds to its codewords is what the nodes of its path add.
        own_items = config.item_embeddings and not (config.tied and config.node_embeddings)
        self.make_tables(tree, width, nodes=config.node_embeddings, items=own_items, repeats=config.repeat_bias)
        self.layers = nn.ModuleList(
            PackedLayer(width, config.n_heads, config.inner_size, config.dropout, config.attention_dropout)
            for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(_Head(config) for _ in self.level_sizes)
        self.head_attention = _HeadAttention(config) if config.head_attention else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_INIT_STD)
                nn.init.zeros_(module.bias)
        if vectors is not None:
            self.read_content(vectors, width, config.content_nodes)

    def _codewords(self, tables: nn.ParameterList, level: int, codes: Tensor) -> Tensor:
        """Embeddings of codes (any shape) of a level, zero for codes that were not there in training."""
        if self.tree.trie.level_sizes[level] <= self.level_sizes[level]:
            return F.embedding(codes, tables[level])
        known = codes < self.level_sizes[level]
        return F.embedding(torch.where(known, codes, 0), tables[level]) * known[..., None]

    def codeword_embedding(self, level: int, codes: Tensor) -> Tensor:
        return self._codewords(self.output_codewords, level, codes)

    def prefix_embedding(self, level: int, codes: Tensor) -> Tensor:
        """Sum of the codewords that stand before `level`, from 1 on: `[N, L]` codes -> `[N, hidden_size]`."""
        return reduce(add, (self._codewords(self.codewords, above, codes[:, above]) for above in range(level)))

    def item_embedding(self, items: Tensor, *, whole: bool = False) -> Tensor:
        """Input of items `[P]`: codewords, plus what the item itself, its content or its nodes add; zero for padding.

        In training a share of what item or nodes add is left out, at random, unless they are wanted `whole`.
        """
        codes = self.tree.codes.index_select(0, items)
        depth = codes.shape[1]
        x = reduce(add, (self._codewords(self.codewords, level, codes[:, level]) for level in range(depth)))
        x = x * (items > 0).to(x.dtype)[:, None]
        dropped = 0.0 if whole else self.config.item_dropout
        beside = self.beside_codewords(items, dropped)
        if beside is not None:
            x = x + beside
        if self.item_table is not None or not self.config.item_embeddings:
            return x
        present = self.item_rows(items, dropped)
        paths = self.tree.paths.index_select(0, items)
        for level in range(1, depth):
            rows = torch.where(present > 0, self.tree.node_rows[level].index_select(0, paths[:, level]), ABSENT)
            x = x + self.table_rows(self.node_tables[str(level)], rows)
        return x

    def whole_item_embedding(self, items: Tensor) -> Tensor:
        return self.item_embedding(items, whole=True)

    def states(self, history: Tensor, lengths: Tensor) -> tuple[Tensor, Packed]:
        """States after each item of each history, packed: `[P, hidden_size]`, row `start[b] + j` after j + 1 items.

        Args:
            history: `[B, H]` item numbers in time order, padded with 0 at the end; H may be 0.
            lengths: `[B]`; an empty history counts as one padding item.
        """
        packed = Packed.of(lengths.clamp(min=1), self.config.n_heads)
        items = (history if history.shape[1] else F.pad(history, (0, 1)))[packed.user, packed.column]
        x = self.item_embedding(items) + F.embedding(packed.column, self.positions)
        x = dropout(x, self.config.dropout, self.training)
        for layer in self.layers:
            x = layer(x, packed)
        return self.norm(x), packed

    def at(self, rows: Tensor, states: Tensor, packed: Packed, history: Tensor) -> tuple[Tensor, Seen | None]:
        """States at packed items `rows` `[N]`, and the items of `history` up to there, if anything depends on them."""
        chosen = states.index_select(0, rows)
        if self.head_attention is None and self.repeat_weight is None:
            return chosen, None
        user, count = packed.user[rows], packed.column[rows] + 1
        memory = None if self.head_attention is None else self.head_attention.key_value(states)
        nodes = None
        if self.repeat_weight is not None:
            position = torch.arange(history.shape[1], device=history.device)
            nodes = self.tree.trie.exhausted(torch.where(position < count[:, None], history[user], 0))
        return chosen, Seen(memory, packed.start[user], count, nodes)

    def last(self, history: Tensor, lengths: Tensor) -> tuple[Tensor, Seen | None]:
        """States after the whole of each history, `[B, hidden_size]`, and its items; arguments as for `states`."""
        states, packed = self.states(history, lengths)
        return self.at(packed.start + lengths.clamp(min=1) - 1, states, packed, history)

    def loss(self, states: Tensor, items: Tensor, seen: Seen | None = None) -> Tensor:
        """Mean negative log-likelihood of `items` `[N]` after `states` `[N, d]`, with the labels' smoothing.

        `item_loss_weight` times the mean cross-entropy over all items is added.
        """
        config = self.config
        hidden_of, nodes = self._hidden_of(states, items, seen), None if seen is None else seen.nodes
        parts = self.level_losses(hidden_of, items, config.loss_over, config.label_smoothing, nodes)
        loss = reduce(add, (part.sum() for _, part in parts)) / len(items)
        if not config.item_loss_weight:
            return loss
        return loss + config.item_loss_weight * self.item_loss(states, items, nodes)

    def log_likelihood(self, states: Tensor, items: Tensor, seen: Seen | None = None) -> Tensor:
        """Log-likelihood of each of `items` `[N]` after its state: `[N]`."""
        nodes = None if seen is None else seen.nodes
        return self.log_likelihoods(self._hidden_of(states, items, seen), items, self.config.loss_over, nodes)

    def _hidden_of(self, states: Tensor, items: Tensor, seen: Seen | None) -> HiddenOf:
        codes = self.tree.codes.index_select(0, items)

        def hidden(level: int, rows: Tensor | None) -> Tensor:
            x = states if rows is None else states.index_select(0, rows)
            if level:
                x = x + self.prefix_embedding(level, codes if rows is None else codes.index_select(0, rows))
            if self.head_attention is not None and seen is not None:
                x = self.head_attention(x[:, None], seen if rows is None else seen.take(rows))[:, 0]
            return self.hidden(level, x)

        return hidden

    def hidden(self, level: int, x: Tensor) -> Tensor:
        """What the logits of a level are inner products with, from what its head reads: both `[N, hidden_size]`."""
        hidden: Tensor = self.heads[level](x)
        return hidden
