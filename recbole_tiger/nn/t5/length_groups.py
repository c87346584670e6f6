"""Groups of users of similar length, so that an encoder computes little padding.

Input: the mask of a padded batch. Output: the batch group by group, and results in the batch's order again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class LengthGroups:
    """A padded batch `[B, T]` as groups of users of similar length, each cut to its longest.

    Its tokens become one matrix `[M, d]`, group after group, `b x t` rows each. A group holds so few tokens that its
    intermediate results stay in the processor's caches. On an accelerator, where data-dependent shapes would cost a
    synchronisation, and under `torch.compile`, which they would break, there is one group: the batch as it is.
    """

    MAX_TOKENS = 4096  # of a group
    MAX_PADDING = 128  # tokens of padding in a group that are cheaper than one more group

    def __init__(self, mask: Tensor) -> None:
        self.shape = n_users, length = mask.shape
        self.sizes = [(n_users, length)]  # (b, t) of each group
        self.order: Tensor | None = None  # user at each sorted position; None: as they come
        self.masks = [mask]  # [b, t] of each group
        if mask.device.type != "cpu" or torch.compiler.is_compiling() or n_users * length == 0:
            return
        columns = torch.arange(1, length + 1)
        # The last real column + 1 (padding may stand anywhere), 1 for a user without any token.
        last, order = (mask * columns).amax(1).clamp_(min=1).sort(descending=True, stable=True)
        self.sizes = self._cut(*(part.tolist() for part in torch.unique_consecutive(last, return_counts=True)))
        if len(self.sizes) == 1 and self.sizes[0][1] == length:
            return
        self.order = order
        groups = list(zip(order.split([b for b, _ in self.sizes]), (t for _, t in self.sizes), strict=True))
        self.masks = [mask[users, :t] for users, t in groups]
        index = [(users[:, None] * length + columns[:t] - 1).flatten() for users, t in groups]
        self.index = torch.cat(index)  # [M] position in the flattened batch
        self.back = torch.full((n_users * length,), len(self.index))
        self.back[self.index] = torch.arange(len(self.index))  # M, a row of zeros, for what is cut off

    def _cut(self, lengths: list[int], counts: list[int]) -> list[tuple[int, int]]:
        """Sizes of the groups for `counts[i]` users of `lengths[i]` tokens, lengths descending."""
        sizes: list[tuple[int, int]] = []
        longest, n_users, padding = lengths[0], 0, 0
        for length, count in zip(lengths, counts, strict=True):
            if padding + count * (longest - length) > self.MAX_PADDING:
                sizes.append((n_users, longest))
                longest, n_users, padding = length, 0, 0
            n_users += count
            padding += count * (longest - length)
        sizes.append((n_users, longest))
        cut = []
        for n_users, length in sizes:
            n_parts = -(-n_users * length // self.MAX_TOKENS)
            bounds = [n_users * part // n_parts for part in range(n_parts + 1)]
            cut += [(high - low, length) for low, high in zip(bounds[:-1], bounds[1:], strict=True) if high > low]
        return cut

    def pack(self, padded: Tensor) -> list[Tensor]:
        """`[B, T, d]` to one `[b, t, d]` per group."""
        if self.order is None:
            return [padded]
        packed = F.embedding(self.index, padded.flatten(0, 1))
        parts = packed.split([b * t for b, t in self.sizes])
        return [part.view(b, t, part.shape[1]) for part, (b, t) in zip(parts, self.sizes, strict=True)]

    def unpack(self, parts: list[Tensor]) -> Tensor:
        """One `[b, t, d]` per group to `[B, T, d]`, zeros where nothing was computed."""
        if self.order is None:
            return parts[0]
        d_model = parts[0].shape[2]
        rows = torch.cat([*(part.flatten(0, 1) for part in parts), parts[0].new_zeros(1, d_model)])
        return F.embedding(self.back, rows).view(*self.shape, d_model)

    def pack_users(self, rows: Tensor) -> Tensor:
        """`[B, …]` in the order of the groups."""
        return rows if self.order is None else rows[self.order]

    def unpack_users(self, rows: Tensor) -> Tensor:
        """`[B, …]` from the order of the groups in the batch's."""
        return rows if self.order is None else rows[self.order.argsort()]

    def split_users(self, rows: Tensor) -> tuple[Tensor, ...]:
        """`[B, …]` in the order of the groups to one `[b, …]` per group."""
        return torch.split(rows, [b for b, _ in self.sizes])
