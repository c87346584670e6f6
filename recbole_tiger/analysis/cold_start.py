"""How often cold-start (unseen) items are found (paper, 4.4.1 and Figure 5).

Input: the settings of a run, which is trained without some of the test items. Output: Recall by K and by epsilon, the
largest share of unseen items in a list, on the users whose target is unseen and on all users, beside Semantic_KNN and
popularity. Where the paper is silent, :data:`CHOICES` says what was chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from recbole_tiger.analysis.cold_start_data import ColdData, write_cold_data
from recbole_tiger.analysis.runs import TestUsers, TrainedRun, joined, open_run, recommend_users
from recbole_tiger.decoding import BeamResult, rank_items
from recbole_tiger.decoding.cold_start import UnseenItems, limit_unseen, with_unseen_items
from recbole_tiger.errors import ConfigError
from recbole_tiger.evaluation.evaluator import popularity_ranks
from recbole_tiger.experiment.run import run_config
from recbole_tiger.settings.split import LEAVE_ONE_OUT
from recbole_tiger.tokenization import (
    TokenizedCatalogue,
    embed_new_items,
    item_content,
    item_table,
    sentences_of_new_items,
)

CHOICES = (
    "Unseen items are drawn at random from the distinct test targets.",
    "Their interactions are removed from training, validation and histories and kept only as test targets. The paper "
    "mentions only the training split.",
    "The scaling of the embeddings, and TF-IDF if it is the encoder, are fitted without them too.",
    "The search is limited to prefixes of seen and unseen items. At the first rank of a predicted ID the list has its "
    "seen item, then the unseen items with the same first codewords, in arbitrary order; with use_content and "
    "rescore_weight each of them is ranked by its own score, from codes and text. A prefix that only unseen items have "
    "can be predicted too: the paper's search could generate any ID.",
    "A list of K holds at most floor(epsilon * K) unseen items: none for K < 10 at epsilon = 0.1.",
    "Semantic_KNN: cosine in the scaled embeddings with the last item of the history, or with the mean of its items; "
    "the items of the history are left out. The limit epsilon applies to every method: at epsilon = 1 Semantic_KNN is "
    "unlimited.",
    "Popularity counts training interactions, of which an unseen item has none.",
)
BASELINES = ("Semantic_KNN (last item)", "Semantic_KNN (mean)", "popularity")
GROUPS = ("unseen", "all")
#: Rows of a similarity matrix at a time.
KNN_ROWS = 512


@dataclass(frozen=True)
class ColdStartSettings:
    """What to train and to measure.

    Attributes:
        shares: of the test items that become unseen; each is a run of its own.
        seeds: draws of unseen items, each with a run of its own; empty: the run's seed.
        k: lengths of the lists in Recall@K against K.
        epsilon: the largest share of unseen items in these lists.
        epsilons, epsilon_k: shares, and the length of the lists, in Recall against epsilon.
        prefix_lengths: codewords that an unseen item shares with a predicted ID; empty: all learned codewords.
    """

    shares: Sequence[float] = (0.05,)
    seeds: Sequence[int] = ()
    k: Sequence[int] = (5, 10, 15, 20)
    epsilon: float = 0.1
    epsilons: Sequence[float] = (0, 0.05, 0.1, 0.2, 0.3, 0.5, 1)
    epsilon_k: int = 10
    prefix_lengths: Sequence[int] = ()

    def checked(self, config) -> ColdStartSettings:
        """These settings with those of the run filled in, checked before anything is trained; a `ConfigError` for a run
        whose items cannot become unseen, and for lists and prefixes that it cannot have.
        """
        if config["eval_args"]["split"] != LEAVE_ONE_OUT:
            raise ConfigError(
                "split=temporal does not work with cold-start, which makes test items of leave-one-out unseen, as the "
                "paper does; leave it out"
            )
        if config["semantic_id"] == "file":
            raise ConfigError(
                "semantic_id=file has no quantizer that could give unseen items an ID; choose another method"
            )
        lengths = list(self.prefix_lengths) or [config["id_length"]]
        if max(lengths) > config["id_length"]:
            raise ConfigError(
                f"prefix_length={max(lengths)} is more than the {config['id_length']} learned codewords of an ID "
                "(id_length)"
            )
        longest = max(*self.k, self.epsilon_k)
        if config["scoring"] in ("beam", "graph") and config["beam_size"] < longest:
            raise ConfigError(
                f"beam_size={config['beam_size']} is smaller than the longest list ({longest}); raise beam_size"
            )
        return dataclasses.replace(self, prefix_lengths=lengths, seeds=self.seeds or [config["seed"]])


@dataclass(frozen=True)
class ColdStart:
    """The runs of all shares and seeds, and the points of both figures (see `ColdStartSettings`).

    Each run says its "share" and "seed", what it had, and under "recall" for each method and group a list with a number
    for each pair of K and epsilon in "points".
    """

    methods: list[str]
    k: list[int]
    epsilon: float
    epsilons: list[float]
    epsilon_k: int
    runs: list[dict]
    choices: list[str]


def cold_start(config, settings: ColdStartSettings, folder: Path) -> ColdStart:
    """Train a run for every share and seed without the unseen items in a folder, and evaluate it.

    Runs that were begun in this folder continue.

    Args:
        settings: as :meth:`ColdStartSettings.checked` gives them.
    """
    points = {(k, settings.epsilon) for k in settings.k} | {(settings.epsilon_k, eps) for eps in settings.epsilons}
    runs = []
    for share in settings.shares:
        for seed in settings.seeds:
            data = write_cold_data(config, share, seed, folder / f"share-{share:g}-seed-{seed}")
            checkpoint = run_config(data.config, test=False)["files"]["checkpoint"]
            found = evaluate(data, checkpoint, sorted(points), settings.prefix_lengths)
            runs.append({"share": share, "seed": seed, **found})
    methods = [*method_names(config["model"], settings.prefix_lengths), *BASELINES]
    given = {key: getattr(settings, key) for key in ("k", "epsilon", "epsilons", "epsilon_k")}
    return ColdStart(methods=methods, **given, runs=runs, choices=list(CHOICES))


def method_names(model: str, lengths: Sequence[int]) -> list[str]:
    """What the model is called under each prefix length."""
    if len(lengths) == 1:
        return [model]
    return [f"{model}, {length} codeword{'s' if length > 1 else ''}" for length in lengths]


def evaluate(data: ColdData, checkpoint: str, points: Sequence[tuple[int, float]], lengths: Sequence[int]) -> dict:
    """Recalls of all methods on the users whose target is unseen and on all.

    Args:
        data: what the run was trained without.
        checkpoint: its best checkpoint.
        points: pairs of K and epsilon.
        lengths: prefix lengths, see :class:`recbole_tiger.decoding.cold_start.UnseenItems`.

    Returns:
        counts, and under "recall" for each method and group ("unseen", "all") a list, one number per point; None for a
        group without users.
    """
    run = open_run(None, checkpoint)
    config, model, users, prepared = run.config, run.model, run.test, run.dataset.semantic_ids
    codes, embeddings = unseen_codes(config, prepared, _unseen_sentences(data, config), data.unseen)
    n_seen, table = prepared.table.n_items, with_unseen_items(prepared.table, codes, data.unseen)
    model._use_semantic_ids(prepared.with_table(table, embeddings))
    model.to(config["device"])
    unseen = [UnseenItems(table, n_seen, length, config["device"]) for length in lengths]
    targets = _targets(data, run, n_seen)
    longest, is_unseen = max(k for k, _ in points), targets > n_seen
    lists = {}
    for name, own in zip(method_names(config["model"], lengths), unseen, strict=True):
        beside = own.beside(longest, tells_apart=model.tells_unseen_apart)
        lists[name] = recommend_users(run, model.beam_size, "search", beside=beside)
    if config["semantic_id"] != "random":
        content = item_content(config, [str(item) for item in prepared.table.items[1:]])
        vectors = prepared.scaler.scale(np.concatenate([content.embeddings, embeddings]))
        for mean, name in ((False, BASELINES[0]), (True, BASELINES[1])):
            lists[name] = knn_candidates(vectors, users, n_seen, longest, mean)
    hits = {
        name: [(limit_unseen(found, n_seen, k, eps).items == targets[:, None]).any(1) for k, eps in points]
        for name, found in lists.items()
    }
    popular = _popularity(run, n_seen)
    hits["popularity"] = [(popular < k) & ~is_unseen for k, _ in points]
    return {
        "n_seen": n_seen,
        "n_unseen": len(data.unseen),
        "n_unseen_with_own_prefix": [own.n_alone for own in unseen],
        "n_removed": data.n_removed,
        "n_dropped_users": data.n_dropped_users,
        "users": {"unseen": int(is_unseen.sum()), "all": len(users)},
        "points": [list(point) for point in points],
        "recall": {
            name: {"unseen": [_mean(hit[is_unseen]) for hit in by_point], "all": [_mean(hit) for hit in by_point]}
            for name, by_point in hits.items()
        },
    }


def _mean(hits: torch.Tensor) -> float | None:
    return float(hits.double().mean()) if len(hits) else None


def _targets(data: ColdData, run: TrainedRun, n_seen: int) -> torch.Tensor:
    """[n] real targets on the CPU; where one is unseen, `run.test.targets` has the item before it."""
    number: dict[str | None, int] = {item: n_seen + 1 + n for n, item in enumerate(data.unseen)}
    names = run.dataset.field2id_token[run.dataset.uid_field][run.test.users.cpu().numpy()]
    hidden = torch.tensor([number.get(data.targets.get(str(name)), 0) for name in names])
    return torch.where(hidden > 0, hidden, run.test.targets.cpu())


def _popularity(run: TrainedRun, n_seen: int) -> torch.Tensor:
    """[n] rank of each target in the data by popularity, from 0; that of no list for a masked one."""
    users, targets = run.test.users.cpu().numpy(), run.test.targets.cpu().numpy()
    masked = run.test.excluded is not None
    ranks = popularity_ranks(run.dataset.sequences, users, targets, "test", n_seen + 1, mask_seen=masked)
    return torch.from_numpy(np.where(ranks < 0, n_seen, ranks))


def _unseen_sentences(data: ColdData, config) -> list[str]:
    """The text of the unseen items, from the whole dataset's item file, which the run never read."""
    is_read = config["semantic_id"] != "random" or config["use_content"]
    if config["content_encoder"] == "precomputed" or not is_read:
        return [""] * len(data.unseen)
    table = item_table(data.source)
    return sentences_of_new_items(table[table[config["ITEM_ID_FIELD"]].isin(data.unseen)], data.unseen, config)


def unseen_codes(config, prepared: TokenizedCatalogue, sentences: list[str], items: list[str]):
    """Learned codewords [n, id_length] and embeddings [n, dim] of unseen items; None where nothing reads these."""
    quantizer, scaler, random = prepared.quantizer, prepared.scaler, config["semantic_id"] == "random"
    assert quantizer is not None  # only IDs read from a file have none, and the settings refuse these
    embeddings = None
    if not random or prepared.vectors is not None:
        embeddings = embed_new_items(config, sentences, items, prepared.sentences)
    if random:
        n = prepared.table.n_items
        return quantizer.transform(np.arange(n, n + len(items), dtype=np.float64)[:, None]), embeddings
    assert scaler is not None and embeddings is not None  # both stand beside every quantizer of item text
    return quantizer.transform(scaler.transform(embeddings)), embeddings


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
        blocks = torch.arange(len(table)).split([n_seen + 1, len(table) - n_seen - 1])
        best = [scores[:, block].topk(min(k, len(block)), dim=1) for block in blocks]
        items = torch.cat([block[top.indices] for block, top in zip(blocks, best, strict=True)], 1)
        parts.append(rank_items(items, torch.cat([top.values for top in best], 1), items.shape[1]))
    return joined(parts)
