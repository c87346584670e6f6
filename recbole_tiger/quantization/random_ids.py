"""Random IDs (section 4.3.3), the baseline without content: rows in, uniform codes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_tiger.quantization.base import Quantizer

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(kw_only=True, eq=False)
class RandomIDs(Quantizer):
    """Uniform codes; the paper's m = 4 and K = 255 are the defaults.

    The codes are a function of seed and embedding: a hash draws them, so an unseen item gets its code without the
    others, and the same one every time. Identical embeddings therefore share their codes, unlike the paper's draws.

    Args:
        id_length: number of levels m.
        codebook_size: codes per level K.
        random_state: seed of the hash.
    """

    name = "random"
    learns_codewords = False

    id_length: int = 4
    codebook_size: int | list[int] = 255

    def _fit(self, x: NDArray[Any], *, progress: bool, checkpoint: str | Path | None) -> None:
        """Nothing to learn."""

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        hashes = row_hashes(x.numpy())
        keys = np.random.SeedSequence(self.random_state).generate_state(self.id_length, np.uint64)
        codes = [_mixed(hashes ^ key) % np.uint64(size) for key, size in zip(keys, self.codebook_sizes_, strict=True)]
        return torch.from_numpy(np.stack(codes, 1).astype(np.int64))

    def _last_level_costs(self, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Uniform as well: no code is nearer than another."""
        size = self.codebook_sizes_[-1]
        key = np.random.SeedSequence(self.random_state).generate_state(self.id_length + 1, np.uint64)[-1]
        draws = _mixed((row_hashes(x.numpy()) ^ key)[:, None] + np.arange(size, dtype=np.uint64) * GOLDEN)
        return torch.from_numpy((draws >> np.uint64(40)).astype(np.float32))


def row_hashes(x: NDArray[np.float32]) -> NDArray[np.uint64]:
    """One uint64 per row of a float32 matrix `[n, dim]`; equal rows (0.0 equals -0.0) have equal hashes."""
    words: NDArray[Any] = np.ascontiguousarray(x + np.float32(0))  # -0.0 + 0.0 = 0.0
    if words.shape[1] % 2:
        words = np.pad(words, ((0, 0), (0, 1)))
    words = words.view(np.uint64)
    keys = np.random.default_rng(0).integers(0, 2**64, words.shape[1], dtype=np.uint64)
    return _mixed(_mixed(words ^ keys).sum(1, dtype=np.uint64))


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014): every bit of the result depends on every bit of the word."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
