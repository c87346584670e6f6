"""Ranks of the held-out items of one evaluation loader, by any model.

Input: a model in evaluation mode, RecBole's full-sort loader, and a function that finds the best items of a batch.
Output: every user's rank, and what RecBole's evaluator computes its metrics from.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct
from recbole.utils import set_color
from torch import Tensor
from torch.nn.utils import parametrize
from tqdm import tqdm

from recbole_tiger.decoding import BeamResult
from recbole_tiger.distributed import collectives
from recbole_tiger.evaluation.evaluator import Ranks, collect_topk, tied_ranks
from recbole_tiger.io import has_screen
from recbole_tiger.training.finite import check_scores, check_weights

#: (batch, length of the lists, items to exclude [B, S] or None, RecBole's history index or None) -> the best items
Find = Callable[..., BeamResult]


def probe_seconds(loader: FullSortEvalDataLoader, config, find: Find, device: torch.device, n_users: int = 64) -> float:
    """Seconds that ranking a whole loader takes, from its first users."""
    interaction, history_index, *_ = next(iter(loader))
    n_users = min(n_users, len(interaction))
    part = interaction[:n_users].to(device)
    if history_index is not None:
        history_index = tuple(index[history_index[0] < n_users] for index in history_index)
    started = perf_counter()
    find(part, max(config["topk"]), None, history_index)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (perf_counter() - started) * loader.sample_size / n_users


def seen_items(dataset, users: Tensor) -> Tensor:
    """Items of users [B] before their targets in the phase of an evaluation dataset: [B, S], padded with 0."""
    return torch.from_numpy(dataset.sequences.seen_before(users.cpu().numpy(), dataset.phase))


def scores_of_all_items(model, batch, items) -> Tensor:
    """Scores [B, n_items] of a batch of histories, also from a model that only has ``predict`` (DIN, DIEN).

    Args:
        items: RecBole's features of all items.
    """
    try:
        return model.full_sort_predict(batch).view(len(batch), -1)
    except NotImplementedError:  # a score for one pair of history and item at a time
        rows = []
        for row in range(len(batch)):
            pairs = batch[row : row + 1].repeat_interleave(len(items))
            pairs.update(items.to(model.device))
            rows.append(model.predict(pairs).view(-1))
        return torch.stack(rows)


@parametrize.cached()  # the map of item text is computed once for all batches
def rank_loader(
    model,
    loader: FullSortEvalDataLoader,
    config,
    collector: Collector,
    find: Find,
    *,
    before_batch: Callable[[], None] = lambda: None,
    show_progress: bool = False,
) -> tuple[Ranks, DataStruct]:
    """Rank the held-out item of every row; of several processes each ranks its share, and all get everything.

    Args:
        model: a recommender of RecBole's kind; one whose lists have IDs has their ``trie``.
        collector: RecBole's, with the training data; it is filled and emptied.
        before_batch: called before each batch.

    Raises:
        NotFiniteError: for weights or scores that are not finite.
    """
    phase, k = getattr(loader._dataset, "phase", "evaluation"), max(config["topk"])
    check_weights(model, phase)
    positions: list[int] = []
    columns: list[Tensor] = []
    shares = collectives.loader_shares(loader)
    text, hidden = set_color("Evaluate   ", "pink"), not (show_progress and has_screen())
    for rows, batch in tqdm(shares, total=len(loader), ncols=100, desc=text, disable=hidden):
        before_batch()
        if batch is None:
            continue
        positions += rows
        interaction, history_index, _, target = batch
        interaction, target = interaction.to(config["device"]), target.to(config["device"])
        users = interaction[config["USER_ID_FIELD"]]
        seen = seen_items(loader._dataset, users).to(target.device) if config["mask_seen_items"] else None
        found = find(interaction, k, seen, history_index)
        check_scores(found.scores, model, phase)
        rank = collect_topk(collector, found.items, target)
        parts = [users, rank]
        if found.ids is not None and found.id_counts is not None:
            reachable = torch.ones_like(target, dtype=torch.bool)
            if seen is not None:
                reachable = (seen != target[:, None]).all(1)
            parts[1:] = tied_ranks(found.ids, found.id_counts, model.trie.leaf_of(target), reachable, k)
        columns.append(torch.stack(parts, 1).cpu())
    table = collectives.assemble(torch.cat(columns), positions, loader.sample_size)
    collector.model_collect(model)
    collected = collector.get_data_struct()
    for name in ("rec.topk", "rec.items"):
        if name in collected:
            collected.set(name, collectives.assemble(collected.get(name), positions, loader.sample_size))
    return Ranks(*table.T.contiguous().numpy()), collected
