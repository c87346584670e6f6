"""Searches for models that predict all codewords of an item at once, none of them depending on the others.

Input: logits of every level, and the codewords of all items. Output: scores of all items, or items found by a walk over
a graph of similar IDs, as in RPG (Hou et al., "Generating Long Semantic IDs in Parallel for Recommendation", KDD 2025,
section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tiger.decoding.ranking import check_excluded, checked_k, checked_temperatures, items_on, rank_items, scaled
from recbole_tiger.decoding.trie import PrefixTrie
from recbole_tiger.decoding.types import BeamResult, ForkableStepDecoder, Normalise

_USERS = 64  # whose sums are computed at a time: their columns of the codewords' scores stay in the cache of a CPU


class ParallelStepDecoder:
    """A `ForkableStepDecoder` whose logits do not depend on the codewords chosen so far.

    Args:
        logits: `[B, V_l]` of each level.
        codewords: int64 `[n_items + 1, L]`: number of each item's codewords among those of all levels, one level after
            the other; any in row 0.
        graph: from a number of neighbours to the graph of the catalogue's IDs, for `graph_search`.
    """

    def __init__(
        self, logits: Sequence[Tensor], codewords: Tensor, graph: Callable[[int], IDGraph] | None = None
    ) -> None:
        self.logits = list(logits)
        self.codewords = codewords
        self.graph = graph

    def begin(self) -> Tensor:
        return self.logits[0][:, None]

    def advance(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        return self.logits[level][:, None].expand(-1, codes.shape[1], -1)

    def fork(self) -> ParallelStepDecoder:
        """Itself: it has no state."""
        return self

    def log_probabilities(self, temperature: float | Sequence[float]) -> Tensor:
        """Of all codewords, `[B, V]` float32, one level after the other."""
        temperatures = checked_temperatures(temperature, len(self.logits))
        levels = zip(self.logits, temperatures, strict=True)
        return torch.cat([scaled(logits, value).log_softmax(1) for logits, value in levels], 1)

    def item_scores(self, temperature: float | Sequence[float]) -> Tensor:
        """Log-probability of every item, `[B, n_items + 1]`; `-inf` at 0."""
        scores = item_sums(self.log_probabilities(temperature), self.codewords)
        scores[:, 0] = -torch.inf
        return scores


def item_sums(values: Tensor, codewords: Tensor) -> Tensor:
    """Sum over each item's codewords of `values` `[B, V]`: `[B, n]` for codewords `[n, L]`."""
    out = values.new_empty(len(values), len(codewords))
    for start in range(0, len(values), _USERS):
        columns = values[start : start + _USERS].t().contiguous()
        out[start : start + _USERS] = F.embedding_bag(codewords, columns, mode="sum").t()
    return out


@dataclass(frozen=True)
class IDGraph:
    """Semantic IDs, as leaves of a trie, that are linked to those most similar to them.

    Attributes:
        codewords: int64 `[n, L]` of each ID, numbered as for `ParallelStepDecoder`.
        neighbours: int64 `[n, n_neighbours]`, most similar first; an ID is its own neighbour.
    """

    codewords: Tensor
    neighbours: Tensor

    @classmethod
    def of(cls, similarities: Sequence[Tensor], codewords: Tensor, n_neighbours: int) -> IDGraph:
        """The graph in which the similarity of two IDs is the mean over levels of that of their codewords.

        The time grows with the square of the catalogue, the memory does not.

        Args:
            similarities: of the codewords of each level, `[V_l, V_l]`.
            n_neighbours: at most all IDs are.
        """
        sizes, number = [len(each) for each in similarities], torch.arange(len(codewords), device=codewords.device)
        offsets = [sum(sizes[:level]) for level in range(len(sizes))]
        parts = []
        for ids in number.split(_USERS):
            columns = zip(similarities, codewords[ids].t(), offsets, strict=True)
            values = torch.cat([similarity[column - offset] for similarity, column, offset in columns], 1)
            sums = item_sums(values, codewords) / len(sizes)
            parts.append(rank_items((number + 1).expand_as(sums), sums, min(n_neighbours, len(codewords))).items - 1)
        return cls(codewords, torch.cat(parts))


def graph_search(
    decoder: ForkableStepDecoder,
    trie: PrefixTrie,
    *,
    k: int,
    beam_size: int,
    excluded: Tensor | None = None,
    temperature: float | Sequence[float] = 1.0,
    normalise: Normalise = "level",
    neighbours: int = 100,
    steps: int = 3,
) -> BeamResult:
    """The `k` best items on the IDs that a walk over a graph of similar IDs meets; arguments as in `beam_search`.

    It starts from `beam_size` IDs drawn at random, the same for all users, so that no batch changes a result. A step
    scores the neighbours of the beam, and the best of all that it met are the next beam. Excluded items are walked
    over, and left out at the end.

    Args:
        neighbours: of each ID in the graph.
        steps: of the walk.

    Raises:
        ValueError: a decoder that has no graph, or an impossible argument.
    """
    if not isinstance(decoder, ParallelStepDecoder) or decoder.graph is None:
        raise ValueError("a graph search needs a decoder whose levels do not depend on each other, and its graph")
    if normalise != "level":
        raise ValueError(f"a graph search has no prefixes: normalise must be 'level', but it is {normalise!r}")
    if neighbours < 1 or steps < 1:
        raise ValueError(f"neighbours and steps must be at least 1, but they are {neighbours} and {steps}")
    k = checked_k(k, beam_size)
    values, graph = decoder.log_probabilities(temperature), decoder.graph(neighbours)
    check_excluded(excluded, len(values))
    start = torch.randperm(len(graph.codewords), generator=torch.Generator().manual_seed(0))[:beam_size]
    beam = start.to(values.device).expand(len(values), -1)
    width = max(beam_size, k + (0 if excluded is None else excluded.shape[1]))
    for _ in range(steps):
        met = torch.cat([beam, graph.neighbours[beam].flatten(1)], 1).sort(1).values
        scores = sum(values.gather(1, column[met]) for column in graph.codewords.t())
        assert isinstance(scores, Tensor)
        scores[:, 1:].masked_fill_(met[:, 1:] == met[:, :-1], -torch.inf)
        found = rank_items(trie.first_item(met), scores, min(width, met.shape[1]))
        beam = trie.leaf_of(torch.where(found.items > 0, found.items, found.items[:, :1])[:, :beam_size])
    exhausted = None if excluded is None else trie.exhausted(excluded)
    return items_on(trie, trie.leaf_of(found.items), found.scores, k, exhausted)
