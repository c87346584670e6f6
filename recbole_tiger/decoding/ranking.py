"""Ranking of candidates, and the arguments that every search checks.

Input: scores and numbers that break ties. Output: the best items, in an order that no device or batch changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tiger.decoding.types import BeamResult


def rank_items(items: Tensor, scores: Tensor, k: int) -> BeamResult:
    """The `k` best of candidates `[B, C]` by (score, item number); a score of `-inf` means no candidate."""
    best = sort_keys(scores, items).topk(min(k, items.shape[1]), dim=1).indices
    scores = scores.gather(1, best)
    items = torch.where(scores > -torch.inf, items.gather(1, best), 0)
    missing = k - items.shape[1]
    if missing > 0:
        items = F.pad(items, (0, missing))
        scores = F.pad(scores, (0, missing), value=-torch.inf)
    return BeamResult(items, scores)


def of_one_width(parts: Sequence[BeamResult]) -> list[BeamResult]:
    """The same results without `ids`, with 0 and `-inf` at the ends of rows up to the width of the widest."""
    width = max(part.items.shape[1] for part in parts)
    more = [width - part.items.shape[1] for part in parts]
    return [
        BeamResult(F.pad(part.items, (0, n)), F.pad(part.scores, (0, n), value=-torch.inf))
        for part, n in zip(parts, more, strict=True)
    ]


def sort_keys(rank: Tensor, tie: Tensor) -> Tensor:
    """int64 keys whose descending order is that of float32 `rank`, equal ranks by ascending `tie` (below 2**32).

    With distinct keys a top-k has one answer, on every device and in every batch.
    """
    bits = (rank + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (0xFFFFFFFF - tie)


def log_sum_exp(logits: Tensor) -> Tensor:
    """As `torch.logsumexp` over the last dimension, without its passes over the input in search of infinities."""
    highest = logits.amax(-1, keepdim=True)
    return (logits - highest).exp_().sum(-1).log_() + highest[..., 0]


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
    values = [temperature] * depth if isinstance(temperature, (int, float)) else list(temperature)
    if len(values) != depth:
        raise ValueError(f"temperature names {len(values)} levels, but a semantic ID has {depth}")
    if not all(value > 0 for value in values):
        raise ValueError(f"temperature must be positive, but it is {temperature}")
    return [float(value) for value in values]


def check_normalise(normalise: str) -> None:
    """ValueError unless `normalise` is one of `Normalise`."""
    if normalise not in ("level", "children"):
        raise ValueError(f"normalise must be 'level' or 'children', but it is {normalise!r}")


def check_logits(logits: Tensor, level: int, n_users: int, n_beams: int, size: int) -> None:
    """Raise ValueError for logits of a decoder that are not `[n_users, n_beams, size]`, or wider."""
    if logits.dim() != 3 or tuple(logits.shape[:2]) != (n_users, n_beams) or logits.shape[2] < size:
        raise ValueError(
            f"the decoder's logits of level {level} must be [users, beams, codewords] = [{n_users}, {n_beams}, {size}],"
            f" but their shape is {list(logits.shape)}"
        )
