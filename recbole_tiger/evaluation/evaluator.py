"""Full-sort evaluation on ranked lists, without a score matrix where a model does not make one.

Input: the top items of each user and the held-out item. Output: RecBole's metrics, computed by RecBole's own
``Evaluator``, unrounded, and the rank of every user's held-out item, also by popularity.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from recbole.evaluator import Collector, Evaluator

from recbole_tiger.data.dataset import UserSequences

#: RecBole rounds metrics to `metric_decimal_place` before model selection, which makes ties; we round when printing.
DECIMALS = 16


def unrounded_evaluator(config) -> Evaluator:
    """RecBole's evaluator with all digits kept."""
    evaluator = Evaluator(config)
    for metric in evaluator.metric_class.values():
        metric.decimal_place = DECIMALS
    return evaluator


@dataclass(frozen=True)
class Ranks:
    """Where each user's held-out item stood.

    Attributes:
        users: [n] internal user numbers, in evaluation order.
        ranks: [n] position of the held-out item in the list, from 0; -1 where it is not among the top K.
        ties: [n] how many items share its rank, from `ranks` on: any order of them is as good as another. None where
            every item has a rank of its own.
        id_ranks: with `ties`: [n] position of its Semantic ID among the IDs, -1 where it is not among the top K.
    """

    users: np.ndarray
    ranks: np.ndarray
    ties: np.ndarray | None = None
    id_ranks: np.ndarray | None = None


def collect_topk(collector: Collector, items: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Hand one batch of ranked lists to RecBole's collector and return the ranks of the targets.

    Fills what RecBole's ``eval_batch_collect`` fills (``rec.topk``: hits at each rank and the number of positives,
    ``rec.items``: the lists) without its two ``[B, n_items]`` matrices.

    Args:
        items: [B, K] item numbers, best first, 0 where a list is shorter.
        target: [B] the held-out item of each row, never 0.

    Returns:
        [B] rank from 0, -1 where the target is not in the list.
    """
    hits = items == target[:, None]
    positives = torch.ones_like(target)[:, None]
    collector.data_struct.update_tensor("rec.topk", torch.cat([hits.to(target.dtype), positives], dim=1))
    if collector.register.need("rec.items"):
        collector.data_struct.update_tensor("rec.items", items)
    return torch.where(hits.any(dim=1), hits.int().argmax(dim=1), -1)


def tied_ranks(
    ids: torch.Tensor, counts: torch.Tensor, target: torch.Tensor, reachable: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the held-out items stand when items share Semantic IDs.

    Args:
        ids: [B, n] IDs found, best first, -1 where there are fewer.
        counts: [B, n] items of each.
        target: [B] ID of each held-out item.
        reachable: [B] bool, False for a held-out item that was excluded from the search.
        k: length of the list of items.

    Returns:
        [B] first rank of the held-out item's ID in the list of items, -1 from k on; [B] items on that ID; [B] rank of
        the ID in the list of IDs, -1 from k on.
    """
    match = (ids == target[:, None]) & reachable[:, None]
    found, rank = match.any(dim=1), match.int().argmax(dim=1)
    first = (counts.cumsum(dim=1) - counts).gather(1, rank[:, None])[:, 0]
    ties = counts.gather(1, rank[:, None])[:, 0]
    return (
        torch.where(found & (first < k), first, -1),
        torch.where(found, ties, 1),
        torch.where(found & (rank < k), rank, -1),
    )


def topk_of_scores(scores: torch.Tensor, k: int, excluded: torch.Tensor | None = None) -> torch.Tensor:
    """The k best items of a dense score matrix [B, n_items]: [B, k], 0 where fewer than k have a finite score.

    Args:
        excluded: [B, S] items that must not appear, padded with 0.
    """
    scores[:, 0] = -torch.inf
    if excluded is not None:
        scores.scatter_(1, excluded, -torch.inf)
    values, items = torch.topk(scores, min(k, scores.shape[1]), dim=1)
    items = torch.where(torch.isneginf(values), 0, items)
    return torch.nn.functional.pad(items, (0, k - items.shape[1]))


def metrics_of_ranks(config, ranks: np.ndarray) -> OrderedDict:
    """RecBole's top-k metrics of held-out items at the given ranks ([n], -1 for a miss), unrounded.

    Metrics of whole lists (coverage, diversity) need more than ranks and are left out.
    """
    k = max(config["topk"])
    hits = torch.from_numpy(np.asarray(ranks)[:, None] == np.arange(k)).long()
    collector = Collector(config)
    collector.data_struct.set("rec.topk", torch.cat([hits, torch.ones(len(hits), 1, dtype=torch.long)], dim=1))
    evaluator = unrounded_evaluator(config)
    result = OrderedDict()
    for metric in evaluator.metric_class.values():
        if set(metric.metric_need) <= {"rec.topk"}:
            result.update(metric.calculate_metric(collector.data_struct))
    return result


def expected_metrics(config, ranks: np.ndarray, ties: np.ndarray) -> OrderedDict:
    """RecBole's top-k metrics when tied items come in random order, in expectation, unrounded.

    A held-out item that shares the ranks ``r .. r + t - 1`` with t - 1 others has each with probability 1 / t, and a
    metric of one held-out item is a function of its rank, so the mean over users is a sum over ranks.

    Args:
        ranks: [n] first rank of each held-out item's group, from 0; -1 for a miss.
        ties: [n] items of the group.
    """
    k = max(config["topk"])
    hit = np.asarray(ranks) >= 0
    first, each = np.asarray(ranks)[hit], 1.0 / np.asarray(ties)[hit]
    change = np.zeros(k + 1)
    np.add.at(change, first, each)
    np.add.at(change, np.minimum(first + np.asarray(ties)[hit], k), -each)
    share = np.cumsum(change)[:k] / len(ranks)  # of users with the held-out item at each rank
    at_rank = [metrics_of_ranks(config, np.array([rank])) for rank in (*range(k), -1)]
    terms = list(zip([*share, 1.0 - share.sum()], at_rank, strict=True))
    return OrderedDict((name, float(sum(weight * at[name] for weight, at in terms))) for name in at_rank[0])


def popularity_ranks(
    sequences: UserSequences,
    users: np.ndarray,
    targets: np.ndarray,
    phase: str,
    n_items: int,
    *,
    mask_seen: bool,
) -> np.ndarray:
    """Rank of each target when items are ordered by their number of training interactions (ties by item number), for
    validation and test alike: what recommending the most frequent items reaches under the same protocol.

    Args:
        users: [n] internal user numbers.
        targets: [n] their held-out items.
        phase: "valid" or "test".
        n_items: number of items with padding.
        mask_seen: leave out the items that a user has seen; a target among them cannot be hit (-1).

    Returns:
        [n] ranks from 0.
    """
    counts = np.bincount(sequences.training_items(), minlength=n_items)
    counts[0] = -1
    rank_of = np.empty(n_items, dtype=np.int64)
    rank_of[np.lexsort((np.arange(n_items), -counts))] = np.arange(n_items)
    ranks = rank_of[targets]
    if not mask_seen:
        return ranks
    seen = np.sort(sequences.seen_before(users, phase), axis=1)  # [n, S]
    distinct = np.diff(seen, axis=1, prepend=-1) != 0
    real = distinct & (seen > 0)
    above = ((rank_of[seen] < ranks[:, None]) & real).sum(axis=1)
    return np.where(((seen == targets[:, None]) & real).any(axis=1), -1, ranks - above)
