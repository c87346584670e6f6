"""Residual k-means: embeddings come in, codes of a residual quantizer without autoencoder go out.

Level by level, k-means clusters what the levels before left over (RQ-VAE's scheme of section 3.1.1, applied to the
embeddings themselves).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .base import Quantizer
from .kmeans import kmeans, nearest, squared_distances, squared_norms


class ResidualKMeans(Quantizer):
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

    def __init__(
        self,
        *,
        id_length: int = 3,
        codebook_size: int | list[int] = 256,
        random_state: int = 0,
        max_iterations: int = 20,
        device: str = "cpu",
    ) -> None:
        super().__init__(id_length=id_length, codebook_size=codebook_size, random_state=random_state)
        self.max_iterations = max_iterations
        self.device = device

    def _check_arguments(self, dim: int) -> None:
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations={self.max_iterations} must be at least 1.")

    def _fit(self, x: np.ndarray, *, progress: bool, checkpoint: str | Path | None) -> None:
        rng = np.random.default_rng(self.random_state)
        # a copy, because the residuals are written over it
        residual = self._matrix(x).clone()
        self.codebooks_ = []
        self.history_ = {"inertia": []}
        for size in tqdm(self.codebook_sizes_, desc=self.name, unit="level", disable=None if progress else True):
            found = kmeans(residual, size, rng, max_iterations=self.max_iterations)
            residual -= found.centroids[found.codes]
            self.codebooks_.append(found.centroids.cpu())
            self.history_["inertia"].append(found.inertia)

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        residual, codes = x.clone(), []
        for codebook, norms in self._fitted_codebooks():
            code, _ = nearest(residual, codebook, norms)
            residual -= codebook[code]
            codes.append(code)
        return torch.stack(codes, 1)

    def _decode(self, codes: torch.Tensor, levels: int) -> torch.Tensor:
        out = torch.zeros(len(codes), self.dim_, device=self._device)
        for level, (codebook, _) in enumerate(self._fitted_codebooks()[:levels]):
            out += codebook[codes[:, level].to(self._device)]
        return out

    def _last_level_costs(self, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        residual = x.clone()
        codebooks = self._fitted_codebooks()
        for level, (codebook, _) in enumerate(codebooks[:-1]):
            residual -= codebook[codes[:, level]]
        return squared_distances(residual, codebooks[-1][0])

    def _fitted_codebooks(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Codebooks on the device, each with its squared norms."""
        if getattr(self, "_cache", None) is None or self._cache[0] is not self.codebooks_:
            on_device = [codebook.to(self._device) for codebook in self.codebooks_]
            self._cache = (self.codebooks_, [(codebook, squared_norms(codebook)) for codebook in on_device])
        return self._cache[1]
