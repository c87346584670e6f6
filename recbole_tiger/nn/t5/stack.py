"""T5's encoder and decoder as stacks of pre-norm layers: attention with relative position biases, and feed-forward.

Input: a `T5Config`. Output: modules, and what a layer adds to hidden states `[B, T, d_model]`. B users, T keys, U
queries, H heads of size D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.nn.dropout import dropout
from recbole_tiger.nn.t5.config import T5Config


class RelativeBias(nn.Module):
    """T5's relative position bias, one learned number per head and distance bucket, shared by a stack's layers."""

    def __init__(self, config: T5Config, *, bidirectional: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.relative_attention_num_buckets, config.num_heads))
        self.bidirectional = bidirectional
        self.max_distance = config.relative_attention_max_distance

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket of `distance` = key position - query position: half of the buckets exact, half logarithmic."""
        n_buckets = self.weight.shape[0]
        offset = torch.zeros_like(distance)
        if self.bidirectional:
            n_buckets //= 2
            offset = (distance > 0).long() * n_buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        n_exact = n_buckets // 2
        # clamp(min=1) only keeps the logarithm finite; distances below n_exact do not use it.
        ratio = torch.log(distance.clamp(min=1).float() / n_exact) / math.log(self.max_distance / n_exact)
        logarithmic = n_exact + (ratio * (n_buckets - n_exact)).long()
        return offset + torch.where(distance < n_exact, distance, logarithmic.clamp(max=n_buckets - 1))

    def forward(self, n_queries: int, n_keys: int, first_query: int = 0) -> Tensor:
        """Bias `[H, n_queries, n_keys]`; the queries stand at positions `first_query`, `first_query + 1`, …"""
        device = self.weight.device
        queries = torch.arange(first_query, first_query + n_queries, device=device)
        distance = torch.arange(n_keys, device=device)[None, :] - queries[:, None]
        return F.embedding(self.bucket(distance), self.weight).permute(2, 0, 1)


class CrossBias(RelativeBias):
    """The same for the decoder's attention to the encoder, by the number of visible tokens that follow."""

    SCALE = 10.0  # of the learned numbers, which start at zero and should have an effect soon

    def forward(self, visible: Tensor) -> Tensor:  # type: ignore[override]  # it shares the buckets, not the call
        """Bias `[…, T, H]` of the tokens that are visible, bool `[…, T]`; for others it has no meaning."""
        after = visible.sum(-1, keepdim=True) - visible.cumsum(-1)
        return self.SCALE * F.embedding(self.bucket(-after), self.weight)


def mask_to_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, the lowest finite number elsewhere (`-inf` would make an empty row NaN)."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, rate: float, training: bool) -> Tensor:
    """T5's attention, `[B, H, U, D], [B, H, T, D] x 2 -> [B, H, U, D]`: scores unscaled, `bias` added to them.

    On the CPU a bias that needs a gradient or dropout sends `scaled_dot_product_attention` down its slow general path,
    so training computes the product itself there, with the thin dropout.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled():
        scores = query @ key.transpose(-1, -2)
        if bias is not None:
            scores = scores + bias
        return dropout(scores.softmax(-1), rate, training) @ value
    if bias is not None and bias.dtype != query.dtype:  # under autocast
        # float32's lowest number would become -inf in bfloat16, and a row without any key NaN.
        bias = bias.clamp(min=torch.finfo(query.dtype).min).to(query.dtype)
    rate = rate if training else 0.0
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=rate, scale=1.0)


class Attention(nn.Module):
    """Query, key, value and output projection of one T5 attention; key and value (and query, if self) in one matrix."""

    def __init__(self, config: T5Config, *, cross: bool) -> None:
        super().__init__()
        self.n_heads, self.d_kv = config.num_heads, config.d_kv
        self.rate = config.dropout_rate
        self.inner = config.num_heads * config.d_kv
        self.cross = cross
        if cross:
            self.q = nn.Linear(config.d_model, self.inner, bias=False)
            self.kv = nn.Linear(config.d_model, 2 * self.inner, bias=False)
        else:
            self.qkv = nn.Linear(config.d_model, 3 * self.inner, bias=False)
        self.o = nn.Linear(self.inner, config.d_model, bias=False)

    def heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """`[B, T, parts * H * D]` to `parts` views `[B, H, T, D]`."""
        n_users, length, _ = projected.shape
        return projected.view(n_users, length, parts, self.n_heads, self.d_kv).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """`[B, H, U, D]` x 3 to `[B, U, H * D]`, before the output projection."""
        attended = attend(query, key, value, bias, self.rate, self.training)
        return attended.transpose(1, 2).reshape(query.shape[0], query.shape[2], self.inner)


class RMSNorm(nn.Module):
    """T5's layer norm: scaled by the root mean square over the last dimension, no mean, no bias."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


class FeedForward(nn.Module):
    """ReLU feed-forward with dropout between its two matrices."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.rate = config.dropout_rate

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.wo(dropout(self.wi(hidden), self.rate, self.training, relu=True))
        return out


class Layer(nn.Module):
    """One pre-norm block: self-attention, in the decoder cross-attention, feed-forward; each adds to the stream."""

    def __init__(self, config: T5Config, *, cross: bool) -> None:
        super().__init__()
        self.self_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.self_attention = Attention(config, cross=False)
        if cross:
            self.cross_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
            self.cross_attention = Attention(config, cross=True)
        self.ff_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.rate = config.dropout_rate

    def add(self, hidden: Tensor, update: Tensor) -> Tensor:
        """The stream after an update, of which training drops a share."""
        return hidden + dropout(update, self.rate, self.training)

    def add_self_attention(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """The stream `[B, T, d_model]` after self-attention with `bias` `[B or 1, H, T, T]`."""
        attention = self.self_attention
        query, key, value = attention.heads(attention.qkv(self.self_norm(hidden)), 3)
        return self.add(hidden, attention.o(attention.attend(query, key, value, bias)))

    def add_feed_forward(self, hidden: Tensor) -> Tensor:
        """The stream after the feed-forward."""
        return self.add(hidden, self.feed_forward(self.ff_norm(hidden)))


class Stack(nn.Module):
    """Encoder or decoder: layers, the relative bias that they share and the final norm."""

    def __init__(self, config: T5Config, *, decoder: bool) -> None:
        super().__init__()
        n_layers = config.num_decoder_layers if decoder else config.num_encoder_layers
        self.relative_bias = RelativeBias(config, bidirectional=not decoder)
        self.cross_bias = CrossBias(config, bidirectional=False) if decoder and config.cross_position_bias else None
        self.layers = cast("Sequence[Layer]", nn.ModuleList(Layer(config, cross=decoder) for _ in range(n_layers)))
        self.final_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
