"""TIGER's T5 with the tree embeddings of TIGERTree: of trie nodes on the output, of items on the input.

Input: histories as tokens and items. Output: losses, log-likelihoods and logits, with a softmax over the children of a
prefix, one over all items and a logit for repetitions. The T5 itself stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.decoding.trie import ExhaustedNodes
from recbole_tiger.nn.t5.config import T5Config
from recbole_tiger.nn.t5.seq2seq import Seq2Seq
from recbole_tiger.nn.tree.item_tree import ItemTree
from recbole_tiger.nn.tree.module import ContentNodes, HiddenOf, Over, TreeModule


class TreeSeq2Seq(TreeModule, Seq2Seq):
    """A `Seq2Seq` whose vocabulary holds the codewords of a tree's levels.

    Args:
        config: the T5's sizes.
        tree: of the catalogue.
        level_token_slices: token range of each level.
        node_embeddings, item_embeddings, repeat_bias: which tables there are. They start at zero, so that the network
            starts as the T5 with the same seed.
        item_dropout: share of the items' embeddings left out in training.
        vectors: `[n_items + 1, dim]` frozen content, a map of which is a part of the items' embeddings, or None.
        content_nodes: with `vectors`: what the mean of those below a node does for its embedding.
        item_head: there is a softmax over all items as well: of the decoder's first state, plus a linear map of it that
            starts at zero, with the sum of an item's codewords and its own embedding.
    """

    def __init__(
        self,
        config: T5Config,
        tree: ItemTree,
        level_token_slices: Sequence[slice],
        *,
        node_embeddings: bool,
        item_embeddings: bool,
        item_dropout: float,
        repeat_bias: bool = False,
        item_head: bool = False,
        vectors: Tensor | None = None,
        content_nodes: ContentNodes = False,
    ) -> None:
        super().__init__(config)
        self.level_token_slices = list(level_token_slices)
        self.item_dropout = item_dropout
        self._scale: float = config.d_model**-0.5
        width = config.d_model
        self.make_tables(tree, width, nodes=node_embeddings, items=item_embeddings, repeats=repeat_bias)
        self.item_head = nn.Parameter(torch.zeros(width, width)) if item_head else None
        if vectors is not None:
            self.read_content(vectors, width, content_nodes)

    def codeword_embedding(self, level: int, codes: Tensor) -> Tensor:
        """As in `Seq2Seq.logits`: scaled where it is the input embedding too. Nodes start at zero, unscaled."""
        tokens = codes + self.level_token_slices[level].start
        if self.lm_head is None:
            return F.embedding(tokens, self.embedding.weight) * self._scale
        return F.embedding(tokens, self.lm_head.weight)

    def whole_item_embedding(self, items: Tensor) -> Tensor:
        codes = self.tree.codes.index_select(0, items)
        embedded = reduce(add, (self.codeword_embedding(level, codes[:, level]) for level in range(codes.shape[1])))
        beside = self.beside_codewords(items)
        return embedded if beside is None else embedded + beside * self._scale

    def item_state(self, first: Tensor) -> Tensor:
        """State of the softmax over all items, from the decoder's first state; both `[N, d_model]`."""
        assert self.item_head is not None, "the softmax over all items has a head"
        return first + first @ self.item_head

    def embed_history(self, tokens: Tensor, history: Tensor) -> Tensor:
        """Input embeddings `[B, T, d_model]`: to each token of an item the item's own embedding and content are added.

        Args:
            tokens: `[B, T]`; those of the history are the last ones.
            history: `[B, H]` item numbers, padded with 0.
        """
        own = self.beside_codewords(history, self.item_dropout)
        assert own is not None, "histories are embedded with item embeddings or content"
        own = own.repeat_interleave(len(self.level_token_slices), dim=1)
        return self.embed(tokens) + F.pad(own, (0, 0, tokens.shape[1] - own.shape[1], 0))

    def loss(
        self,
        hidden: Tensor,
        items: Tensor,
        over: Over,
        smoothing: float,
        seen: ExhaustedNodes | None = None,
        item_loss_weight: float = 0.0,
    ) -> Tensor:
        """Mean cross-entropy of the codewords of `items` `[N]` over items and levels.

        Args:
            hidden: `[N, L, d_model]`, the decoder's states under teacher forcing.
            over: what the softmax of a level is over.
            smoothing: label smoothing.
            seen: nodes whose items have all been seen, for each of the N, where it counts.
            item_loss_weight: of the cross-entropy over all items, beside that of a whole Semantic ID.
        """
        parts = self.level_losses(self._hidden_of(hidden), items, over, smoothing, seen)
        total = reduce(add, (part.sum() for _, part in parts)) / len(items)
        if item_loss_weight:
            total = total + item_loss_weight * self.item_loss(self.item_state(hidden[:, 0]), items, seen)
        return total / hidden.shape[1]

    def log_likelihood(self, hidden: Tensor, items: Tensor, over: Over, seen: ExhaustedNodes | None = None) -> Tensor:
        """Log-likelihood of each of `items` `[N]`: `[N]`; arguments as for `loss`."""
        return self.log_likelihoods(self._hidden_of(hidden), items, over, seen)

    @staticmethod
    def _hidden_of(hidden: Tensor) -> HiddenOf:
        return lambda level, rows: hidden[:, level] if rows is None else hidden[:, level].index_select(0, rows)
