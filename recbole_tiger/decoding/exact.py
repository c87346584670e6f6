"""Exact scoring: the log-probability of every item of the catalogue, by walking all nodes of the trie.

It is the oracle for the beam search, and the alternative to it where a catalogue is small. Shared prefixes
are computed once; chunks of nodes are walked depth first, so memory depends on the chunk and not on the
catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from recbole_tiger.decoding.beam_search import BeamResult, StepDecoder, _temperatures, rank_items
from recbole_tiger.decoding.trie import PrefixTrie


class ForkableStepDecoder(StepDecoder, Protocol):
    """A `StepDecoder` whose state can be branched off, so that chunks of children continue from one past."""

    def fork(self) -> ForkableStepDecoder:
        """A decoder in the same state that advances on its own."""


def exact_scores(
    decoder: ForkableStepDecoder,
    trie: PrefixTrie,
    *,
    temperature: float | Sequence[float] = 1.0,
    normalise: Literal["level", "legal"] = "level",
    max_rows: int = 4096,
) -> Tensor:
    """Log-probability of every item, `[B, highest item number + 1]` float32; `-inf` at 0 and at unused
    numbers.

    Args:
        decoder: fresh; `begin` has not been called.
        trie: on the device of the decoder's logits.
        temperature, normalise: as in `beam_search`.
        max_rows: decoder rows (users x nodes) computed at a time; bounds the memory.
    """
    temperatures = _temperatures(temperature, trie.depth)
    if normalise not in ("level", "legal"):
        raise ValueError(f"normalise must be 'level' or 'legal', but it is {normalise!r}")
    logits = decoder.begin()
    n_users, device = logits.shape[0], logits.device
    scores = torch.full((n_users, int(trie.items.max()) + 1), -torch.inf, device=device)
    max_nodes = max(1, max_rows // max(1, n_users))

    def walk(here: ForkableStepDecoder, level: int, low: int, high: int, above: Tensor, logits: Tensor) -> None:
        """Score the nodes `low` up to `high` of `level`; their parents have scores `above [B, K]` and `logits`."""
        child = torch.arange(low, high, device=device)
        parent = trie.parent(level, child) if level else torch.zeros_like(child)
        parent = parent - parent[0]  # the parents of a contiguous range are contiguous too
        logits = logits.float()
        if temperatures[level] != 1:
            logits = logits / temperatures[level]
        chosen = logits[:, parent, trie.tokens[level][child].long()]  # [B, N]
        if normalise == "legal":
            # Of the legal ones: a codeword that leads to no item may have any logit.
            highest = torch.full_like(above, -torch.inf).scatter_reduce_(1, parent.expand_as(chosen), chosen, "amax")
            total = torch.zeros_like(highest).index_add_(1, parent, (chosen - highest[:, parent]).exp())
            whole = total.log() + highest
        else:
            whole = torch.logsumexp(logits, -1)
        score = (above - whole)[:, parent] + chosen
        if level + 1 == trie.depth:
            first, last = trie.item_range(level, torch.tensor([low, high - 1], device=device))
            position = torch.arange(int(first[0]), int(last[1]), device=device)
            scores[:, trie.items[position].long()] = score[:, trie.parent(trie.depth, position) - low]
            return
        for start in range(low, high, max_nodes):
            stop = min(start + max_nodes, high)
            part = slice(start - low, stop - low)
            branch = here.fork()
            next_logits = branch.advance(
                level + 1,
                parent[part].expand(n_users, -1),
                trie.tokens[level][start:stop].long().expand(n_users, -1),
            )
            (first, _), (_, last) = ((int(edge[0]), int(edge[1])) for edge in _child_ranges(trie, level, start, stop))
            walk(branch, level + 1, first, last, score[:, part], next_logits)

    walk(decoder, 0, 0, trie.n_nodes[0], torch.zeros((n_users, 1), device=device), logits)
    return scores


def _child_ranges(trie: PrefixTrie, level: int, low: int, high: int) -> list[tuple[int, int]]:
    """Ranges of children of the first and the last of the nodes `low` up to `high` of `level`."""
    first, count = trie.children(level, torch.tensor([low, high - 1], device=trie.device))
    return [(start, start + n) for start, n in zip(first.tolist(), count.tolist(), strict=True)]


def exact_topk(
    decoder: ForkableStepDecoder,
    trie: PrefixTrie,
    *,
    k: int,
    excluded: Tensor | None = None,
    temperature: float | Sequence[float] = 1.0,
    normalise: Literal["level", "legal"] = "level",
    max_rows: int = 4096,
) -> BeamResult:
    """The `k` best items of each user by exact scores; arguments and ties as in `beam_search`."""
    if k < 1:
        raise ValueError(f"k must be at least 1, but it is {k}")
    scores = exact_scores(decoder, trie, temperature=temperature, normalise=normalise, max_rows=max_rows)
    by_leaf = None
    if trie.has_duplicates:
        leaves = torch.arange(trie.n_nodes[-1], device=trie.device)
        by_leaf = scores[:, trie.items[trie.children(trie.depth - 1, leaves)[0]].long()]
    if excluded is not None:
        known = torch.where((excluded > 0) & (excluded < scores.shape[1]), excluded, 0)
        scores.scatter_(1, known, -torch.inf)
    items = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    result = rank_items(items, scores, k)
    if not trie.has_duplicates:
        return result
    leaf = trie.leaf_of(trie.items.long())
    there = (scores[:, trie.items.long()] > -torch.inf).long()
    count = torch.zeros_like(by_leaf, dtype=torch.long).index_add_(1, leaf, there)
    ranked = rank_items(
        torch.arange(1, trie.n_nodes[-1] + 1, device=trie.device).expand_as(by_leaf),
        torch.where(count > 0, by_leaf, -torch.inf),
        k,
    )
    ids = ranked.items - 1
    counts = torch.where(ids >= 0, count.gather(1, ids.clamp(min=0)), 0)
    return BeamResult(result.items, result.scores, ids, counts)
