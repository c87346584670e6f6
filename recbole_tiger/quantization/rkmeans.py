"""Residual k-means: embeddings in, codes of a residual quantizer without autoencoder out.

Level by level, k-means clusters what the levels before left over (RQ-VAE's scheme of section 3.1.1, applied to the
embeddings themselves).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_tiger.quantization.codebooks import CodebookQuantizer
from recbole_tiger.quantization.kmeans import kmeans


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

    def _fit(self, x: NDArray[Any], *, progress: bool, checkpoint: str | Path | None) -> None:
        rng = np.random.default_rng(self.random_state)
        residual = self._matrix(x).clone()  # a copy, because the residuals are written over it
        self.codebooks_ = []
        self.history_ = {"inertia": []}
        for size in self._bar(progress, iterable=self.codebook_sizes_, unit="level"):
            found = kmeans(residual, size, rng, max_iterations=self.max_iterations)
            residual -= found.centroids[found.codes]
            self.codebooks_.append(found.centroids.cpu())
            self.history_["inertia"].append(found.inertia)
