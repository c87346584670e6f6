"""The counts of the paper's three datasets (Table 2), to compare a prepared dataset with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


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


def table2_counts(dataset_name: str) -> DatasetCounts | None:
    """The paper's counts for a dataset under RecBole's name; None for any other dataset."""
    return TABLE_2.get(dataset_name)


def compare_with_table2(dataset_name: str, count: Callable[[], DatasetCounts]) -> str:
    """Our counts beside the paper's, one line each; empty for a dataset that the paper does not use.

    Means agree when they differ by less than 0.01: the paper's has two decimals, cut for Beauty (8.876).

    Args:
        count: gives our counts; asked only for a dataset of the paper.
    """
    paper = table2_counts(dataset_name)
    if paper is None:
        return ""
    ours = count()
    lines = [f"{dataset_name}, 5-core, against the paper's Table 2:"]
    for name, our_value, their_value, tolerance in (
        ("users", ours.users, paper.users, 0),
        ("items", ours.items, paper.items, 0),
        ("mean length", ours.mean_length, paper.mean_length, 0.01),
        ("median length", ours.median_length, paper.median_length, 0),
    ):
        verdict = "the same" if abs(our_value - their_value) <= tolerance else "DIFFERENT"
        lines.append(f"  {name}: {_number(our_value)}, paper {_number(their_value)}: {verdict}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")
