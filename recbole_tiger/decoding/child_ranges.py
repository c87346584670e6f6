"""Ranges of children of one level of a prefix trie, in the cheapest of three forms.

Input: where the nodes of two levels start in the sorted catalogue, or int64 node numbers. Output: first children, parents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class ChildRanges:
    """Where the children of each of the N nodes of one level stand in the next level.

    `offsets` [N + 1] int32: node `i` has the children `offsets[i]` up to `offsets[i + 1]`. Deep levels are mostly chains,
    where storing only the nodes that branch is smaller: `branching` [m] are their numbers, `extra` [m] how many children
    beyond one each all of them up to and including this one have. Neither: every node has one child, its own number.
    """

    offsets: Tensor | None = None
    branching: Tensor | None = None
    extra: Tensor | None = None

    @classmethod
    def from_starts(cls, above: npt.NDArray[np.int64], below: npt.NDArray[np.int64], n_items: int) -> ChildRanges:
        """Ranges from the rows of the sorted catalogue at which the nodes of a level and of the next one start."""
        if len(above) == len(below):
            return cls()
        offsets = np.searchsorted(below, np.append(above, n_items))
        branching = np.flatnonzero(np.diff(offsets) > 1)
        if 4 * len(branching) > len(above):
            return cls(offsets=torch.from_numpy(offsets.astype(np.int32)))
        extra = offsets[branching + 1] - (branching + 1)
        return cls(
            branching=torch.from_numpy(branching.astype(np.int32)),
            extra=torch.from_numpy(extra.astype(np.int32)),
        )

    def arrays(self) -> dict[str, Tensor]:
        """The arrays that there are, by name."""
        named = {"offsets": self.offsets, "branching": self.branching, "extra": self.extra}
        return {name: array for name, array in named.items() if array is not None}

    def to(self, device: torch.device | str) -> ChildRanges:
        """The same ranges on `device`."""
        return ChildRanges(**{name: array.to(device) for name, array in self.arrays().items()})

    def first(self, nodes: Tensor) -> Tensor:
        """First child of `nodes` (int64, any shape, N allowed), int64."""
        if self.offsets is not None:
            return self.offsets[nodes].long()
        if self.branching is None or self.extra is None:
            return nodes
        before = torch.searchsorted(self.branching, nodes.int())  # branching nodes with a smaller number
        return nodes + torch.where(before > 0, self.extra[(before - 1).clamp_(min=0)], 0)

    def parent(self, children: Tensor) -> Tensor:
        """Node of each of `children` (int64, any shape); one number past the last child gives N."""
        if self.offsets is not None:
            return torch.searchsorted(self.offsets, children.int(), right=True) - 1
        if self.branching is None or self.extra is None:
            return children
        first = self.first(self.branching.long()).int()
        at = torch.searchsorted(first, children.int(), right=True) - 1  # the last branching node that starts here
        near = at.clamp(min=0)
        node = torch.maximum(self.branching[near].long(), children - self.extra[near])
        return torch.where(at >= 0, node, children)

    def max_count(self) -> int:
        """Most children of one node."""
        if self.offsets is not None:
            return int(self.offsets.diff().max())
        if self.extra is None:
            return 1
        return 1 + int(self.extra.diff(prepend=self.extra.new_zeros(1)).max())
