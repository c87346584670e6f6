"""What Semantic IDs are worth, before any recommender is trained (paper, sections 3.1.2, 3.1.3 and 4.3.1).

In come the codes of one or several ID sets with the embeddings, category paths and titles of the items; out
goes a plain dict of numbers, which `format_report` turns into tables and `write_html` into a page with the
paper's Figure 4. Pure numpy: neither RecBole nor a trained model is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from recbole_tiger.analysis.id_report_page import format_report, write_html, write_json

__all__ = ["IDSet", "format_report", "id_report", "write_html", "write_json"]

#: How many codewords a picture tells apart by colour and how many categories it has bars for; the page says
#: what
#: is left out.
MAX_CODEWORDS = 16
MAX_CATEGORIES = 10
MIN_SHARE = 0.01
#: Between the names of a path in Figure 4b.
PATH = " > "
#: Bytes that similarities of one block of queries may take.
_BLOCK_BYTES = 1 << 27


@dataclass(frozen=True)
class IDSet:
    """The Semantic IDs of one method.

    Attributes:
        codes: whole numbers [n, id_length], learned codewords without the collision token.
        codebook_sizes: codewords per level; None: the largest code of each level plus one.
        rows: [n], which rows of the catalogue these are; None: all, in order.
        reconstruct: (codes [b, id_length], depth) -> [b, dim], what the first `depth` levels stand for, or
            None where codes stand for nothing (`Quantizer.reconstruct`).
        target: [n, dim], what `reconstruct` approximates, such as standardised embeddings; None: the
            embeddings.
    """

    codes: np.ndarray
    codebook_sizes: Sequence[int] | None = None
    rows: np.ndarray | None = None
    reconstruct: Callable[[np.ndarray, int], np.ndarray | None] | None = None
    target: np.ndarray | None = None


def id_report(
    sets: Mapping[str, IDSet],
    *,
    embeddings: np.ndarray | None = None,
    categories: Sequence[Sequence[str]] | None = None,
    titles: Sequence[str] | None = None,
    n_neighbors: int = 10,
    max_queries: int = 5000,
    n_shuffles: int = 3,
    n_examples: int = 6,
    random_state: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure ID sets of one catalogue of N items side by side.

    Everything that compares IDs with categories or embeddings stands against the same IDs dealt out at
    random, since small groups alone make IDs look pure.

    Args:
        sets: by name, in the order of the columns.
        embeddings: content embeddings [N, dim]; None leaves neighbours and reconstruction out.
        categories: for each item its names from coarse to fine, [] for none; None leaves them out.
        titles: of the N items, for the examples; None leaves those out.
        n_neighbors: nearest embeddings (cosine) of each item.
        max_queries: items whose neighbours are looked up, drawn at random where there are more.
        n_shuffles: random dealings to average over.
        n_examples: prefixes to show items of.
        random_state: seed of everything drawn.
        progress: show a bar (only ever at a terminal).

    Returns:
        plain values that JSON can hold. For each set under "sets":

        * "levels": per level codewords used, usage (their share of the codebook), entropy in bits, perplexity
          2^entropy;
        * "collisions": distinct IDs, items that share theirs, the largest group, "histogram" of [size,
          groups];
        * "prefixes": per depth their number and the largest group;
        * "reconstruction": share of the variance that is left after 0, 1, … levels, or None;
        * "categories": for "leaf" (the last name of each path) and "top" (the first level on which items
          differ) per depth purity (share of items with the most frequent category of their prefix) and
          normalised mutual information, each with its value for shuffled IDs; or None;
        * "neighbors": per depth the share of nearest neighbours with the same prefix, and the exact
          expectation for shuffled IDs; or None;
        * "examples", "figure_4a", "figure_4b": what the page shows.

    Raises:
        ValueError: for codes, rows, embeddings, categories or titles that do not fit together.
    """
    if not sets:
        raise ValueError("there are no ID sets to report on")
    if n_shuffles < 1:
        raise ValueError(f"n_shuffles={n_shuffles} must be at least 1")
    n = _catalogue_size(sets, embeddings, categories, titles)
    checked = {name: _checked(name, ids, n, embeddings) for name, ids in sets.items()}
    rng = np.random.default_rng(random_state)
    tree = None if categories is None else _Categories(categories)
    neighbors = None
    if embeddings is not None and n > 1 and n_neighbors > 0:
        neighbors = nearest_neighbors(embeddings, min(n_neighbors, n - 1), max_queries, rng)
    report: dict[str, Any] = {
        "n_items": n,
        "n_neighbors": 0 if neighbors is None else neighbors[1].shape[1],
        "n_queries": 0 if neighbors is None else len(neighbors[0]),
        "n_shuffles": n_shuffles,
        "random_state": random_state,
        "category_levels": None if tree is None else tree.describe(),
        "sets": {},
    }
    for name, ids in tqdm(checked.items(), desc="ID report", disable=None if progress else True, leave=False):
        groups = prefix_groups(ids.codes)
        report["sets"][name] = {
            "n_items": len(ids.codes),
            "id_length": ids.codes.shape[1],
            "codebook_sizes": list(ids.codebook_sizes),
            "codebook_sizes_known": sets[name].codebook_sizes is not None,
            "levels": level_usage(ids.codes, ids.codebook_sizes),
            "collisions": collisions(groups[-1]),
            "prefixes": [
                {"depth": depth, "count": int(group.max()) + 1, "largest": int(np.bincount(group).max())}
                for depth, group in enumerate(groups, start=1)
            ],
            "reconstruction": reconstruction_errors(ids),
            "categories": None if tree is None else tree.agreement(ids.rows, groups, n_shuffles, rng),
            "neighbors": None if neighbors is None else neighbors_kept(ids.rows, groups, n, *neighbors),
            "examples": _examples(ids, groups, titles, tree, n_examples),
            "figure_4a": None if tree is None else _figure_4a(ids, tree),
            "figure_4b": [] if tree is None else _figure_4b(ids, tree),
        }
    return report


# --------------------------------------------------------------------------------------------------- checking


def _catalogue_size(sets: Mapping[str, IDSet], *per_item: Any) -> int:
    sizes = {len(values) for values in per_item if values is not None}
    sizes |= {len(ids.codes) for ids in sets.values() if ids.rows is None}
    if len(sizes) > 1:
        raise ValueError(
            f"embeddings, categories, titles and codes are of {sorted(sizes)} items: they must be of the same catalogue; "
            "give `rows` for an ID set of a part of it"
        )
    return sizes.pop() if sizes else 1 + max(int(np.max(ids.rows)) for ids in sets.values())


def _checked(name: str, ids: IDSet, n: int, embeddings: np.ndarray | None) -> IDSet:
    """The set with nothing left open, or a clear error."""
    codes = np.asarray(ids.codes)
    if codes.ndim != 2 or 0 in codes.shape or codes.dtype.kind not in "iu":
        raise ValueError(
            f"ID set {name!r}: codes must be whole numbers [items, id_length], not {codes.dtype} {list(codes.shape)}"
        )
    codes = codes.astype(np.int64, copy=False)
    sizes = codes.max(axis=0) + 1 if ids.codebook_sizes is None else np.asarray(ids.codebook_sizes)
    if sizes.shape != (codes.shape[1],):
        raise ValueError(f"ID set {name!r}: {len(sizes)} codebook sizes for {codes.shape[1]} levels")
    if codes.min() < 0 or (codes >= sizes).any():
        raise ValueError(f"ID set {name!r}: codes must lie between 0 and the codebook sizes {sizes.tolist()}")
    rows = np.arange(n) if ids.rows is None else np.asarray(ids.rows)
    if rows.shape != (len(codes),) or rows.min() < 0 or rows.max() >= n or len(np.unique(rows)) < len(rows):
        raise ValueError(f"ID set {name!r}: rows must be {len(codes)} different numbers from 0 to {n - 1}")
    target = ids.target
    if target is None and embeddings is not None and ids.reconstruct is not None:
        target = np.asarray(embeddings) if ids.rows is None else np.asarray(embeddings)[rows]
    if target is not None and (np.ndim(target) != 2 or len(target) != len(codes)):
        raise ValueError(f"ID set {name!r}: the reconstruction target must be [{len(codes)}, dim]")
    return IDSet(codes, [int(size) for size in sizes], rows, ids.reconstruct, target)


# -------------------------------------------------------------------------------------------------- measuring


def prefix_groups(codes: np.ndarray) -> list[np.ndarray]:
    """For each depth 1 … id_length the number [n] of each item's prefix, counted from 0 without gaps."""
    groups: list[np.ndarray] = []
    label = np.zeros(len(codes), dtype=np.int64)
    for column in codes.T:
        label = np.unique(label * (int(column.max()) + 1) + column, return_inverse=True)[1].reshape(-1)
        groups.append(label)
    return groups


def level_usage(codes: np.ndarray, codebook_sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Codewords used, usage, entropy in bits and perplexity of each level."""
    levels = []
    for level, (column, size) in enumerate(zip(codes.T, codebook_sizes, strict=True), start=1):
        share = np.bincount(column, minlength=size) / len(column)
        share = share[share > 0]
        entropy = float(-(share * np.log2(share)).sum()) + 0.0  # + 0.0: no "-0.0" for a single codeword
        levels.append(
            {
                "level": level,
                "codebook_size": int(size),
                "used": len(share),
                "usage": len(share) / size,
                "entropy": entropy,
                "perplexity": 2.0**entropy,
            }
        )
    return levels


def collisions(groups: np.ndarray) -> dict[str, Any]:
    """How many items share their whole ID; `groups` [n] numbers the IDs."""
    sizes = np.bincount(groups)
    size, count = np.unique(sizes, return_counts=True)
    return {
        "distinct": len(sizes),
        "colliding_items": int(sizes[sizes > 1].sum()),
        "largest_group": int(sizes.max()),
        "histogram": [[int(s), int(c)] for s, c in zip(size, count, strict=True)],
    }


def reconstruction_errors(ids: IDSet, block: int = 65536) -> list[float] | None:
    """Share of the variance left after 0, 1, …, id_length levels: squared error over squared distance to the mean.

    Returns:
        id_length + 1 numbers, the first is 1; None where codes stand for nothing or all items are alike.
    """
    if ids.reconstruct is None or ids.target is None:
        return None
    target = ids.target
    total = _squares(target - target.mean(axis=0, dtype=np.float64).astype(target.dtype))
    errors = [1.0]
    for depth in range(1, ids.codes.shape[1] + 1):
        left = 0.0
        for start in range(0, len(target), block):
            part = ids.reconstruct(ids.codes[start : start + block], depth)
            if part is None:
                return None
            left += _squares(target[start : start + block] - part)
        errors.append(left / total if total > 0 else float("nan"))
    return errors if total > 0 else None


def _squares(x: np.ndarray) -> float:
    return float(np.einsum("ij,ij->", x, x, dtype=np.float64))


def nearest_neighbors(
    embeddings: np.ndarray, k: int, max_queries: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest others of each item by cosine, exactly.

    Args:
        embeddings: [N, dim].
        k: at most N - 1.
        max_queries: items to look up; drawn at random if there are more.

    Returns:
        queries [q] in ascending order and their neighbours [q, k], in no particular order.
    """
    vectors = np.asarray(embeddings, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    n = len(vectors)
    queries = np.arange(n) if n <= max_queries else np.sort(rng.choice(n, max_queries, replace=False))
    found = np.empty((len(queries), k), dtype=np.int64)
    block = max(1, _BLOCK_BYTES // (4 * n))
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        similarity = vectors[rows] @ vectors.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        found[start : start + block] = np.argpartition(similarity, n - k, axis=1)[:, n - k :]
    return queries, found


def neighbors_kept(
    rows: np.ndarray, groups: list[np.ndarray], n: int, queries: np.ndarray, neighbors: np.ndarray
) -> list[dict[str, float]]:
    """Per depth the share of neighbours that have the item's prefix, and what shuffled IDs would give on average.

    Args:
        rows: [m], catalogue rows of the ID set; pairs with an item outside it do not count.
        groups: from `prefix_groups`, each [m].
        n: items in the catalogue.
        queries, neighbors: from `nearest_neighbors`.
    """
    position = np.full(n, -1)
    position[rows] = np.arange(len(rows))
    first, second = np.broadcast_arrays(position[queries][:, None], position[neighbors])
    both = (first >= 0) & (second >= 0)
    first, second = first[both], second[both]
    kept = []
    for depth, group in enumerate(groups, start=1):
        sizes = np.bincount(group).astype(np.float64)
        pairs = len(group) * (len(group) - 1)
        kept.append(
            {
                "depth": depth,
                "kept": float((group[first] == group[second]).mean()) if len(first) else 0.0,
                "shuffled": float((sizes * (sizes - 1)).sum() / pairs) if pairs else 0.0,
            }
        )
    return kept


def purity(groups: np.ndarray, labels: np.ndarray) -> float:
    """Share of items whose label is the most frequent one of their group; both [n], counted from 0."""
    n_labels = int(labels.max()) + 1
    pairs, counts = np.unique(groups * n_labels + labels, return_counts=True)
    most = np.zeros(int(groups.max()) + 1, dtype=np.int64)
    np.maximum.at(most, pairs // n_labels, counts)
    return float(most.sum() / len(groups))


class _Categories:
    """Category paths as numbers: for each kind of category a label [N] (-1: none) and the names.

    "leaf" is the last name of a path, "top" the name on the first level where items differ, "fine" the path
    down to the level below that, which Figure 4b looks into.
    """

    def __init__(self, paths: Sequence[Sequence[str]]):
        deepest = max((len(path) for path in paths), default=0)
        self.top_level = next((d for d in range(deepest) if len({path[d] for path in paths if len(path) > d}) > 1), 0)
        top = self.top_level
        self.labels: dict[str, np.ndarray] = {}
        self.names: dict[str, list[str]] = {}
        self._add("leaf", [path[-1] if path else None for path in paths])
        self._add("top", [path[top] if len(path) > top else None for path in paths])
        self._add("fine", [PATH.join(path[top : top + 2]) if len(path) > top else None for path in paths])

    def _add(self, kind: str, values: list[str | None]) -> None:
        names = sorted({value for value in values if value is not None})
        number = {name: index for index, name in enumerate(names)}
        self.names[kind] = names
        self.labels[kind] = np.array([-1 if value is None else number[value] for value in values], dtype=np.int64)

    def describe(self) -> dict[str, Any]:
        return {
            kind: {
                "count": len(self.names[kind]),
                "items_without": int((self.labels[kind] < 0).sum()),
                **({"level": self.top_level + 1} if kind == "top" else {}),
            }
            for kind in ("leaf", "top")
        }

    def agreement(
        self, rows: np.ndarray, groups: list[np.ndarray], n_shuffles: int, rng: np.random.Generator
    ) -> dict[str, list[dict[str, float]]] | None:
        """Purity and normalised mutual information of the prefixes of each depth, real and shuffled."""
        from sklearn.metrics import normalized_mutual_info_score

        result: dict[str, list[dict[str, float]]] = {}
        for kind in ("leaf", "top"):
            labels = self.labels[kind][rows]
            known = labels >= 0
            if not known.any():
                return None
            labels = labels[known]
            shuffles = [rng.permutation(labels) for _ in range(n_shuffles)]
            result[kind] = []
            for depth, group in enumerate(groups, start=1):
                group = group[known]
                result[kind].append(
                    {
                        "depth": depth,
                        "purity": purity(group, labels),
                        "purity_shuffled": float(np.mean([purity(group, other) for other in shuffles])),
                        "nmi": float(normalized_mutual_info_score(labels, group)),
                        "nmi_shuffled": float(
                            np.mean([normalized_mutual_info_score(other, group) for other in shuffles])
                        ),
                    }
                )
        return result


# ---------------------------------------------------------------------------------------- what the page shows


def _examples(
    ids: IDSet, groups: list[np.ndarray], titles: Sequence[str] | None, tree: _Categories | None, count: int
) -> list[dict[str, Any]]:
    """Items of the most frequent two-code prefix under each of the most frequent first codewords."""
    if titles is None:
        return []
    depth = min(2, ids.codes.shape[1])
    examples = []
    for codeword in _most_frequent(ids.codes[:, 0], count):
        inside = np.flatnonzero(ids.codes[:, 0] == codeword)
        deeper = groups[depth - 1][inside]
        members = inside[deeper == np.bincount(deeper).argmax()]
        shown = members[np.unique(np.linspace(0, len(members) - 1, 5).astype(int))]
        examples.append(
            {
                "prefix": ids.codes[members[0], :depth].tolist(),
                "size": len(members),
                "titles": [str(titles[row]) for row in ids.rows[shown]],
                "categories": None
                if tree is None
                else [
                    tree.names["leaf"][label] if label >= 0 else "" for label in tree.labels["leaf"][ids.rows[shown]]
                ],
            }
        )
    return examples


def _figure_4a(ids: IDSet, tree: _Categories) -> dict[str, Any] | None:
    """Items by top category and first codeword."""
    return _cross_table(tree, "top", ids.rows, ids.codes[:, 0])


def _figure_4b(ids: IDSet, tree: _Categories, first_codewords: int = 4) -> list[dict[str, Any]]:
    """Items by finer category and second codeword, within each of the most frequent first codewords."""
    if ids.codes.shape[1] < 2:
        return []
    parts = []
    for codeword in _most_frequent(ids.codes[:, 0], first_codewords):
        inside = ids.codes[:, 0] == codeword
        table = _cross_table(tree, "fine", ids.rows[inside], ids.codes[inside, 1])
        if table is not None:
            parts.append({"first": int(codeword), "size": int(inside.sum()), **table})
    return parts


def _cross_table(tree: _Categories, kind: str, rows: np.ndarray, codewords: np.ndarray) -> dict[str, Any] | None:
    """Counts of items by category and codeword, the most frequent of each, the rest put together.

    A codeword stands at the category that most of its items have, so that neighbours in the legend and the
    bars mean similar things.

    Returns:
        "categories" [c], "codewords" [w] and "counts" [w][c] of items. If there are more codewords than
        `MAX_CODEWORDS` the last is None, all others together; categories beyond `MAX_CATEGORIES` or with less
        than `MIN_SHARE` of the items are "(others)", the last. "majority" [c][c] counts all items by the
        category that most items of their codeword have and by their own; "majority_codewords" [c] is the
        number of codewords behind each row.
    """
    labels = tree.labels[kind][rows]
    known = labels >= 0
    if not known.any():
        return None
    labels, codewords = labels[known], codewords[known]
    kept = _most_frequent(labels, MAX_CATEGORIES)
    kept = kept[np.bincount(labels)[kept] >= MIN_SHARE * len(labels)]
    words = _most_frequent(codewords, MAX_CODEWORDS)
    column = np.full(len(tree.names[kind]), len(kept))
    column[kept] = np.arange(len(kept))
    row = np.full(int(codewords.max()) + 1, len(words))
    row[words] = np.arange(len(words))
    counts = np.zeros((len(words) + 1, len(kept) + 1), dtype=np.int64)
    np.add.at(counts, (row[codewords], column[labels]), 1)
    order = np.lexsort((-counts[:-1].max(axis=1), counts[:-1].argmax(axis=1)))
    counts[:-1] = counts[order]
    categories = [tree.names[kind][label] for label in kept]
    names: list[int | None] = [int(words[index]) for index in order]
    # All codewords, each put to the category that most of its items have.
    per_word = np.zeros((int(codewords.max()) + 1, len(kept) + 1), dtype=np.int64)
    np.add.at(per_word, (codewords, column[labels]), 1)
    per_word = per_word[per_word.any(axis=1)]
    mostly = per_word.argmax(axis=1)
    majority = np.stack([per_word[mostly == index].sum(axis=0) for index in range(len(kept) + 1)])
    majority_words = np.bincount(mostly, minlength=len(kept) + 1)
    used = len(np.unique(codewords))
    if counts[:, -1].any():
        categories.append("(others)")
    else:
        counts, majority, majority_words = counts[:, :-1], majority[:-1, :-1], majority_words[:-1]
    if counts[-1].any():
        names.append(None)
    else:
        counts = counts[:-1]
    return {
        "categories": categories,
        "codewords": names,
        "counts": counts.tolist(),
        "majority": majority.tolist(),
        "majority_codewords": majority_words.tolist(),
        "codewords_used": used,
        "items": int(known.sum()),
    }


def _most_frequent(values: np.ndarray, count: int) -> np.ndarray:
    """The most frequent values, most frequent first, the smaller of equals first."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[np.argsort(-counts, kind="stable")[:count]]
