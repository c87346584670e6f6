"""The command ``cold-start``: recommending items that nobody had touched before (paper, 4.4.1 and Figure 5).

Comes in: the settings of a run. Goes out: Recall@K against K and against epsilon, the largest share of unseen items in a
list, on the users whose target is unseen and on all users, beside Semantic_KNN and popularity.

A share of the test items is removed from the data, a tokenizer and a model are trained on what is left, and only then do
the unseen items get their IDs. The run reads a dataset of its own, written without them, so nothing of them can reach it.
Where the paper is silent, :data:`CHOICES` says what was chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.data.dataset import SequentialDataset
from tabulate import tabulate

from recbole_tiger.analysis.runs import (
    TestUsers,
    config_of,
    joined,
    new_folder,
    pop_number,
    pop_numbers,
    test_users,
    write_outputs,
)
from recbole_tiger.content.new_items import embed_new_items, sentences_of_new_items
from recbole_tiger.data.dataset import order_interactions
from recbole_tiger.decoding import BeamResult, rank_items
from recbole_tiger.decoding.cold_start import UnseenItems, limit_unseen, with_unseen_items
from recbole_tiger.errors import ConfigError
from recbole_tiger.evaluation.popularity import popularity_ranks
from recbole_tiger.experiment.configuration import config_from_plain
from recbole_tiger.experiment.loading import load_data_and_model
from recbole_tiger.experiment.run import run_config
from recbole_tiger.io import atomic_write_text
from recbole_tiger.report import pages
from recbole_tiger.report.figures import lines
from recbole_tiger.settings.plain import plain_settings
from recbole_tiger.settings.split import LEAVE_ONE_OUT
from recbole_tiger.tokenization import TokenizedCatalogue, item_content, item_file, item_table

USAGE = """Usage: python run_recbole_tiger.py cold-start [--dataset=NAME] [--cold_share=0.05,0.1,0.2] [--key=value ...]

Trains without some of the test items, gives them Semantic IDs afterwards, and measures how often they are found.

  --cold_share=A,B,...       share of the test items that become unseen (0.05); each is a run of its own
  --seeds=A,B,...            draws of unseen items, each with a run of its own (by default the run's seed)
  --k=5,10,15,20             lengths of the lists
  --epsilon=0.1              the largest share of unseen items in a list, for the picture over K
  --epsilons=0,0.05,...      the same, for the picture over epsilon (0,0.05,0.1,0.2,0.3,0.5,1)
  --epsilon_k=10             the length of the lists of that picture
  --prefix_length=A,B,...    codewords that an unseen item shares with a predicted ID (by default id_length); each is a
                             column of its own, of the same trained run
  --output_dir=FOLDER        a folder that does not exist yet, for cold-start.json and .html, the data and the runs
  --checkpoint=FILE          take the settings of this run; it is trained anew, without the unseen items
  --any_key=value            any key of a run: --model, --dataset, --epochs, ...
"""

CHOICES = (
    "Unseen items are drawn at random from the distinct test targets.",
    "Their interactions are removed everywhere, training, validation and histories, save as test targets: an unseen item is "
    "one that nobody had touched before the test. The paper speaks of the training split only.",
    "The scaling of the embeddings, and TF-IDF where that is the encoder, are fitted without them as well.",
    "The search stays among the prefixes of seen and unseen items. A predicted ID gives its seen item, then the unseen items "
    "with its first codewords, in no particular order, where the ID first stands in the list. A prefix that only unseen items "
    "have can be predicted too: the paper's search was free to write any ID.",
    "A list of K holds at most the whole part of epsilon * K unseen items: none for K < 10 at epsilon = 0.1.",
    "Semantic_KNN: cosine in the scaled embeddings with the last item of the history, or with the mean of its items; the "
    "items of the history are left out. The limit epsilon holds for every method alike, so that at epsilon = 1 Semantic_KNN "
    "is unlimited.",
    "Popularity counts training interactions, of which an unseen item has none.",
)
BASELINES = ("Semantic_KNN (last item)", "Semantic_KNN (mean)", "popularity")
GROUPS = ("unseen", "all")
#: Rows of a similarity matrix at a time.
KNN_ROWS = 512


@dataclass(frozen=True)
class ColdData:
    """A dataset without the unseen items, on disk.

    Attributes:
        source: the settings of the whole dataset.
        config: of a run on it.
        unseen: ids of the unseen items.
        targets: by user id, the unseen item that is this user's test target; in the data another item stands there.
        n_removed: interactions that were removed.
        n_dropped_users: users who were left with fewer than 3 interactions.
    """

    source: Any
    config: Any
    unseen: list[str]
    targets: dict[str, str]
    n_removed: int
    n_dropped_users: int


def run(settings: dict) -> str:
    """Train the runs, evaluate, write, and return the table."""
    shares = pop_numbers(settings, "cold_share", (0.05,), low=1e-6, high=0.9)
    ks = pop_numbers(settings, "k", (5, 10, 15, 20), low=1, kind=int)
    epsilon = pop_number(settings, "epsilon", 0.1, low=0.0, high=1.0)
    epsilons = pop_numbers(settings, "epsilons", (0, 0.05, 0.1, 0.2, 0.3, 0.5, 1), low=0.0, high=1.0)
    epsilon_k = pop_number(settings, "epsilon_k", 10, low=1, kind=int)
    lengths = pop_numbers(settings, "prefix_length", (), low=1, kind=int, ordered=False)
    seeds = pop_numbers(settings, "seeds", (), low=0, kind=int, ordered=False)
    output = settings.pop("output_dir", None)
    config = config_of(settings)
    if config["eval_args"]["split"] != LEAVE_ONE_OUT:
        raise ConfigError(
            "split=temporal is not for cold-start, which makes test items of leave-one-out unseen, as the paper does; leave it out"
        )
    if config["semantic_id"] == "file":
        raise ConfigError("semantic_id=file has no quantizer that could give unseen items an ID; choose another method")
    lengths = lengths or [config["id_length"]]
    if max(lengths) > config["id_length"]:
        raise ConfigError(
            f"prefix_length={max(lengths)} is more than the {config['id_length']} learned codewords of an ID (id_length)"
        )
    longest = max(*ks, epsilon_k)
    if config["scoring"] == "beam" and config["beam_size"] < longest:
        raise ConfigError(
            f"beam_size={config['beam_size']} is smaller than the longest list ({longest}); raise beam_size"
        )
    folder = new_folder(output, "cold-start", config)
    points = sorted({(k, epsilon) for k in ks} | {(epsilon_k, value) for value in epsilons})

    runs = []
    for share in shares:
        for seed in seeds or [config["seed"]]:
            data = write_cold_data(config, share, seed, folder / f"share-{share:g}-seed-{seed}")
            checkpoint = run_config(data.config, test=False)["files"]["checkpoint"]
            runs.append({"share": share, "seed": seed, **evaluate(data, checkpoint, points, lengths)})
    n_runs = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    recipe = f" ({config['recipe']})" if config["recipe"] else ""
    result = {
        "about": f"{config['model']}{recipe} on {config['dataset']}: {n_runs}, trained without the unseen items",
        "model": config["model"],
        "prefix_length": lengths,
        "methods": [*method_names(config["model"], lengths).values(), *BASELINES],
        "recipe": config["recipe"],
        "dataset": config["dataset"],
        "k": ks,
        "epsilon": epsilon,
        "epsilons": epsilons,
        "epsilon_k": epsilon_k,
        "runs": runs,
        "choices": list(CHOICES),
    }
    header, table = _table(result)
    facts_header, facts = _facts(runs)
    places = write_outputs(folder, "cold-start", result, sections(result), title="Cold start")
    return (
        f"{result['about']}\n{tabulate(table, headers=header, disable_numparse=True)}\n\n"
        f"{tabulate(facts, headers=facts_header, disable_numparse=True)}\n\n" + "\n".join(CHOICES) + f"\n{places}"
    )


# -------------------------------------------------------------------------------------------- data without unseen items


def write_cold_data(config, share: float, seed: int, folder: Path) -> ColdData:
    """Draw the unseen items and write ``<folder>/<dataset>-cold`` without them.

    Their rows leave the ``.item`` file and their interactions the ``.inter`` file. Where one is a user's test target,
    the item before it stands in its place, so that the user keeps the same split: leave-one-out never trains on it.

    Raises:
        ConfigError: if there are too few test items for the share, or item embeddings come without ids.
    """
    if config["content_encoder"] == "precomputed" and str(config["content_file"]).endswith(".npy"):
        raise ConfigError(
            f"content_file='{config['content_file']}' holds rows in the order of the .item file, without ids; cold-start "
            "needs an .npz or .parquet file with ids"
        )
    dataset = SequentialDataset(config)
    sequences = order_interactions(dataset)
    users, items = (dataset.field2id_token[f] for f in (dataset.uid_field, dataset.iid_field))
    length = np.diff(sequences.start)
    owner = np.repeat(np.arange(len(length)), length)
    is_last = np.zeros(len(owner), dtype=bool)
    is_last[sequences.start[1:][length >= 3] - 1] = True
    candidates = np.unique(sequences.items[is_last])
    n_unseen = round(share * len(candidates))
    if n_unseen < 1:
        raise ConfigError(f"cold_share={share:g} of {len(candidates)} test items is none; raise cold_share")
    drawn = np.sort(np.random.default_rng([seed, n_unseen]).choice(candidates, n_unseen, replace=False))
    is_unseen = np.isin(np.arange(len(items)), drawn)

    kept = ~is_unseen[sequences.items] | is_last
    left = np.bincount(owner[kept], minlength=len(length))
    dropped = (length >= 3) & (left < 3)
    kept &= ~dropped[owner]
    owner, written, is_last = owner[kept], sequences.items[kept], is_last[kept]
    hidden = np.flatnonzero(is_last & is_unseen[written])
    targets = {str(users[u]): str(items[i]) for u, i in zip(owner[hidden], written[hidden], strict=True)}
    written = written.copy()
    written[hidden] = written[hidden - 1]

    name = f"{config['dataset']}-cold"
    place = folder / "data" / name
    place.mkdir(parents=True)
    user_field, item_field, time_field = (config[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME"))
    separator = config["field_separator"]
    rows = [separator.join((f"{user_field}:token", f"{item_field}:token", f"{time_field}:float"))]
    rows += [
        f"{user}{separator}{item}{separator}{time}"
        for time, (user, item) in enumerate(zip(users[owner].tolist(), items[written].tolist(), strict=True))
    ]
    encoding = config["encoding"] or "utf-8"
    atomic_write_text(place / f"{name}.inter", "\n".join(rows) + "\n", encoding)
    if item_file(config).is_file():
        unseen_ids = set(items[drawn].tolist())
        with open(item_file(config), encoding=encoding, newline="") as file:
            head, *lines = file.read().split("\n")
        column = [part.strip('"\ufeff ').partition(":")[0] for part in head.rstrip("\r").split(separator)].index(
            item_field
        )
        lines = [
            line for line in lines if line and line.rstrip("\r").split(separator)[column].strip('"') not in unseen_ids
        ]
        atomic_write_text(place / f"{name}.item", "\n".join([head, *lines]) + "\n", encoding)
    cold = {
        **plain_settings(config),
        "dataset": name,
        "data_path": str((folder / "data").resolve()),
        "run_dir": str(folder / "run"),
        "seed": seed,
        "resume": None,
        # The data went through these filters before; a second pass would drop users and items for what was removed.
        "user_inter_num_interval": "[0,inf)",
        "item_inter_num_interval": "[0,inf)",
        "val_interval": None,
        "filter_inter_by_user_or_item": True,
        "tie_order": "file",
        "load_col": {"inter": [user_field, item_field, time_field]},
    }
    return ColdData(
        source=config,
        config=config_from_plain(cold),
        unseen=[str(item) for item in items[drawn]],
        targets=targets,
        n_removed=int((~kept).sum()),
        n_dropped_users=int(dropped.sum()),
    )


# ------------------------------------------------------------------------------------------------------- evaluation


def method_names(model: str, lengths: Sequence[int]) -> dict[int, str]:
    """What the model is called under each prefix length."""
    if len(lengths) == 1:
        return {lengths[0]: model}
    return {length: f"{model}, {length} codeword{'s' if length > 1 else ''}" for length in lengths}


def evaluate(data: ColdData, checkpoint: str, points: Sequence[tuple[int, float]], lengths: Sequence[int]) -> dict:
    """Recalls of all methods on the users whose target is unseen and on all.

    Args:
        data: what the run was trained without.
        checkpoint: its best checkpoint.
        points: pairs of K and epsilon.
        lengths: prefix lengths, see :class:`recbole_tiger.decoding.cold_start.UnseenItems`.

    Returns:
        counts, and under ``recall`` for each method and group (``unseen``, ``all``) a list, one number per point.
    """
    config, model, dataset, _, _, loader = load_data_and_model(checkpoint)
    model.eval()
    users = test_users(config, dataset, loader)
    prepared: TokenizedCatalogue = dataset.semantic_ids
    sentences = _unseen_sentences(data, config)
    codes, embeddings = unseen_codes(config, prepared, sentences, data.unseen)
    n_seen = prepared.table.n_items
    table = with_unseen_items(prepared.table, codes, data.unseen)
    model._use_semantic_ids(dataclasses.replace(prepared, table=table))
    model.to(config["device"])
    unseen = {length: UnseenItems(table, n_seen, length, config["device"]) for length in lengths}
    number = {item: n_seen + 1 + n for n, item in enumerate(data.unseen)}
    names = [str(dataset.field2id_token[dataset.uid_field][user]) for user in users.users.tolist()]
    hidden = torch.tensor([number.get(data.targets.get(name), 0) for name in names])
    targets = torch.where(hidden > 0, hidden, users.targets.cpu())

    longest = max(k for k, _ in points)
    found = model_candidates(model, users, list(unseen.values()), longest, config["eval_batch_size"])
    lists = dict(zip(method_names(config["model"], lengths).values(), found, strict=True))
    if embeddings is not None:
        items = [str(item) for item in prepared.table.items[1:]]
        vectors = prepared.scaler.scale(np.concatenate([item_content(config, items).embeddings, embeddings]))
        for mean, name in ((False, BASELINES[0]), (True, BASELINES[1])):
            lists[name] = knn_candidates(vectors, users, n_seen, longest, mean)
    ranks = torch.from_numpy(
        popularity_ranks(
            dataset.sequences,
            users.users.cpu().numpy(),
            users.targets.cpu().numpy(),
            loader._dataset.phase,
            n_seen + 1,
            mask_seen=bool(config["mask_seen_items"]),
        )
    )
    popular = torch.where((hidden > 0) | (ranks < 0), n_seen, ranks)
    hits = {
        name: [(limit_unseen(found, n_seen, k, eps).items == targets[:, None]).any(1) for k, eps in points]
        for name, found in lists.items()
    }
    hits["popularity"] = [popular < k for k, _ in points]
    is_unseen = hidden > 0
    return {
        "n_seen": n_seen,
        "n_unseen": len(data.unseen),
        "n_unseen_with_own_prefix": [own.n_alone for own in unseen.values()],
        "n_removed": data.n_removed,
        "n_dropped_users": data.n_dropped_users,
        "users": {"unseen": int(is_unseen.sum()), "all": len(users)},
        "points": [list(point) for point in points],
        "recall": {
            name: {
                "unseen": [_mean(hit[is_unseen]) for hit in by_point],
                "all": [_mean(hit) for hit in by_point],
            }
            for name, by_point in hits.items()
        },
    }


def _mean(hits: torch.Tensor) -> float:
    return float(hits.double().mean()) if len(hits) else 0.0


def _unseen_sentences(data: ColdData, config) -> list[str]:
    """The text of the unseen items, from the whole dataset's item file, which the run never read."""
    if config["content_encoder"] == "precomputed" or config["semantic_id"] == "random":
        return [""] * len(data.unseen)
    table = item_table(data.source)
    return sentences_of_new_items(table[table[config["ITEM_ID_FIELD"]].isin(data.unseen)], data.unseen, config)


def unseen_codes(config, prepared: TokenizedCatalogue, sentences: list[str], items: list[str]):
    """Learned codewords [n, id_length] and embeddings [n, dim] of items that neither tokenizer nor model was trained on.

    Embeddings are None for random IDs, which come from no content.
    """
    if config["semantic_id"] == "random":
        embeddings = None
        n = prepared.table.n_items
        codes = prepared.quantizer.transform(np.arange(n, n + len(items), dtype=np.float64)[:, None])
    else:
        embeddings = embed_new_items(config, sentences, items, prepared.sentences)
        codes = prepared.quantizer.transform(prepared.scaler.transform(embeddings))
    return codes, embeddings


def model_candidates(
    model, users: TestUsers, unseen: Sequence[UnseenItems], at_most: int, chunk: int
) -> list[BeamResult]:
    """The model's predictions with unseen items among them, [n, C], for each way of telling which belong to a prediction."""
    parts = []
    for part in users.chunks(chunk, "search"):
        found = model.recommend(part.users, part.history, part.lengths, model.beam_size, excluded=part.excluded)
        parts.append([own.candidates(found, at_most) for own in unseen])
    return [_joined_to_width(of_one) for of_one in zip(*parts, strict=True)]


def _joined_to_width(parts: Sequence[BeamResult]) -> BeamResult:
    width = max(part.items.shape[1] for part in parts)
    return joined(
        [
            BeamResult(F.pad(p.items, (0, width - p.items.shape[1])), F.pad(p.scores, (0, width - p.items.shape[1])))
            for p in parts
        ]
    )


def knn_candidates(vectors: np.ndarray, users: TestUsers, n_seen: int, k: int, mean: bool) -> BeamResult:
    """The k nearest seen and the k nearest unseen items of each history, together in order, [n, 2k].

    Args:
        vectors: [n_items, dim], the seen items' first.
        mean: the mean of the history's unit vectors is the query, else its last item.
    """
    table = F.pad(F.normalize(torch.from_numpy(vectors).float(), dim=1), (0, 0, 1, 0))  # [n_items + 1, dim]
    parts = []
    for part in users.chunks(KNN_ROWS, "nearest neighbours"):
        history, lengths = part.history.cpu(), part.lengths.cpu()
        last = history.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
        scores = (table[history].sum(1) if mean else table[last]) @ table.T
        scores.scatter_(1, history, -torch.inf)
        if part.excluded is not None:
            scores.scatter_(1, part.excluded.cpu(), -torch.inf)
        scores[:, 0] = -torch.inf
        blocks = (torch.arange(n_seen + 1), torch.arange(n_seen + 1, len(table)))
        best = [scores[:, block].topk(min(k, len(block)), dim=1) for block in blocks]
        items = torch.cat([block[top.indices] for block, top in zip(blocks, best, strict=True)], 1)
        parts.append(rank_items(items, torch.cat([top.values for top in best], 1), items.shape[1]))
    return joined(parts)


# ---------------------------------------------------------------------------------------------------- what is shown


def _recall(run: dict, method: str, group: str, k: int, epsilon: float) -> float | None:
    by_group = run["recall"].get(method)
    return None if by_group is None else by_group[group][run["points"].index([k, epsilon])]


def _summary(result: dict, share: float, method: str, group: str, k: int, epsilon: float) -> tuple[float, float] | None:
    """Mean and standard deviation over the seeds; None for a method that these runs do not have."""
    values = [_recall(run, method, group, k, epsilon) for run in result["runs"] if run["share"] == share]
    if None in values:
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _shares(result: dict) -> list[float]:
    return sorted({run["share"] for run in result["runs"]})


def _table(result: dict) -> tuple[list[str], list[list[str]]]:
    points = [(k, result["epsilon"]) for k in result["k"]]
    points += [(result["epsilon_k"], eps) for eps in result["epsilons"] if (result["epsilon_k"], eps) not in points]
    several = len(result["runs"]) > len(_shares(result))
    rows = []
    for share in _shares(result):
        for group in GROUPS:
            for k, epsilon in points:
                cells = []
                for method in result["methods"]:
                    found = _summary(result, share, method, group, k, epsilon)
                    spread = f" ± {found[1]:.4f}" if found and several else ""
                    cells.append("-" if found is None else f"{found[0]:.4f}{spread}")
                rows.append([f"{share:.0%}", group, str(k), f"{epsilon:g}", *cells])
    return ["unseen items", "users", "K", "epsilon", *result["methods"]], rows


def _facts(runs: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    header = [
        "unseen items", "seed", "seen items", "unseen", "of these with a prefix of their own", "removed interactions",
        "dropped users", "users with an unseen target", "users",
    ]  # fmt: skip
    rows = [
        [
            f"{run['share']:.0%}",
            *map(str, (run["seed"], run["n_seen"], run["n_unseen"])),
            " / ".join(map(str, run["n_unseen_with_own_prefix"])),
            *map(str, (run["n_removed"], run["n_dropped_users"], run["users"]["unseen"], run["users"]["all"])),
        ]
        for run in runs
    ]
    return header, rows


def sections(result: dict) -> list[pages.Section]:
    """The page of a result."""
    found = []
    words = {"unseen": "users whose target is unseen", "all": "all users"}
    for share in _shares(result):

        def curve(group: str, points: Sequence[tuple[int, float]], share: float = share) -> dict[str, list[float]]:
            values = {m: [_summary(result, share, m, group, k, eps) for k, eps in points] for m in result["methods"]}
            return {name: [mean for mean, _ in pairs] for name, pairs in values.items() if None not in pairs}

        by_k = [(k, result["epsilon"]) for k in result["k"]]
        by_epsilon = [(result["epsilon_k"], epsilon) for epsilon in result["epsilons"]]
        figures = []
        for group in GROUPS:
            over_k = lines(result["k"], curve(group, by_k), x_title="K", y_title="Recall@K")
            over_epsilon = lines(
                result["epsilons"], curve(group, by_epsilon), x_title="epsilon", y_title=f"Recall@{result['epsilon_k']}"
            )
            figures += [
                pages.Figure(
                    over_k, title=f"Recall@K, {words[group]}", note=f"epsilon = {result['epsilon']:g} (Figure 5a)"
                ),
                pages.Figure(
                    over_epsilon, title=f"Recall@{result['epsilon_k']} by epsilon, {words[group]}", note="Figure 5b"
                ),
            ]
        found.append(pages.Section(f"{share:.0%} of the test items unseen", "", figures))
    tables = [pages.Table(*_table(result)), pages.Table(*_facts(result["runs"]), title="The runs")]
    found.append(pages.Section("Numbers", "", tables))
    found.append(pages.Section("Where the paper is silent", result["choices"]))
    return found
