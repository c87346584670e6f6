"""Frozen vectors of item content, as networks read them beside item embeddings.

Input: content embeddings of a catalogue, later those of new items. Output: a standardised row for each item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recbole_tiger.quantization.scaling import Scaler


@dataclass(frozen=True)
class ItemVectors:
    """Content embeddings whose dimensions have mean 0 and standard deviation 1 over the catalogue.

    They are in half precision from the start, so that a run trains with what its checkpoint holds.

    Attributes:
        rows: float16 `[n_items + 1, dim]`, padding row 0 zero.
        scaler: of the catalogue, for new items.
    """

    rows: Tensor
    scaler: Scaler

    @classmethod
    def fit(cls, embeddings: NDArray[Any]) -> ItemVectors:
        """Vectors of a catalogue from its embeddings `[n_items, dim]`."""
        scaler = Scaler("zscore").fit(embeddings)
        return cls(F.pad(_standardised(scaler, embeddings), (0, 0, 1, 0)), scaler)

    def with_new(self, embeddings: NDArray[Any]) -> ItemVectors:
        """These vectors and, after them, those of new items with embeddings `[n, dim]`."""
        return ItemVectors(torch.cat([self.rows, _standardised(self.scaler, embeddings)]), self.scaler)

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors only."""
        return {"rows": self.rows, "scaler": self.scaler.state_dict()}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> ItemVectors:
        """The inverse of `state_dict`."""
        return cls(state["rows"], Scaler.from_state_dict(state["scaler"]))


def _standardised(scaler: Scaler, embeddings: NDArray[Any]) -> Tensor:
    # A new item may lie beyond the range of half precision in a dimension that hardly varies over the catalogue.
    largest = torch.finfo(torch.float16).max
    return torch.from_numpy(scaler.transform(embeddings)).clamp_(-largest, largest).half()
