"""Is a dataset sound? Counts, text coverage, ties, duplicates, leaks and a checksum, with warnings in words.

Comes in: a folder with atomic files. Goes out: a dictionary of plain numbers (`check_dataset`), the same as
text (`validation_text.report_text`) or as a page with histograms (`validation_page.write_html`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np

from recbole_tiger.datasets.atomic_writer import data_checksum, read_header
from recbole_tiger.datasets.errors import BadRows
from recbole_tiger.datasets.interactions import (
    InteractionLog,
    Interactions,
    count_duplicates,
    count_ties,
    user_time_order,
)
from recbole_tiger.datasets.kcore import k_core
from recbole_tiger.datasets.normalize import UNKNOWN_TOKEN, WORDS_READ_AS_MISSING
from recbole_tiger.datasets.paper_counts import DatasetCounts, against_table2, count_lengths
from recbole_tiger.datasets.sources import Field, interaction_chunks
from recbole_tiger.datasets.text_reader import read_lines
from recbole_tiger.datasets.validation_text import warnings_in_words
from recbole_tiger.errors import PreparationError

LEAK_SHUFFLES = 5
HISTOGRAM_BINS = 40


@dataclass(frozen=True)
class AtomicColumns:
    """The columns that the check needs.

    Attributes:
        interactions: codes, times (None: no time column) of the rows in the order of the file.
        user_names, item_names: ids by code.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray | None
    user_names: list[str]
    item_names: list[str]


def check_dataset(
    folder: str | Path,
    dataset: str,
    user_core: int = 0,
    item_core: int = 0,
    time_field: str = "timestamp",
    seed: int = 2024,
    progress: bool = True,
) -> dict:
    """Examine `<folder>/<dataset>/<dataset>.inter` and `.item`.

    Args:
        folder, dataset: RecBole's `data_path` and `dataset`.
        user_core, item_core: look at this core of the interactions, as a RecBole run with
            `user_inter_num_interval` and `item_inter_num_interval` would; 0 takes all rows.
        time_field: name of the time column.
        seed: of the shuffles of the leak check.

    Returns:
        Plain numbers, texts, lists and dictionaries: `users`, `items`, `interactions`, `density`,
        `user_lengths` and `item_counts` (least, mean, median, largest), `ties`, `duplicates`, `training`,
        `item_table`, `leak`, `checksum`, `table2`, `histograms`, `warnings`.

    Raises:
        PreparationError: no such dataset, or a file that is not an atomic file; with the line.
    """
    place = Path(folder) / dataset
    inter, item = place / f"{dataset}.inter", place / f"{dataset}.item"
    if not inter.is_file():
        raise PreparationError(f"{inter} does not exist: check dataset={dataset!r} and data_path={str(folder)!r}.")
    columns = read_interactions(inter, time_field, progress)
    core = k_core(columns.users, columns.items, user_core, item_core)
    if not core.any():
        raise PreparationError(f"Nothing is left of {inter} with user_core={user_core}, item_core={item_core}.")
    users, items = columns.users[core], columns.items[core]
    times = np.arange(len(users), dtype=np.float64) if columns.times is None else columns.times[core]
    order = user_time_order(users, times)
    lengths = np.unique(users, return_counts=True)[1]
    item_counts = np.unique(items, return_counts=True)[1]
    report = {
        "dataset": dataset,
        "users": len(lengths),
        "items": len(item_counts),
        "interactions": len(users),
        "density": len(users) / (len(lengths) * len(item_counts)),
        "user_lengths": _spread(lengths),
        "item_counts": _spread(item_counts),
        "users_below_3": int((lengths < 3).sum()),
        "has_times": columns.times is not None,
        "ties": _ties(users, times) if columns.times is not None else None,
        "duplicates": count_duplicates(users, items),
        "training": _training(users[order], items[order], lengths),
        "leak": leak_check(users[order], items[order], first_appearance(items), columns.item_names, seed),
        "item_table": check_items(item, {columns.item_names[i] for i in np.unique(items)}, progress)
        if item.is_file()
        else None,
        "checksum": data_checksum(folder, dataset),
        "table2": against_table2(dataset, lambda: count_lengths(lengths, len(item_counts))),
        "histograms": _histograms(lengths, item_counts, times if columns.times is not None else None),
    }
    report["warnings"] = warnings_in_words(report)
    return report


def core_counts(
    folder: str | Path, dataset: str, user_core: int = 5, item_core: int = 5, progress: bool = True
) -> DatasetCounts:
    """Users, items and lengths of the core of a dataset, as a run with that core in its YAML sees them."""
    columns = read_interactions(Path(folder) / dataset / f"{dataset}.inter", None, progress)
    core = k_core(columns.users, columns.items, user_core, item_core)
    if not core.any():
        raise PreparationError(f"The {user_core}-core of {dataset} is empty.")
    lengths = np.unique(columns.users[core], return_counts=True)[1]
    return count_lengths(lengths, len(np.unique(columns.items[core])))


def read_table(path: Path, progress: bool) -> tuple[tuple[Field, ...], Iterator[tuple[int, list[str]]]]:
    """Fields and rows `(line, cells)` of an atomic file; a wrong number of cells is an error."""
    lines = read_lines(path, BadRows(), progress=progress)
    _, first = next(lines, (1, ""))
    fields = read_header(first, path)

    def rows() -> Iterator[tuple[int, list[str]]]:
        for number, line in lines:
            cells = line.split("\t")
            if len(cells) != len(fields):
                raise PreparationError(f"{path}, line {number}: {len(cells)} cells instead of {len(fields)}.")
            yield number, cells

    return fields, rows()


def read_interactions(path: Path, time_field: str | None, progress: bool = True) -> AtomicColumns:
    """Columns `user_id`, `item_id` (RecBole's usual names) and the time column of an `.inter` file."""
    if not path.is_file():
        raise PreparationError(f"{path} does not exist.")
    fields, rows = read_table(path, progress)
    names = [field.name for field in fields]
    for name in ("user_id", "item_id"):
        if name not in names:
            raise PreparationError(f"{path} has no column {name}; its columns are {', '.join(names)}.")
    time_name = time_field if time_field in names else None
    wanted = ("user_id", "item_id", time_name, None)
    pick = itemgetter(*(names.index(name) for name in wanted if name is not None))
    chosen = ((line, pick(cells)) for line, cells in rows)
    bad, log = BadRows(), InteractionLog()
    try:
        for chunk in interaction_chunks(path, chosen, wanted, None, bad):
            log.add(chunk, bad)
    except PreparationError as error:  # an atomic file is not skipped over: there is no such option here
        raise PreparationError(str(error).partition(". Mend the line")[0] + ".") from None
    data: Interactions = log.finish()
    return AtomicColumns(data.users, data.items, data.times if time_name else None, log.users.names, log.items.names)


def _spread(counts: np.ndarray) -> dict[str, float]:
    return {
        "least": int(counts.min()),
        "mean": float(counts.mean()),
        "median": float(np.median(counts)),
        "largest": int(counts.max()),
    }


def _ties(users: np.ndarray, times: np.ndarray) -> dict[str, float]:
    """Equal times inside a user, and what RecBole's float32 times make of the rest.

    RecBole turns times into float32 before it sorts, so that moments within 128 seconds (of today's clock)
    become ties, which stay in the order of the file. `misordered` counts neighbours that then come out in the
    wrong order.
    """
    pairs = len(users) - len(np.unique(users))
    ties = count_ties(users, times)
    order = user_time_order(users, times.astype(np.float32))
    same_user = users[order][1:] == users[order][:-1]
    tied_users = 0
    if ties:
        exact = user_time_order(users, times)
        equal = (users[exact][1:] == users[exact][:-1]) & (times[exact][1:] == times[exact][:-1])
        tied_users = len(np.unique(users[exact][1:][equal]))
    return {
        "pairs": ties,
        "share": ties / pairs if pairs else 0.0,
        "users": tied_users,
        "misordered": int((same_user & (np.diff(times[order]) < 0)).sum()),
    }


def _training(users: np.ndarray, items: np.ndarray, lengths: np.ndarray) -> dict[str, float]:
    """Items without training interaction under leave-one-out; rows are sorted by user and time.

    The last interaction of a user tests and the one before validates (paper, Section 4.1.1), as far as two
    remain for training.
    """
    from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(users))  # 1 = a user's last
    length = np.repeat(lengths, lengths)
    is_test = (from_end == 1) & (length > 2)
    is_valid = (from_end == 2) & (length > 3)
    trained = np.unique(items[~is_test & ~is_valid])
    unseen = np.setdiff1d(items, trained)
    return {
        "items_never_in_training": len(unseen),
        "share_of_test_targets": float(np.isin(items[is_test], unseen).mean()) if is_test.any() else 0.0,
        "test_users": int(is_test.sum()),
    }


def first_appearance(items: np.ndarray) -> np.ndarray:
    """RecBole's internal item numbers, 1, 2, 3, … by first appearance among the rows: int64 [number of codes].

    The codes themselves are numbered by all rows of the file, RecBole's numbers by those that a core leaves.
    """
    values, first, inverse = np.unique(items, return_index=True, return_inverse=True)
    rank = np.empty(len(values), dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(1, len(values) + 1)
    numbers = np.zeros(int(items.max()) + 1, dtype=np.int64)
    numbers[values] = rank
    return numbers


def leak_check(
    users: np.ndarray, items: np.ndarray, internal: np.ndarray, item_names: Sequence[str], seed: int
) -> dict[str, dict[str, float] | None]:
    """Do item numbers give the next item away (paper, Appendix A)?

    Numbered in the order of the sessions, sequences read a, a + 1, a + 2, …; a model that reads numbers as
    text then guesses the test item from its number. Measured is the share of neighbours in a sequence whose
    numbers differ by exactly one, against the mean over shuffles of the numbers among the items.

    Args:
        users, items: int [n], sorted by user and time.
        internal: int [number of codes], RecBole's internal number of each item code.
        item_names: ids by code; examined when all have the form prefix + number.

    Returns:
        `ids` (None when the ids are not numbers) and `internal`, each with `share` and `shuffled`.
    """
    same_user = users[1:] == users[:-1]
    before, after = items[:-1][same_user], items[1:][same_user]
    present = np.unique(items)
    random = np.random.default_rng(seed)

    def shares(numbers: np.ndarray) -> dict[str, float]:
        if not len(before):
            return {"share": 0.0, "shuffled": 0.0}
        shuffled = []
        for _ in range(LEAK_SHUFFLES):
            renumbered = numbers.copy()
            renumbered[present] = random.permutation(numbers[present])
            shuffled.append(float((renumbered[after] - renumbered[before] == 1).mean()))
        return {
            "share": float((numbers[after] - numbers[before] == 1).mean()),
            "shuffled": float(np.mean(shuffled)),
        }

    named = _numbers_in_names(item_names)
    return {"ids": shares(named) if named is not None else None, "internal": shares(internal)}


def _numbers_in_names(names: Sequence[str]) -> np.ndarray | None:
    """The numbers of ids such as `17` or `item17`, all with the same prefix; None for any other ids."""
    matches = [re.fullmatch(r"(\D*)(\d{1,18})", name) for name in names]
    if not all(matches) or len({match[1] for match in matches if match}) != 1:
        return None
    return np.array([int(match[2]) for match in matches if match], dtype=np.int64)


def check_items(path: Path, interacted: set[str], progress: bool = True) -> dict:
    """Examine an `.item` file.

    Args:
        interacted: ids of the items that have interactions.

    Returns:
        `rows`, `repeated_rows`, `without_interactions`, `interacted_without_row`, `fields` (share of the
        items with interactions that have a value, by column), `same_text` (interacted items whose cells all
        equal another's), `empty_sequence_cells` and `cells_with_leading_quote` (cells that RecBole misreads).
    """
    fields, rows = read_table(path, progress)
    names = [field.name for field in fields]
    if "item_id" not in names:
        raise PreparationError(f"{path} has no column item_id; its columns are {', '.join(names)}.")
    id_column = names.index("item_id")
    others = [i for i in range(len(names)) if i != id_column]
    sequences = [i for i in others if fields[i].type.endswith("_seq")]
    seen: set[str] = set()
    filled: Counter[int] = Counter()
    texts: Counter[int] = Counter()
    counts: Counter[str] = Counter()
    for _, cells in rows:
        item = cells[id_column]
        counts["rows"] += 1
        counts["leading_quote"] += any(cell.startswith('"') for cell in cells)
        counts["empty_sequence"] += any(not cells[i] or cells[i] in WORDS_READ_AS_MISSING for i in sequences)
        if item in seen:
            counts["repeated"] += 1
            continue
        seen.add(item)
        if item in interacted:
            filled.update(i for i in others if cells[i] and cells[i] != UNKNOWN_TOKEN)
            texts[hash(tuple(cells[i] for i in others))] += 1
    described = len(seen & interacted)
    return {
        "rows": counts["rows"],
        "repeated_rows": counts["repeated"],
        "without_interactions": len(seen - interacted),
        "interacted_without_row": len(interacted - seen),
        "fields": {names[i]: filled[i] / len(interacted) for i in others},
        "same_text": described - len(texts) if others else 0,
        "empty_sequence_cells": counts["empty_sequence"],
        "cells_with_leading_quote": counts["leading_quote"],
    }


def _histograms(lengths: np.ndarray, item_counts: np.ndarray, times: np.ndarray | None) -> dict[str, dict]:
    """Edges and counts by description; the edges of long-tailed numbers grow geometrically."""
    histograms = {
        "interactions of a user": (lengths, _growing_edges(lengths)),
        "interactions of an item": (item_counts, _growing_edges(item_counts)),
    }
    if times is not None:
        histograms["interactions over time"] = (
            times,
            np.linspace(times.min(), max(times.max(), times.min() + 1), 41),
        )
    return {
        name: {"edges": edges.tolist(), "counts": np.histogram(values, edges)[0].tolist()}
        for name, (values, edges) in histograms.items()
    }


def _growing_edges(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max()) + 1
    if high - low <= HISTOGRAM_BINS:
        return np.arange(low, high + 1)
    return np.unique(np.rint(np.geomspace(low, high, HISTOGRAM_BINS + 1)).astype(np.int64))
