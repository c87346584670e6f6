"""Beam search inside a prefix trie: per-level logits of any decoder in, ranked items with log-probabilities out.

Input: a `StepDecoder` and the trie of a catalogue. Output: a `BeamResult`; every ID found is an item's. All users and
beams advance together; there is no loop over either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_tiger.decoding.children import Beams, Draw, FixedChildren, RaggedChildren
from recbole_tiger.decoding.ranking import (
    check_excluded,
    check_logits,
    check_normalise,
    checked_k,
    checked_temperatures,
    items_on,
    log_sum_exp,
    scaled,
    sort_keys,
    widened,
)
from recbole_tiger.decoding.trie import ExhaustedNodes, PrefixTrie
from recbole_tiger.decoding.types import BeamResult, ChildStepDecoder, FreeBeamResult, Normalise, StepDecoder


def beam_search(
    decoder: StepDecoder,
    trie: PrefixTrie,
    *,
    beam_size: int,
    k: int | None = None,
    excluded: Tensor | None = None,
    temperature: float | Sequence[float] = 1.0,
    normalise: Normalise = "level",
    sample: bool = False,
    generator: torch.Generator | None = None,
    windows: Literal["auto", "ragged", "fixed"] = "auto",
) -> BeamResult:
    """The `k` best items of each user among those that a beam of `beam_size` prefixes reaches.

    Args:
        decoder: fresh; `begin` has not been called.
        trie: on the device of the decoder's logits.
        beam_size: prefixes kept per level; at least `k`. As wide as the catalogue, the search is exhaustive.
        k: items per user, by default `beam_size`.
        excluded: `[B, S]` item numbers never to be returned, padded with 0. A prefix with nothing but excluded items
            below is dropped where it appears, so that `k` items remain whenever the catalogue has as many.
        temperature: divides the logits; one for all levels, or one per level.
        normalise: what a codeword's probability is relative to. `"level"`: the whole codebook of the level, the model's
            own likelihood, with probability lost to codes that do not exist. `"children"`: the children of the prefix,
            so that the probabilities of all semantic IDs sum to 1.
        sample: draw the items at random instead of taking the best: distinct semantic IDs, without replacement, by
            probability over the children at the given temperature, whatever `normalise` says of the scores
            (Gumbel-top-k along the trie: Kool et al., "Stochastic Beams and Where to Find Them", 2019).
        generator: of the random numbers, on the trie's device; None: torch's global one.
        windows: how children are laid out. `"ragged"` computes existing children only, with shapes that depend on the
            data; `"fixed"` pads every node to the level's widest, with shapes that do not. The results are the same;
            `"auto"` is ragged on the CPU and fixed elsewhere.

    Returns:
        Items sorted by score, ties by item number.

    Raises:
        ValueError: an impossible `beam_size`, `k`, `temperature`, `normalise`, `windows` or `excluded`, or logits of
            another shape.
    """
    k = checked_k(k, beam_size)
    temperatures = checked_temperatures(temperature, trie.depth)
    check_normalise(normalise)
    if windows not in ("auto", "ragged", "fixed"):
        raise ValueError(f"windows must be 'auto', 'ragged' or 'fixed', but it is {windows!r}")
    ragged = trie.device.type == "cpu" if windows == "auto" else windows == "ragged"
    search = _Search(decoder, trie, beam_size, temperatures, normalise == "children", ragged, sample, generator)
    return search.run(k, excluded)


@dataclass
class _Search:
    """One search: its decoder, trie and options, and, once `run` has begun, the nodes that `excluded` exhausts."""

    decoder: StepDecoder
    trie: PrefixTrie
    beam_size: int
    temperatures: list[float]
    over_children: bool  # the scores are relative to the children of a prefix
    ragged: bool
    sample: bool
    generator: torch.Generator | None
    exhausted: ExhaustedNodes | None = None

    def run(self, k: int, excluded: Tensor | None) -> BeamResult:
        """The `k` best items of each user without those that are excluded."""
        logits = self.decoder.begin()
        n_users = len(logits)
        check_logits(logits, 0, n_users, 1, self.trie.level_sizes[0])
        check_excluded(excluded, n_users)
        if excluded is not None:
            self.exhausted = self.trie.exhausted(excluded)
        beams = Beams.root(n_users, logits.device, sample=self.sample)
        beams = self._expand(0, beams, FixedChildren(self.trie, 0, beams), logits)
        for level in range(1, self.trie.depth):
            beams = self._expand(level, beams, *self._advance(level, beams))
        draw = None if beams.draw is None else beams.draw.gumbel
        return items_on(self.trie, beams.node, beams.score, k, self.exhausted, draw)

    def _advance(self, level: int, beams: Beams) -> tuple[FixedChildren | RaggedChildren, Tensor]:
        """Children of the beams at `level`, and the logits that they are chosen by."""
        trie = self.trie
        codes = trie.tokens[level - 1][beams.node].long()
        # Where probabilities are over children only and these are listed one by one, a decoder may know a short cut.
        if self.ragged and self.over_children and hasattr(self.decoder, "advance_to_children"):
            decoder, children = cast(ChildStepDecoder, self.decoder), RaggedChildren(trie, level, beams)
            return children, decoder.advance_to_children(level, beams.parent, codes, children.child, children.count)
        logits = self.decoder.advance(level, beams.parent, codes)
        check_logits(logits, level, codes.shape[0], codes.shape[1], trie.level_sizes[level])
        return (RaggedChildren if self.ragged else FixedChildren)(trie, level, beams), logits

    def _expand(self, level: int, beams: Beams, children: FixedChildren | RaggedChildren, logits: Tensor) -> Beams:
        """The best children of all beams of a user as the beams of `level`."""
        trie = self.trie
        logits = scaled(logits, self.temperatures[level])
        chosen = children.take(logits)
        log_sum = children.log_sum(chosen) if self.over_children else log_sum_exp(logits)  # [B, K]
        score = children.of_beams(beams.score - log_sum) + chosen
        draw = None
        if beams.draw is not None:
            children_sum = log_sum if self.over_children else children.log_sum(chosen)
            draw = self._draw(beams.draw, children, chosen, children_sum)
        if self.exhausted is not None:
            score = torch.where(self.exhausted.has(level, children.user, children.child), -torch.inf, score)
        # A dead beam's Gumbel is undefined; its children stay dead.
        rank = score if draw is None else torch.where(score > -torch.inf, draw.gumbel, -torch.inf)
        tie = trie.first_item(children.child) if level + 1 == trie.depth else children.child
        best = children.best(rank, tie, min(self.beam_size, trie.n_nodes[level]))
        score = children.picked_score(score, best)
        if draw is not None:
            draw = Draw(children.pick(draw.log_probability, best), children.picked_score(rank, best))
        return Beams(children.pick(children.child, best), children.picked_parent(best), score, draw)

    def _draw(
        self, above: Draw, children: FixedChildren | RaggedChildren, chosen: Tensor, children_sum: Tensor
    ) -> Draw:
        """A draw of the children's Gumbels: those of siblings have their parent's as their maximum.

        Kool et al. 2019, appendix B.3.
        """
        log_probability = children.of_beams(above.log_probability - children_sum) + chosen
        noise = torch.empty(log_probability.shape, device=chosen.device).exponential_(generator=self.generator)
        gumbel = log_probability - noise.log()
        parent, highest = children.of_beams(above.gumbel), children.of_beams(children.highest(gumbel))
        v = parent - gumbel + torch.log1p(-torch.exp(gumbel - highest))
        return Draw(log_probability, parent - v.clamp(min=0) - torch.log1p(torch.exp(-v.abs())))


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
        check_logits(logits, level, score.shape[0], score.shape[1], size)
        n_candidates = logits.shape[1] * size
        total = (score[:, :, None] + (logits - log_sum_exp(logits)[:, :, None])[..., :size]).flatten(1)
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
    ids, leaf = ids[:, :k], trie.find(ids[:, :k])
    items = torch.where(leaf >= 0, trie.first_item(leaf.clamp(min=0)), 0)
    found = widened(items, score[:, :k], k)  # where fewer than k IDs exist at all
    return FreeBeamResult(F.pad(ids, (0, 0, 0, k - ids.shape[1])), found.scores, found.items)
