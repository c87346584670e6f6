"""Locality-sensitive hashing (section 4.3.2): embeddings in, codes of random hyperplanes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_tiger.quantization.base import Quantizer
from recbole_tiger.quantization.kmeans import pad_rows


@dataclass(kw_only=True, eq=False)
class LSH(Quantizer):
    """SimHash codes: bit i of a code says on which side of hyperplane i an item lies.

    A level's code is c = sum over i of 2^(i-1) [w_i . x > 0], with hyperplanes w_1 ... w_h drawn from a standard
    normal distribution, other ones for every level. The paper's h = 8 and m = 4 are the defaults.

    Args:
        id_length: number of levels m.
        codebook_size: 2^h, a power of two.
        random_state: draws the hyperplanes.

    Attributes:
        hyperplanes_: float64 `[dim, h_d]` per level.
    """

    name = "lsh"
    learns_codewords = False

    id_length: int = 4

    def _check_arguments(self, dim: int) -> None:
        if any(size & (size - 1) for size in self._check_sizes()):
            raise ValueError(
                f"codebook_size={self.codebook_size}: lsh needs powers of two (2 to the number of hyperplanes)."
            )

    def _fit(self, x: NDArray[Any], *, progress: bool, checkpoint: str | Path | None) -> None:
        rng = np.random.default_rng(self.random_state)
        planes = [size.bit_length() - 1 for size in self.codebook_sizes_]
        self.hyperplanes_ = [torch.from_numpy(rng.standard_normal((self.dim_, h))) for h in planes]

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        sides = [(self._projected(x, level) > 0).long() for level in range(self.id_length)]
        return torch.stack([(side << torch.arange(side.shape[1])).sum(1) for side in sides], 1)  # first bit the lowest

    def _last_level_costs(self, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Sum of squared projections on the hyperplanes that the item would have to change sides of."""
        projected = self._projected(x, self.id_length - 1)
        weights = projected.square()
        own = (projected > 0).double()
        bits = (torch.arange(self.codebook_sizes_[-1])[:, None] >> torch.arange(projected.shape[1]) & 1).double()
        # [a != b] = a + b - 2ab
        return (weights * own).sum(1, keepdim=True) + (weights * (1 - 2 * own)) @ bits.T

    def _projected(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """w_i . x `[b, h]` in float64."""
        return (pad_rows(x.double()) @ self.hyperplanes_[level])[: len(x)]
