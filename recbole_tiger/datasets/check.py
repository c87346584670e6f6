"""Examines a dataset: counts, text coverage, ties, duplicates, leaks, a checksum, and what to be warned of.

Input: a folder with atomic files. Output: a dictionary of plain numbers (`check_dataset`), which `validation_text` puts
into words. The files are read as strictly as `atomic_reader` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_tiger.datasets.arrays import FloatArray, IntArray
from recbole_tiger.datasets.atomic_fields import ITEM, USER
from recbole_tiger.datasets.atomic_reader import read_atomic
from recbole_tiger.datasets.atomic_writer import data_checksum
from recbole_tiger.datasets.interactions import count_duplicates, k_core, user_time_order
from recbole_tiger.datasets.normalize import UNKNOWN_TOKEN, WORDS_READ_AS_MISSING
from recbole_tiger.datasets.paper_counts import DatasetCounts, against_table2, count_lengths
from recbole_tiger.datasets.validation_text import dataset_warnings
from recbole_tiger.errors import PreparationError

LEAK_SHUFFLES = 5
HISTOGRAM_BINS = 40


@dataclass(frozen=True)
class CodedInteractions:
    """The n interactions of a file, or of its core, in the order of the file: codes int [n] in the order of first
    appearance in the file, times float64 [n] (None without a time column), ids by code, and the `notes` of what the
    reader altered, counted."""

    users: IntArray
    items: IntArray
    times: FloatArray | None
    user_names: Sequence[str]
    item_names: Sequence[str]
    notes: Sequence[str]


def check_dataset(
    folder: str | Path,
    dataset: str,
    user_core: int = 0,
    item_core: int = 0,
    time_field: str = "timestamp",
    seed: int = 2024,
    progress: bool = True,
) -> dict[str, Any]:
    """Examine `<folder>/<dataset>/<dataset>.inter` and `.item`.

    Args:
        folder, dataset: RecBole's `data_path` and `dataset`.
        user_core, item_core: examine this k-core of the interactions, as a RecBole run with
            `user_inter_num_interval` and `item_inter_num_interval` would; 0 takes all rows.
        time_field: name of the time column.
        seed: of the shuffles of the leak check.

    Returns:
        Plain numbers, texts, lists and dictionaries: `users`, `items`, `interactions`, `density`, `user_lengths` and
        `item_counts` (least, mean, median, largest), `ties`, `duplicates`, `misread_ids`, `training`, `item_table`,
        `leak`, `checksum`, `table2`, `histograms`, `warnings`.

    Raises:
        AtomicFileError: a file that is not an atomic file, with the line.
        PreparationError: an empty core.
    """
    path = Path(folder) / dataset
    data = read_core(path / f"{dataset}.inter", user_core, item_core, time_field, progress)
    report = {"dataset": dataset, **_examine_interactions(data, seed)}
    item_path = path / f"{dataset}.item"
    interacted = {data.item_names[code] for code in np.unique(data.items)}
    report["item_table"] = check_items(item_path, interacted, progress) if item_path.is_file() else None
    report["checksum"] = data_checksum(folder, dataset)
    report["table2"] = against_table2(dataset, lambda: _counts(data))
    report["warnings"] = [*data.notes, *(report["item_table"] or {}).pop("notes", ()), *dataset_warnings(report)]
    return report


def core_counts(
    folder: str | Path, dataset: str, user_core: int = 5, item_core: int = 5, progress: bool = True
) -> DatasetCounts:
    """Users, items and lengths of a dataset's k-core, as a run with that core sees them; errors as `check_dataset`."""
    path = Path(folder) / dataset / f"{dataset}.inter"
    return _counts(read_core(path, user_core, item_core, "timestamp", progress))


def read_core(path: Path, user_core: int, item_core: int, time_field: str, progress: bool) -> CodedInteractions:
    """The k-core of an `.inter` file with the columns `user_id` and `item_id`; errors as `check_dataset`."""
    table = read_atomic(path, (USER.name, ITEM.name), time_field, progress=progress, coded=True)
    users, items, columns = table.ids[USER.name], table.ids[ITEM.name], table.columns
    core = k_core(users.codes, items.codes, user_core, item_core)
    if not core.any():
        raise PreparationError(
            f"Nothing is left of {path} with user_core={user_core} and item_core={item_core}: choose smaller cores."
        )
    times = columns[time_field][core] if time_field in columns else None
    return CodedInteractions(users.codes[core], items.codes[core], times, users.names, items.names, table.notes)


def _counts(data: CodedInteractions) -> DatasetCounts:
    return count_lengths(np.unique(data.users, return_counts=True)[1], len(np.unique(data.items)))


def _examine_interactions(data: CodedInteractions, seed: int) -> dict[str, Any]:
    """The part of the report that needs the interactions only."""
    users, items, times = data.users, data.items, data.times
    order = user_time_order(users, np.arange(len(users), dtype=np.float64) if times is None else times)
    user_codes, lengths = np.unique(users, return_counts=True)
    item_codes, item_counts = np.unique(items, return_counts=True)
    ids = [*(data.user_names[code] for code in user_codes), *(data.item_names[code] for code in item_codes)]
    return {
        "users": len(lengths),
        "items": len(item_counts),
        "interactions": len(users),
        "density": len(users) / (len(lengths) * len(item_counts)),
        "user_lengths": _distribution(lengths),
        "item_counts": _distribution(item_counts),
        "users_below_3": int((lengths < 3).sum()),
        "has_times": times is not None,
        "ties": None if times is None else _ties(users, times, order),
        "duplicates": count_duplicates(users, items),
        "misread_ids": sum(name.startswith('"') or name in WORDS_READ_AS_MISSING for name in ids),
        "training": _training(users[order], items[order], lengths),
        "leak": leak_check(users[order], items[order], first_appearance(items), data.item_names, seed),
        "histograms": _histograms(lengths, item_counts, times),
    }


def _distribution(counts: IntArray) -> dict[str, float]:
    return {
        "least": int(counts.min()),
        "mean": float(counts.mean()),
        "median": float(np.median(counts)),
        "largest": int(counts.max()),
    }


def _ties(users: IntArray, times: FloatArray, order: IntArray) -> dict[str, float]:
    """Equal times inside a user, and what RecBole's float32 times make of the rest; `order` sorts by user and time.

    RecBole turns times into float32 before it sorts, so that moments within 128 seconds (of today's clock) become ties,
    which stay in the order of the file. `misordered` counts neighbours that then come out in the wrong order.
    """
    same_user = np.diff(users[order]) == 0
    tied = same_user & (np.diff(times[order]) == 0)
    rough = user_time_order(users, times.astype(np.float32))  # the users are as in `order`
    return {
        "pairs": int(tied.sum()),
        "share": float(tied.sum() / max(same_user.sum(), 1)),
        "users": len(np.unique(users[order][1:][tied])),
        "misordered": int((same_user & (np.diff(times[rough]) < 0)).sum()),
    }


def _training(users: IntArray, items: IntArray, lengths: IntArray) -> dict[str, float]:
    """Items without training interaction under leave-one-out; rows are sorted by user and time.

    The last interaction of a user tests and the one before validates (paper, Section 4.1.1), as far as two remain for
    training.
    """
    from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(users))  # 1 = a user's last
    length = np.repeat(lengths, lengths)
    is_test = (from_end == 1) & (length > 2)
    is_valid = (from_end == 2) & (length > 3)
    unseen = np.setdiff1d(items, items[~is_test & ~is_valid])
    return {
        "items_never_in_training": len(unseen),
        "share_of_test_targets": float(np.isin(items[is_test], unseen).mean()) if is_test.any() else 0.0,
        "test_users": int(is_test.sum()),
    }


def first_appearance(items: IntArray) -> IntArray:
    """RecBole's internal item numbers, 1, 2, 3, … by first appearance among the rows: int64 [number of codes].

    The codes themselves are numbered by all rows of the file, RecBole's numbers by those that a core leaves.
    """
    numbers = np.zeros(int(items.max()) + 1, dtype=np.int64)
    present = pd.unique(items)
    numbers[present] = np.arange(1, len(present) + 1)
    return numbers


def leak_check(
    users: IntArray, items: IntArray, internal: IntArray, item_names: Sequence[str], seed: int
) -> dict[str, dict[str, float] | None]:
    """Measure whether item numbers give the next item away (paper, Appendix A).

    Items numbered in the order of the sessions make sequences a, a + 1, a + 2, …, whose end a model that reads numbers
    as text can guess. Measured is the share of neighbours whose numbers differ by exactly one, against the mean over
    shuffles of the numbers among the items.

    Args:
        users, items: int [n], sorted by user and time.
        internal: int [number of codes], RecBole's internal number of each item code.
        item_names: by code; examined when all have the form prefix + number.

    Returns:
        `ids` (None when the ids are not numbers) and `internal`, each with `share` and `shuffled`.
    """
    same_user = users[1:] == users[:-1]
    before, after = items[:-1][same_user], items[1:][same_user]
    present = np.unique(items)
    random = np.random.default_rng(seed)

    def shares(numbers: IntArray) -> dict[str, float]:
        if not len(before):
            return {"share": 0.0, "shuffled": 0.0}
        shuffled = []
        for _ in range(LEAK_SHUFFLES):
            renumbered = numbers.copy()
            renumbered[present] = random.permutation(numbers[present])
            shuffled.append((renumbered[after] - renumbered[before] == 1).mean())
        share = (numbers[after] - numbers[before] == 1).mean()
        return {"share": float(share), "shuffled": float(np.mean(shuffled))}

    named = _numbers_in_names(item_names)
    return {"ids": shares(named) if named is not None else None, "internal": shares(internal)}


def _numbers_in_names(names: Sequence[str]) -> IntArray | None:
    """The numbers of ids such as `17` or `item17`, all with the same prefix; None for any other ids."""
    matches = [re.fullmatch(r"(\D*)(\d{1,18})", name) for name in names]
    if not all(matches) or len({match[1] for match in matches if match}) != 1:
        return None
    return np.array([int(match[2]) for match in matches if match], dtype=np.int64)


def check_items(path: Path, interacted: set[str], progress: bool = True) -> dict[str, Any]:
    """Examine an `.item` file, given the ids of the items that have interactions.

    Returns:
        `rows`, `repeated_rows`, `without_interactions`, `interacted_without_row`, `fields` (share of the items with
        interactions that have a value, by column), `same_text` (interacted items whose cells all equal another's),
        `empty_sequence_cells` and `cells_with_leading_quote` (rows with cells that stock RecBole misreads), `notes` of
        what the reader altered.

    Raises:
        AtomicFileError: not an atomic file with a column `item_id`.
    """
    table = read_atomic(path, (ITEM.name,), progress=progress)
    frame = pd.DataFrame(table.columns)
    texts = frame[[field.name for field in table.fields if field.type != "float"]]
    sequences = frame[[field.name for field in table.fields if field.type.endswith("_seq")]]
    described = frame.drop_duplicates(ITEM.name)  # RecBole keeps the first row of an item, too
    cells = described[described[ITEM.name].isin(interacted)].drop(columns=ITEM.name)
    filled = cells.notna() & (cells != "") & (cells != UNKNOWN_TOKEN)
    return {
        "rows": len(frame),
        "repeated_rows": len(frame) - len(described),
        "without_interactions": len(described) - len(cells),
        "interacted_without_row": len(interacted) - len(cells),
        "fields": {str(name): int(count) / len(interacted) for name, count in filled.sum().items()},
        "same_text": int(cells.duplicated().sum()) if len(cells.columns) else 0,
        "empty_sequence_cells": int(sequences.isin(["", *WORDS_READ_AS_MISSING]).any(axis=1).sum()),
        "cells_with_leading_quote": int(texts.apply(lambda column: column.str.startswith('"')).any(axis=1).sum()),
        "notes": table.notes,
    }


def _histograms(lengths: IntArray, item_counts: IntArray, times: FloatArray | None) -> dict[str, Any]:
    """Edges and counts by description; the edges of long-tailed numbers grow geometrically."""
    histograms: dict[str, tuple[IntArray | FloatArray, IntArray | FloatArray]] = {
        "interactions of a user": (lengths, _growing_edges(lengths)),
        "interactions of an item": (item_counts, _growing_edges(item_counts)),
    }
    if times is not None:
        edges = np.linspace(times.min(), max(times.max(), times.min() + 1), HISTOGRAM_BINS + 1)
        histograms["interactions over time"] = (times, edges)
    return {
        name: {"edges": edges.tolist(), "counts": np.histogram(values, edges)[0].tolist()}
        for name, (values, edges) in histograms.items()
    }


def _growing_edges(values: IntArray) -> IntArray:
    low, high = int(values.min()), int(values.max()) + 1
    if high - low <= HISTOGRAM_BINS:
        return np.arange(low, high + 1)
    edges: IntArray = np.unique(np.rint(np.geomspace(low, high, HISTOGRAM_BINS + 1)).astype(np.int64))
    return edges
