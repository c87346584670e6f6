"""The popularity row: what recommending the most frequent training items reaches under the same protocol.

Input: every user's sequence in time order. Output: ranks of the held-out items.
"""

from __future__ import annotations

import numpy as np

from recbole_tiger.data.dataset import UserSequences


def popularity_ranks(
    sequences: UserSequences,
    users: np.ndarray,
    targets: np.ndarray,
    phase: str,
    n_items: int,
    *,
    mask_seen: bool,
) -> np.ndarray:
    """Rank of each target when items are ordered by their number of training interactions (ties by item number).

    Counts are of training interactions for validation and test alike.

    Args:
        users: [n] internal user numbers.
        targets: [n] their held-out items.
        phase: "valid" or "test".
        n_items: number of items with padding.
        mask_seen: leave out the items that a user has seen; a target among them cannot be hit (-1).

    Returns:
        [n] ranks from 0.
    """
    counts = np.bincount(sequences.training_items(), minlength=n_items)
    counts[0] = -1
    rank_of = np.empty(n_items, dtype=np.int64)
    rank_of[np.lexsort((np.arange(n_items), -counts))] = np.arange(n_items)
    ranks = rank_of[targets]
    if not mask_seen:
        return ranks
    seen = np.sort(sequences.seen_before(users, phase), axis=1)  # [n, S]
    distinct = np.diff(seen, axis=1, prepend=-1) != 0
    real = distinct & (seen > 0)
    above = ((rank_of[seen] < ranks[:, None]) & real).sum(axis=1)
    return np.where(((seen == targets[:, None]) & real).any(axis=1), -1, ranks - above)
