"""The common form of every source: chunks of interactions and rows of item cells.

Input: records of a file. Output: chunks and rows in the order of the files; `pipeline.prepare` does the rest for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from recbole_tiger.datasets.arrays import FloatArray, IntArray
from recbole_tiger.datasets.atomic_fields import Field
from recbole_tiger.datasets.bad_rows import BadRows
from recbole_tiger.datasets.normalize import identifier, number, timestamp
from recbole_tiger.datasets.record_reader import Record
from recbole_tiger.errors import RowError

Names: TypeAlias = (
    "tuple[str, str, str | None, str | None]"  # of user, item, time and rating in the file; None: not there
)
CHUNK_ROWS = 1 << 11  # small enough that a chunk's rows stay in the cache: with 1 << 16 tables take a third longer


@dataclass(frozen=True)
class InteractionChunk:
    """Some consecutive interactions of a source: int64 [n] lines of `path`, n ids as they are there, float64 [n] times
    (None: the position among each user's rows is the time) and ratings (None where the source has none)."""

    path: Path
    lines: IntArray
    users: list[str]
    items: list[str]
    times: FloatArray | None
    ratings: FloatArray | None


@dataclass(frozen=True)
class ItemRow:
    """One row of item metadata: the normalized cells by field name, and the file and line they come from."""

    item: str
    cells: dict[str, str]
    path: Path
    line: int


@dataclass
class Source(ABC):
    """Raw files of one kind.

    Attributes:
        item_fields: the columns of the `.item` file after `item_id`; empty when the source has no metadata.
        strict_fields: an item column that has no value in any row is an error (the user named it), not a note.
        notes: counts of what was met on the way and is no fault, by description.
    """

    item_fields: tuple[Field, ...] = field(default=(), init=False)
    strict_fields: bool = field(default=False, init=False)
    notes: Counter[str] = field(default_factory=Counter, init=False)

    @abstractmethod
    def interactions(self, bad: BadRows) -> Iterator[InteractionChunk]:
        """All interactions, in the order of the files."""

    @abstractmethod
    def items(self, bad: BadRows, wanted: Callable[[str], bool]) -> Iterator[ItemRow]:
        """The metadata rows of the items for which `wanted(item id)` is true."""


def interaction_chunks(
    path: Path, records: Iterable[Record], names: Names, time_format: str | None, bad: BadRows
) -> Iterator[InteractionChunk]:
    """Collect records, of user, item, time, rating as far as `names` has them, into chunks; rows that cannot be used go
    to `bad`. `time_format` as in `normalize.timestamp`."""
    records = iter(records)
    while batch := list(islice(records, CHUNK_ROWS)):
        columns = None if time_format else _columns_at_once(batch, names)
        lines, users, items, *numbers = columns or _columns_row_by_row(path, batch, names, time_format, bad)
        if lines:
            times = np.asarray(numbers[0]) if names[2] is not None else None
            ratings = np.asarray(numbers[-1]) if names[3] is not None else None
            yield InteractionChunk(path, np.array(lines), users, items, times, ratings)


def _columns_at_once(batch: list[Record], names: Names) -> list[Any] | None:
    """Lines and columns if all ids are texts and all numbers are numbers; else None. Only for speed."""
    # Not zip(*batch): with so many arguments it is several times slower.
    users, items, *rest = ([values[k] for _, values in batch] for k in range(4 - names.count(None)))
    numbers = [_plain_numbers(column) for column in rest]
    if not set(map(type, users)) == set(map(type, items)) == {str} or any(column is None for column in numbers):
        return None
    return [[line for line, _ in batch], users, items, *numbers]


def _plain_numbers(values: list[Any]) -> FloatArray | None:
    """The values as float64 [n] if all of them are finite numbers or their texts; else None."""
    types = set(map(type, values))
    if not types <= {int, float} and (types != {str} or "_" in "".join(values)):  # float() takes "1_000"
        return None
    try:
        numbers = np.fromiter(map(float, values), dtype=np.float64, count=len(values))
    except (ValueError, OverflowError):
        return None
    return numbers if np.isfinite(numbers).all() else None


def _columns_row_by_row(
    path: Path, batch: list[Record], names: Names, time_format: str | None, bad: BadRows
) -> list[list[Any]]:
    """Lines and columns of the usable rows, each with its own conversion and error."""
    user_name, item_name, time_name, rating_name = names
    usable: list[list[Any]] = []
    for line, (user, item, *numbers) in batch:
        try:
            row = [line, identifier(user, user_name), identifier(item, item_name)]
            if time_name is not None:
                row.append(timestamp(numbers[0], time_format, time_name))
            if rating_name is not None:
                row.append(number(numbers[-1], rating_name))
        except RowError as error:
            bad.report(path, line, error)
        else:
            usable.append(row)
    return [list(column) for column in zip(*usable, strict=True)] or [[], [], []]
