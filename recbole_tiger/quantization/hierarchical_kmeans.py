"""Hierarchical k-means (section 3.1.2): embeddings in, paths through a tree of clusters out.

Each level clusters the items of a node among themselves. Codes of different parents are unrelated: that is what the
paper holds against it ("it loses semantic meaning between different clusters").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_tiger.quantization.base import Quantizer
from recbole_tiger.quantization.kmeans import ROWS, host_sum, kmeans, nearest, squared_distances
from recbole_tiger.quantization.random_ids import row_hashes


@dataclass(kw_only=True, eq=False)
class HierarchicalKMeans(Quantizer):
    """A tree of k-means clusters.

    A node has at most `codebook_size` children, one per distinct item if it has no more of these. With three levels of
    256, two levels thus separate a catalogue of thousands; sizes whose product is near the number of items
    (`[32, 32, 32]`) use all levels.

    Args:
        id_length, codebook_size, random_state: see `Quantizer`.
        max_iterations: Lloyd iterations per node at most.
        device: where to cluster and encode.

    Attributes:
        mean_: `[dim]`, the root.
        centroids_: per level `[nodes, dim]`, children of one parent side by side, in the order of their codes.
        first_child_: per level int64 `[parents + 1]`; the children of parent p are the nodes from `first_child_[p]`
            to `first_child_[p + 1]`, the node of an item is `first_child_[parent] + code`.
        history_: `inertia`, after each level.
    """

    name = "hierarchical_kmeans"

    max_iterations: int = 20
    device: str = "cpu"

    def _fit(self, x: NDArray[Any], *, progress: bool, checkpoint: str | Path | None) -> None:
        rng = np.random.default_rng(self.random_state)
        matrix = self._matrix(x)
        hashes = np.concatenate([row_hashes(rows.cpu().numpy()) for rows in matrix.split(ROWS)])
        _, distinct = np.unique(hashes, return_inverse=True)
        self.mean_ = torch.from_numpy(x.mean(0, dtype=np.float64).astype(np.float32))
        self.centroids_: list[torch.Tensor] = []
        self.first_child_: list[torch.Tensor] = []
        self.history_ = {"inertia": []}
        nodes, n_nodes = np.zeros(len(x), dtype=np.int64), 1
        for size in self._bar(progress, iterable=self.codebook_sizes_, unit="level"):
            codes, first_child, centroids = self._split(matrix, nodes, n_nodes, distinct, size, rng)
            nodes, n_nodes = first_child[nodes] + codes, int(first_child[-1])
            self.centroids_.append(centroids.cpu())
            self.first_child_.append(torch.from_numpy(first_child))
            self.history_["inertia"].append(_inertia(matrix, centroids, nodes))

    def _split(
        self,
        matrix: torch.Tensor,
        nodes: NDArray[np.int64],
        n_nodes: int,
        distinct: NDArray[np.int64],
        size: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], torch.Tensor]:
        """Children of one level.

        Returns:
            Codes `[n]` of the items inside their nodes; number of the first child of every node `[n_nodes + 1]`;
            the children's centroids.
        """
        # one row per pair of node and distinct item, ascending by node
        _, first, inverse = np.unique(nodes * (distinct.max() + 1) + distinct, return_index=True, return_inverse=True)
        owners = nodes[first]
        n_distinct = np.bincount(owners, minlength=n_nodes)
        # few distinct items: one child each, numbered in the order of the items
        starts = np.searchsorted(owners, np.arange(n_nodes))
        ranks = np.empty(len(first), dtype=np.int64)
        ranks[np.lexsort((first, owners))] = np.arange(len(first)) - starts[owners]
        codes = ranks[inverse]
        # many: k-means; there are no more such nodes than items / size
        order = np.argsort(nodes, kind="stable")
        bounds = np.searchsorted(nodes[order], np.arange(n_nodes + 1))
        clustered = {}
        for node in np.flatnonzero(n_distinct > size):
            members = order[bounds[node] : bounds[node + 1]]
            rows = matrix[torch.from_numpy(members).to(matrix.device)]
            found = kmeans(rows, size, rng, max_iterations=self.max_iterations)
            used, codes[members] = np.unique(found.codes.cpu().numpy(), return_inverse=True)  # no gaps
            clustered[node] = found.centroids[torch.from_numpy(used).to(matrix.device)]
        n_children = n_distinct
        for node, children in clustered.items():
            n_children[node] = len(children)
        first_child = np.concatenate([[0], np.cumsum(n_children)])
        centroids = torch.empty(int(first_child[-1]), self.dim_, device=matrix.device)
        alone = ~np.isin(owners, list(clustered))
        positions = torch.from_numpy((first_child[owners] + ranks)[alone]).to(matrix.device)
        centroids[positions] = matrix[torch.from_numpy(first[alone]).to(matrix.device)]
        for node, children in clustered.items():
            centroids[first_child[node] : first_child[node + 1]] = children
        return codes, first_child, centroids

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        nodes, codes = torch.zeros(len(x), dtype=torch.long), []
        for level in range(self.id_length):
            code = torch.zeros(len(x), dtype=torch.long)
            # an only child needs no search: code 0
            for rows, children in self._families(nodes, level, at_least=2):
                code[rows] = nearest(x[rows.to(x.device)], children)[0].cpu()
            nodes = self.first_child_[level][nodes] + code
            codes.append(code)
        return torch.stack(codes, 1)

    def _decode(self, codes: torch.Tensor, levels: int) -> torch.Tensor:
        nodes = torch.zeros(len(codes), dtype=torch.long)
        known = torch.ones(len(codes), dtype=torch.bool)
        out = self.mean_.expand(len(codes), -1).clone()
        for level in range(levels):
            children = self.first_child_[level][nodes] + codes[:, level]
            # a code that no child has (an item moved there by `reassign`): its parent stands for it
            known &= children < self.first_child_[level][nodes + 1]
            nodes = torch.where(known, children, torch.zeros_like(children))
            out[known] = self.centroids_[level][nodes[known]]
        return out

    def _last_level_costs(self, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Codes that no child has yet are free, but dearer than all that some child has."""
        codes = codes.cpu()
        nodes = torch.zeros(len(x), dtype=torch.long)
        for level in range(self.id_length - 1):
            nodes = self.first_child_[level][nodes] + codes[:, level]
        costs = torch.empty(len(x), self.codebook_sizes_[-1])
        for rows, children in self._families(nodes, self.id_length - 1):
            distances = squared_distances(x[rows.to(x.device)], children).cpu()
            costs[rows] = 2 * distances.amax(1, keepdim=True) + 1
            costs[rows[:, None], torch.arange(len(children))] = distances
        return costs

    def _families(
        self, nodes: torch.Tensor, level: int, at_least: int = 1
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For every node that occurs and has so many children: the rows that are there, the children's centroids."""
        first_child = self.first_child_[level]
        rows = (first_child.diff()[nodes] >= at_least).nonzero()[:, 0]
        rows = rows[torch.argsort(nodes[rows], stable=True)]
        present, counts = torch.unique_consecutive(nodes[rows], return_counts=True)
        for node, members in zip(present.tolist(), rows.split(counts.tolist()), strict=True):
            yield members, self.centroids_[level][first_child[node] : first_child[node + 1]].to(self._device)


def _inertia(matrix: torch.Tensor, centroids: torch.Tensor, nodes: NDArray[np.int64]) -> float:
    """Sum of squared distances of the items to the centroids of their nodes."""
    parts = zip(matrix.split(ROWS), torch.from_numpy(nodes).to(matrix.device).split(ROWS), strict=True)
    return sum(host_sum((rows - centroids[positions]).square().sum(1)) for rows, positions in parts)
