"""Items that share their codes: codes `[n, m]` in, ranks that tell them apart or codes moved to free ones out.

The two ways of `SemanticIDTable`: `ranks` for the extra token of section 3.1.3 of the paper, `reassign` for the nearest
free code of the last level. Beside them figures, in plain types, of how a catalogue uses its codebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Entries of a cost matrix that `reassign` holds at a time.
COST_ENTRIES = 1 << 24

Integers = NDArray[np.int64]
#: From row numbers `[r]` to the costs of the codes of the last level `[r, K]`.
LevelCosts = Callable[[Integers], NDArray[np.floating[Any]]]


def _row_keys(codes: Integers, sizes: Sequence[int]) -> Integers:
    """One int64 per row of `codes` `[n, m]` that compares as the row does; `[n]`."""
    keys = np.zeros(len(codes), dtype=np.int64)
    span = 1
    for column, size in zip(codes.T, sizes, strict=True):
        if span > np.iinfo(np.int64).max // int(size):  # the product would not fit: number the prefixes instead
            keys = np.unique(keys, return_inverse=True)[1]
            span = int(keys.max(initial=0)) + 1
        keys = keys * int(size) + column
        span *= int(size)
    return keys


def prefix_groups(codes: Integers, sizes: Sequence[int]) -> Integers:
    """Number of the group of rows with the same codes, `[n]`, numbered from 0 in the order of the codes."""
    groups: Integers = np.unique(_row_keys(codes, sizes), return_inverse=True)[1]
    return groups


def ranks(codes: Integers, sizes: Sequence[int]) -> Integers:
    """Position of every item among the items with the same codes, in the order of the items; `[n]`."""
    keys = pd.Series(_row_keys(codes, sizes))
    positions: Integers = keys.groupby(keys).cumcount().to_numpy(np.int64)
    return positions


def any_shared(codes: Integers, sizes: Sequence[int]) -> bool:
    """Whether two items have the same codes."""
    return len(np.unique(_row_keys(codes, sizes))) < len(codes)


def cost_function(level_costs: LevelCosts | NDArray[Any] | None, n: int, size: int) -> LevelCosts:
    """`level_costs` in its three forms (see `SemanticIDTable.from_codes`) as a function of row numbers."""
    if level_costs is None:
        return lambda rows: np.zeros((len(rows), size), dtype=np.float32)
    if not callable(level_costs) and np.shape(level_costs) != (n, size):
        shape = np.shape(level_costs)
        raise ValueError(f"level_costs must be [n_items, last codebook size] = {(n, size)}, got {shape}.")
    ask = level_costs if callable(level_costs) else np.asarray(level_costs).__getitem__

    def costs_of(rows: Integers) -> NDArray[np.float32]:
        costs = np.asarray(ask(rows), dtype=np.float32)
        if costs.shape != (len(rows), size):
            wanted = (len(rows), size)
            raise ValueError(f"level_costs must return [rows, last codebook size] = {wanted}, got {costs.shape}.")
        return costs

    return costs_of


def reassign(
    codes: Integers, sizes: Sequence[int], costs_of: LevelCosts, movable: NDArray[np.bool_]
) -> tuple[Integers, int, int]:
    """Moves colliding items to free codes of the last level, see `SemanticIDTable.from_codes`.

    Args:
        codes: `[n, m]`.
        sizes: codes per level.
        costs_of: see `cost_function`.
        movable: `[n]` bool, items that may be moved; the others keep their ID whatever it costs.

    Returns:
        New codes `[n, m]`, how many items were moved, and for how many there was no free code.
    """
    size = int(sizes[-1])
    codes = codes.copy()
    prefixes = prefix_groups(codes[:, :-1], sizes[:-1])
    slots = prefixes * size + codes[:, -1]  # one per prefix and last code
    taken, groups, counts = np.unique(slots, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((counts[groups] > 1) & movable)
    fixed = slots[~movable]
    moved = unresolved = 0
    for part in _whole_prefixes(rows, prefixes, max(COST_ENTRIES // size, 1)):
        costs = costs_of(part)
        if np.isnan(costs.min()):
            raise ValueError("level_costs must not be NaN.")
        extra = ~_keepers(slots[part], costs[np.arange(len(part)), codes[part, -1]], fixed)
        part, costs = part[extra], costs[extra]  # a copy, which may be written to
        local_prefixes, local = np.unique(prefixes[part], return_inverse=True)
        occupied = np.zeros((len(local_prefixes), size), dtype=bool)
        first, last = np.searchsorted(taken, [local_prefixes[0] * size, (local_prefixes[-1] + 1) * size])
        held = taken[first:last]
        position = np.searchsorted(local_prefixes, held // size)
        concerned = local_prefixes[position] == held // size
        occupied[position[concerned], held[concerned] % size] = True
        costs[occupied[local]] = np.inf
        found = _match(costs, local)
        codes[part[found >= 0], -1] = found[found >= 0]
        moved += int((found >= 0).sum())
        unresolved += int((found < 0).sum())
    return codes, moved, unresolved


def _whole_prefixes(rows: Integers, prefixes: Integers, room: int) -> Iterator[Integers]:
    """The rows, prefix by prefix, in parts of at most `room` rows, more only where one prefix has more."""
    rows = rows[np.argsort(prefixes[rows], kind="stable")]
    bounds = np.flatnonzero(np.diff(prefixes[rows], prepend=-1))
    start = 0
    for bound, following in zip(bounds, [*bounds[1:], len(rows)], strict=False):  # without rows there are no bounds
        if following - start > room and bound > start:
            yield rows[start:bound]
            start = bound
    if len(rows):
        yield rows[start:]


def _keepers(slots: Integers, costs: NDArray[Any], fixed: Integers) -> NDArray[np.bool_]:
    """Which rows keep their slot: of each slot the row of least cost, the first of equals; `[n]` bool.

    No row keeps a slot that is in `fixed`.
    """
    order = np.lexsort((costs, slots))  # stable: equals stay in the order of the rows
    keeps = np.zeros(len(slots), dtype=bool)
    keeps[order[np.diff(slots[order], prepend=-1) != 0]] = True
    return keeps & ~np.isin(slots, fixed)


def _match(costs: NDArray[Any], groups: Integers) -> Integers:
    """Gives every row a code of its own inside its group, the cheapest pair of row and code first.

    All groups are worked on at once by deferred acceptance (Gale & Shapley 1962): each row without a code asks for
    the cheapest one it was not refused, each code keeps the cheapest row that asked. Since both sides have the same
    costs, that takes the cheapest remaining pair repeatedly; equals go to the first row and the lowest code.

    Args:
        costs: `[r, K]`, infinity where a row must not have a code.
        groups: `[r]`, numbers of the groups, from 0.

    Returns:
        Codes `[r]`, -1 for rows that nothing was left for.
    """
    n, size = costs.shape
    found = np.full(n, -1, dtype=np.int64)
    holder = np.full((int(groups.max(initial=-1)) + 1) * size, -1, dtype=np.int64)
    refusals = np.zeros(n, dtype=np.int64)
    # each row's codes from cheap to dear, written when the row is first refused: most never are
    preference = np.empty((n, size), dtype=np.int32)
    asking, wanted = np.arange(n), costs.argmin(1)
    while len(asking):
        possible = np.isfinite(costs[asking, wanted])
        asking = asking[possible]
        slots = groups[asking] * size + wanted[possible]
        # those who ask and those who hold what is asked for compete
        holding = holder[np.unique(slots)]
        holding = holding[holding >= 0]
        rows = np.concatenate([asking, holding])
        slots = np.concatenate([slots, groups[holding] * size + found[holding]])
        order = np.lexsort((rows, costs[rows, slots % size], slots))
        rows, slots = rows[order], slots[order]
        wins = np.diff(slots, prepend=-1) != 0
        holder[slots[wins]] = rows[wins]
        found[rows[wins]] = slots[wins] % size
        refused = rows[~wins]
        found[refused] = -1
        first_time = refused[refusals[refused] == 0]
        preference[first_time] = np.argsort(costs[first_time], axis=1, kind="stable")
        refusals[refused] += 1
        asking = refused[refusals[refused] < size]
        wanted = preference[asking, refusals[asking]]
    return found


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
