"""Measures of one set of Semantic IDs: codebook usage, collisions, reconstruction, nearest neighbours (paper, 3.1).

Input: codes [n, id_length] and embeddings [N, dim]. Output: numbers, per level or per depth of the prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_tiger.semantic_ids.collisions import level_usage as usage_by_level
from recbole_tiger.semantic_ids.collisions import prefix_groups

#: Bytes that similarities of one block of queries may take.
_BLOCK_BYTES = 1 << 27


@dataclass(frozen=True)
class LevelUsage:
    """One level: codewords used, usage (their share of the codebook), entropy in bits, perplexity 2^entropy."""

    level: int
    codebook_size: int
    used: int
    usage: float
    entropy: float
    perplexity: float


@dataclass(frozen=True)
class Collisions:
    """Distinct IDs, items that share theirs, the largest group, and pairs of [size, groups of that size]."""

    distinct: int
    colliding_items: int
    largest_group: int
    histogram: list[list[int]]


@dataclass(frozen=True)
class Prefixes:
    """Prefixes of one depth: how many, and the items of the largest."""

    depth: int
    count: int
    largest: int


@dataclass(frozen=True)
class NeighborsKept:
    """Share of nearest neighbours with the same prefix of one depth, and the exact expectation for shuffled IDs."""

    depth: int
    kept: float
    shuffled: float


@dataclass(frozen=True)
class Neighbors:
    """Nearest others of some items: `queries` [q] in ascending order, `neighbors` [q, k] in no particular order."""

    queries: np.ndarray
    neighbors: np.ndarray


def depth_groups(codes: np.ndarray, codebook_sizes: Sequence[int]) -> list[np.ndarray]:
    """For each depth 1 … id_length the number [n] of each item's prefix, counted from 0 without gaps."""
    return [prefix_groups(codes[:, :depth], codebook_sizes[:depth]) for depth in range(1, codes.shape[1] + 1)]


def level_usage(codes: np.ndarray, codebook_sizes: Sequence[int]) -> list[LevelUsage]:
    """The usage of each level."""
    return [
        LevelUsage(level, found["size"], found["used"], found["usage"], found["entropy"], found["perplexity"])
        for level, found in enumerate(usage_by_level(codes, codebook_sizes), start=1)
    ]


def collisions(groups: np.ndarray) -> Collisions:
    """How many items share their whole ID; `groups` [n] numbers the IDs."""
    sizes = np.bincount(groups)
    histogram = np.stack(np.unique(sizes, return_counts=True), axis=1)
    return Collisions(len(sizes), int(sizes[sizes > 1].sum()), int(sizes.max()), histogram.tolist())


def prefixes(groups: list[np.ndarray]) -> list[Prefixes]:
    """Number and largest group of the prefixes of each depth."""
    return [
        Prefixes(depth, int(group.max()) + 1, int(np.bincount(group).max())) for depth, group in enumerate(groups, 1)
    ]


def reconstruction_errors(
    codes: np.ndarray,
    reconstruct: Callable[[np.ndarray, int], np.ndarray | None] | None,
    target: np.ndarray | None,
    block: int = 65536,
) -> list[float] | None:
    """Share of the variance left after 0, 1, …, id_length levels: squared error over squared distance to the mean.

    Codes [n, id_length], `reconstruct` and `target` as in :class:`recbole_tiger.analysis.id_report.IDSet`, `block` rows
    at a time. None where codes stand for nothing or all items are alike.
    """
    if reconstruct is None or target is None:
        return None
    total, errors = _squares(target - target.mean(axis=0, dtype=np.float64).astype(target.dtype)), [1.0]
    if not total > 0:
        return None
    for depth in range(1, codes.shape[1] + 1):
        left = 0.0
        for start in range(0, len(target), block):
            part = reconstruct(codes[start : start + block], depth)
            if part is None:
                return None
            left += _squares(target[start : start + block] - part)
        errors.append(left / total)
    return errors


def _squares(x: np.ndarray) -> float:
    return float(np.einsum("ij,ij->", x, x, dtype=np.float64))


def nearest_neighbors(embeddings: np.ndarray, k: int, max_queries: int, rng: np.random.Generator) -> Neighbors:
    """The k nearest others (at most N - 1) of each item by cosine, exactly, from embeddings [N, dim].

    At most `max_queries` items are looked up, drawn at random if there are more.
    """
    vectors = np.asarray(embeddings, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    n = len(vectors)
    queries = np.arange(n) if n <= max_queries else np.sort(rng.choice(n, max_queries, replace=False))
    found = np.empty((len(queries), k), dtype=np.int64)
    block = max(1, _BLOCK_BYTES // (4 * n))
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        similarity = vectors[rows] @ vectors.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        found[start : start + block] = np.argpartition(similarity, n - k, axis=1)[:, n - k :]
    return Neighbors(queries, found)


def neighbors_kept(groups: list[np.ndarray], nearest: Neighbors) -> list[NeighborsKept]:
    """Per depth the share of neighbours that have the item's prefix, and what shuffled IDs would give on average;
    `groups` from `depth_groups`."""
    kept = []
    for depth, group in enumerate(groups, start=1):
        sizes, pairs = np.bincount(group).astype(np.float64), len(group) * (len(group) - 1)
        share = float((group[nearest.queries][:, None] == group[nearest.neighbors]).mean())
        kept.append(NeighborsKept(depth, share, float((sizes * (sizes - 1)).sum() / pairs)))
    return kept
