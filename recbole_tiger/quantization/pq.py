"""Product quantization with a learned rotation: embeddings come in, codes out, each from its own part of the space.

The embeddings are centred and rotated, their dimensions are cut into `id_length` parts, and k-means clusters each
part by itself (Jegou et al. 2010). The rotation is learned as in optimized product quantization (Ge et al. 2013).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .base import Quantizer
from .kmeans import MIN_ROWS, ROWS, kmeans, nearest, pad_rows, single_threaded, squared_distances, squared_norms
from .vqvae import even_slices


class ProductQuantizer(Quantizer):
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

    def __init__(
        self,
        *,
        id_length: int = 3,
        codebook_size: int | list[int] = 256,
        random_state: int = 0,
        rotation_iterations: int = 15,
        max_iterations: int = 20,
        device: str = "cpu",
    ) -> None:
        super().__init__(id_length=id_length, codebook_size=codebook_size, random_state=random_state)
        self.rotation_iterations = rotation_iterations
        self.max_iterations = max_iterations
        self.device = device

    def _check_arguments(self, dim: int) -> None:
        if self.id_length > dim:
            raise ValueError(f"id_length={self.id_length} parts cannot be cut from embeddings of {dim} dimensions.")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations={self.max_iterations} must be at least 1.")
        if self.rotation_iterations < 0:
            raise ValueError(f"rotation_iterations={self.rotation_iterations} must not be negative.")

    def _slices(self) -> list[slice]:
        return even_slices(self.dim_, self.id_length)

    def _fit(self, x: np.ndarray, *, progress: bool, checkpoint: str | Path | None) -> None:
        rng = np.random.default_rng(self.random_state)
        mean = x.mean(0, dtype=np.float64).astype(np.float32)
        centred = self._matrix(x) - torch.from_numpy(mean).to(self._device)
        self.history_ = {"inertia": []}
        with single_threaded(min(centred.shape) < MIN_ROWS):
            rotation = torch.eye(self.dim_, device=self._device)
            if self.rotation_iterations:
                rotation = self._principal_rotation(centred)
            found = self._cluster(centred, rotation, rng, None, self.max_iterations)
            turns = range(self.rotation_iterations)
            for _ in tqdm(turns, desc=self.name, unit="turn", disable=None if progress else True):
                rotation = self._procrustes(centred, found)
                # the codebooks are near their optimum already: one iteration follows the rotation
                found = self._cluster(centred, rotation, rng, [one.centroids for one in found], 1)
            if self.rotation_iterations:
                found = self._cluster(centred, rotation, rng, [one.centroids for one in found], self.max_iterations)
        self.mean_ = torch.from_numpy(mean)
        self.rotation_ = rotation.cpu()
        self.codebooks_ = [one.centroids.cpu() for one in found]

    def _cluster(self, centred, rotation, rng, starts, iterations) -> list:
        """k-means in every part of the rotated space, from centroids at hand or from new seeds."""
        found = [
            kmeans(
                centred @ rotation[:, part],
                size,
                rng,
                max_iterations=iterations,
                start=None if starts is None else starts[level],
            )
            for level, (part, size) in enumerate(zip(self._slices(), self.codebook_sizes_, strict=True))
        ]
        self.history_["inertia"].append(sum(one.inertia for one in found))
        return found

    def _principal_rotation(self, centred: torch.Tensor) -> torch.Tensor:
        """Principal components, dealt to the parts so that the products of their variances are alike (Ge et al., 3.2)."""
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
        return vectors[:, [component for part in parts for component in part]].float().to(self._device)

    def _procrustes(self, centred: torch.Tensor, found: list) -> torch.Tensor:
        """The rotation that brings the embeddings nearest to their codewords (orthogonal Procrustes problem)."""
        product = torch.zeros(self.dim_, self.dim_, device=self._device)
        for start in range(0, len(centred), ROWS):
            rows = slice(start, start + ROWS)
            product += centred[rows].T @ torch.cat([one.centroids[one.codes[rows]] for one in found], 1)
        with single_threaded():
            left, _, right = torch.linalg.svd(product.cpu().double())
        return (left @ right).float().to(self._device)

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        rotated = self._rotated(x)
        codes = [nearest(rotated[:, part], book, norms)[0] for part, book, norms in self._parts()]
        return torch.stack(codes, 1)

    def _decode(self, codes: torch.Tensor, levels: int) -> torch.Tensor:
        # a part without code stays at zero, the mean of the centred embeddings
        rotated = torch.zeros(len(codes), self.dim_, device=self._device)
        for level, (part, codebook, _) in enumerate(self._parts()[:levels]):
            rotated[:, part] = codebook[codes[:, level].to(self._device)]
        return rotated @ self.rotation_.to(self._device).T + self.mean_.to(self._device)

    def _last_level_costs(self, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        part, codebook, _ = self._parts()[-1]
        return squared_distances(self._rotated(x)[:, part], codebook)

    def _rotated(self, x: torch.Tensor) -> torch.Tensor:
        return (pad_rows(x - self.mean_.to(self._device)) @ self.rotation_.to(self._device))[: len(x)]

    def _parts(self) -> list[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Dimensions, codebook on the device and its squared norms, per part."""
        if getattr(self, "_cache", None) is None or self._cache[0] is not self.codebooks_:
            books = [codebook.to(self._device) for codebook in self.codebooks_]
            parts = [(part, book, squared_norms(book)) for part, book in zip(self._slices(), books, strict=True)]
            self._cache = (self.codebooks_, parts)
        return self._cache[1]
