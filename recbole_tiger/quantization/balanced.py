"""Constrained k-means: rows of vectors in, clusters whose sizes lie between two bounds out.

Bradley, Bennett & Demiriz, "Constrained K-Means Clustering" (2000); the assignment of each iteration is optimal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_tiger.quantization.kmeans import KMeansResult, group_sums, seed_rows, squared_distances


def assign_within(distances: NDArray[np.floating[Any]], least: int, most: int) -> NDArray[np.int64]:
    """Clusters `[n]` of least total distance, of `least` to `most` rows each; distances are `[n, k]`.

    Raises:
        ValueError: where no assignment keeps the bounds.
    """
    from scipy.optimize import linear_sum_assignment  # here: a run whose Semantic IDs are cached needs no scipy

    n, k = distances.shape
    if not 0 <= least * k <= n <= most * k:
        raise ValueError(f"{n} rows cannot be divided among {k} clusters of {least} to {most}")
    cost = np.repeat(distances.astype(np.float64), most, axis=1)  # a column for each of the `most` seats of a cluster
    reward = 1 + n * float(np.ptp(distances))  # more than anything else can save
    cost.reshape(n, k, most)[:, :, :least] -= reward  # so that the first `least` seats are taken
    clusters: NDArray[np.int64] = linear_sum_assignment(cost)[1] // most
    return clusters


def balanced_kmeans(
    x: torch.Tensor, k: int, rng: np.random.Generator, least: int, most: int, max_iterations: int = 10
) -> KMeansResult:
    """Lloyd's k-means with `assign_within`, from k-means++ seeds.

    The time grows with n cubed: for batches and codebooks, not for catalogues.

    Args:
        x: `[n, dim]` float32.
    """
    centroids = x[seed_rows(x, k, rng).to(x.device)]
    codes = torch.full((len(x),), -1, device=x.device)
    inertia, iterations = np.inf, 0
    while iterations < max_iterations:
        iterations += 1
        distances = squared_distances(x, centroids).cpu().numpy()
        found = assign_within(distances, least, most)
        inertia = float(np.take_along_axis(distances, found[:, None], 1).sum(dtype=np.float64))
        before, codes = codes, torch.from_numpy(found).to(x.device)
        if torch.equal(before, codes):
            break
        sums, counts = group_sums(x, codes, k)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
    return KMeansResult(centroids, codes, inertia, iterations)
