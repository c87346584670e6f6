"""A causal transformer over histories without padding.

Input: embeddings of all items of a batch, one history after the other. Output: states that depend on the items up to
theirs in their history.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_tiger.nn.dropout import dropout

#: Groups of histories of similar length that attention pads to the longest of the group.
_LENGTH_GROUPS = 4


@dataclass(frozen=True)
class Packed:
    """Indices of the P items of a batch of histories that are written one history after the other, unpadded."""

    user: Tensor  # [P] history of each item …
    column: Tensor  # … and its position in it
    start: Tensor  # [B] number of each history's first item
    groups: list[tuple[int, int]]  # histories and width of each group of similar length
    # Rows of `[P * 3 * heads, d]`: queries, keys and values of each group, `[n, heads, width]` of each; past the end of
    # a history its last item again, which no item before it sees.
    gather: Tensor
    back: Tensor  # [P * heads] rows of all groups' outputs, one group after the other, that belong to each item

    @classmethod
    def of(cls, lengths: Tensor, n_heads: int) -> Packed:
        """Of histories with `lengths` `[B]`, at least 1 each."""
        device = lengths.device
        # Groups of neighbours in the order of length; the widest of each is its last.
        order = lengths.argsort(stable=True)
        groups_of = order.tensor_split(min(_LENGTH_GROUPS, len(lengths)))
        widest = lengths[torch.stack([members[-1] for members in groups_of])]
        n_items, *widths = torch.cat([lengths.sum()[None], widest]).tolist()  # all that the device is asked for
        user = torch.repeat_interleave(lengths, output_size=n_items)
        start = lengths.cumsum(0) - lengths
        head = torch.arange(n_heads, device=device)[:, None]
        groups, gather, n_rows = [], [], 0
        back = torch.empty(n_items * n_heads + 1, dtype=torch.long, device=device)  # the last for what is padding
        for members, width in zip(groups_of, widths, strict=True):
            length = lengths[members, None, None]
            position = torch.arange(width, device=device)
            item = start[members, None, None] + torch.minimum(position, length - 1)  # [n, 1, width]
            gather += [((item * 3 + part) * n_heads + head).flatten() for part in range(3)]
            row = torch.arange(len(members) * n_heads * width, device=device).view(len(members), n_heads, width)
            back[torch.where(position < length, item * n_heads + head, n_items * n_heads)] = row + n_rows
            n_rows += row.numel()
            groups.append((len(members), width))
        column = torch.arange(n_items, device=device) - start[user]
        return cls(user, column, start, groups, torch.cat(gather), back[:-1])


class PackedAttention(nn.Module):
    """Causal self-attention inside each history."""

    def __init__(self, width: int, n_heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.rate = dropout_rate
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

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
            weights = dropout(scores.softmax(-1), self.rate, self.training)
            mixed.append(torch.bmm(weights, value).view(-1, head_size))
        out: Tensor = self.out(torch.cat(mixed).index_select(0, packed.back).view(x.shape))
        return out


class PackedLayer(nn.Module):
    """A pre-norm transformer layer on packed items `[P, width]`.

    Args:
        dropout_rate: of residuals and activations.
        attention_rate: dropout of attention weights.
    """

    def __init__(self, width: int, n_heads: int, inner_size: int, dropout_rate: float, attention_rate: float) -> None:
        super().__init__()
        self.rate = dropout_rate
        self.attention_norm = nn.LayerNorm(width)
        self.attention = PackedAttention(width, n_heads, attention_rate)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner_size)
        self.down = nn.Linear(inner_size, width)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        x = x + self._dropped(self.attention(self.attention_norm(x), packed))
        inner = self._dropped(F.gelu(self.up(self.mlp_norm(x))))
        return x + self._dropped(self.down(inner))

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate, self.training)
