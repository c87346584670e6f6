"""Histories from tables, and recommendations as tables.

Input: a file or a `DataFrame` with one interaction per row, or lists of recommendations. Output: histories by user, or
a `DataFrame` with one recommended item per row.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_tiger.datasets.atomic_reader import read_atomic

HISTORY_FILES = (".csv", ".tsv", ".inter", ".parquet")


@dataclass(frozen=True)
class Recommendation:
    """One recommended item: its external id, and its title, or the id if it has none.

    Attributes:
        score: log-likelihood of its Semantic ID, plus the term of `rescore_weight`.
        codes: its codewords.
        new: whether it was added after training.
    """

    item: str
    title: str
    score: float
    codes: tuple[int, ...]
    new: bool


@dataclass(frozen=True)
class NewItem:
    """An item that was added after training; it is found where an ID with its codewords is predicted.

    Attributes:
        codes: its learned codewords.
        sharing: number of known items with the same codewords; 0 if the model has never seen this prefix.
    """

    item: str
    title: str
    codes: tuple[int, ...]
    sharing: int


class Recommendations(list[list[Recommendation]]):
    """A list of recommendations for each history, best first.

    Attributes:
        users: names of the users; by default numbers from 0.
    """

    def __init__(self, lists: Sequence[list[Recommendation]], users: Sequence[str] | None = None) -> None:
        super().__init__(lists)
        self.users = list(range(len(lists))) if users is None else list(users)

    def to_frame(self) -> pd.DataFrame:
        """A row for each item, see :func:`recommendation_table`."""
        return recommendation_table(self.users, self)


def recommendation_table(users: Sequence, found: Sequence[Sequence[Recommendation]]) -> pd.DataFrame:
    """Rows of `user_id`, `rank` (from 1), `item_id`, `title`, `score`, `codewords` and `new`, users in their order."""
    rows = [
        (user, rank, r.item, r.title, r.score, " ".join(map(str, r.codes)), r.new)
        for user, row in zip(users, found, strict=True)
        for rank, r in enumerate(row, 1)
    ]
    return pd.DataFrame(rows, columns=["user_id", "rank", "item_id", "title", "score", "codewords", "new"])


def read_histories(path: str | Path, config) -> dict[str, list[str]]:
    """Histories by user from a file with one interaction per line, in time order.

    Args:
        path: .csv, .tsv, .inter or .parquet; names of columns may carry a type, as in atomic files.
        config: settings of the run, which name the columns of user, item and time.

    Returns:
        item names by user, users in the order in which they first come.

    Raises:
        ValueError: for a file that cannot be read, without the columns of user and item, or with a line that does not
            fit the header or has no user, item or time.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"histories='{path}' is not a file; give a .csv, .tsv, .inter or .parquet")
    if path.suffix not in HISTORY_FILES:
        raise ValueError(f"histories='{path}' must end in one of {', '.join(HISTORY_FILES)}")
    name, rows = f"histories='{path}'", "row" if path.suffix == ".parquet" else "line"
    if path.suffix == ".inter":
        return histories_of(_read_inter(path, config), config, name, rows)
    return histories_of(_read_parquet(path) if rows == "row" else _read_text(path), config, name, rows)


def histories_of(table: pd.DataFrame, config, name: str = "histories", rows: str = "row") -> dict[str, list[str]]:
    """Histories by user from a table with one interaction per row, in time order; see :func:`read_histories`.

    Args:
        name: of the table in messages.
        rows: what its rows are called: "line", numbered by its index, or "row", numbered from 1.
    """
    columns = pd.Index([str(column).partition(":")[0] for column in table.columns], dtype=object)
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise ValueError(f"{name}, line 1: the column '{twice[0]}' appears twice; keep one")
    table = table.set_axis(columns, axis="columns")
    user, item, time = (config[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME"))
    for field in (user, item):
        if field not in table.columns:
            raise ValueError(f"{name} has no column '{field}'; its columns: {', '.join(table.columns)}")
    if table.empty:
        raise ValueError(f"{name} holds no interactions")
    for field in (user, item):
        empty, text = table[field].isna(), table[field].astype(str).str.strip()
        table = table.assign(**{field: text})
        _refuse(name, rows, field, table, empty | (text == ""), "is empty")
    if time in table.columns:
        moments = pd.to_numeric(table[time], errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
        wrong = ~np.isfinite(moments) | table[time].isna()  # a missing date is a number to `to_numeric`
        _refuse(name, rows, time, table, wrong, "is not a finite number")
        table = table.iloc[np.argsort(moments, kind="stable")]
    return {user: items.tolist() for user, items in table.groupby(user, sort=False)[item]}


def _read_inter(path: Path, config) -> pd.DataFrame:
    """An atomic file, as strictly as a run reads its data."""
    user, item, time = (config[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME"))
    separator, encoding = config["field_separator"], config["encoding"] or "utf-8"
    read = read_atomic(path, (user, item), time, separator, encoding, keep=(user, item, time))
    return pd.DataFrame(read.columns, index=np.arange(2, len(read) + 2))


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow's own
        raise ValueError(
            f"histories='{path}' is not a Parquet file, or is damaged ({str(error).splitlines()[0]})"
        ) from error


def _read_text(path: Path) -> pd.DataFrame:
    """The cells of a .csv or .tsv as they are written, the number of its line as the index of each row."""
    lines, rows, line = [], [], 1  # a quoted cell may run over several lines
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="," if path.suffix == ".csv" else "\t", strict=True)
        try:
            header = next(reader, [])
            line = reader.line_num + 1
            for cells in reader:
                if cells and len(cells) != len(header):
                    raise ValueError(f"{len(cells)} cells, but the header names {len(header)} columns")
                if cells:
                    lines.append(line)
                    rows.append(cells)
                line = reader.line_num + 1
        except (csv.Error, ValueError) as error:
            raise ValueError(f"histories='{path}', line {line}: {error}; correct the line") from error
    return pd.DataFrame(rows, index=lines, columns=header, dtype=str)


def _refuse(name: str, rows: str, field: str, table: pd.DataFrame, wrong: pd.Series, what: str) -> None:
    """Raise for the first wrong cell of a column."""
    if wrong.any():
        row = int(np.argmax(wrong.to_numpy()))
        where = f"line {table.index[row]}" if rows == "line" else f"row {row + 1}"
        value = table[field].iloc[row]
        raise ValueError(f"{name}, {where}: '{field}' {what} ({value!r}); correct it or leave the line out")
