"""The quality of Semantic IDs, before any recommender is trained (paper, sections 3.1.2, 3.1.3 and 4.3.1).

Input: the codes of one or several ID sets with the embeddings, category paths and titles of the items. Output: an
:class:`IDReport` of plain numbers and names. Neither RecBole nor a trained model is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from recbole_tiger.analysis import id_metrics
from recbole_tiger.analysis.id_categories import Agreement, Categories, CrossTable, FirstCodeword, most_frequent
from recbole_tiger.io import has_screen


@dataclass(frozen=True)
class IDSet:
    """The Semantic IDs of one method.

    Attributes:
        codes: whole numbers [n, id_length], learned codewords without the collision token.
        codebook_sizes: codewords per level; None: the largest code of each level plus one.
        reconstruct: (codes [b, id_length], depth) -> [b, dim], what the first `depth` levels stand for, or None where
            codes stand for nothing (`Quantizer.reconstruct`).
        target: [n, dim], what `reconstruct` approximates, such as standardised embeddings; None: the embeddings.
    """

    codes: np.ndarray
    codebook_sizes: Sequence[int] | None = None
    reconstruct: Callable[[np.ndarray, int], np.ndarray | None] | None = None
    target: np.ndarray | None = None


@dataclass(frozen=True)
class Example:
    """Some items of a prefix, which `size` items have: titles, and leaf categories where there are any."""

    prefix: list[int]
    size: int
    titles: list[str]
    categories: list[str] | None


@dataclass(frozen=True)
class IDSetReport:
    """What was measured of one set, per level and per depth of the prefix; None for what could not be.

    Attributes:
        codebook_sizes_known: whether the sizes were given.
        reconstruction: share of the variance that is left after 0, 1, … levels.
        categories: agreement with the "leaf" category (the last name of each path) and the "top" one (the first level
            on which items differ).
        examples, figure_4a, figure_4b: what the page shows.
    """

    n_items: int
    id_length: int
    codebook_sizes: list[int]
    codebook_sizes_known: bool
    levels: list[id_metrics.LevelUsage]
    collisions: id_metrics.Collisions
    prefixes: list[id_metrics.Prefixes]
    reconstruction: list[float] | None
    categories: dict[str, list[Agreement]] | None
    neighbors: list[id_metrics.NeighborsKept] | None
    examples: list[Example]
    figure_4a: CrossTable | None
    figure_4b: list[FirstCodeword]


@dataclass(frozen=True)
class IDReport:
    """ID sets of one catalogue side by side, by name, and what they were measured with (see :func:`id_report`)."""

    n_items: int
    n_neighbors: int
    n_queries: int
    n_shuffles: int
    random_state: int
    category_levels: dict[str, dict[str, int]] | None
    sets: dict[str, IDSetReport]


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
) -> IDReport:
    """Measure ID sets of one catalogue of N items side by side.

    Everything that compares IDs with categories or embeddings stands against the same IDs dealt out at random, since
    small groups alone make IDs look pure.

    Args:
        sets: by name, in the order of the columns.
        embeddings: content embeddings [N, dim]; None leaves neighbours and reconstruction out.
        categories: for each item its names from coarse to fine, [] for none; None leaves them out.
        titles: of the N items, for the examples; None leaves those out.
        n_neighbors: nearest embeddings (cosine) of each item.
        max_queries: items whose neighbours are looked up, drawn at random where there are more.
        n_shuffles, n_examples: random dealings to average over, and prefixes to show items of.
        random_state: seed of everything drawn.
        progress: show a bar (only ever at a terminal).

    Raises:
        ValueError: for codes, rows, embeddings, categories or titles that do not fit together.
    """
    if not sets:
        raise ValueError("there are no ID sets to report on")
    if n_shuffles < 1:
        raise ValueError(f"n_shuffles={n_shuffles} must be at least 1")
    n = _catalogue_size(sets, embeddings, categories, titles)
    checked = {name: _checked(name, ids, embeddings) for name, ids in sets.items()}
    rng, nearest = np.random.default_rng(random_state), None
    if embeddings is not None and n > 1 and n_neighbors > 0:
        nearest = id_metrics.nearest_neighbors(embeddings, min(n_neighbors, n - 1), max_queries, rng)
    tree, reports = None if categories is None else Categories(categories), {}
    for name, ids in tqdm(checked.items(), desc="ID report", disable=not (progress and has_screen()), leave=False):
        known = sets[name].codebook_sizes is not None
        reports[name] = _set_report(ids, known, titles, tree, nearest, n_shuffles, n_examples, rng)
    n_queries, n_neighbors = (0, 0) if nearest is None else nearest.neighbors.shape
    levels = None if tree is None else tree.describe()
    return IDReport(n, n_neighbors, n_queries, n_shuffles, random_state, levels, reports)


def _set_report(
    ids: IDSet,
    sizes_known: bool,
    titles: Sequence[str] | None,
    tree: Categories | None,
    nearest: id_metrics.Neighbors | None,
    n_shuffles: int,
    n_examples: int,
    rng: np.random.Generator,
) -> IDSetReport:
    """Measure one checked set."""
    assert ids.codebook_sizes is not None  # `_checked` fills them in
    groups = id_metrics.depth_groups(ids.codes, ids.codebook_sizes)
    return IDSetReport(
        n_items=len(ids.codes),
        id_length=ids.codes.shape[1],
        codebook_sizes=list(ids.codebook_sizes),
        codebook_sizes_known=sizes_known,
        levels=id_metrics.level_usage(ids.codes, ids.codebook_sizes),
        collisions=id_metrics.collisions(groups[-1]),
        prefixes=id_metrics.prefixes(groups),
        reconstruction=id_metrics.reconstruction_errors(ids.codes, ids.reconstruct, ids.target),
        categories=None if tree is None else tree.agreement(groups, n_shuffles, rng),
        neighbors=None if nearest is None else id_metrics.neighbors_kept(groups, nearest),
        examples=[] if titles is None else _examples(ids, groups, titles, tree, n_examples),
        figure_4a=None if tree is None else tree.figure_4a(ids.codes),
        figure_4b=[] if tree is None else tree.figure_4b(ids.codes),
    )


def _catalogue_size(sets: Mapping[str, IDSet], *per_item: Any) -> int:
    sizes = {len(values) for values in (*per_item, *(ids.codes for ids in sets.values())) if values is not None}
    if len(sizes) > 1:
        raise ValueError(
            f"embeddings, categories, titles and codes have {sorted(sizes)} items: give those of one catalogue"
        )
    return sizes.pop()


def _checked(name: str, ids: IDSet, embeddings: np.ndarray | None) -> IDSet:
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
    target = ids.target
    if target is None and embeddings is not None and ids.reconstruct is not None:
        target = np.asarray(embeddings)
    if target is not None and (np.ndim(target) != 2 or len(target) != len(codes)):
        raise ValueError(f"ID set {name!r}: the reconstruction target must be [{len(codes)}, dim]")
    return IDSet(codes, [int(size) for size in sizes], ids.reconstruct, target)


def _examples(
    ids: IDSet, groups: list[np.ndarray], titles: Sequence[str], tree: Categories | None, count: int
) -> list[Example]:
    """Items of the most frequent two-code prefix under each of the most frequent first codewords."""
    depth = min(2, ids.codes.shape[1])
    examples = []
    for codeword in most_frequent(ids.codes[:, 0], count):
        inside = np.flatnonzero(ids.codes[:, 0] == codeword)
        deeper = groups[depth - 1][inside]
        members = inside[deeper == np.bincount(deeper).argmax()]
        rows = members[np.unique(np.linspace(0, len(members) - 1, 5).astype(int))]
        examples.append(
            Example(
                prefix=ids.codes[members[0], :depth].tolist(),
                size=len(members),
                titles=[str(titles[row]) for row in rows],
                categories=None if tree is None else tree.leaf_names(rows),
            )
        )
    return examples
