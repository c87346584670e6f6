"""Cached decoding with T5, one token of every beam at a time.

Input: a `Seq2Seq` and the memory `[B, T, d_model]` of its encoder. Output: hidden states `[B, K, d_model]` per step.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from recbole_tiger.nn.t5.seq2seq import Seq2Seq
from recbole_tiger.nn.t5.stack import Attention, Layer


class IncrementalDecoder:
    """Decoder with cached keys and values: K beams of a user stand on the query axis of one attention.

    What cross-attention needs of a user's memory is computed once, never per beam, and with the query and output
    projections multiplied into it: with `x` a beam's state and `m` a token's memory, head `h` scores
    `(x Wq_h) (m Wk_h)' = x (m Wk_h Wq_h')'` and adds `(m Wv_h) Wo_h` to the state, so that a step multiplies by two
    `H * T x d_model` matrices per user and has no projection left.
    Self-attention keys and values stay where they were computed; each beam carries the index of its ancestor at every
    earlier position (`parents` composed). There are no gradients and no dropout; the precision is that of the weights.

    Args:
        model: the T5.
        memory: `[B, T, d_model]`.
        mask: bool `[B, T]`, True at real tokens; None: all real.
    """

    def __init__(self, model: Seq2Seq, memory: Tensor, mask: Tensor | None = None) -> None:
        self.model = model
        self.cross_bias: Tensor | None = None  # [B, 1, H * T]
        with torch.no_grad(), _full_precision(memory):
            memory = memory.to(model.embedding.weight.dtype)
            if mask is not None:
                if mask.device.type == "cpu" and mask.any():  # columns that are padding for all need no attention
                    length = int(mask.any(0).nonzero()[-1]) + 1
                    memory, mask = memory[:, :length], mask[:, :length]
                memory = memory.masked_fill(~mask[:, :, None], 0.0)
            elif model.config.cross_position_bias:
                mask = torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)
            if mask is not None:
                bias = model.cross_attention_bias(mask[:, None], memory.dtype)[:, :, 0]  # [B, 1 or H, T]
                self.cross_bias = bias.expand(-1, model.config.num_heads, -1).flatten(1)[:, None]
            # Per layer, [B, H * T, d_model] for the scores and for the update.
            self.cross = [self._absorb(layer.cross_attention, memory) for layer in model.decoder.layers]
        # Per layer and earlier position, [B * K_u, 2 * H * D].
        self.past: list[list[Tensor]] = [[] for _ in model.decoder.layers]
        self.ancestors: list[Tensor] = []  # per earlier position: [B * K] rows of its entries in `past`
        self.n_beams = 0  # of the last step

    @staticmethod
    def _absorb(attention: Attention, memory: Tensor) -> tuple[Tensor, Tensor]:
        n_users, length, d_model = memory.shape
        n_heads, d_kv = attention.n_heads, attention.d_kv
        # [2 * H, B * T, D]: keys of all heads, then values of all heads.
        kv = attention.kv(memory).view(n_users * length, 2 * n_heads, d_kv).transpose(0, 1)
        to_query = attention.q.weight.view(n_heads, d_kv, d_model)
        to_output = attention.o.weight.view(d_model, n_heads, d_kv).permute(1, 2, 0)
        absorbed = torch.bmm(kv, torch.cat([to_query, to_output]))
        absorbed = absorbed.view(2, n_heads, n_users, length, d_model).transpose(1, 2)
        keys, values = absorbed.reshape(2, n_users, n_heads * length, d_model)
        return keys, values

    def fork(self) -> IncrementalDecoder:
        """A decoder with the same past; stepping one leaves the other as it is. Nothing is copied."""
        twin = copy.copy(self)
        twin.past = [list(layer) for layer in self.past]
        twin.ancestors = list(self.ancestors)
        return twin

    @torch.no_grad()
    def step(self, token_ids: Tensor, parents: Tensor | None = None) -> Tensor:
        """Hidden states `[B, K, d_model]` after one more token per beam.

        Args:
            token_ids: `[B, K]`.
            parents: `[B, K]`, which beam of the previous step each one continues; None: the same one.
        """
        n_users, n_beams = token_ids.shape
        if self.past[0]:
            if parents is None:
                parents = torch.arange(n_beams, device=token_ids.device).expand(n_users, -1)
            users = torch.arange(n_users, device=token_ids.device)[:, None]
            parents = (users * self.n_beams + parents).flatten()
            self.ancestors = [older[parents] for older in self.ancestors] + [parents]
        self.n_beams = n_beams
        position = len(self.past[0])
        model = self.model
        with _full_precision(token_ids):
            bias = model.decoder.relative_bias(1, position + 1, position)[:, 0]  # [H, position + 1]
            hidden = model.embed(token_ids).flatten(0, 1)  # [B * K, d_model], updated in place
            for number, layer in enumerate(model.decoder.layers):
                if number == 0:
                    qkv = self._first_qkv(layer, token_ids.flatten(), hidden)
                else:
                    qkv = layer.self_attention.qkv(layer.self_norm(hidden))
                self._self_attention(number, layer, hidden, qkv, bias)
                self._cross_attention(number, layer, hidden.view(n_users, n_beams, -1))
                wide = layer.feed_forward.wi(layer.ff_norm(hidden)).relu_()
                hidden.addmm_(wide, layer.feed_forward.wo.weight.t())
            states: Tensor = model.decoder.final_norm(hidden).view(n_users, n_beams, -1)
            return states

    @staticmethod
    def _first_qkv(layer: Layer, token_ids: Tensor, hidden: Tensor) -> Tensor:
        """Projections of the first layer: they depend on the token alone, and the beams share few tokens."""
        qkv: Tensor
        if hidden.device.type != "cpu":  # the number of distinct tokens would be waited for
            qkv = layer.self_attention.qkv(layer.self_norm(hidden))
            return qkv
        distinct, which = torch.unique(token_ids, return_inverse=True)
        first = torch.empty_like(distinct).scatter_(0, which, torch.arange(len(which)))
        qkv = layer.self_attention.qkv(layer.self_norm(hidden[first]))
        return qkv.index_select(0, which)

    def _self_attention(self, number: int, layer: Layer, hidden: Tensor, qkv: Tensor, bias: Tensor) -> None:
        attention = layer.self_attention
        inner = attention.inner
        past = [old.index_select(0, rows) for old, rows in zip(self.past[number], self.ancestors, strict=True)]
        past.append(qkv[:, inner:])
        self.past[number].append(qkv[:, inner:])

        def heads(rows: Tensor) -> Tensor:
            return rows.view(len(rows), attention.n_heads, attention.d_kv)

        # One query per row: a matrix product per row and head would be all overhead.
        query = heads(qkv[:, :inner])
        scores = torch.stack([(query * heads(kv[:, :inner])).sum(-1) for kv in past], -1)  # [B * K, H, position + 1]
        weights = (scores + bias).softmax(-1)
        attended = weights[..., :1] * heads(past[0][:, inner:])
        for i, kv in enumerate(past[1:], 1):
            attended.addcmul_(weights[..., i : i + 1], heads(kv[:, inner:]))
        hidden.addmm_(attended.flatten(1), attention.o.weight.t())

    def _cross_attention(self, number: int, layer: Layer, hidden: Tensor) -> None:
        keys, values = self.cross[number]
        query = layer.cross_norm(hidden)  # [B, K, d_model]
        if self.cross_bias is None:
            scores = torch.bmm(query, keys.transpose(1, 2))  # [B, K, H * T]
        else:
            scores = torch.baddbmm(self.cross_bias, query, keys.transpose(1, 2))
        n_heads = layer.cross_attention.n_heads
        weights = scores.unflatten(2, (n_heads, keys.shape[1] // n_heads)).softmax(-1).flatten(2)
        hidden.baddbmm_(weights, values)


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Switches autocasting off: in-place products need operands of one type."""
    return torch.autocast(tensor.device.type, enabled=False)
