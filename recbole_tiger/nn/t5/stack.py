"""T5's encoder and decoder as stacks of pre-norm layers.

Input: a `T5Config`. Output: modules, and what a layer adds to hidden states `[B, T, d_model]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.nn.dropout import dropout
from recbole_tiger.nn.t5.attention import Attention, CrossBias, RelativeBias
from recbole_tiger.nn.t5.config import T5Config


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
