"""Categories of items that are drawn at a temperature, and the price in Recall (paper, 4.4.2, Tables 4 and 5).

Input: a trained run whose items have categories. Output: Entropy@K and Recall@K per temperature, for all levels of the
IDs or for one, and the categories that users are offered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recbole_tiger.analysis.runs import TrainedRun, not_rescored, recall, recommend_users
from recbole_tiger.content.sentences import category_paths
from recbole_tiger.errors import ConfigError
from recbole_tiger.tokenization import item_table

NOTES = (
    "Entropy@K: the entropy, in nats, of the categories of a user's K items, averaged over users. The paper names "
    "neither the logarithm nor the average; pooled over users it would hardly grow with K, as it does in Table 5.",
    "Sampling draws K distinct items without replacement, level by level inside the catalogue (Gumbel-top-k along the "
    "trie); the row 'beam search' takes the K best. The paper says only 'temperature-based sampling in the decoding'.",
)
#: Target categories of Table 4's view, and names shown for each.
SHOWN_CATEGORIES, NAMES_PER_CELL = 8, 3


@dataclass(frozen=True)
class DiversitySettings:
    """What to draw: lists of k items at each of the temperatures.

    Attributes:
        levels: the temperature holds for one level of the ID, each of these in turn; 0 is for all levels together.
        category: column of the item file; None: `item_feature`.
        depth: names of a category path that make up a category.
        seed: of the draws; None: the run's.
    """

    temperatures: Sequence[float] = (1.0, 1.5, 2.0)
    levels: Sequence[int] = (0,)
    k: Sequence[int] = (10, 20, 50)
    category: str | None = None
    depth: int = 2
    seed: int | None = None


@dataclass(frozen=True)
class Diversity:
    """What was measured, with notes on what the numbers mean.

    Attributes:
        rows: for beam search and each temperature "row", its name, and "entropy" and "recall" by K (as text).
        offered: Table 4's view (:func:`offered_categories`) by row.
    """

    k: list[int]
    sample_seed: int
    rows: list[dict]
    offered: dict[str, dict[str, list]]
    notes: list[str]


def diversity(trained: TrainedRun, settings: DiversitySettings) -> Diversity:
    """Make the lists of beam search and of every temperature, and measure them; a `ConfigError` for levels or lists
    that the run does not have, and for items without categories."""
    ks, levels, trie = settings.k, settings.levels, trained.model.trie
    if max(levels) > trie.depth:
        raise ConfigError(f"levels={levels}: an ID of this run has {trie.depth} codewords")
    if max(ks) > trie.n_items:
        raise ConfigError(f"k={max(ks)} is larger than the catalogue ({trie.n_items} items); lower k")
    names, rule = categories(trained, settings.category, settings.depth)
    seed = trained.config["seed"] if settings.seed is None else settings.seed
    lists = _beam_lists(trained, ks, seed)
    n_viewed = len(lists) + len(settings.temperatures)  # Table 4's view: one level or all together, to stay readable
    for name, value in _temperatures(settings, trie.depth).items():
        lists[name] = _lists(trained, ks, value, seed)
    codes, known = category_codes(names)
    rows = [
        {
            "row": name,
            "entropy": {str(k): entropy_at_k(codes[items.numpy()]).mean().item() for k, items in by_k.items()},
            "recall": {str(k): recall(items, trained.test.targets) for k, items in by_k.items()},
        }
        for name, by_k in lists.items()
    ]
    k = min(ks)
    offered = {name: offered_categories(codes, known, trained, lists[name][k]) for name in list(lists)[:n_viewed]}
    notes = [*NOTES, rule, f"The view of Table 4 counts categories in the top {k}; percentages are shares of items."]
    if list(levels) != [0]:
        notes.append("With a temperature for one level, the others have temperature 1.")
    return Diversity(list(ks), seed, rows, offered, notes)


def _beam_lists(trained: TrainedRun, ks: Sequence[int], seed: int) -> dict[str, dict[int, torch.Tensor]]:
    """The rows without sampling; samples are not rescored, so there is a row of beam search that is not either."""
    lists = {"beam search": _lists(trained, ks, None, seed)}
    if trained.model.rescore_weight:
        with not_rescored(trained.model):
            lists["beam search, not rescored"] = _lists(trained, ks, None, seed)
    return lists


def _temperatures(settings: DiversitySettings, n_levels: int) -> dict[str, float | list[float]]:
    """What the search takes as its temperature, by the name of the row."""
    rows: dict[str, float | list[float]] = {}
    for level in settings.levels:
        for value in settings.temperatures:
            if level == 0:
                rows[f"T = {value:g}"] = value
            elif value != 1 or 0 not in settings.levels:  # at 1, one level is the same as all levels
                one = [value if number == level else 1.0 for number in range(1, n_levels + 1)]
                rows[f"T = {value:g}, level {level} only"] = one
    return rows


def _lists(trained: TrainedRun, ks: Sequence[int], temperature, seed: int) -> dict[int, torch.Tensor]:
    """Recommended items [n, K] for every K: drawn at a temperature, or the best ones where it is None.

    The drawn lists are nested: the same beams and random numbers, of which the first K drawn are kept.
    """
    beams = max(*ks, trained.config["beam_size"])
    lists = {}
    for k in ks:
        draw: dict = {"temperature": 1.0}
        if temperature is not None:
            generator = torch.Generator(trained.test.users.device).manual_seed(seed)
            draw = {"temperature": temperature, "sample": True, "generator": generator}
        lists[k] = recommend_users(trained, k, f"top {k}", beam_size=beams, **draw).items
    return lists


def categories(trained: TrainedRun, column: str | None, depth: int) -> tuple[list[str], str]:
    """The category of every item, in internal order ("" where it has none), and the rule in words.

    The root of a tree that nearly all items share says nothing and is left out; the next `depth` names together are the
    category, as in the paper's "Hair Styling Products" and "Makeup Nails". Without such a root (genres, say) it is the
    first name, the most general one. A `ConfigError` if the items have no categories.
    """
    config = trained.config
    column = column or config["item_feature"]
    if not column:
        raise ConfigError(
            f"dataset='{config['dataset']}' names no item_feature: set --category=COLUMN of its .item file"
        )
    items = [str(item) for item in trained.dataset.field2id_token[trained.dataset.iid_field][1:]]
    paths = category_paths(
        item_table(config), items, config["ITEM_ID_FIELD"], column, seq_separator=config["seq_separator"]
    )
    if not any(paths):
        raise ConfigError(f"category='{column}' is empty for all items; name another column")
    root, carried = Counter(path[0] for path in paths if path).most_common(1)[0]
    if carried >= 0.99 * sum(map(bool, paths)) and any(len(path) > 1 for path in paths):
        names = [" > ".join((path[1:] if path[:1] == [root] else path)[:depth]) for path in paths]
        return names, f"A category is the first {depth} names below '{root}' in the column '{column}'."
    return ["".join(path[:1]) for path in paths], f"A category is the most general name in the column '{column}'."


def category_codes(names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Category number of every internal item number (row 0 padding), -1 for none; and the names by number."""
    known = sorted(set(names) - {""})
    number = {name: n for n, name in enumerate(known)}
    return np.array([number.get(name, -1) for name in ("", *names)]), known


def entropy_at_k(codes: np.ndarray) -> np.ndarray:
    """[n] entropies in nats of the categories in each row (paper, 4.4.2); 0 for a row without any.

    `codes` are int [n, K], -1 for an item without a category, which does not count.
    """
    codes = np.sort(codes, axis=1)
    n, k = codes.shape
    total = (codes >= 0).sum(1)
    first = np.ones((n, k), dtype=bool)
    first[:, 1:] = codes[:, 1:] != codes[:, :-1]
    run = np.cumsum(first.ravel()) - 1  # runs of one category within one row
    size = np.bincount(run)
    begin = first & (codes >= 0)
    share = size[run.reshape(n, k)] / np.maximum(total, 1)[:, None]
    return np.where(begin, -share * np.log(share), 0.0).sum(1)


def offered_categories(codes: np.ndarray, known: list[str], trained: TrainedRun, items: torch.Tensor) -> dict:
    """Table 4's view: by the most frequent categories of the targets, the most common categories of the lists [n, K] of
    users with such a target, each with its share of all items offered."""
    target = codes[trained.test.targets.cpu().numpy()]
    frequent = Counter(target[target >= 0].tolist()).most_common(SHOWN_CATEGORIES)
    view = {}
    for category, _ in frequent:
        offered = codes[items.numpy()[target == category]]
        counts = Counter(offered[offered >= 0].tolist())
        whole = max(sum(counts.values()), 1)
        view[known[category]] = [[known[c], count / whole] for c, count in counts.most_common(NAMES_PER_CELL)]
    return view
