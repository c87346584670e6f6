"""Exact scoring: the log-probability of every item of a catalogue, by walking all nodes of its trie.

Input: a `ForkableStepDecoder` and the trie. Output: scores of all items, or the best of them. It is the oracle of the
beam search, and the alternative to it where a catalogue is small. Shared prefixes are computed once; chunks of nodes
are walked depth first, so memory depends on the chunk and not on the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_tiger.decoding.parallel import ParallelStepDecoder
from recbole_tiger.decoding.ranking import (
    check_excluded,
    check_logits,
    check_normalise,
    checked_temperatures,
    items_on,
    rank_items,
    scaled,
)
from recbole_tiger.decoding.trie import PrefixTrie
from recbole_tiger.decoding.types import BeamResult, ForkableStepDecoder, Normalise


def exact_scores(
    decoder: ForkableStepDecoder,
    trie: PrefixTrie,
    *,
    temperature: float | Sequence[float] = 1.0,
    normalise: Normalise = "level",
    max_rows: int = 4096,
) -> Tensor:
    """Log-probability of every item, `[B, highest item number + 1]` float32; `-inf` at 0 and at unused numbers.

    Args:
        decoder: fresh; `begin` has not been called.
        trie: on the device of the decoder's logits.
        temperature, normalise: as in `beam_search`.
        max_rows: decoder rows (users x nodes) computed at a time; bounds the memory.

    Raises:
        ValueError: an impossible `temperature` or `normalise`, or logits of another shape.
    """
    temperatures = checked_temperatures(temperature, trie.depth)
    check_normalise(normalise)
    if isinstance(decoder, ParallelStepDecoder) and normalise == "level":
        return decoder.item_scores(temperatures)  # a sum per item: there are no prefixes to walk
    logits = decoder.begin()
    n_users, device = logits.shape[0], logits.device
    check_logits(logits, 0, n_users, 1, trie.level_sizes[0])
    scores = torch.full((n_users, int(trie.items.max()) + 1), -torch.inf, device=device)
    walk = _Walk(trie, temperatures, normalise == "children", max(1, max_rows // max(1, n_users)), scores)
    walk.score(decoder, 0, 0, trie.n_nodes[0], torch.zeros((n_users, 1), device=device), logits)
    return scores


@dataclass(frozen=True)
class _Walk:
    """A depth-first walk over the trie that writes the items' scores into `scores` `[B, n_items + 1]`."""

    trie: PrefixTrie
    temperatures: list[float]
    over_children: bool
    max_nodes: int  # of a chunk
    scores: Tensor

    def score(
        self, decoder: ForkableStepDecoder, level: int, low: int, high: int, above: Tensor, logits: Tensor
    ) -> None:
        """Score the nodes `low` up to `high` of `level`; their parents have scores `above [B, K]` and `logits`."""
        trie, device = self.trie, self.scores.device
        child = torch.arange(low, high, device=device)
        parent = trie.parent(level, child) if level else torch.zeros_like(child)
        parent = parent - parent[0]  # the parents of a contiguous range are contiguous too
        logits = scaled(logits, self.temperatures[level])
        chosen = logits[:, parent, trie.tokens[level][child].long()]  # [B, N]
        score = (above - self._log_sum(logits, chosen, parent))[:, parent] + chosen
        if level + 1 == trie.depth:
            first, last = trie.item_range(level, torch.tensor([low, high - 1], device=device))
            position = torch.arange(int(first[0]), int(last[1]), device=device)
            self.scores[:, trie.items[position].long()] = score[:, trie.parent(trie.depth, position) - low]
            return
        for start in range(low, high, self.max_nodes):
            stop = min(start + self.max_nodes, high)
            part = slice(start - low, stop - low)
            branch = decoder.fork()
            parents = parent[part].expand(len(logits), -1)
            codes = trie.tokens[level][start:stop].long().expand(len(logits), -1)
            next_logits = branch.advance(level + 1, parents, codes)
            check_logits(next_logits, level + 1, len(codes), codes.shape[1], trie.level_sizes[level + 1])
            first, count = trie.children(level, torch.tensor([start, stop - 1], device=device))
            self.score(branch, level + 1, int(first[0]), int(first[1] + count[1]), score[:, part], next_logits)

    def _log_sum(self, logits: Tensor, chosen: Tensor, parent: Tensor) -> Tensor:
        """What the children of each parent are relative to, `[B, K]`."""
        lowest = torch.finfo(logits.dtype).min  # of prefixes none of whose codewords is possible
        if not self.over_children:
            return torch.logsumexp(logits, -1).clamp_(min=lowest)
        # Over the children: a codeword that leads to no item may have any logit.
        highest = torch.full(logits.shape[:2], lowest, device=logits.device)
        highest.scatter_reduce_(1, parent.expand_as(chosen), chosen, "amax")
        total = torch.zeros_like(highest).index_add_(1, parent, (chosen - highest[:, parent]).exp())
        return (total.log() + highest).clamp_(min=lowest)


def exact_topk(
    decoder: ForkableStepDecoder,
    trie: PrefixTrie,
    *,
    k: int,
    excluded: Tensor | None = None,
    temperature: float | Sequence[float] = 1.0,
    normalise: Normalise = "level",
    max_rows: int = 4096,
) -> BeamResult:
    """The `k` best items of each user by exact scores; arguments, errors and ties as in `beam_search`."""
    if k < 1:
        raise ValueError(f"k must be at least 1, but it is {k}")
    scores = exact_scores(decoder, trie, temperature=temperature, normalise=normalise, max_rows=max_rows)
    check_excluded(excluded, len(scores))
    if trie.has_duplicates:
        first = trie.first_item(torch.arange(trie.n_nodes[-1], device=trie.device)).expand(len(scores), -1)
        found = rank_items(first, scores.gather(1, first), k + (0 if excluded is None else excluded.shape[1]))
        exhausted = None if excluded is None else trie.exhausted(excluded)
        return items_on(trie, trie.leaf_of(found.items), found.scores, k, exhausted)
    if excluded is not None:
        scores.scatter_(1, torch.where((excluded > 0) & (excluded < scores.shape[1]), excluded, 0), -torch.inf)
    return rank_items(torch.arange(scores.shape[1], device=scores.device).expand_as(scores), scores, k)
