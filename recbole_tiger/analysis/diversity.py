"""The command ``diversity``: what sampling at a temperature does to the categories of the recommended items, and at what
price (paper, 4.4.2, Tables 4 and 5).

Comes in: a trained run whose items have categories. Goes out: Entropy@K and Recall@K per temperature, for all levels of
the IDs or for one, and the categories that users are offered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from tabulate import tabulate

from recbole_tiger.analysis.runs import (
    TrainedRun,
    describe,
    heading,
    new_folder,
    open_run,
    pop_number,
    pop_numbers,
    recall,
    recommend_users,
    write_outputs,
)
from recbole_tiger.content.sentences import category_paths
from recbole_tiger.errors import ConfigError
from recbole_tiger.report import pages
from recbole_tiger.report.figures import bars, wrapped
from recbole_tiger.tokenization import item_table

USAGE = """Usage: python run_recbole_tiger.py diversity --checkpoint=FILE [--temperatures=1.0,1.5,2.0] [--key=value ...]

Draws recommendations at several temperatures and measures the entropy of their categories, and Recall beside it.

  --checkpoint=FILE          best.pth of a run; without it, --model, --dataset and any key of a run to train first
  --temperatures=A,B,...     (1.0,1.5,2.0)
  --levels=1,2,...           the temperature holds for one level of the ID only, each of these in turn (1 is the first
                             codeword); 0, the default, is for all levels together
  --k=10,20,50               lengths of the lists
  --category=COLUMN          the column of the .item file (by default item_feature)
  --category_depth=N         names of a category path that make up a category: see the note of the result (2)
  --users=N                  so many test users, drawn at random; by default all
  --sample_seed=N            seed of the draws; by default the run's
  --output_dir=FOLDER        a folder that does not exist yet, for diversity.json and .html
"""

#: The paper's Table 5: Entropy@10, @20, @50 on Beauty.
PAPER = {1.0: (0.76, 1.14, 1.70), 1.5: (1.14, 1.52, 2.06), 2.0: (1.38, 1.76, 2.28)}
NOTES = (
    "Entropy@K: the entropy, in nats, of the categories of a user's K items, averaged over users. The paper names neither "
    "the logarithm nor the average; pooled over users it would hardly grow with K, as it does in Table 5.",
    "Sampling draws K distinct items without replacement, level by level inside the catalogue (Gumbel-top-k along the trie); "
    "the row 'beam search' takes the K best. The paper says only 'temperature-based sampling in the decoding'.",
)
SHOWN_CATEGORIES, NAMES_PER_CELL = 8, 3


def run(settings: dict) -> str:
    """Measure, write, and return the table."""
    temperatures = pop_numbers(settings, "temperatures", (1.0, 1.5, 2.0), low=1e-6)
    levels = pop_numbers(settings, "levels", (0,), low=0, kind=int)
    ks = pop_numbers(settings, "k", (10, 20, 50), low=1, kind=int)
    depth = pop_number(settings, "category_depth", 2, low=1, kind=int)
    n_users = pop_number(settings, "users", None, low=1, kind=int)
    seed = pop_number(settings, "sample_seed", None, low=0, kind=int)
    column, output = settings.pop("category", None), settings.pop("output_dir", None)
    trained = open_run(settings, n_users)
    n_levels, n_items = trained.model.trie.depth, trained.model.trie.n_items
    if max(levels) > n_levels:
        raise ConfigError(f"levels={levels}: an ID of this run has {n_levels} codewords")
    if max(ks) > n_items:
        raise ConfigError(f"k={max(ks)} is larger than the catalogue ({n_items} items); lower k")
    names, rule = categories(trained, column, depth)
    folder = new_folder(output, "diversity", trained.config)
    seed = trained.config["seed"] if seed is None else seed

    lists = {"beam search": _lists(trained, ks, None, seed)}
    if trained.model.rescore_weight:  # samples are not rescored: this row is what they are to be compared with
        weight, trained.model.rescore_weight = trained.model.rescore_weight, 0.0
        lists["beam search, not rescored"] = _lists(trained, ks, None, seed)
        trained.model.rescore_weight = weight
    n_beam = len(lists)
    for level in levels:
        for temperature in temperatures:
            if level and temperature == 1 and 0 in levels:
                continue  # the same as for all levels
            value = temperature if level == 0 else [temperature if n == level else 1.0 for n in range(1, n_levels + 1)]
            where = "" if level == 0 else f", level {level} only"
            lists[f"T = {temperature:g}{where}"] = _lists(trained, ks, value, seed)
    codes, known = _category_codes(names)
    rows = [
        {
            "row": name,
            "entropy": {str(k): entropy_at_k(codes[items.numpy()]).mean().item() for k, items in by_k.items()},
            "recall": {str(k): recall(items, trained.test.targets) for k, items in by_k.items()},
        }
        for name, by_k in lists.items()
    ]
    shown = min(ks)
    # One level or all together, so that the table stays readable.
    viewed = list(lists)[: n_beam + len(temperatures)]
    offered = {name: offered_categories(codes, known, trained, lists[name][shown]) for name in viewed}
    notes = [
        *NOTES,
        rule,
        f"Categories in Table 4's view are those of the top {shown}; its percentages are shares of items.",
    ]
    if levels != [0]:
        notes.append("A temperature for one level only leaves the others at 1.")
    about = describe(trained)
    result = {
        "about": heading(about),
        **about,
        "k": ks,
        "sample_seed": seed,
        "rows": rows,
        "offered": offered,
        "notes": notes,
    }
    places = write_outputs(folder, "diversity", result, sections(result), title="Diversity")
    header, table = _table(result)
    return (
        f"{result['about']}\n{tabulate(table, headers=header, disable_numparse=True)}\n\n"
        + tabulate(_offered_rows(offered), headers=["target", *offered], disable_numparse=True, maxcolwidths=36)
        + "\n\n"
        + "\n".join(notes)
        + f"\n{places}"
    )


def _lists(trained: TrainedRun, ks: Sequence[int], temperature, seed: int) -> dict[int, torch.Tensor]:
    """Recommended items [n, K] for every K: drawn at a temperature, or the best ones where it is None.

    The lists of the drawn ones are nested: the same beams and random numbers, of which the first K drawn are kept.
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
    first name, the most general one.

    Raises:
        ConfigError: if the items have no categories.
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
        names = [" > ".join((path[1:] if path[0] == root else path)[:depth]) if path else "" for path in paths]
        return names, f"A category is the first {depth} names below '{root}' in the column '{column}'."
    return [path[0] if path else "" for path in paths], f"A category is the most general name in the column '{column}'."


def _category_codes(names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Category number of every internal item number (row 0 padding), -1 for none; and the names by number."""
    known = sorted(set(names) - {""})
    number = {name: n for n, name in enumerate(known)}
    return np.array([-1, *[number.get(name, -1) for name in names]]), known


def entropy_at_k(codes: np.ndarray) -> np.ndarray:
    """Entropy in nats of the distribution of categories in each row (paper, 4.4.2).

    Args:
        codes: int [n, K] categories, -1 for an item without one, which does not count.

    Returns:
        [n]; 0 for a row without categories.
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
    """Table 4's view: for the most frequent categories of the targets, what the users with such a target are offered.

    Returns:
        by target category the most common categories of the lists [n, K], each with its share of all items offered.
    """
    target = codes[trained.test.targets.cpu().numpy()]
    frequent = Counter(target[target >= 0].tolist()).most_common(SHOWN_CATEGORIES)
    view = {}
    for category, _ in frequent:
        offered = codes[items.numpy()[target == category]]
        counts = Counter(offered[offered >= 0].tolist())
        whole = max(sum(counts.values()), 1)
        view[known[category]] = [[known[c], count / whole] for c, count in counts.most_common(NAMES_PER_CELL)]
    return view


def _offered_rows(offered: dict) -> list[list[str]]:
    targets = list(next(iter(offered.values())))
    return [
        [target, *["; ".join(f"{name} {share:.0%}" for name, share in view[target]) for view in offered.values()]]
        for target in targets
    ]


def _table(result: dict) -> tuple[list[str], list[list[str]]]:
    ks = [str(k) for k in result["k"]]
    rows = [
        [row["row"], *[f"{row['entropy'][k]:.2f}" for k in ks], *[f"{row['recall'][k]:.4f}" for k in ks]]
        for row in result["rows"]
    ]
    return ["", *[f"Entropy@{k}" for k in ks], *[f"Recall@{k}" for k in ks]], rows


def sections(result: dict) -> list[pages.Section]:
    """The page of a result."""
    names = [row["row"] for row in result["rows"]]

    def chart(measure: str, title: str) -> pages.Figure:
        series = {f"{title}@{k}": [row[measure][str(k)] for row in result["rows"]] for k in result["k"]}
        return pages.Figure(bars([wrapped(n) for n in names], series, y_title=title), title=f"{title}@K")

    paper = [[f"T = {t:g}", *[f"{value:.2f}" for value in values]] for t, values in PAPER.items()]
    return [
        pages.Section(
            "Entropy of the recommended categories, and its price",
            result["notes"],
            [
                chart("entropy", "Entropy"),
                chart("recall", "Recall"),
                pages.Table(*_table(result), title="This run"),
                pages.Table(
                    ["", "Entropy@10", "Entropy@20", "Entropy@50"],
                    paper,
                    title="The paper's Table 5 (Beauty), to compare",
                ),
            ],
        ),
        pages.Section(
            "What users are offered",
            "The paper's Table 4: by the category of the target, the most common categories of the recommended items.",
            [pages.Table(["target", *result["offered"]], _offered_rows(result["offered"]))],
        ),
    ]
