"""Step decoders: what the searches of `recbole_tiger.decoding` ask a network for, level by level.

Input: a network and what it has encoded of each user's history. Output: logits of the codewords of a level for all
beams.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tiger.decoding.trie import ExhaustedNodes
from recbole_tiger.decoding.types import continued, no_codes
from recbole_tiger.nn.t5.incremental import IncrementalDecoder
from recbole_tiger.nn.t5.seq2seq import Seq2Seq
from recbole_tiger.nn.tree.network import Seen, TreeNetwork
from recbole_tiger.nn.tree.ragged import sampled_products
from recbole_tiger.nn.tree.seq2seq import TreeSeq2Seq


class Seq2SeqStepDecoder:
    """A `StepDecoder` of a `Seq2Seq` whose levels are ranges of its vocabulary.

    Args:
        model: in evaluation mode; nothing is dropped out.
        memory: encoder output `[B, T, d_model]`.
        mask: bool `[B, T]`, True at real tokens.
        level_token_slices: token range of each level; codeword `c` is token `start + c`.
        start_token: decoder start token.
    """

    def __init__(
        self,
        model: Seq2Seq,
        memory: Tensor,
        mask: Tensor | None,
        level_token_slices: Sequence[slice],
        start_token: int = 0,
    ) -> None:
        self.model = model
        self.level_token_slices = list(level_token_slices)
        self.start_token = start_token
        self._n_users = memory.shape[0]
        self._decoder = IncrementalDecoder(model, memory, mask)

    def begin(self) -> Tensor:
        return self.model.logits(self.start(), self.level_token_slices[0])

    def advance(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        return self.model.logits(self.step(level, parents, codes), self.level_token_slices[level])

    def start(self) -> Tensor:
        """What the logits of level 0 are inner products with, `[B, 1, d_model]`."""
        device = self.model.embedding.weight.device
        start = torch.full((self._n_users, 1), self.start_token, dtype=torch.long, device=device)
        return self._decoder.step(start)

    def step(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        """What the logits of `level` are inner products with, `[B, K, d_model]`; arguments as for `advance`."""
        return self._decoder.step(codes + self.level_token_slices[level - 1].start, parents)

    def fork(self) -> Seq2SeqStepDecoder:
        """A decoder in the same state that advances on its own; nothing is copied."""
        twin = copy.copy(self)
        twin._decoder = self._decoder.fork()
        return twin


class TreeSeq2SeqStepDecoder(Seq2SeqStepDecoder):
    """A step decoder of a `TreeSeq2Seq`: nodes and repetitions add to the logits of codewords.

    Args:
        seen: nodes of which each user has interacted with all items, where it counts; other arguments as for
            `Seq2SeqStepDecoder`.
    """

    model: TreeSeq2Seq
    _first: Tensor  # [B, d_model] the decoder's first state

    def __init__(
        self, model: TreeSeq2Seq, memory: Tensor, mask: Tensor | None, start_token: int, seen: ExhaustedNodes | None
    ) -> None:
        super().__init__(model, memory, mask, model.level_token_slices, start_token)
        self.seen = seen
        self._codes = no_codes(len(memory), memory.device)

    def begin(self) -> Tensor:
        hidden = self.start()
        self._first = hidden[:, 0]
        logits = self.model.with_first_content(self.model.logits(hidden, self.level_token_slices[0]), hidden)
        self.model.add_repeat_logits_(0, logits, self.seen)
        return logits

    def advance(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        self._codes = continued(self._codes, parents, codes)
        hidden = self.step(level, parents, codes)
        logits = self.model.logits(hidden, self.level_token_slices[level])
        self.model.add_node_logits_(level, logits.flatten(0, 1), hidden.flatten(0, 1), self._codes.flatten(0, 1))
        self.model.add_repeat_logits_(level, logits, self.seen, self._codes)
        return logits

    def item_logits(self, items: Tensor) -> Tensor:
        """Logits of `items` `[B, C]` in the softmax over all items."""
        return self.model.item_logits(self.model.item_state(self._first), items, self.seen)


class TreeStepDecoder:
    """A `StepDecoder`, `ForkableStepDecoder` and `ChildStepDecoder` of a `TreeNetwork` in evaluation mode.

    Args:
        network: the network.
        states: `[B, hidden_size]` state of each user.
        seen: previously interacted items of each user, if anything depends on them.
    """

    def __init__(self, network: TreeNetwork, states: Tensor, seen: Seen | None = None) -> None:
        self.network = network
        self.states = states
        self.seen = seen
        self._codes = no_codes(len(states), states.device)

    @property
    def _nodes(self) -> ExhaustedNodes | None:
        return None if self.seen is None else self.seen.nodes

    def item_logits(self, items: Tensor) -> Tensor:
        """Logits of `items` `[B, C]` in the softmax over all items."""
        return self.network.item_logits(self.states, items, self._nodes)

    def begin(self) -> Tensor:
        network, x = self.network, self.states
        if network.head_attention is not None:
            x = network.head_attention(x[:, None], self.seen)[:, 0]
        hidden = network.hidden(0, x)
        logits = network.with_first_content(hidden @ network.level_codewords(0).t(), hidden)[:, None]
        network.add_repeat_logits_(0, logits, self._nodes)
        return logits

    def advance(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        self._codes = continued(self._codes, parents, codes)
        hidden = self._hidden(level)
        logits = hidden @ self.network.level_codewords(level).t()  # [B * K, V]
        self.network.add_node_logits_(level, logits, hidden, self._codes.flatten(0, 1))
        logits = logits.view(*codes.shape, -1)
        self.network.add_repeat_logits_(level, logits, self._nodes, self._codes)
        return logits

    def advance_to_children(self, level: int, parents: Tensor, codes: Tensor, child: Tensor, count: Tensor) -> Tensor:
        self._codes = continued(self._codes, parents, codes)
        network, tree = self.network, self.network.tree
        # Beams with one child have nothing to choose: what its logit is changes nothing.
        rows = (count > 1).nonzero().squeeze(1)
        pairs = torch.repeat_interleave(count > 1, count).nonzero().squeeze(1)
        hidden = self._hidden(level, rows)
        logits, everything = hidden.new_zeros(len(child)), child
        child = child.index_select(0, pairs)
        start = F.pad(count.index_select(0, rows).cumsum(0), (1, 0))
        tokens = tree.trie.tokens[level].index_select(0, child).long()
        products = sampled_products(hidden, network.level_codewords(level), start, tokens)
        if network.nodes_add:
            products += network.node_products(level, hidden, child, start)
        logits.index_copy_(0, pairs, products)
        if self._nodes is not None and len(everything):
            begin = count.cumsum(0) - count
            first = everything[begin.clamp(max=len(everything) - 1)]  # child of each beam
            above = torch.where(count > 0, tree.trie.parent(level, first), -1).view_as(codes)
            found = network.repeated_of_beams(level, self._nodes, above)
            flat = found.user * codes.shape[1] + found.beam
            logits[begin[flat] + found.node - first[flat]] += network.repeat_logit(level)
        return logits

    def _hidden(self, level: int, rows: Tensor | None = None) -> Tensor:
        """What the logits of a level are inner products with, for beams `rows` `[N]` out of `[B * K]` (None: all)."""
        n_users, n_beams, _ = self._codes.shape
        codes = self._codes.flatten(0, 1)
        if self.network.head_attention is not None:  # all beams of a user attend to the same items
            x = self.states[:, None] + self.network.prefix_embedding(level, codes).view(n_users, n_beams, -1)
            x = self.network.head_attention(x, self.seen).flatten(0, 1)
            return self.network.hidden(level, x if rows is None else x.index_select(0, rows))
        rows = torch.arange(n_users * n_beams, device=self.states.device) if rows is None else rows
        prefix = self.network.prefix_embedding(level, codes.index_select(0, rows))
        return self.network.hidden(level, self.states.index_select(0, rows // n_beams) + prefix)

    def fork(self) -> TreeStepDecoder:
        """A decoder in the same state that advances on its own; nothing is copied."""
        return copy.copy(self)
