"""Cold-start (unseen) items, found through the codewords that they share with a predicted Semantic ID.

Input: codes of all items and ranked predictions. Output: candidates with unseen items among them, and lists of K with
at most a share epsilon of these (paper, section 4.4.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tiger.decoding.trie_arrays import IntArray
from recbole_tiger.decoding.types import BeamResult
from recbole_tiger.semantic_ids import SemanticIDTable


def with_unseen_items(table: SemanticIDTable, codes: IntArray, items: Sequence[str]) -> SemanticIDTable:
    """A table with unseen items after the seen ones, over the same codebooks, which a trained model can search.

    `SemanticIDTable.add_items` gives every item an ID of its own, for which it may need collision tokens that the model
    was never trained on. Here the collision token of every unseen item is 0, so that it may share its ID with others.

    Args:
        table: of the seen items.
        codes: `[n_unseen, id_length]`, learned codewords of the unseen items.
        items: their ids.
    """
    padded = np.pad(codes, ((0, 0), (0, table.length - table.id_length))).astype(np.int64)
    return SemanticIDTable(
        np.concatenate([table.codes, padded]),
        np.concatenate([table.items, np.array([str(item) for item in items], dtype=np.str_)]),
        table.level_sizes,
        table.id_length,
        table.collision,
    )


class UnseenItems:
    """Seen and unseen items by the first codewords of their IDs.

    Args:
        table: of all items, the seen ones first (:func:`with_unseen_items`).
        n_seen: how many are seen.
        prefix_length: how many codewords an unseen item must share with a predicted ID (the paper: the first three of
            four); None for all learned ones.
        device: of the predictions.

    Attributes:
        n_seen: as given.
        n_alone: unseen items whose prefix no seen item has. They are found where the search predicts their own ID.

    Raises:
        ValueError: for a prefix length that an ID does not have.
    """

    def __init__(
        self, table: SemanticIDTable, n_seen: int, prefix_length: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        prefix_length = table.id_length if prefix_length is None else prefix_length
        if not 1 <= prefix_length <= table.id_length:
            raise ValueError(
                f"prefix_length={prefix_length} must lie between 1 and the {table.id_length} learned codewords of an ID"
            )
        self.n_seen = n_seen
        group = table.prefix_groups(prefix_length)
        unseen_group = group[n_seen:]
        count = np.bincount(unseen_group, minlength=int(group.max()) + 1)
        has_seen = np.zeros(len(count), dtype=bool)
        has_seen[group[:n_seen]] = True
        self.n_alone = int((~has_seen[unseen_group]).sum())
        members = n_seen + 1 + np.argsort(unseen_group, kind="stable")
        self._group = torch.from_numpy(np.concatenate([[-1], group])).to(device)  # [n_items + 1]
        self._count = torch.from_numpy(count).to(device)  # unseen items of each group …
        self._start = torch.from_numpy(np.cumsum(count) - count).to(device)  # … and where they begin in
        self._members = torch.from_numpy(members).to(device)  # item numbers, group by group

    def beside(self, at_most: int, *, tells_apart: bool) -> Callable[[BeamResult], BeamResult]:
        """`candidates` of predictions, for a model that ranks them; all of a prefix where it tells them apart."""
        return partial(self.candidates, at_most=len(self._members) if tells_apart else at_most)

    def candidates(self, predicted: BeamResult, at_most: int) -> BeamResult:
        """Every predicted seen item, each followed by the unseen items with its prefix that were not listed before.

        A predicted unseen item represents all those with its prefix. They come in the order of their numbers, at the
        score of the predicted ID: nothing distinguishes them.

        Args:
            predicted: a search among all items, `[B, W]`.
            at_most: unseen items to list for one prefix.

        Returns:
            `[B, C]` items, with 0 (score `-inf`) in between; see :func:`limit_unseen`.
        """
        items, scores = predicted.items, predicted.scores
        group = self._group[items]  # [B, W]
        repeated = (group[:, :, None] == group[:, None, :]).tril(-1).any(2)
        count = torch.where(repeated | (items == 0), 0, self._count[group]).clamp(max=at_most)
        window = torch.arange(int(count.max()) if count.numel() else 0, device=items.device)
        index = (self._start[group][:, :, None] + window).clamp(max=max(len(self._members) - 1, 0))
        members = torch.where(window < count[:, :, None], self._members[index], 0) if len(window) else index
        own = torch.where(items <= self.n_seen, items, 0)
        found = torch.cat([own[:, :, None], members], 2).flatten(1)
        repeated_scores = scores[:, :, None].expand(-1, -1, 1 + len(window)).flatten(1)
        return BeamResult(found, torch.where(found > 0, repeated_scores, -torch.inf))


def most_unseen(k: int, epsilon: float) -> int:
    """Number of unseen items that a list of k may hold: the largest integer that is at most epsilon * k."""
    return math.floor(epsilon * k + 1e-9)  # 0.29 * 100 is a little less than 29


def limit_unseen(candidates: BeamResult, n_seen: int, k: int, epsilon: float) -> BeamResult:
    """The first k candidates of each row with at most a share epsilon of unseen items among them.

    Args:
        candidates: `[B, C]` best first; numbers above `n_seen` are unseen items, 0 is none.

    Returns:
        `[B, k]`; rows with fewer candidates end in 0 and `-inf`.
    """
    items = candidates.items
    unseen = items > n_seen
    allowed: Tensor = (items > 0) & (~unseen | (unseen.cumsum(1) <= most_unseen(k, epsilon)))
    position = torch.arange(items.shape[1], device=items.device)
    chosen = torch.where(allowed, position, items.shape[1]).sort(1).values[:, :k]
    chosen = F.pad(chosen, (0, k - chosen.shape[1]), value=items.shape[1])
    return BeamResult(
        F.pad(items, (0, 1)).gather(1, chosen), F.pad(candidates.scores, (0, 1), value=-torch.inf).gather(1, chosen)
    )
