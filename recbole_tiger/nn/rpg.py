"""The network of RPG in plain torch (Hou et al., KDD 2025, sections 3.1 and 3.2).

Input: histories of items with unordered codewords. Output: logits of all codewords at once. An item of the history is
the mean of its codewords' embeddings; a causal transformer gives a state after each item; a head per level makes of it
what is compared, by cosine, with the embeddings of the level's codewords, the same ones as on the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.nn.dropout import dropout
from recbole_tiger.nn.tree.packed import Packed, PackedLayer

_INIT_STD = 0.02


@dataclass(frozen=True)
class RPGConfig:
    """Sizes of an `RPGNetwork`."""

    level_sizes: tuple[int, ...]  # codewords of each level
    hidden_size: int = 128
    n_layers: int = 2
    n_heads: int = 4
    inner_size: int = 512  # width of the transformer's MLP
    max_length: int = 20  # the longest history
    input_dropout: float = 0.5
    dropout: float = 0.0  # of residuals and activations
    attention_dropout: float = 0.5  # of attention weights
    tau: float = 0.03  # temperature of the cosines

    def __post_init__(self) -> None:
        if self.hidden_size % self.n_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} cannot be divided among n_heads={self.n_heads} attention heads; "
                "choose a multiple"
            )


class RPGNetwork(nn.Module):
    """The network. Codewords are numbered over all levels, one level after the other."""

    def __init__(self, config: RPGConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.codewords = nn.Parameter(torch.empty(sum(config.level_sizes), width))
        self.positions = nn.Parameter(torch.empty(config.max_length, width))
        self.layers = nn.ModuleList(
            PackedLayer(width, config.n_heads, config.inner_size, config.dropout, config.attention_dropout)
            for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, width) for _ in config.level_sizes)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=_INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for head in self.heads:  # a head starts as the identity
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)

    def states(self, history: Tensor, lengths: Tensor, codewords: Tensor) -> tuple[Tensor, Packed]:
        """States after each item of each history, packed: `[P, hidden_size]`, row `start[b] + j` after j + 1 items.

        Args:
            history: `[B, H]` item numbers in time order, padded with 0 at the end; H may be 0.
            lengths: `[B]`; an empty history counts as one padding item, whose embedding is zero.
            codewords: `[n_items + 1, L]` of all items.
        """
        packed = Packed.of(lengths.clamp(min=1), self.config.n_heads)
        items = (history if history.shape[1] else F.pad(history, (0, 1)))[packed.user, packed.column]
        x = F.embedding_bag(codewords.index_select(0, items), self.codewords, mode="mean")
        x = x * (items > 0).to(x.dtype)[:, None] + F.embedding(packed.column, self.positions)
        x = dropout(x, self.config.input_dropout, self.training)
        for layer in self.layers:
            x = layer(x, packed)
        return self.norm(x), packed

    def levels(self) -> tuple[Tensor, ...]:
        """The codewords' embeddings `[V_l, hidden_size]` of each level, all of length 1."""
        parts: tuple[Tensor, ...] = F.normalize(self.codewords, dim=1).split(self.config.level_sizes)
        return parts

    def logits(self, states: Tensor) -> list[Tensor]:
        """Logits `[N, V_l]` of the codewords of each level, after states `[N, hidden_size]`."""
        return [
            F.normalize(states + F.silu(head(states)), dim=1) @ (embeddings / self.config.tau).t()
            for head, embeddings in zip(self.heads, self.levels(), strict=True)
        ]

    def loss(self, states: Tensor, wanted: Tensor) -> Tensor:
        """Mean over rows and levels of the cross-entropy of the codewords `wanted` `[N, L]` after `states` `[N, d]`."""
        losses, first = [], 0
        for logits, column in zip(self.logits(states), wanted.t(), strict=True):
            losses.append(F.cross_entropy(logits, column - first))
            first += logits.shape[1]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def similarities(self) -> list[Tensor]:
        """Cosines of the embeddings of each level's codewords, `[V_l, V_l]`, brought to 0 … 1."""
        return [(1 + part @ part.t()) / 2 for part in self.levels()]
