"""Unconstrained generation: beam search over all codes of every level, whether items have the IDs or not.

Input: a `StepDecoder` and the trie on which the IDs are looked up. Output: a `FreeBeamResult`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tiger.decoding.ranking import checked_k, checked_temperatures, log_sum_exp, scaled, sort_keys
from recbole_tiger.decoding.trie import PrefixTrie
from recbole_tiger.decoding.types import FreeBeamResult, StepDecoder


def free_beam_search(
    decoder: StepDecoder,
    level_sizes: Sequence[int],
    trie: PrefixTrie,
    *,
    beam_size: int,
    k: int | None = None,
    temperature: float | Sequence[float] = 1.0,
) -> FreeBeamResult:
    """The `k` best semantic IDs of each user, items or not.

    The paper counts the IDs that no item has among them (section 4.5, Figure 6). Arguments as in `beam_search`;
    `level_sizes` must be the trie's, on which the IDs are looked up. Ties are broken by the ID, in ascending order.

    Raises:
        ValueError: an impossible `beam_size`, `k` or `temperature`, or level sizes that are not the trie's.
    """
    k = checked_k(k, beam_size)
    sizes = tuple(int(size) for size in level_sizes)
    if sizes != trie.level_sizes:
        raise ValueError(f"level_sizes are {sizes}, but the trie was built for {trie.level_sizes}")
    temperatures = checked_temperatures(temperature, len(sizes))
    logits = decoder.begin()
    score = torch.zeros(logits.shape[:2], device=logits.device)
    ids = torch.empty((*logits.shape[:2], 0), dtype=torch.long, device=logits.device)
    for level, size in enumerate(sizes):
        logits = scaled(logits, temperatures[level])
        n_candidates = logits.shape[1] * size
        total = (score[:, :, None] + (logits - log_sum_exp(logits)[:, :, None])).flatten(1)
        # Beams are kept in lexicographic order of their codes, so the flat index breaks ties by the ID.
        index = torch.arange(n_candidates, device=logits.device)
        best = sort_keys(total, index).topk(min(beam_size, n_candidates), dim=1).indices
        last = level + 1 == len(sizes)
        if not last:
            best = best.sort(dim=1).values
        score, parent = total.gather(1, best), best // size
        ids = torch.cat([ids.gather(1, parent[:, :, None].expand(-1, -1, level)), (best % size)[:, :, None]], 2)
        if not last:
            logits = decoder.advance(level + 1, parent, ids[:, :, -1])
    return _found(trie, ids[:, :k], score[:, :k], k)


def _found(trie: PrefixTrie, ids: Tensor, score: Tensor, k: int) -> FreeBeamResult:
    """IDs `[B, at most k, depth]` with the items that have them, filled up where fewer than `k` exist at all."""
    leaf = trie.find(ids)
    items = torch.where(leaf >= 0, trie.first_item(leaf.clamp(min=0)), 0)
    missing = k - ids.shape[1]
    if missing > 0:
        ids = F.pad(ids, (0, 0, 0, missing))
        score = F.pad(score, (0, missing), value=-torch.inf)
        items = F.pad(items, (0, missing))
    return FreeBeamResult(ids, score, items)
