"""Any function from prefixes to logits as a step decoder.

Input: a function. Output: a `StepDecoder` that calls it level by level, and keeps nothing but the codewords so far.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor


class StepFunction:
    """A `StepDecoder` and `ForkableStepDecoder` of a function.

    Args:
        logits: from the codewords so far, int64 `[B, K, level]` (level 0: `[B, 1, 0]`), to logits `[B, K, V_level]` of
            the next codeword.
        n_users: B.
        device: of the codewords that it gets.
    """

    def __init__(
        self, logits: Callable[[Tensor], Tensor], n_users: int, device: torch.device | str | None = None
    ) -> None:
        self.logits = logits
        self.n_users = n_users
        self.device = device
        self._codes = no_codes(n_users, device)

    def begin(self) -> Tensor:
        self._codes = no_codes(self.n_users, self.device)
        return self.logits(self._codes)

    def advance(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        self._codes = continued(self._codes, parents, codes)
        return self.logits(self._codes)

    def fork(self) -> StepFunction:
        """A decoder in the same state that advances on its own; nothing is copied."""
        return copy.copy(self)


def no_codes(n_users: int, device: torch.device | str | None = None) -> Tensor:
    """Codewords `[B, 1, 0]` of the root."""
    return torch.empty((n_users, 1, 0), dtype=torch.long, device=device)


def continued(prefixes: Tensor, parents: Tensor, codes: Tensor) -> Tensor:
    """Codewords `[B, K, level]` of beams that continue the beams `parents` `[B, K]` with `codes` `[B, K]`."""
    above = prefixes.gather(1, parents[:, :, None].expand(-1, -1, prefixes.shape[2]))
    return torch.cat([above, codes[:, :, None]], 2)
