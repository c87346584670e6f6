"""Interactions in compact form: ids become integer codes, columns numpy arrays; duplicates, k-core, ties and order.

Input: chunks of a source. Output: `Interactions`, some 20 bytes per row, and the vocabularies of users and items.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_tiger.datasets.arrays import BoolArray, FloatArray, IntArray
from recbole_tiger.datasets.bad_rows import BadRows, check_choice
from recbole_tiger.datasets.normalize import check_identifier
from recbole_tiger.datasets.sources import InteractionChunk
from recbole_tiger.errors import PreparationError, RowError

DUPLICATES = ("keep", "first", "last")
TIES = ("file", "shuffle")
ORDERS = ("time", "source")
_UNUSABLE = -1


class Vocabulary:
    """Ids as codes 0, 1, 2, … in the order of their first appearance.

    Attributes:
        names: ids by code.
        stripped: how many spellings had blanks at an end, which no id has.
    """

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self.names: list[str] = []
        self.stripped = 0

    def __len__(self) -> int:
        return len(self.names)

    def code(self, name: str) -> int:
        """The code of an id, -1 for one that never appeared."""
        return self._codes.get(name, _UNUSABLE)

    def encode(self, names: list[str]) -> IntArray:
        """Codes int32 [n] of ids, new ones added; -1 for an id that cannot be written."""
        codes = np.fromiter(map(self._codes.get, names, repeat(_UNUSABLE)), dtype=np.int32, count=len(names))
        for row in np.flatnonzero(codes == _UNUSABLE).tolist():
            name = names[row]  # which an earlier row of these may have added
            codes[row] = self._codes[name] if name in self._codes else self._add(name)
        return codes

    def _add(self, raw: str) -> int:
        try:
            name = check_identifier(raw)
        except RowError:
            return _UNUSABLE
        code = self._codes.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        self.stripped += name != raw
        self._codes[raw] = code
        return code


@dataclass(frozen=True)
class Interactions:
    """Columns of n interactions: `users`, `items` int32 codes, `times` float64, `ratings` float64 or None."""

    users: IntArray
    items: IntArray
    times: FloatArray
    ratings: FloatArray | None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: BoolArray | IntArray) -> Interactions:
        """The interactions of a boolean mask or of row numbers, in that order; all of them are not copied."""
        if rows.dtype == bool and rows.all():
            return self
        ratings = None if self.ratings is None else self.ratings[rows]
        return Interactions(self.users[rows], self.items[rows], self.times[rows], ratings)


class InteractionLog:
    """Collects the chunks of a source; `rows_read` counts all rows, usable or not."""

    def __init__(self) -> None:
        self.users, self.items = Vocabulary(), Vocabulary()
        self.rows_read = 0
        self._first_lines: list[tuple[Path, IntArray]] = []  # by chunk: the lines of its new items
        self._columns: dict[str, list[NDArray[Any]]] = {"users": [], "items": [], "times": [], "ratings": []}

    def add(self, chunk: InteractionChunk, bad: BadRows) -> None:
        """Take a chunk over; rows with an id that cannot be written go to `bad`."""
        self.rows_read += len(chunk.lines)
        known_items = len(self.items)
        users, items = self.users.encode(chunk.users), self.items.encode(chunk.items)
        fresh = np.flatnonzero(items >= known_items)
        _, first = np.unique(items[fresh], return_index=True)
        self._first_lines.append((chunk.path, chunk.lines[fresh[first]]))
        good = (users != _UNUSABLE) & (items != _UNUSABLE)
        for row in np.flatnonzero(~good).tolist():
            try:
                check_identifier(chunk.users[row])
                check_identifier(chunk.items[row])
            except RowError as error:
                bad.report(chunk.path, int(chunk.lines[row]), error)
        columns = {"users": users, "items": items, "times": chunk.times, "ratings": chunk.ratings}
        for name, values in columns.items():
            if values is not None:
                self._columns[name].append(values if good.all() else values[good])

    def first_seen(self, item: int) -> tuple[Path, int]:
        """The file and line that first name an item, by its code."""
        for path, lines in self._first_lines:
            if item < len(lines):
                return path, int(lines[item])
            item -= len(lines)
        raise IndexError("no such item code")

    def finish(self) -> Interactions:
        """All rows; the log is empty afterwards. Without times, each user's rows are numbered 1, 2, 3, …"""
        columns: dict[str, Any] = {}
        for name in list(self._columns):
            parts = self._columns.pop(name)  # freed column by column: the peak is one column above the result
            columns[name] = np.concatenate(parts) if parts else None
            del parts
        if columns["users"] is None or not len(columns["users"]):
            raise PreparationError(
                "The source holds no usable interaction: check its files and the names of its columns."
            )
        if columns["times"] is None:
            users = pd.Series(columns["users"])
            columns["times"] = users.groupby(users).cumcount().to_numpy(np.float64) + 1
        return Interactions(**columns)


def duplicate_mask(interactions: Interactions, keep: str) -> BoolArray:
    """Boolean [n]: which rows stay when a user's repeated interactions with an item are reduced to one: the `first` or
    `last` in time (equal times: in the order of the rows), or all with `keep`."""
    check_choice("duplicates", keep, DUPLICATES)
    if keep == "keep":
        return np.ones(len(interactions), dtype=bool)
    order = np.argsort(interactions.times, kind="stable")
    pairs = pd.DataFrame({"user": interactions.users[order], "item": interactions.items[order]})
    mask = np.empty(len(interactions), dtype=bool)
    mask[order] = ~pairs.duplicated(keep=keep)
    return mask


def count_duplicates(users: IntArray, items: IntArray) -> int:
    """Rows beyond the first of their user-item pair."""
    return int(pd.DataFrame({"user": users, "item": items}).duplicated().sum())


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


def user_time_order(users: IntArray, times: NDArray[np.floating[Any]]) -> IntArray:
    """Row numbers [n] by user, then time; rows of equal time stay in their order."""
    order: IntArray = np.lexsort((times, users))
    return order


def count_ties(users: IntArray, times: FloatArray) -> int:
    """Neighbours in a user's sequence that have the same time, so that time alone does not order them."""
    order = user_time_order(users, times)
    return int(((np.diff(users[order]) == 0) & (np.diff(times[order]) == 0)).sum())


def output_order(interactions: Interactions, order: str, ties: str, seed: int) -> IntArray:
    """Row numbers [n] in the order in which the rows are written.

    Args:
        order: `time` sorts all rows by time, `source` leaves them as they came. RecBole sorts by a float32 time that
            cannot tell moments within 128 seconds apart, but its sort is stable: rows written in time order are read in
            time order.
        ties: `file` leaves rows of one user and time in the source's order; `shuffle` puts them in a random order, so
            that the order of the file tells nothing that the times do not tell.
        seed: of the shuffle.
    """
    check_choice("order", order, ORDERS)
    check_choice("ties", ties, TIES)
    rows = np.arange(len(interactions))
    if ties == "shuffle":
        # The positions that a user's rows of one time have stay the same; which row has which position is random.
        positions = user_time_order(interactions.users, interactions.times)
        random_keys = np.random.default_rng(seed).random(len(interactions))
        rows[positions] = np.lexsort((random_keys, interactions.times, interactions.users))
    if order == "time":
        rows = rows[np.argsort(interactions.times[rows], kind="stable")]
    return rows
