"""Ranking of candidates, and the arguments that every search checks.

Input: scores and numbers that break ties. Output: the best items, in an order that no device or batch changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tiger.decoding.trie import ExhaustedNodes, PrefixTrie
from recbole_tiger.decoding.types import BeamResult


def rank_items(items: Tensor, scores: Tensor, k: int) -> BeamResult:
    """The `k` best of candidates `[B, C]` by (score, item number); a score of `-inf` means no candidate."""
    best = sort_keys(scores, items).topk(min(k, items.shape[1]), dim=1).indices
    scores = scores.gather(1, best)
    return widened(torch.where(scores > -torch.inf, items.gather(1, best), 0), scores, k)


def items_on(
    trie: PrefixTrie,
    leaves: Tensor,
    scores: Tensor,
    k: int,
    exhausted: ExhaustedNodes | None,
    draw: Tensor | None = None,
) -> BeamResult:
    """The `k` best items without exhausted ones on semantic IDs; equal scores by item number.

    Args:
        leaves: `[B, K]` distinct leaves, best first; any number where the score is `-inf`.
        scores: `[B, K]` of each.
        draw: `[B, K]` by what a sample has drawn the IDs; the items are the first `k` drawn.
    """
    n_leaves, users = trie.n_nodes[-1], torch.arange(len(leaves), device=trie.device)[:, None]
    first, count = trie.children(trie.depth - 1, leaves.clamp(max=n_leaves - 1))
    # Exhausted items may stand before the wanted ones of the same ID.
    n_gone = 0 if exhausted is None else len(exhausted.keys[trie.depth]) // len(users)
    window = torch.arange(min(trie.max_degree[-1], k + n_gone), device=trie.device)
    exists = window < count[:, :, None]
    position = torch.where(exists, first[:, :, None] + window, 0)  # [B, K, W]
    if exhausted is not None:
        exists &= ~exhausted.has(trie.depth, users[:, :, None], position)
        count = count - exhausted.count(trie.depth, users, first, count)
    items = trie.items[position].long().flatten(1)
    score = torch.where(exists, scores[:, :, None], -torch.inf).flatten(1)
    if draw is not None:
        drawn = torch.where(exists, draw[:, :, None], -torch.inf).flatten(1)
        best = sort_keys(drawn, items).topk(min(k, items.shape[1]), dim=1).indices
        items, score = items.gather(1, best), score.gather(1, best)
    result = rank_items(items, score, k)
    if not trie.has_duplicates:
        return result
    count = torch.where(scores > -torch.inf, count, 0)
    order = (count == 0).int().argsort(dim=1, stable=True)  # IDs without any item come last
    ids = torch.where(count > 0, leaves, -1).gather(1, order)
    return BeamResult(result.items, result.scores, ids, count.gather(1, order))


def widened(items: Tensor, scores: Tensor, width: int) -> BeamResult:
    """Ranked items `[B, C]` and their scores with 0 and `-inf` at the ends of rows up to `width`."""
    more = (0, max(width - items.shape[1], 0))
    return BeamResult(F.pad(items, more), F.pad(scores, more, value=-torch.inf))


def of_one_width(parts: Sequence[BeamResult]) -> list[BeamResult]:
    """The same results without `ids`, as wide as the widest."""
    width = max(part.items.shape[1] for part in parts)
    return [widened(part.items, part.scores, width) for part in parts]


def sort_keys(rank: Tensor, tie: Tensor) -> Tensor:
    """int64 keys whose descending order is that of `rank` in float32, equal ranks by ascending `tie` (below 2**32).

    With distinct keys a top-k has one answer, on every device and in every batch.
    """
    bits = (rank.float() + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (0xFFFFFFFF - tie)


def log_sum_exp(logits: Tensor) -> Tensor:
    """As `torch.logsumexp` over the last dimension, without its passes over the input in search of infinities.

    Where all are `-inf` it is the lowest finite number, relative to which each of them has the probability 0.
    """
    lowest = torch.finfo(logits.dtype).min
    highest = logits.amax(-1, keepdim=True).clamp_(min=lowest)
    return ((logits - highest).exp_().sum(-1).log_() + highest[..., 0]).clamp_(min=lowest)


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """Logits in float32, divided by the temperature."""
    logits = logits.float()
    return logits if temperature == 1 else logits / temperature


def checked_k(k: int | None, beam_size: int) -> int:
    """`k`, by default the width of the beam; ValueError where the beam cannot hold as many items."""
    k = beam_size if k is None else k
    if not 1 <= k <= beam_size:
        raise ValueError(
            f"a beam search returns 1 to beam_size items, but k is {k} and beam_size is {beam_size}; raise "
            "beam_size or lower k"
        )
    return k


def checked_temperatures(temperature: float | Sequence[float], depth: int) -> list[float]:
    """The positive temperature of each of `depth` levels; ValueError where they are not."""
    values = [temperature] * depth if isinstance(temperature, (int, float, np.number)) else list(temperature)
    if len(values) != depth:
        raise ValueError(f"temperature names {len(values)} levels, but a semantic ID has {depth}")
    if not all(value > 0 for value in values):
        raise ValueError(f"temperature must be positive, but it is {temperature}")
    return [float(value) for value in values]


def check_normalise(normalise: str) -> None:
    """ValueError unless `normalise` is one of `Normalise`."""
    if normalise not in ("level", "children"):
        raise ValueError(f"normalise must be 'level' or 'children', but it is {normalise!r}")


def check_excluded(excluded: Tensor | None, n_users: int) -> None:
    """Raise ValueError for excluded items that are not `[n_users, any]`."""
    if excluded is None:
        return
    if excluded.dim() != 2:
        raise ValueError(f"excluded must be [users, items], but its shape is {list(excluded.shape)}")
    if len(excluded) != n_users:
        raise ValueError(f"excluded names {len(excluded)} users, but the decoder has {n_users}")


def check_logits(logits: Tensor, level: int, n_users: int, n_beams: int, size: int) -> None:
    """Raise ValueError for logits of a decoder that are not `[n_users, n_beams, size]`, or wider."""
    if logits.dim() != 3 or tuple(logits.shape[:2]) != (n_users, n_beams) or logits.shape[2] < size:
        raise ValueError(
            f"the decoder's logits of level {level} must be [users, beams, codewords] = [{n_users}, {n_beams}, {size}],"
            f" but their shape is {list(logits.shape)}"
        )
