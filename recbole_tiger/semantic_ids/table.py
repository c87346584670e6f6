"""Semantic IDs of a catalogue: codes come in, a table with one ID per item goes out.

The table resolves collisions (section 3.1.3 of the paper), finds items by ID or prefix, takes in unseen items, is
saved and loaded, and reports how the codes are used. Row 0 is the padding item, as in RecBole.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

COLLISIONS = ("append", "reassign", "none")
PADDING_ITEM = "[PAD]"
PADDING_CODE = -1
# Entries of a cost matrix that `reassign` holds at a time.
COST_ENTRIES = 1 << 24

LevelCosts = Callable[[np.ndarray], np.ndarray]


class SemanticIDTable:
    """Semantic IDs of all items.

    Make one with `from_codes` or `from_file`.

    Attributes:
        codes: int64 `[n_items + 1, length]`; row i is the item with internal number i, row 0 is -1 throughout.
        items: str `[n_items + 1]`, external item ids; `items[0]` is "[PAD]".
        level_sizes: vocabulary of every column, the collision column's last when there is one.
        id_length: learned codewords per item.
        length: columns, `id_length` or one more.
        n_items: items, without padding.
        collision: how collisions were to be handled, `append`, `reassign` or `none`.
        n_reassigned: items that `reassign` moved to another code of the last level.
        n_unresolved: items that `reassign` found no free code for; if any, there is a collision column.
    """

    def __init__(
        self,
        codes: np.ndarray,
        items: np.ndarray,
        level_sizes: Sequence[int],
        id_length: int,
        collision: str,
        *,
        n_reassigned: int = 0,
        n_unresolved: int = 0,
    ) -> None:
        self.codes = codes
        self.items = items
        self.level_sizes = tuple(int(size) for size in level_sizes)
        self.id_length = id_length
        self.collision = collision
        self.n_reassigned = n_reassigned
        self.n_unresolved = n_unresolved
        self.codes.setflags(write=False)
        self.items.setflags(write=False)
        self._order: np.ndarray | None = None

    @property
    def length(self) -> int:
        return self.codes.shape[1]

    @property
    def n_items(self) -> int:
        return len(self.codes) - 1

    @property
    def has_collision_column(self) -> bool:
        """Whether the last column is the extra token that tells colliding items apart."""
        return self.length > self.id_length

    # ------------------------------------------------------------------ making

    @classmethod
    def from_codes(
        cls,
        codes: np.ndarray,
        items: Sequence[str],
        codebook_sizes: Sequence[int],
        collision: str = "append",
        *,
        level_costs: LevelCosts | np.ndarray | None = None,
    ) -> SemanticIDTable:
        """A table from learned codes.

        `append` (section 3.1.3) adds one token to every ID: the rank among the items that share the codes, in the
        order of the items, 0 where nobody shares them. Its vocabulary is as large as the last level's, or as the
        largest group of colliding items if that is more.

        `reassign` adds none. Of the items with one ID the one nearest to its codeword keeps it; the others move to
        the nearest code of the last level that no item with the same earlier codes holds. Where two want the same
        free code, the nearer one gets it, so that no item and free code are left that would both rather have each
        other. Earlier levels never change. Where more items share the earlier codes than the last level has
        codes, not all can be told apart: the table then gets the token of `append` on top, and `n_unresolved` and
        the report say so.

        `none` lets items share IDs.

        Args:
            codes: `[n_items, id_length]`, whole numbers in `[0, codebook size)`.
            items: external id of every row; row r gets the internal number r + 1.
            codebook_sizes: codes per level.
            collision: `append`, `reassign` or `none`.
            level_costs: for `reassign`: cost of each last-level code `[n_items, codebook_sizes[-1]]`, or a
                function from row numbers `[r]` to the costs of these rows (such as
                `lambda rows: quantizer.last_level_costs(x[rows], codes[rows])`), which never needs all at a time.
                Infinity forbids a code. None: nobody is nearer than anybody else, the lowest free code is taken.

        Raises:
            ValueError: for codes, items, sizes or costs that do not fit together, and for an unknown `collision`.
        """
        codes = _checked_codes(codes, codebook_sizes)
        names = _checked_items(items, len(codes))
        if collision not in COLLISIONS:
            raise ValueError(f"collision={collision!r} is unknown: choose one of {', '.join(COLLISIONS)}.")
        n_reassigned = n_unresolved = 0
        if collision == "reassign":
            movable = np.ones(len(codes), dtype=bool)
            codes, n_reassigned, n_unresolved = _reassign(codes, codebook_sizes, level_costs, movable)
        return cls._assembled(
            codes,
            names,
            codebook_sizes,
            collision,
            with_column=collision == "append" or n_unresolved > 0,
            n_reassigned=n_reassigned,
            n_unresolved=n_unresolved,
        )

    @classmethod
    def _assembled(
        cls,
        codes: np.ndarray,
        names: np.ndarray,
        codebook_sizes: Sequence[int],
        collision: str,
        *,
        with_column: bool,
        least_column_size: int = 0,
        n_reassigned: int,
        n_unresolved: int,
    ) -> SemanticIDTable:
        """Puts padding on top and, if wanted, the collision column on the right."""
        sizes = [int(size) for size in codebook_sizes]
        id_length = len(sizes)
        if with_column:
            ranks = _ranks(_keys(codes, sizes))
            codes = np.column_stack([codes, ranks])
            sizes.append(max(sizes[-1], least_column_size, int(ranks.max(initial=0)) + 1))
        table = np.full((len(codes) + 1, codes.shape[1]), PADDING_CODE, dtype=np.int64)
        table[1:] = codes
        items = np.concatenate([np.array([PADDING_ITEM]), names])
        return cls(table, items, sizes, id_length, collision, n_reassigned=n_reassigned, n_unresolved=n_unresolved)

    def add_items(
        self,
        codes: np.ndarray,
        items: Sequence[str],
        *,
        level_costs: LevelCosts | np.ndarray | None = None,
    ) -> SemanticIDTable:
        """A new table with unseen items after the seen ones, whose IDs stay as they are.

        With a collision column the new items continue the count of their group, and the column's vocabulary grows
        if it must. With `reassign` the new items alone move; if one finds no free code, the new table has a
        collision column.

        Args:
            codes: `[n_new, id_length]`, the unseen items' codes from the same quantizer.
            items: their external ids.
            level_costs: as in `from_codes`, for the new items' rows.
        """
        sizes = self.level_sizes[: self.id_length]
        codes = _checked_codes(codes, sizes)
        names = np.concatenate([self.items[1:], _checked_items(items, len(codes))])
        seen = set(self.items.tolist())
        twice = [str(item) for item in items if str(item) in seen]
        if twice:
            raise ValueError(f"some new items are in the table already, such as {', '.join(twice[:3])}.")
        together = np.concatenate([self.codes[1:, : self.id_length], codes])
        n_reassigned, n_unresolved = self.n_reassigned, self.n_unresolved
        if self.collision == "reassign":
            movable = np.arange(len(together)) >= self.n_items
            costs = _cost_function(level_costs, len(codes), sizes[-1])
            together, moved, unresolved = _reassign(together, sizes, lambda rows: costs(rows - self.n_items), movable)
            n_reassigned, n_unresolved = n_reassigned + moved, n_unresolved + unresolved
        with_column = self.has_collision_column
        if not with_column and self.collision != "none":
            with_column = bool((_ranks(_keys(together, sizes)) > 0).any())
        return self._assembled(
            together,
            names,
            sizes,
            self.collision,
            with_column=with_column,
            least_column_size=self.level_sizes[-1] if self.has_collision_column else 0,
            n_reassigned=n_reassigned,
            n_unresolved=n_unresolved,
        )

    # ------------------------------------------------------------------ files

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        items: Sequence[str],
        collision: str = "append",
        *,
        codebook_sizes: Sequence[int] | None = None,
    ) -> SemanticIDTable:
        """A table from a JSON file `{item_id: [codes]}`.

        All columns count as learned levels. `append` adds a column only if there are collisions; `reassign` knows
        no distances here and takes the lowest free code.

        Args:
            path: the file; items in it that are not asked for are left out.
            items: external ids, in the order of their internal numbers.
            collision: see `from_codes`.
            codebook_sizes: codes per level; None: the largest code of each column plus one.

        Raises:
            ValueError: no such file, not JSON, items missing, rows of different lengths, or codes that are not
                whole numbers from 0.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"semantic_id_file={path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise ValueError(f"semantic_id_file={path} is not JSON: {error}.") from error
        if not isinstance(content, dict):
            raise ValueError(f"semantic_id_file={path} must hold one object {{item_id: [codes]}}.")
        names = [str(item) for item in items]
        missing = [name for name in names if name not in content]
        if missing:
            raise ValueError(
                f"semantic_id_file={path} has no ID for {len(missing)} of {len(names)} items, "
                f"such as {', '.join(missing[:3])}."
            )
        rows = [content[name] for name in names]
        for name, row in zip(names, rows, strict=True):
            if not isinstance(row, list) or not row:
                raise ValueError(f"semantic_id_file={path}: item {name} needs a list of codes, got {row!r}.")
            if len(row) != len(rows[0]):
                raise ValueError(
                    f"semantic_id_file={path}: item {name} has {len(row)} codes, item {names[0]} has {len(rows[0])}; "
                    "all must have the same number."
                )
            # type(), because True is an instance of int
            if any(type(code) is not int or code < 0 for code in row):
                raise ValueError(
                    f"semantic_id_file={path}: item {name} has {row!r}; codes must be whole numbers from 0."
                )
        codes = np.array(rows, dtype=np.int64).reshape(len(rows), -1)
        sizes = list(codebook_sizes) if codebook_sizes is not None else (codes.max(0, initial=0) + 1).tolist()
        if collision == "append":
            codes = _checked_codes(codes, sizes)
            with_column = bool((_ranks(_keys(codes, sizes)) > 0).any())
            checked = _checked_items(names, len(codes))
            return cls._assembled(
                codes, checked, sizes, collision, with_column=with_column, n_reassigned=0, n_unresolved=0
            )
        return cls.from_codes(codes, names, sizes, collision)

    def to_file(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes all columns as JSON `{item_id: [codes]}`, one item per line, under a temporary name first.

        Raises:
            ValueError: another file stands there and `overwrite` is False.
        """
        path = Path(path)
        lines = (
            f"{json.dumps(item)}: {json.dumps(row)}"
            for item, row in zip(self.items[1:].tolist(), self.codes[1:].tolist(), strict=True)
        )
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        if path.exists() and not overwrite:
            if path.read_text(encoding="utf-8") == text:
                return
            raise ValueError(f"semantic_id_file={path} exists and differs: choose another name or overwrite it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors only (`torch.load(weights_only=True)`)."""
        return {
            "codes": torch.from_numpy(self.codes.copy()),
            "items": self.items.tolist(),
            "level_sizes": list(self.level_sizes),
            "id_length": self.id_length,
            "collision": self.collision,
            "n_reassigned": self.n_reassigned,
            "n_unresolved": self.n_unresolved,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> SemanticIDTable:
        """The table that `state_dict` came from."""
        return cls(
            state["codes"].numpy().copy(),
            np.array(state["items"], dtype=np.str_),
            state["level_sizes"],
            state["id_length"],
            state["collision"],
            n_reassigned=state["n_reassigned"],
            n_unresolved=state["n_unresolved"],
        )

    # ------------------------------------------------------------------ looking up

    def items_of(self, codes: Sequence[int]) -> list[int]:
        """Internal numbers, ascending, of the items whose ID begins with `codes` (all columns: is `codes`)."""
        if len(codes) > self.length:
            raise ValueError(f"an ID has {self.length} codes, got {len(codes)}.")
        if self._order is None:
            self._order = 1 + np.lexsort(self.codes[1:].T[::-1])
        start, stop = 0, self.n_items
        for level, code in enumerate(codes):
            column = self.codes[self._order[start:stop], level]
            start, stop = start + np.searchsorted(column, [code, code + 1]).astype(int)
        return np.sort(self._order[start:stop]).tolist()

    @property
    def is_unique(self) -> bool:
        """Whether no two items share an ID (all columns)."""
        return not (_ranks(_keys(self.codes[1:], self.level_sizes)) > 0).any()

    def prefix_groups(self, depth: int) -> np.ndarray:
        """Number of the group of items with the same first `depth` codes, int64 `[n_items]`, for items 1, 2, ...

        Groups are numbered from 0 in the order of their prefixes.
        """
        if not 0 <= depth <= self.length:
            raise ValueError(f"depth={depth} is not between 0 and {self.length}.")
        return _dense(_keys(self.codes[1:, :depth], self.level_sizes[:depth]))

    def report(self) -> dict[str, Any]:
        """How the learned levels are used, in plain types.

        Returns:
            `levels`: per level `size`, `used` codes, `usage` (their share), `perplexity` (2 to the entropy) and
            `entropy` in bits; `distinct_prefixes` per depth; over the learned codes: `items_in_collisions`,
            `collision_groups`, `largest_group` and `group_sizes` (how many groups of each size, 1 = no collision);
            `n_items`, `collision`, `has_collision_column`, `n_reassigned`, `n_unresolved`.
        """
        levels = []
        for level in range(self.id_length):
            counts = np.bincount(self.codes[1:, level], minlength=self.level_sizes[level])
            shares = counts[counts > 0] / max(self.n_items, 1)
            entropy = abs(float(-(shares * np.log2(shares)).sum()))
            used = int((counts > 0).sum())
            levels.append(
                {
                    "size": self.level_sizes[level],
                    "used": used,
                    "usage": used / self.level_sizes[level],
                    "perplexity": 2.0**entropy,
                    "entropy": entropy,
                }
            )
        groups = np.bincount(self.prefix_groups(self.id_length))
        sizes, counts = np.unique(groups, return_counts=True)
        return {
            "n_items": self.n_items,
            "collision": self.collision,
            "has_collision_column": self.has_collision_column,
            "n_reassigned": self.n_reassigned,
            "n_unresolved": self.n_unresolved,
            "levels": levels,
            "distinct_prefixes": [
                int(self.prefix_groups(depth).max(initial=-1)) + 1 for depth in range(1, self.id_length + 1)
            ],
            "items_in_collisions": int(groups[groups > 1].sum()),
            "collision_groups": int((groups > 1).sum()),
            "largest_group": int(groups.max(initial=0)),
            "group_sizes": {int(size): int(count) for size, count in zip(sizes, counts, strict=True)},
        }

    def __repr__(self) -> str:
        return f"SemanticIDTable(n_items={self.n_items}, level_sizes={self.level_sizes}, collision={self.collision!r})"


# ---------------------------------------------------------------------- checks


def _checked_codes(codes: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or codes.shape[1] == 0:
        raise ValueError(f"codes must be [n_items, {len(sizes)}], one column per codebook size, got {codes.shape}.")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes must be whole numbers, got {codes.dtype}.")
    codes = codes.astype(np.int64)
    if len(codes) and ((codes < 0).any() or (codes.max(0) >= np.asarray(sizes)).any()):
        raise ValueError(
            f"codes must lie in [0, codebook size): sizes are {list(sizes)}, codes reach from {codes.min(0).tolist()} "
            f"to {codes.max(0).tolist()}."
        )
    return codes


def _checked_items(items: Sequence[str], n: int) -> np.ndarray:
    names = [str(item) for item in items]
    if len(names) != n:
        raise ValueError(f"there are {n} rows of codes, but {len(names)} items.")
    if len(set(names)) < n:
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"every item needs its own id; {twice} comes more than once.")
    return np.array(names, dtype=np.str_)


# ---------------------------------------------------------------------- grouping by ID


def _keys(codes: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """One int64 per row that compares as the row does; `[n]`."""
    keys = np.zeros(len(codes), dtype=np.int64)
    span = 1
    for column, size in zip(codes.T, sizes, strict=True):
        if span > np.iinfo(np.int64).max // int(size):  # the product would not fit: number the prefixes instead
            keys = _dense(keys)
            span = int(keys.max(initial=0)) + 1
        keys = keys * int(size) + column
        span *= int(size)
    return keys


def _sorted_groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in stable order of their key; number of the group of each of these; first position of each group."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return order, np.cumsum(new) - 1, np.flatnonzero(new)


def _dense(keys: np.ndarray) -> np.ndarray:
    """Keys renumbered 0, 1, 2, ... in the same order."""
    order, groups, _ = _sorted_groups(keys)
    dense = np.empty(len(keys), dtype=np.int64)
    dense[order] = groups
    return dense


def _ranks(keys: np.ndarray) -> np.ndarray:
    """Position of every row among the rows with the same key, in the order of the rows; `[n]`."""
    order, groups, starts = _sorted_groups(keys)
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[order] = np.arange(len(keys)) - starts[groups]
    return ranks


# ---------------------------------------------------------------------- reassignment


def _cost_function(level_costs: LevelCosts | np.ndarray | None, n: int, size: int) -> LevelCosts:
    """`level_costs` in its three forms as a function of row numbers."""
    if level_costs is None:
        return lambda rows: np.zeros((len(rows), size), dtype=np.float32)
    if not callable(level_costs):
        matrix = np.asarray(level_costs)
        if matrix.shape != (n, size):
            raise ValueError(f"level_costs must be [n_items, last codebook size] = {(n, size)}, got {matrix.shape}.")
        return lambda rows: matrix[rows].astype(np.float32, copy=False)

    def called(rows: np.ndarray) -> np.ndarray:
        costs = np.asarray(level_costs(rows), dtype=np.float32)
        if costs.shape != (len(rows), size):
            raise ValueError(
                f"level_costs must return [rows, last codebook size] = {(len(rows), size)}, got {costs.shape}."
            )
        return costs

    return called


def _reassign(
    codes: np.ndarray,
    sizes: Sequence[int],
    level_costs: LevelCosts | np.ndarray | None,
    movable: np.ndarray,
) -> tuple[np.ndarray, int, int]:
    """Moves colliding items to free codes of the last level, see `SemanticIDTable.from_codes`.

    Args:
        codes: `[n, m]`.
        sizes: codes per level.
        level_costs: see `from_codes`.
        movable: `[n]` bool, items that may be moved; the others keep their ID whatever it costs.

    Returns:
        New codes `[n, m]`, how many items were moved, and for how many there was no free code.
    """
    size = int(sizes[-1])
    costs_of = _cost_function(level_costs, len(codes), size)
    codes = codes.copy()
    prefixes = _dense(_keys(codes[:, :-1], sizes[:-1]))
    slots = prefixes * size + codes[:, -1]  # one per prefix and last code
    order, groups, starts = _sorted_groups(slots)
    taken = slots[order[starts]]  # slots that somebody holds, ascending
    shared = np.diff(np.append(starts, len(slots))) > 1
    rows = np.sort(order[shared[groups]])
    rows = rows[movable[rows]]
    if len(rows) == 0:
        return codes, 0, 0
    fixed = np.sort(slots[~movable])
    rows = rows[np.argsort(prefixes[rows], kind="stable")]  # prefix by prefix, so that one can be done at a time
    bounds = np.flatnonzero(np.diff(prefixes[rows], prepend=-1))
    cuts, room = [0], max(COST_ENTRIES // size, 1)
    for bound, following in zip(bounds, np.append(bounds[1:], len(rows)), strict=True):
        if following - cuts[-1] > room and bound > cuts[-1]:
            cuts.append(int(bound))
    moved = unresolved = 0
    for start, stop in zip(cuts, cuts[1:] + [len(rows)], strict=True):
        part = rows[start:stop]
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
        placed = found >= 0
        codes[part[placed], -1] = found[placed]
        moved += int(placed.sum())
        unresolved += int((~placed).sum())
    return codes, moved, unresolved


def _keepers(slots: np.ndarray, costs: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Which rows keep their slot: of each slot the row of least cost, the first of equals; `[n]` bool.

    Nobody keeps a slot that is in `fixed` (sorted).
    """
    order = np.lexsort((costs, slots))  # stable: equals stay in the order of the rows
    first = np.ones(len(slots), dtype=bool)
    first[1:] = slots[order][1:] != slots[order][:-1]
    keeps = np.zeros(len(slots), dtype=bool)
    keeps[order[first]] = True
    if len(fixed):
        position = np.minimum(np.searchsorted(fixed, slots), len(fixed) - 1)
        keeps &= fixed[position] != slots
    return keeps


def _match(costs: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Gives every row a code of its own inside its group, the cheapest pair of row and code first.

    All groups are worked on at once by deferred acceptance (Gale & Shapley 1962): each row without a code asks for
    the cheapest one it was not refused, each code keeps the cheapest row that asked. With one and the same cost on
    both sides the outcome is that of taking the cheapest remaining pair again and again; equals go to the first
    row and the lowest code.

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
        wins = np.ones(len(rows), dtype=bool)
        wins[1:] = slots[1:] != slots[:-1]
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
