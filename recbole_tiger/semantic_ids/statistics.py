"""How a catalogue uses its codebooks: learned codes `[n_items, m]` in, figures in plain types out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_tiger.semantic_ids.collisions import prefix_groups


def level_usage(codes: NDArray[np.int64], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Per level `size`, `used` codes, `usage` (their share), `perplexity` (2 to the entropy) and `entropy` in bits."""
    levels = []
    for column, size in zip(codes.T, sizes, strict=True):
        counts = np.bincount(column, minlength=size)
        shares = counts[counts > 0] / max(len(codes), 1)
        entropy = abs(float(-(shares * np.log2(shares)).sum()))
        used = int((counts > 0).sum())
        levels.append(
            {"size": size, "used": used, "usage": used / size, "perplexity": 2.0**entropy, "entropy": entropy}
        )
    return levels


def collision_counts(codes: NDArray[np.int64], sizes: Sequence[int]) -> dict[str, Any]:
    """`distinct_prefixes` per depth, and of the items that share all codes: `items_in_collisions`, `collision_groups`,
    `largest_group` and `group_sizes` (how many groups of each size, 1 = no collision).
    """
    depths = range(1, len(sizes) + 1)
    groups = np.bincount(prefix_groups(codes, sizes))
    group_sizes, counts = np.unique(groups, return_counts=True)
    return {
        "distinct_prefixes": [int(prefix_groups(codes[:, :d], sizes[:d]).max(initial=-1)) + 1 for d in depths],
        "items_in_collisions": int(groups[groups > 1].sum()),
        "collision_groups": int((groups > 1).sum()),
        "largest_group": int(groups.max(initial=0)),
        "group_sizes": {int(size): int(count) for size, count in zip(group_sizes, counts, strict=True)},
    }
