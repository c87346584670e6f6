"""k-core filtering: the largest set of interactions in which every user and every item keeps enough of
them.
"""

from __future__ import annotations

import numpy as np

from recbole_tiger.errors import PreparationError


def check_cores(user_core: int, item_core: int) -> None:
    """Raise a `PreparationError` for a core that is not a number of interactions."""
    for name, core in (("user_core", user_core), ("item_core", item_core)):
        if core < 0:
            raise PreparationError(f"{name}={core} must not be negative.")


def k_core(users: np.ndarray, items: np.ndarray, user_core: int = 5, item_core: int = 5) -> np.ndarray:
    """Which interactions belong to the core ("5-core", paper Section 4.1.1).

    Users with fewer than `user_core` and items with fewer than `item_core` interactions are removed until
    none is left; the result does not depend on the order of removal. Repeated pairs count as often as they
    occur, as in RecBole's `user_inter_num_interval`.

    Args:
        users, items: non-negative integer codes [n].
        user_core, item_core: least number of interactions; 0 or 1 removes nothing.

    Returns:
        Boolean mask [n]; empty cores give all False.
    """
    check_cores(user_core, item_core)
    rows = np.arange(len(users))
    while len(rows):
        keep = np.ones(len(rows), dtype=bool)
        for codes, core in ((users, user_core), (items, item_core)):
            if core > 1:
                kept_codes = codes[rows]
                keep &= (np.bincount(kept_codes) >= core)[kept_codes]
        if keep.all():
            break
        rows = rows[keep]
    mask = np.zeros(len(users), dtype=bool)
    mask[rows] = True
    return mask
