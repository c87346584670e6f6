"""Semantic IDs beside the categories of the items: agreement of prefixes and categories, and Figure 4 (paper, 4.3.1).

Input: category paths of the catalogue and codes of its items. Output: purity and mutual information per depth, and
counts of items by category and codeword.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

#: Codewords that a picture tells apart by colour, and categories that it has bars for; the page says what is left out.
MAX_CODEWORDS = 16
MAX_CATEGORIES = 10
MIN_SHARE = 0.01
#: Between the names of a path in Figure 4b.
PATH = " > "


@dataclass(frozen=True)
class Agreement:
    """Purity and normalised mutual information of the prefixes of one depth, real and with shuffled categories."""

    depth: int
    purity: float
    purity_shuffled: float
    nmi: float
    nmi_shuffled: float


@dataclass(frozen=True)
class CrossTable:
    """Counts of items by category and codeword, the most frequent of each, the rest put together.

    A codeword stands at the category that most of its items have, so that neighbours in the legend and the bars mean
    similar things.

    Attributes:
        categories: [c]; those beyond `MAX_CATEGORIES` or below `MIN_SHARE` of the items are "(others)", the last.
        codewords: [w]; those beyond `MAX_CODEWORDS` are None, the last.
        counts: [w][c] items.
        majority: [c][c] all items by the category that most items of their codeword have and by their own.
        majority_codewords: [c] codewords behind each row of `majority`.
        codewords_used, items: in all.
    """

    categories: list[str]
    codewords: list[int | None]
    counts: list[list[int]]
    majority: list[list[int]]
    majority_codewords: list[int]
    codewords_used: int
    items: int


@dataclass(frozen=True)
class FirstCodeword(CrossTable):
    """The second codewords below one first codeword, which `size` items have."""

    first: int
    size: int


class Categories:
    """Category paths as numbers: for each kind of category a label [N] (-1: none) and the names.

    "leaf" is the last name of a path, "top" the name on the first level where items differ, "fine" the path down to the
    level below that, for Figure 4b.
    """

    def __init__(self, paths: Sequence[Sequence[str]]):
        deepest = max((len(path) for path in paths), default=0)
        top = next((d for d in range(deepest) if len({path[d] for path in paths if len(path) > d}) > 1), 0)
        self.top_level = top
        self.labels: dict[str, np.ndarray] = {}
        self.names: dict[str, list[str]] = {}
        self._add("leaf", [path[-1] if path else None for path in paths])
        self._add("top", [path[top] if len(path) > top else None for path in paths])
        self._add("fine", [PATH.join(path[top : top + 2]) if len(path) > top else None for path in paths])

    def _add(self, kind: str, values: list[str | None]) -> None:
        self.labels[kind], names = pd.factorize(np.array(values, dtype=object), sort=True)
        self.names[kind] = names.tolist()

    def describe(self) -> dict[str, dict[str, int]]:
        """For "leaf" and "top" the number of categories and of items without one; for "top" its level, from 1."""
        found = {
            kind: {"count": len(self.names[kind]), "items_without": int((self.labels[kind] < 0).sum())}
            for kind in ("leaf", "top")
        }
        found["top"]["level"] = self.top_level + 1
        return found

    def leaf_names(self, rows: np.ndarray) -> list[str]:
        """The leaf category of these items, "" for none."""
        return [self.names["leaf"][label] if label >= 0 else "" for label in self.labels["leaf"][rows]]

    def agreement(
        self, groups: list[np.ndarray], n_shuffles: int, rng: np.random.Generator
    ) -> dict[str, list[Agreement]] | None:
        """Agreement with the prefixes of each depth, for "leaf" and "top"; None if no item has a category."""
        from sklearn.metrics import normalized_mutual_info_score  # slow to import

        result: dict[str, list[Agreement]] = {}
        for kind in ("leaf", "top"):
            known = self.labels[kind] >= 0
            if not known.any():
                return None
            labels = self.labels[kind][known]
            shuffles, result[kind] = [rng.permutation(labels) for _ in range(n_shuffles)], []
            for depth, group in enumerate((group[known] for group in groups), start=1):
                numbers = []
                for measure in (purity, normalized_mutual_info_score):
                    numbers += [measure(labels, group), np.mean([measure(other, group) for other in shuffles])]
                result[kind].append(Agreement(depth, *map(float, numbers)))
        return result

    def figure_4a(self, codes: np.ndarray) -> CrossTable | None:
        """Items by top category and first codeword."""
        return self._cross_table(self.names["top"], self.labels["top"], codes[:, 0])

    def figure_4b(self, codes: np.ndarray, first_codewords: int = 4) -> list[FirstCodeword]:
        """Items by finer category and second codeword, within each of the most frequent first codewords."""
        if codes.shape[1] < 2:
            return []
        parts = []
        for codeword in most_frequent(codes[:, 0], first_codewords):
            inside = codes[:, 0] == codeword
            table = self._cross_table(self.names["fine"], self.labels["fine"][inside], codes[inside, 1])
            if table is not None:
                parts.append(FirstCodeword(first=int(codeword), size=int(inside.sum()), **vars(table)))
        return parts

    @staticmethod
    def _cross_table(names: list[str], labels: np.ndarray, codewords: np.ndarray) -> CrossTable | None:
        known = labels >= 0
        if not known.any():
            return None
        labels, codewords = labels[known], codewords[known]
        kept = most_frequent(labels, MAX_CATEGORIES)
        kept = kept[np.bincount(labels)[kept] >= MIN_SHARE * len(labels)]
        words = most_frequent(codewords, MAX_CODEWORDS)
        column = np.full(len(names), len(kept))
        column[kept] = np.arange(len(kept))
        per_word = np.zeros((int(codewords.max()) + 1, len(kept) + 1), dtype=np.int64)  # items of all codewords
        np.add.at(per_word, (codewords, column[labels]), 1)
        counts = per_word[words]
        rest = per_word.sum(axis=0) - counts.sum(axis=0)
        order = np.lexsort((-counts.max(axis=1), counts.argmax(axis=1)))
        counts = np.concatenate([counts[order], rest[None]])
        per_word = per_word[per_word.any(axis=1)]
        mostly = per_word.argmax(axis=1)
        majority = np.stack([per_word[mostly == index].sum(axis=0) for index in range(len(kept) + 1)])
        majority_words = np.bincount(mostly, minlength=len(kept) + 1)
        n_columns = len(kept) + bool(counts[:, -1].any())  # "(others)" only where there are such
        n_rows = len(words) + bool(rest.any())
        return CrossTable(
            categories=[*[names[label] for label in kept], "(others)"][:n_columns],
            codewords=[*words[order].tolist(), None][:n_rows],
            counts=counts[:n_rows, :n_columns].tolist(),
            majority=majority[:n_columns, :n_columns].tolist(),
            majority_codewords=majority_words[:n_columns].tolist(),
            codewords_used=len(per_word),
            items=len(labels),
        )


def purity(labels: np.ndarray, groups: np.ndarray) -> float:
    """Share of items whose label is the most frequent one of their group; both [n], counted from 0."""
    n_labels = int(labels.max()) + 1
    pairs, counts = np.unique(groups * n_labels + labels, return_counts=True)
    most = np.zeros(int(groups.max()) + 1, dtype=np.int64)
    np.maximum.at(most, pairs // n_labels, counts)
    return float(most.sum() / len(groups))


def most_frequent(values: np.ndarray, count: int) -> np.ndarray:
    """The most frequent values, most frequent first, the smaller of equals first."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[np.argsort(-counts, kind="stable")[:count]]
