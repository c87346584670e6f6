"""Types that the searches share: what they ask of a decoder and what they return.

Input: nothing. Output: protocols of step decoders, the step decoder of any function, and results as frozen
dataclasses. B users, K beams of each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

#: What a codeword's probability is relative to: the codebook of its level, or the children of its prefix in the trie.
Normalise = Literal["level", "children"]


class StepDecoder(Protocol):
    """The interface of a model for a search: logits over one level's codebook for all beams of all users."""

    def begin(self) -> Tensor:
        """Logits `[B, 1, V_0]` of the first level."""

    def advance(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits `[B, K, V_level]` of `level`, after the choice of the level before.

        Args:
            parents: `[B, K]`, the beam of the previous step that each beam continues.
            codes: `[B, K]`, the codeword chosen for it at `level - 1`.
        """


class ForkableStepDecoder(StepDecoder, Protocol):
    """A `StepDecoder` whose state can be branched off, so that chunks of children continue from one past."""

    def fork(self) -> ForkableStepDecoder:
        """A decoder in the same state that advances on its own."""


class ChildStepDecoder(StepDecoder, Protocol):
    """A `StepDecoder` that can give the logits of the children of prefixes alone, where no others are needed."""

    def advance_to_children(self, level: int, parents: Tensor, codes: Tensor, child: Tensor, count: Tensor) -> Tensor:
        """Logits `[M]` of `child`, to be compared with those of siblings only; any value where there are none.

        Args:
            parents, codes: as for `advance`.
            child: `[M]` nodes of `level`: the children of each beam's node in order, beam by beam.
            count: `[B * K]` children of each beam.
        """


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


@dataclass(frozen=True)
class BeamResult:
    """Ranked items of each user: highest score first, equal scores by item number.

    Attributes:
        items: `[B, k]` int64 item numbers, 0 where there are fewer than k.
        scores: `[B, k]` float32 log-probabilities of their semantic IDs, `-inf` there.
        ids: where items share semantic IDs: `[B, K]` the IDs found, best first, as leaves of the trie, -1 where there
            are fewer; else None.
        id_counts: with `ids`: `[B, K]` items of each ID, without excluded ones.
    """

    items: Tensor
    scores: Tensor
    ids: Tensor | None = None
    id_counts: Tensor | None = None

    @classmethod
    def gathered(cls, parts: Sequence[BeamResult], order: Tensor) -> BeamResult:
        """One result of several, whose users together are the rows `order` `[B]` of a batch, in the batch's order."""
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)

        def rows(name: str) -> Any:
            column = [getattr(part, name) for part in parts]
            return None if column[0] is None else torch.cat(column)[back]

        return cls(rows("items"), rows("scores"), rows("ids"), rows("id_counts"))


@dataclass(frozen=True)
class FreeBeamResult:
    """Ranked semantic IDs of each user from unconstrained generation.

    Attributes:
        codes: `[B, k, depth]` int64.
        scores: `[B, k]` float32 log-probabilities, `-inf` where there are fewer than k.
        items: `[B, k]` int64, the (first) item of the ID, 0 for an ID that no item has.
    """

    codes: Tensor
    scores: Tensor
    items: Tensor

    @property
    def valid(self) -> Tensor:
        """bool `[B, k]`: does the ID belong to an item?"""
        return self.items > 0
