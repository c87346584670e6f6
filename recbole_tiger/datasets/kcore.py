"""Iterative k-core filtering: the largest set of interactions in which every user and every item keeps enough of them.

Input: integer codes of users and items. Output: a mask of the interactions that stay.
"""

from __future__ import annotations

import numpy as np

from recbole_tiger.datasets.arrays import BoolArray, IntArray
from recbole_tiger.errors import PreparationError


def check_cores(user_core: int, item_core: int) -> None:
    """Raise a `PreparationError` for a core that is not a number of interactions."""
    for name, core in (("user_core", user_core), ("item_core", item_core)):
        if core < 0:
            raise PreparationError(f"{name}={core} must not be negative: 0 or 1 takes all, 5 is the paper's.")


def k_core(users: IntArray, items: IntArray, user_core: int = 5, item_core: int = 5) -> BoolArray:
    """Which interactions belong to the k-core (the paper's "5-core", Section 4.1.1).

    Users with fewer than `user_core` and items with fewer than `item_core` interactions are removed until none is left;
    the result does not depend on the order of removal. Repeated pairs count as often as they occur, as in RecBole's
    `user_inter_num_interval`.

    Args:
        users, items: non-negative integer codes [n].
        user_core, item_core: minimum number of interactions; 0 or 1 removes nothing.

    Returns:
        Boolean mask [n]; all False where the core is empty.
    """
    check_cores(user_core, item_core)
    rows = np.arange(len(users))
    while len(rows):
        keep = np.ones(len(rows), dtype=bool)
        for codes, core in ((users, user_core), (items, item_core)):
            if core > 1:
                keep &= (np.bincount(codes[rows]) >= core)[codes[rows]]
        if keep.all():
            break
        rows = rows[keep]
    mask = np.zeros(len(users), dtype=bool)
    mask[rows] = True
    return mask
