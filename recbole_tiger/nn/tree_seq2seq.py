"""TIGER's T5 with what TIGERTree has beside it: embeddings of trie nodes on the output, of items on the input, and a
softmax over the children of a prefix.

Histories as tokens and items come in; losses, log-likelihoods and logits go out. The T5 itself stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from recbole_tiger.decoding.beam_search import Seq2SeqStepDecoder
from recbole_tiger.nn.item_tree import ItemTree
from recbole_tiger.nn.seq2seq import Seq2Seq, T5Config
from recbole_tiger.nn.tree_module import HiddenOf, Over, TreeModule, continued


class TreeSeq2Seq(TreeModule, Seq2Seq):
    """A `Seq2Seq` whose vocabulary holds the codewords of a tree's levels.

    Args:
        config: the T5's sizes.
        tree: of the catalogue.
        level_token_slices: token range of each level.
        node_embeddings, item_embeddings: which tables there are. Both start at zero, so that the network starts as the
            T5 with the same seed.
        item_dropout: share of the items' embeddings left out in training.
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
    ) -> None:
        super().__init__(config)
        self.level_token_slices = list(level_token_slices)
        self.item_dropout = item_dropout
        self.make_tables(tree, config.d_model, nodes=node_embeddings, items=item_embeddings)

    def codeword_embedding(self, level: int, codes: Tensor) -> Tensor:
        """As in `Seq2Seq.logits`: scaled where it is the input embedding too. Nodes, which start at zero, are not scaled."""
        tokens = codes + self.level_token_slices[level].start
        if self.lm_head is None:
            return F.embedding(tokens, self.embedding.weight) * self.config.d_model**-0.5
        return F.embedding(tokens, self.lm_head.weight)

    def embed_history(self, tokens: Tensor, history: Tensor) -> Tensor:
        """Input embeddings `[B, T, d_model]` with item embeddings: to each token of an item the item's is added.

        Args:
            tokens: `[B, T]`; those of the history are the last ones.
            history: `[B, H]` item numbers, padded with 0.
        """
        own = self._rows(self.item_table, self.item_rows(history, self.item_dropout))
        own = own.repeat_interleave(len(self.level_token_slices), dim=1)
        return self.embed(tokens) + F.pad(own, (0, 0, tokens.shape[1] - own.shape[1], 0))

    def loss(self, hidden: Tensor, items: Tensor, over: Over, smoothing: float) -> Tensor:
        """Mean cross-entropy of the codewords of `items` `[N]` over items and levels.

        Args:
            hidden: `[N, L, d_model]`, the decoder's states under teacher forcing.
            over: what the softmax of a level is over.
            smoothing: label smoothing.
        """
        parts = self.level_losses(self._hidden_of(hidden), items, over, smoothing)
        return sum(part.sum() for _, part in parts) / hidden[:, :, 0].numel()

    def log_likelihood(self, hidden: Tensor, items: Tensor, over: Over) -> Tensor:
        """Log-likelihood of each of `items` `[N]`: `[N]`; arguments as for `loss`."""
        return self.log_likelihoods(self._hidden_of(hidden), items, over)

    @staticmethod
    def _hidden_of(hidden: Tensor) -> HiddenOf:
        return lambda level, rows: hidden[:, level] if rows is None else hidden[:, level].index_select(0, rows)


class NodeStepDecoder(Seq2SeqStepDecoder):
    """A step decoder of a `TreeSeq2Seq` with node embeddings: a node's logit is added to that of its codeword."""

    def __init__(self, model: TreeSeq2Seq, memory: Tensor, mask: Tensor | None, start_token: int = 0) -> None:
        super().__init__(model, memory, mask, model.level_token_slices, start_token)
        self._codes: Tensor | None = None  # [B, K, level] codewords of each beam so far

    def advance(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        self._codes = continued(self._codes, parents, codes)
        hidden = self.step(level, parents, codes)
        logits = self.model.logits(hidden, self.level_token_slices[level])
        self.model.add_node_logits_(level, logits.flatten(0, 1), hidden.flatten(0, 1), self._codes.flatten(0, 1))
        return logits
