"""The command ``recommend``: recommendations from a trained checkpoint, for one history or for a file of them.

Input: the settings of the command, and a table with one interaction per line. Output: a table on the screen, or a file
with the lists of all users.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from recbole_tiger.datasets.atomic_reader import read_atomic
from recbole_tiger.errors import ConfigError
from recbole_tiger.io import atomic_file
from recbole_tiger.recommend import Recommendation, Recommender

TITLE_WIDTH = 60
HISTORY_FILES = (".csv", ".tsv", ".inter", ".parquet")
OPTIONS = ("k", "temperature", "exclude_seen", "beam_size", "sample", "seed", "epsilon", "unknown")


def run(settings: dict) -> str:
    """Recommend for one history, or for a file of them; returns what to print.

    Raises:
        ValueError: for settings, files and histories that cannot work.
    """
    checkpoint, history, file, user, output, new_items = (
        settings.pop(key, None) for key in ("checkpoint", "history", "histories", "user", "output", "new_items")
    )
    options = {key: settings.pop(key) for key in OPTIONS if settings.get(key) is not None}
    if settings:
        raise ConfigError(f"unknown key '{next(iter(settings))}' for recommend; see recommend --help")
    if checkpoint is None:
        raise ConfigError("recommend needs --checkpoint=FILE, the best.pth of a run")
    if (history is None) == (file is None):
        raise ConfigError("recommend needs either --history=A,B,... or --histories=FILE")
    if file is not None:
        if output is None:
            raise ConfigError("--histories needs --output=FILE.csv or FILE.parquet for the recommendations")
        _check_output(Path(str(output)))
    recommender = Recommender.from_checkpoint(str(checkpoint))
    if new_items is not None:
        recommender.add_items(str(new_items))
    if file is not None:
        histories = read_histories(str(file), recommender.config)
        found = recommender.recommend(list(histories.values()), users=list(histories), progress=True, **options)
        n_rows = write_recommendations(Path(str(output)), list(histories), found)
        return f"{n_rows:,} recommendations for {len(histories):,} users: {output}"
    names = history_names(history, recommender)
    [ranked] = recommender.recommend([names], users=None if user is None else [str(user)], **options)
    rows = [
        [rank, _cut(r.title), r.item, f"{r.score:.3f}", " ".join(map(str, r.codes)) + (" (new)" if r.new else "")]
        for rank, r in enumerate(ranked, 1)
    ]
    return tabulate(rows, headers=["", "title", "item", "score", "codewords"], disable_numparse=True)


def history_names(history, recommender: Recommender) -> list[str]:
    """The ids and titles in a history, which is text with commas between them, or a list of texts.

    Raises:
        ConfigError: for numbers, which do not say which item was meant: `1_2` and `12` are the same number.
    """
    if isinstance(history, str):
        return recommender.split(history)
    if not isinstance(history, (list, tuple)) or not all(isinstance(name, str) for name in history):
        raise ConfigError(f"history={history!r} was read as a number; give ids or titles as text")
    return list(history)


def _cut(title: str) -> str:
    return title if len(title) <= TITLE_WIDTH else title[: TITLE_WIDTH - 1] + "…"


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
    user, item, time = (config[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME"))
    table = _read_inter(path, config) if path.suffix == ".inter" else _read_table(path)
    for field in (user, item):
        if field not in table.columns:
            raise ValueError(f"histories='{path}' has no column '{field}'; its columns: {', '.join(table.columns)}")
    if table.empty:
        raise ValueError(f"histories='{path}' holds no interactions")
    for field in (user, item):
        empty = table[field].isna()
        table[field] = table[field].astype(str).str.strip()
        _refuse(path, field, table, empty | (table[field] == ""), "is empty")
    if time in table.columns:
        moments = pd.to_numeric(table[time], errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
        _refuse(path, time, table, pd.Series(~np.isfinite(moments)), "is not a finite number")
        table = table.iloc[np.argsort(moments, kind="stable")]
    return {name: rows.tolist() for name, rows in table.groupby(user, sort=False)[item]}


def _read_inter(path: Path, config) -> pd.DataFrame:
    """An atomic file, as strictly as a run reads its data."""
    user, item, time = (config[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME"))
    separator, encoding = config["field_separator"], config["encoding"] or "utf-8"
    read = read_atomic(path, (user, item), time, separator, encoding, keep=(user, item, time))
    return pd.DataFrame(read.columns, index=np.arange(2, len(read) + 2))


def _read_table(path: Path) -> pd.DataFrame:
    """A table whose columns may carry a type; a text file has the number of its line as the index of each row."""
    table = _read_parquet(path) if path.suffix == ".parquet" else _read_text(path)
    table.columns = pd.Index([str(column).partition(":")[0] for column in table.columns], dtype=object)
    twice = [column for column, count in Counter(table.columns).items() if count > 1]
    if twice:
        raise ValueError(f"histories='{path}', line 1: the column '{twice[0]}' stands there twice; keep one")
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow's own
        raise ValueError(f"histories='{path}' is no Parquet file, or damaged ({str(error).splitlines()[0]})") from error


def _read_text(path: Path) -> pd.DataFrame:
    """The cells of a .csv or .tsv as they are written."""
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


def _refuse(path: Path, field: str, table: pd.DataFrame, wrong: pd.Series, what: str) -> None:
    """Raise for the first wrong cell of a column."""
    if wrong.any():
        row = int(np.argmax(wrong.to_numpy()))
        where = f"row {row + 1}" if path.suffix == ".parquet" else f"line {table.index[row]}"
        value = table[field].iloc[row]
        raise ValueError(f"histories='{path}', {where}: '{field}' {what} ({value!r}); correct it or leave the line out")


def _check_output(path: Path) -> None:
    """Raise a `ConfigError` for an output file of another format, or that exists."""
    if path.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"output='{path}' must end in .csv or .parquet")
    if path.exists():
        raise ConfigError(f"output='{path}' exists already; name a file that does not")


def write_recommendations(path: Path, users: Sequence[str], found: Sequence[Sequence[Recommendation]]) -> int:
    """Lists as rows of user, rank, item, title, score, codewords and whether the item is new; returns how many."""
    table = pd.DataFrame(
        {
            "user_id": user,
            "rank": rank,
            "item_id": r.item,
            "title": r.title,
            "score": r.score,
            "codewords": " ".join(map(str, r.codes)),
            "new": r.new,
        }
        for user, row in zip(users, found, strict=True)
        for rank, r in enumerate(row, 1)
    )
    with atomic_file(path) as file:
        if path.suffix == ".csv":
            file.write(table.to_csv(index=False).encode("utf-8"))
        else:
            table.to_parquet(file, index=False)
    return len(table)
