"""Residual k-means: embeddings in, codes of a residual quantizer without autoencoder out.

Level by level, k-means clusters what the levels before left over (RQ-VAE's scheme of section 3.1.1, applied to the
embeddings themselves).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_tiger.io import has_screen
from recbole_tiger.quantization.codebooks import CodebookQuantizer
from recbole_tiger.quantization.kmeans import check_iterations, kmeans


@dataclass(kw_only=True, eq=False)
class ResidualKMeans(CodebookQuantizer):
    """k-means on embeddings, then on residuals.

    Args:
        id_length, codebook_size, random_state: see `Quantizer`.
        max_iterations: Lloyd iterations per level at most.
        device: where to cluster and encode.

    Attributes:
        codebooks_: `[K_d, dim]` per level.
        history_: `inertia`, after each level.
    """

    name = "rkmeans"

    max_iterations: int = 20
    device: str = "cpu"

    def _check_arguments(self, dim: int) -> None:
        check_iterations(self.max_iterations)

    def _fit(self, x: NDArray[Any], *, progress: bool, checkpoint: str | Path | None) -> None:
        rng = np.random.default_rng(self.random_state)
        residual = self._matrix(x).clone()  # a copy, because the residuals are written over it
        self.codebooks_: list[torch.Tensor] = []
        self.history_ = {"inertia": []}
        for size in tqdm(self.codebook_sizes_, desc=self.name, unit="level", disable=not (progress and has_screen())):
            found = kmeans(residual, size, rng, max_iterations=self.max_iterations)
            residual -= found.centroids[found.codes]
            self.codebooks_.append(found.centroids.cpu())
            self.history_["inertia"].append(found.inertia)

    def _width(self) -> int:
        return self.dim_

    def _codebooks(self) -> list[torch.Tensor]:
        return self._kept("codebooks", self.codebooks_, lambda: [book.to(self._device) for book in self.codebooks_])

    def _to_latent(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def _from_latent(self, latent: torch.Tensor) -> torch.Tensor:
        return latent
