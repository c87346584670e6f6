"""The counts of the paper's three datasets (Table 2), to compare a dataset with.

Input: a dataset's name and its counts. Output: the paper's counts, the comparison as plain values or in words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_tiger.datasets.arrays import IntArray


@dataclass(frozen=True)
class DatasetCounts:
    """Users, items, and mean and median number of interactions of a user."""

    users: int
    items: int
    mean_length: float
    median_length: float


TABLE_2 = {
    "amazon-beauty": DatasetCounts(22_363, 12_101, 8.87, 6),
    "amazon-sports-outdoors": DatasetCounts(35_598, 18_357, 8.32, 6),
    "amazon-toys-games": DatasetCounts(19_412, 11_924, 8.63, 6),
}


def count_lengths(lengths: IntArray, n_items: int) -> DatasetCounts:
    """The numbers of Table 2 from the sequence lengths of the users, int [n_users]."""
    return DatasetCounts(len(lengths), n_items, float(lengths.mean()), float(np.median(lengths)))


def against_table2(dataset_name: str, count: Callable[[], DatasetCounts]) -> dict[str, Any] | None:
    """`ours` and `paper`'s counts as plain values and the names of those that are `different`; None for a dataset that
    the paper does not use, of which `count` is not called.

    Means agree when they differ by less than 0.01: the paper's has two decimals, cut for Beauty (8.876).
    """
    paper = TABLE_2.get(dataset_name)
    if paper is None:
        return None
    ours, theirs = vars(count()), vars(paper)
    tolerance = {"mean_length": 0.01}
    different = [name for name in theirs if abs(ours[name] - theirs[name]) > tolerance.get(name, 0)]
    return {"ours": dict(ours), "paper": dict(theirs), "different": different}


def table2_text(dataset_name: str, comparison: dict[str, Any], what: str = "after filtering") -> str:
    """The result of `against_table2` in words, one line for each number; a last line where they differ."""
    lines = [f"{dataset_name}, {what}, against the paper's Table 2:"]
    for name, theirs in comparison["paper"].items():
        verdict = "DIFFERENT" if name in comparison["different"] else "the same"
        ours = _number(comparison["ours"][name])
        lines.append(f"  {name.replace('_', ' ')}: {ours}, paper {_number(theirs)}: {verdict}")
    if comparison["different"]:
        lines.append(
            "  This is NOT the paper's data: take RecBole's download of that name and its 5-core "
            "(user_inter_num_interval and item_inter_num_interval of [5,inf))."
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")
