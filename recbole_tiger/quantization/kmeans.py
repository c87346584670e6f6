"""k-means for codebooks: rows of vectors in, centroids and assignments out.

Every quantizer that clusters uses this one. It is Lloyd's algorithm after k-means++ seeding; what differs from
scikit-learn's is chosen for codebooks: any device, duplicate rows, the same result on any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

# Seeding looks at no more rows than this many per centroid and at no more dimensions than this: distances survive
# a random projection well enough to choose starting points, and Lloyd's iterations then use all rows and dimensions.
SEEDING_ROWS_PER_CENTROID = 64
SEEDING_DIMENSIONS = 64
SEEDING_TRIALS = 24  # candidates per seed; not fewer, see MIN_ROWS
# Rows per distance computation; bounds memory to ROWS x centroids floats.
ROWS = 16384
# A matrix product of very few rows is the one place where the BLAS behind torch was seen to sum in an order that
# depends on the number of threads (5 to 11 rows with MKL); products are padded to this many rows.
MIN_ROWS = 32
# |x|^2 - 2 x.c + |c|^2 in float32 is zero up to this share of |x|^2 + |c|^2.
ROUNDING = 1e-6


@dataclass(frozen=True)
class KMeansResult:
    """What `kmeans` found."""

    centroids: torch.Tensor  # [k, dim]
    codes: torch.Tensor  # [n] int64, the nearest centroid of every row
    inertia: float  # sum of squared distances to the nearest centroid
    n_iterations: int  # Lloyd iterations done


def pad_rows(x: torch.Tensor) -> torch.Tensor:
    """`x` with zero rows added up to `MIN_ROWS`, see there."""
    return x if len(x) >= MIN_ROWS else F.pad(x, (0, 0, 0, MIN_ROWS - len(x)))


@contextmanager
def single_threaded(wanted: bool = True) -> Iterator[None]:
    """One thread for torch where sums could depend on their number: narrow products (`MIN_ROWS`), decompositions."""
    threads = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if wanted:
            torch.set_num_threads(threads)


def squared_norms(centroids: torch.Tensor) -> torch.Tensor:
    """Squared norms `[k]` of the centroids, infinite for exact duplicates of an earlier one.

    With fewer distinct rows than centroids some coincide, and rounding would send identical rows to different ones.
    """
    norms = centroids.square().sum(1)
    if len(torch.unique(norms)) == len(norms):  # comparing numbers takes a hundredth of the time of comparing rows
        return norms
    _, inverse = torch.unique(centroids, dim=0, return_inverse=True)
    position = torch.arange(len(centroids), device=centroids.device)
    first = torch.full_like(position, len(centroids)).scatter_reduce_(0, inverse, position, "amin")
    return norms.masked_fill(first[inverse] != position, float("inf"))


def squared_distances(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances `[n, k]` of rows `x` `[n, dim]` to `centroids` `[k, dim]`."""
    padded = pad_rows(x)
    distances = torch.addmm(centroids.square().sum(1), padded, centroids.T, alpha=-2)[: len(x)]
    return (distances + x.square().sum(1, keepdim=True)).clamp_(min=0)


def nearest(
    x: torch.Tensor, centroids: torch.Tensor, norms: torch.Tensor | None = None, x_norms: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest of the centroids `[k, dim]` for every row of `x` `[n, dim]`.

    Args:
        norms: `squared_norms(centroids)`, if at hand.
        x_norms: `[n]` squared norms of the rows, if at hand.

    Returns:
        Codes `[n]` int64 (the lowest of equals) and squared distances `[n]`.
    """
    norms = squared_norms(centroids) if norms is None else norms
    x_norms = x.square().sum(1) if x_norms is None else x_norms
    codes, distances = [], []
    for rows, row_norms in zip(x.split(ROWS), x_norms.split(ROWS), strict=True):
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2; the first term does not change the argmin
        scores = torch.addmm(norms, pad_rows(rows), centroids.T, alpha=-2)[: len(rows)]
        value, code = scores.min(1)
        squared = row_norms + value
        codes.append(code)
        # zero where it is no more than the rounding of the expanded square
        distances.append(torch.where(squared > ROUNDING * (row_norms + norms[code]), squared, 0.0))
    return torch.cat(codes), torch.cat(distances)


def group_sums(x: torch.Tensor, codes: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums `[k, dim]` and counts `[k]` int64 of the rows of `x` `[n, dim]` in each of k groups; `codes` are `[n]`.

    A bag per group sums its rows one after the other, so neither threads nor atomics change the result.
    """
    order = torch.argsort(codes, stable=True)
    # not torch.bincount: on CUDA it uses atomics and waits for the host
    bounds = torch.searchsorted(codes[order], torch.arange(k + 1, device=x.device))
    counts = bounds.diff()
    return F.embedding_bag(order, x, bounds[:-1].contiguous(), mode="sum"), counts


def host_sum(values: torch.Tensor) -> float:
    """Sum in float64 by numpy: torch's full reduction depends on the number of threads."""
    return float(np.sum(values.cpu().numpy(), dtype=np.float64))


def seed_rows(x: torch.Tensor, k: int, rng: np.random.Generator) -> torch.Tensor:
    """Greedy k-means++ (Arthur & Vassilvitskii 2007): the best of several candidates at each step.

    Returns:
        `[k]` int64, numbers of k picked rows of `x` `[n, dim]`, n >= k; distinct rows where there are k distinct ones.
    """
    n = len(x)
    subset = None
    if n > SEEDING_ROWS_PER_CENTROID * k:
        subset = np.sort(rng.choice(n, SEEDING_ROWS_PER_CENTROID * k, replace=False))
        x = x[torch.from_numpy(subset).to(x.device)]
        n = len(x)
    if x.shape[1] > SEEDING_DIMENSIONS:
        projection = rng.standard_normal((x.shape[1], SEEDING_DIMENSIONS), dtype=np.float32)
        x = (pad_rows(x) @ torch.from_numpy(projection).to(x.device))[:n]
    x = pad_rows(x.cpu())
    norms = x.square().sum(1)
    picked = np.empty(k, dtype=np.int64)
    picked[0] = rng.integers(n)
    closest = _seeding_distances(x, norms, np.repeat(picked[0], SEEDING_TRIALS))[:n, 0]
    for step in range(1, k):
        cumulative = np.cumsum(closest.numpy(), dtype=np.float64)
        total = cumulative[-1]
        if total <= 0:  # every row coincides with a picked one
            picked[step:] = rng.integers(n, size=k - step)
            break
        draws = rng.random(SEEDING_TRIALS) * total
        candidates = np.minimum(np.searchsorted(cumulative, draws, side="right"), n - 1)
        reduced = torch.minimum(_seeding_distances(x, norms, candidates)[:n], closest[:, None])
        potentials = reduced.numpy().sum(0, dtype=np.float64)
        best = int(potentials.argmin())
        picked[step] = candidates[best]
        closest = reduced[:, best].contiguous()
    return torch.from_numpy(picked if subset is None else subset[picked])


def _seeding_distances(x: torch.Tensor, norms: torch.Tensor, picked: NDArray[np.int64]) -> torch.Tensor:
    """Squared distances `[n, t]` to the rows `picked`, exactly zero where they are zero but for rounding."""
    rows = torch.from_numpy(picked)
    scale = norms[:, None] + norms[rows]
    distances = torch.addmm(scale, x, x[rows].T, alpha=-2)
    return distances.masked_fill_(distances < ROUNDING * scale, 0.0)


def kmeans(
    x: torch.Tensor,
    k: int,
    rng: np.random.Generator,
    *,
    max_iterations: int = 25,
    tolerance: float = 1e-4,
    start: torch.Tensor | None = None,
) -> KMeansResult:
    """Lloyd's k-means from k-means++ seeds.

    An empty cluster takes the row that lies farthest from its centroid.

    Args:
        x: `[n, dim]` float32, n >= k (clusters), on any device.
        rng: draws the seeds.
        max_iterations: Lloyd iterations at most.
        tolerance: stop when an iteration lowers the inertia by less than this share of it.
        start: centroids `[k, dim]` to start from instead of seeds.
    """
    centroids = x[seed_rows(x, k, rng).to(x.device)] if start is None else start
    x_norms = x.square().sum(1)
    inertia = np.inf
    iterations = 0
    while iterations < max_iterations:
        iterations += 1
        previous = inertia
        codes, distances = nearest(x, centroids, x_norms=x_norms)
        inertia = host_sum(distances)
        if previous - inertia <= tolerance * inertia:
            break
        sums, counts = group_sums(x, codes, k)
        centroids = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            # stable, so that equal distances do not leave the choice to the sorting algorithm
            farthest = torch.argsort(distances, descending=True, stable=True)[: len(empty)]
            # no row is away from its centroid any more: an exact duplicate, which no row chooses
            away = distances[farthest, None] > 0
            centroids[empty] = torch.where(away, x[farthest], centroids[codes[farthest]])
    else:
        codes, distances = nearest(x, centroids, x_norms=x_norms)
        inertia = host_sum(distances)
    return KMeansResult(centroids, codes, inertia, iterations)
