"""Semantic IDs of a catalogue: codes in, a table with one ID per item out.

The table resolves collisions (section 3.1.3 of the paper), groups items by prefix, takes in unseen items, is
saved and loaded, and reports how the codes are used. Row 0 is the padding item, as in RecBole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_tiger.semantic_ids.collisions import (
    LevelCosts,
    any_shared,
    collision_counts,
    cost_function,
    level_usage,
    prefix_groups,
    ranks,
    reassign,
)
from recbole_tiger.semantic_ids.files import read_codes, write_codes

COLLISIONS = ("append", "reassign", "none")
PADDING_ITEM = "[PAD]"
PADDING_CODE = -1


@dataclass(eq=False, repr=False)
class SemanticIDTable:
    """Semantic IDs of all items. Make one with `from_codes` or `from_file`.

    Attributes:
        codes: int64 `[n_items + 1, length]`; row i is the item with internal number i, row 0 is -1 throughout.
        items: str `[n_items + 1]`, external item ids; `items[0]` is "[PAD]".
        level_sizes: vocabulary of every column, the collision column's last when there is one.
        id_length: learned codewords per item.
        collision: how collisions were to be handled, `append`, `reassign` or `none`.
        n_reassigned: items that `reassign` moved to another code of the last level.
        n_unresolved: items that `reassign` found no free code for; if any, there is a collision column.
    """

    codes: NDArray[np.int64]
    items: NDArray[np.str_]
    level_sizes: tuple[int, ...]
    id_length: int
    collision: str
    n_reassigned: int = 0
    n_unresolved: int = 0

    def __post_init__(self) -> None:
        self.level_sizes = tuple(int(size) for size in self.level_sizes)
        self.codes.setflags(write=False)
        self.items.setflags(write=False)

    @property
    def length(self) -> int:
        """Columns, `id_length` or one more."""
        return self.codes.shape[1]

    @property
    def n_items(self) -> int:
        """Items, without padding."""
        return len(self.codes) - 1

    @property
    def has_collision_column(self) -> bool:
        """Whether the last column is the extra token that tells colliding items apart."""
        return self.length > self.id_length

    @classmethod
    def from_codes(
        cls,
        codes: NDArray[np.int64],
        items: Sequence[str],
        codebook_sizes: Sequence[int],
        collision: str = "append",
        *,
        level_costs: LevelCosts | NDArray[Any] | None = None,
    ) -> SemanticIDTable:
        """A table from learned codes.

        `append` (section 3.1.3) adds one token to every ID: the rank among the items that share the codes, in the
        order of the items, 0 where none shares them. Its vocabulary is as large as the last level's, or as the
        largest group of colliding items if that is more.

        `reassign` adds none. Of the items with one ID the one nearest to its codeword keeps it; the others move to
        the nearest code of the last level that no item with the same earlier codes holds, the nearer item first.
        Earlier levels never change. Where more items share them than the last level has codes, not all can be told
        apart: the table then gets the token of `append` on top, and `n_unresolved` counts them.

        `none` lets items share IDs.

        Args:
            codes: `[n_items, id_length]`, whole numbers in `[0, codebook size)`.
            items: external id of every row; row r gets the internal number r + 1.
            codebook_sizes: codes per level.
            collision: `append`, `reassign` or `none`.
            level_costs: for `reassign`: cost of each last-level code `[n_items, codebook_sizes[-1]]`, or a function
                from row numbers `[r]` to the costs of these rows, which never needs all at a time. Infinity forbids
                a code. None: no item is nearer than another, the lowest free code is taken.

        Raises:
            ValueError: for codes, items, sizes or costs that do not fit together, and for an unknown `collision`.
        """
        codes = _checked_codes(codes, codebook_sizes)
        names = _checked_items(items, len(codes))
        if collision not in COLLISIONS:
            raise ValueError(f"collision={collision!r} is unknown: choose one of {', '.join(COLLISIONS)}.")
        moved = unresolved = 0
        if collision == "reassign":
            movable = np.ones(len(codes), dtype=bool)
            costs = cost_function(level_costs, len(codes), int(codebook_sizes[-1]))
            codes, moved, unresolved = reassign(codes, codebook_sizes, costs, movable)
        with_column = collision == "append" or unresolved > 0
        return cls._assembled(codes, names, codebook_sizes, collision, with_column, moved, unresolved)

    @classmethod
    def _assembled(
        cls,
        codes: NDArray[np.int64],
        names: NDArray[np.str_],
        sizes: Sequence[int],
        collision: str,
        with_column: bool,
        *counts: int,
        least_column_size: int = 0,
    ) -> SemanticIDTable:
        """Puts padding on top and, if wanted, the collision column on the right; `counts` as among the attributes."""
        id_length = len(sizes)
        if with_column:
            column = ranks(codes, sizes)
            codes = np.column_stack([codes, column])
            sizes = [*sizes, max(sizes[-1], least_column_size, int(column.max(initial=0)) + 1)]
        table = np.pad(codes, ((1, 0), (0, 0)), constant_values=PADDING_CODE)
        items = np.concatenate([np.array([PADDING_ITEM]), names])
        return cls(table, items, tuple(sizes), id_length, collision, *counts)

    def add_items(
        self, codes: NDArray[np.int64], items: Sequence[str], *, level_costs: LevelCosts | NDArray[Any] | None = None
    ) -> SemanticIDTable:
        """A new table with unseen items after the seen ones, whose IDs stay as they are.

        With a collision column the new items continue the count of their group, and its vocabulary grows if it must.
        With `reassign` the new items alone move; if one finds no free code, the new table has a collision column.
        Arguments as for `from_codes`, `[n_new, id_length]` codes from the same quantizer.
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
            costs = cost_function(level_costs, len(codes), sizes[-1])
            together, moved, unresolved = reassign(together, sizes, lambda rows: costs(rows - self.n_items), movable)
            n_reassigned, n_unresolved = n_reassigned + moved, n_unresolved + unresolved
        has_column = self.has_collision_column
        with_column = has_column or (self.collision != "none" and any_shared(together, sizes))
        counts, least = (n_reassigned, n_unresolved), self.level_sizes[-1] if has_column else 0
        return self._assembled(together, names, sizes, self.collision, with_column, *counts, least_column_size=least)

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
            path, items: as for `read_codes`, whose errors it raises.
            collision: see `from_codes`.
            codebook_sizes: codes per level; None: the largest code of each column plus one.
        """
        names = [str(item) for item in items]
        codes = read_codes(path, names)
        sizes = list(codebook_sizes) if codebook_sizes is not None else (codes.max(0, initial=0) + 1).tolist()
        if collision == "append":
            codes, checked = _checked_codes(codes, sizes), _checked_items(names, len(codes))
            return cls._assembled(codes, checked, sizes, collision, any_shared(codes, sizes))
        return cls.from_codes(codes, names, sizes, collision)

    def to_file(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes all columns as JSON `{item_id: [codes]}`, one item per line, whole or not at all.

        Raises:
            ValueError: another file stands there and `overwrite` is False.
        """
        write_codes(path, self.items[1:].tolist(), self.codes[1:], overwrite)

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
        codes, items = state["codes"].numpy().copy(), np.array(state["items"], dtype=np.str_)
        return cls(**{**state, "codes": codes, "items": items})

    @property
    def is_unique(self) -> bool:
        """Whether no two items share an ID (all columns)."""
        return not any_shared(self.codes[1:], self.level_sizes)

    def prefix_groups(self, depth: int) -> NDArray[np.int64]:
        """Number of the group of items with the same first `depth` codes, int64 `[n_items]`, for items 1, 2, ...

        Groups are numbered from 0 in the order of their prefixes.
        """
        if not 0 <= depth <= self.length:
            raise ValueError(f"depth={depth} is not between 0 and {self.length}.")
        return prefix_groups(self.codes[1:, :depth], self.level_sizes[:depth])

    def report(self) -> dict[str, Any]:
        """How the learned levels are used, in plain types: `levels` (`level_usage`), `collision_counts`, attributes."""
        codes, sizes = self.codes[1:, : self.id_length], self.level_sizes[: self.id_length]
        return {
            "n_items": self.n_items,
            "collision": self.collision,
            "has_collision_column": self.has_collision_column,
            "n_reassigned": self.n_reassigned,
            "n_unresolved": self.n_unresolved,
            "levels": level_usage(codes, sizes),
            **collision_counts(codes, sizes),
        }

    def __repr__(self) -> str:
        return f"SemanticIDTable(n_items={self.n_items}, level_sizes={self.level_sizes}, collision={self.collision!r})"


def _checked_codes(codes: NDArray[np.int64], sizes: Sequence[int]) -> NDArray[np.int64]:
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


def _checked_items(items: Sequence[str], n: int) -> NDArray[np.str_]:
    names = [str(item) for item in items]
    if len(names) != n:
        raise ValueError(f"there are {n} rows of codes, but {len(names)} items.")
    if len(set(names)) < n:
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ValueError(f"every item needs its own id; {twice} appears more than once.")
    return np.array(names, dtype=np.str_)
