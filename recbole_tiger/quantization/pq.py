"""Product quantization with a learned rotation: embeddings in, codes out, each from its own part of the space.

The embeddings are centred and rotated, their dimensions are cut into `id_length` parts, and k-means clusters each
part by itself (Jegou et al. 2010). The rotation is learned as in optimized product quantization (Ge et al. 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_tiger.quantization.codebooks import CodebookQuantizer
from recbole_tiger.quantization.kmeans import (
    MIN_ROWS,
    ROWS,
    KMeansResult,
    kmeans,
    pad_rows,
    single_threaded,
)


@dataclass(kw_only=True, eq=False)
class ProductQuantizer(CodebookQuantizer):
    """Optimized product quantization.

    Args:
        id_length, codebook_size, random_state: see `Quantizer`; id_length is the number of parts.
        rotation_iterations: how often codebooks and rotation are improved in turn; 0 does not rotate.
        max_iterations: Lloyd iterations per part at most, before and after the rotation is learned.
        device: where to cluster and encode.

    Attributes:
        mean_: `[dim]`.
        rotation_: `[dim, dim]`, orthogonal; rows of `(x - mean_) @ rotation_` are what is cut into parts.
        codebooks_: `[K_d, width_d]` per part.
        history_: `inertia` after each improvement of the codebooks.
    """

    name = "pq"
    residual = False

    rotation_iterations: int = 15
    max_iterations: int = 20
    device: str = "cpu"

    def _check_arguments(self, dim: int) -> None:
        super()._check_arguments(dim)
        if self.id_length > dim:
            raise ValueError(f"id_length={self.id_length} parts cannot be cut from embeddings of {dim} dimensions.")
        if self.rotation_iterations < 0:
            raise ValueError(f"rotation_iterations={self.rotation_iterations} must not be negative.")

    def _fit(self, x: NDArray[Any], *, progress: bool, checkpoint: str | Path | None) -> None:
        rng = np.random.default_rng(self.random_state)
        mean = x.mean(0, dtype=np.float64).astype(np.float32)
        centred = self._matrix(x) - torch.from_numpy(mean).to(self._device)
        self.history_ = {"inertia": []}
        with single_threaded(min(centred.shape) < MIN_ROWS):
            rotation = torch.eye(self.dim_, device=self._device)
            if self.rotation_iterations:
                rotation = self._principal_rotation(centred)
            found = self._cluster(centred, rotation, rng, None, self.max_iterations)
            for _ in self._bar(progress, iterable=range(self.rotation_iterations), unit="turn"):
                rotation = self._procrustes(centred, found)
                # the codebooks are near their optimum already: one iteration follows the rotation
                found = self._cluster(centred, rotation, rng, found, 1)
            if self.rotation_iterations:
                found = self._cluster(centred, rotation, rng, found, self.max_iterations)
        self.mean_ = torch.from_numpy(mean)
        self.rotation_ = rotation.cpu()
        self.codebooks_ = [one.centroids.cpu() for one in found]

    def _cluster(
        self,
        centred: torch.Tensor,
        rotation: torch.Tensor,
        rng: np.random.Generator,
        before: list[KMeansResult] | None,
        iterations: int,
    ) -> list[KMeansResult]:
        """k-means in every part of the rotated space, from the centroids of before or from new seeds."""
        found = []
        for level, (part, size) in enumerate(zip(self._slices(), self.codebook_sizes_, strict=True)):
            start = None if before is None else before[level].centroids
            found.append(kmeans(centred @ rotation[:, part], size, rng, max_iterations=iterations, start=start))
        self.history_["inertia"].append(sum(one.inertia for one in found))
        return found

    def _principal_rotation(self, centred: torch.Tensor) -> torch.Tensor:
        """Principal components, dealt to the parts so that their products of variances are alike (Ge et al., 3.2)."""
        with single_threaded():
            covariance = (centred.T @ centred / len(centred)).cpu().double()
            variances, vectors = torch.linalg.eigh(covariance)
        order = torch.argsort(variances, descending=True, stable=True).tolist()
        logs = variances.clamp(min=1e-12).log().tolist()
        parts: list[list[int]] = [[] for _ in range(self.id_length)]
        rooms = [part.stop - part.start for part in self._slices()]
        for component in order:
            open_parts = [p for p in range(self.id_length) if len(parts[p]) < rooms[p]]
            least = min(open_parts, key=lambda p: (sum(logs[c] - logs[order[-1]] for c in parts[p]), p))
            parts[least].append(component)
        dealt: torch.Tensor = vectors[:, [component for part in parts for component in part]]
        return dealt.float().to(self._device)

    def _procrustes(self, centred: torch.Tensor, found: list[KMeansResult]) -> torch.Tensor:
        """The rotation that brings the embeddings nearest to their codewords (orthogonal Procrustes problem)."""
        product = torch.zeros(self.dim_, self.dim_, device=self._device)
        for start in range(0, len(centred), ROWS):
            rows = slice(start, start + ROWS)
            product += centred[rows].T @ torch.cat([one.centroids[one.codes[rows]] for one in found], 1)
        with single_threaded():
            left, _, right = torch.linalg.svd(product.cpu().double())
        rotation: torch.Tensor = left @ right
        return rotation.float().to(self._device)

    def _to_latent(self, x: torch.Tensor) -> torch.Tensor:
        return (pad_rows(x - self.mean_.to(self._device)) @ self.rotation_.to(self._device))[: len(x)]

    def _from_latent(self, latent: torch.Tensor) -> torch.Tensor:
        # a part without code is at zero, the mean of the centred embeddings
        return latent @ self.rotation_.to(self._device).T + self.mean_.to(self._device)
