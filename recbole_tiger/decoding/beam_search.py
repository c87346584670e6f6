"""Beam search over a prefix trie: per-level logits of any decoder come in, ranked items with
log-probabilities go out.

All users and beams advance together; there is no loop over either. `beam_search` stays inside the trie, so
every result is an item; `free_beam_search` does not, and tells which of its semantic IDs exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from recbole_tiger.decoding.trie import ExhaustedNodes, PrefixTrie

# A level whose table of children by codeword has at most so many cells is looked up densely on an
# accelerator.
_DENSE_CELLS = 2**22


class StepDecoder(Protocol):
    """What a search needs of a model: logits over one level's codebook, for B users and K beams of each."""

    def begin(self) -> Tensor:
        """Logits `[B, 1, V_0]` of the first level."""

    def advance(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits `[B, K, V_level]` of `level`, after the choice of the level before.

        Args:
            parents: `[B, K]`, the beam of the previous step that each beam continues.
            codes: `[B, K]`, the codeword chosen for it at `level - 1`.
        """


class ChildStepDecoder(StepDecoder, Protocol):
    """A `StepDecoder` that can give the logits of the children of prefixes alone, where no others are needed."""

    def advance_to_children(self, level: int, parents: Tensor, codes: Tensor, child: Tensor, count: Tensor) -> Tensor:
        """Logits `[M]` of `child`, to be compared with those of siblings only; where there are none it may be any.

        Args:
            parents, codes: as for `advance`.
            child: `[M]` nodes of `level`: the children of each beam's node in order, beam by beam.
            count: `[B * K]` children of each beam.
        """


@dataclass(frozen=True)
class BeamResult:
    """Ranked items of each user: highest score first, equal scores by item number.

    Attributes:
        items: `[B, k]` int64 item numbers, 0 where there are fewer than k.
        scores: `[B, k]` float32 log-probabilities of their semantic IDs, `-inf` there.
        ids: where items share semantic IDs: `[B, K]` the IDs found, best first, as leaves of the trie, -1 where there
            are fewer; else None.
        id_counts: with `ids`: `[B, K]` items of each ID, without excluded ones.
    """

    items: Tensor
    scores: Tensor
    ids: Tensor | None = None
    id_counts: Tensor | None = None

    @classmethod
    def gathered(cls, parts: Sequence[BeamResult], order: Tensor) -> BeamResult:
        """One result of several, whose users together are the rows `order` `[B]` of a batch, in the batch's order."""
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        columns = ([getattr(part, name) for part in parts] for name in ("items", "scores", "ids", "id_counts"))
        return cls(*(None if column[0] is None else torch.cat(column)[back] for column in columns))


@dataclass(frozen=True)
class FreeBeamResult:
    """Ranked semantic IDs of each user from an unconstrained search.

    Attributes:
        codes: `[B, k, depth]` int64.
        scores: `[B, k]` float32 log-probabilities, `-inf` where there are fewer than k.
        items: `[B, k]` int64, the (first) item of the ID, 0 for an ID that no item has.
    """

    codes: Tensor
    scores: Tensor
    items: Tensor

    @property
    def valid(self) -> Tensor:
        """bool `[B, k]`: does the ID belong to an item?"""
        return self.items > 0


@dataclass(frozen=True)
class _Beams:
    """The K beams of each user after a level; all `[B, K]`. A dead beam has the score `-inf`."""

    node: Tensor  # node of the trie
    parent: Tensor  # beam of the level before
    score: Tensor  # log-probability so far
    legal: Tensor | None = None  # when sampling: log-probability over legal children only …
    gumbel: Tensor | None = None  # … and the perturbed one that ranks the beams


@dataclass(frozen=True)
class _Options:
    beam_size: int
    legal: bool
    sample: bool
    generator: torch.Generator | None


def beam_search(
    decoder: StepDecoder,
    trie: PrefixTrie,
    *,
    beam_size: int,
    k: int | None = None,
    excluded: Tensor | None = None,
    temperature: float | Sequence[float] = 1.0,
    normalise: Literal["level", "legal"] = "level",
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
        excluded: `[B, S]` item numbers never to be returned, padded with 0. A prefix with nothing but
            excluded items below is dropped where it appears, so that `k` items remain whenever the catalogue
            has as many.
        temperature: divides the logits; one for all levels, or one per level.
        normalise: what a codeword's probability is relative to. `"level"`: the whole codebook of the level,
            the model's own likelihood, with probability lost to codes that do not exist. `"legal"`: the
            codewords that continue the prefix to some item, so that the probabilities of all semantic IDs sum
            to 1.
        sample: draw the items at random instead of taking the best: distinct semantic IDs, without
            replacement, by probability over legal continuations at the given temperature, whatever
            `normalise` says of the scores (Gumbel-top-k along the trie: Kool et al., "Stochastic Beams and
            Where to Find Them", 2019).
        generator: of the random numbers, on the trie's device; None: torch's global one.
        windows: how children are laid out. `"ragged"` touches existing children only, with shapes that depend
            on the data; `"fixed"` pads every node to the level's widest, with shapes that do not. The results
            are the same; `"auto"` is ragged on the CPU and fixed elsewhere.

    Returns:
        Items sorted by score, ties by item number.

    Raises:
        ValueError: an impossible `beam_size`, `k`, `temperature`, `normalise` or `windows`.
    """
    k = _check_k(k, beam_size)
    temperatures = _temperatures(temperature, trie.depth)
    if normalise not in ("level", "legal"):
        raise ValueError(f"normalise must be 'level' or 'legal', but it is {normalise!r}")
    if windows not in ("auto", "ragged", "fixed"):
        raise ValueError(f"windows must be 'auto', 'ragged' or 'fixed', but it is {windows!r}")
    if excluded is not None and excluded.dim() != 2:
        raise ValueError(f"excluded must be [users, items], but its shape is {list(excluded.shape)}")
    ragged = trie.device.type == "cpu" if windows == "auto" else windows == "ragged"
    options = _Options(beam_size, normalise == "legal", sample, generator)
    gone = None if excluded is None else trie.exhausted(excluded)

    # Where probabilities are over children only, and children are listed one by one, a decoder may know a short cut.
    by_child = ragged and options.legal and hasattr(decoder, "advance_to_children")

    beams: _Beams | None = None
    for level in range(trie.depth):
        if beams is None:
            logits = decoder.begin()
        else:
            codes = trie.tokens[level - 1][beams.node].long()
            if by_child:
                children = _RaggedChildren(trie, level, beams)
                logits = decoder.advance_to_children(level, beams.parent, codes, children.child, children.count)
            else:
                logits = decoder.advance(level, beams.parent, codes)
        logits = logits.float()
        if temperatures[level] != 1:
            logits = logits / temperatures[level]
        if beams is None:
            if excluded is not None and len(excluded) != len(logits):
                raise ValueError(f"excluded names {len(excluded)} users, but the decoder has {len(logits)}")
            beams = _root(logits.shape[0], logits.device, sample)
            children = _RootChildren(trie, logits.shape[0])
        elif not by_child:
            children = (_RaggedChildren if ragged else _FixedChildren)(trie, level, beams)
        beams = _expand(trie, level, beams, children, logits, options, gone)
    return _items_below(trie, beams, k, gone, options)


def free_beam_search(
    decoder: StepDecoder,
    level_sizes: Sequence[int],
    trie: PrefixTrie,
    *,
    beam_size: int,
    k: int | None = None,
    temperature: float | Sequence[float] = 1.0,
) -> FreeBeamResult:
    """The `k` best semantic IDs of each user, items or not: beam search over all codes of every level.

    The paper counts the IDs that no item has among them (section 4.5, Figure 6). Arguments as in
    `beam_search`; `level_sizes` must be the trie's, on which the IDs are looked up. Ties are broken by the
    ID, in ascending order.
    """
    k = _check_k(k, beam_size)
    sizes = tuple(int(size) for size in level_sizes)
    if sizes != trie.level_sizes:
        raise ValueError(f"level_sizes are {sizes}, but the trie was built for {trie.level_sizes}")
    temperatures = _temperatures(temperature, len(sizes))
    score = ids = parent = None
    for level, size in enumerate(sizes):
        logits = decoder.begin() if level == 0 else decoder.advance(level, parent, ids[:, :, -1])
        logits = logits.float()
        if temperatures[level] != 1:
            logits = logits / temperatures[level]
        n_users, n_beams, _ = logits.shape
        steps = logits - _log_sum_exp(logits)[:, :, None]
        total = (steps if score is None else score[:, :, None] + steps).reshape(n_users, n_beams * size)
        # Beams are kept in lexicographic order of their codes, so the flat index breaks ties by the ID.
        index = torch.arange(n_beams * size, device=logits.device)
        best = _sort_keys(total, index).topk(min(beam_size, n_beams * size), dim=1).indices
        if level + 1 < len(sizes):
            best = best.sort(dim=1).values
        score = total.gather(1, best)
        parent = best // size
        code = (best % size)[:, :, None]
        ids = code if ids is None else torch.cat([ids.gather(1, parent[:, :, None].expand(-1, -1, level)), code], 2)
    ids, score = ids[:, :k], score[:, :k]
    leaf = trie.find(ids)
    items = torch.where(leaf >= 0, _first_item(trie, leaf.clamp(min=0)), 0)
    missing = k - ids.shape[1]
    if missing > 0:  # fewer IDs than k exist at all
        ids = torch.nn.functional.pad(ids, (0, 0, 0, missing))
        score = torch.nn.functional.pad(score, (0, missing), value=-torch.inf)
        items = torch.nn.functional.pad(items, (0, missing))
    return FreeBeamResult(ids, score, items)


def rank_items(items: Tensor, scores: Tensor, k: int) -> BeamResult:
    """The `k` best of candidates `[B, C]` by (score, item number); a score of `-inf` means no candidate."""
    best = _sort_keys(scores, items).topk(min(k, items.shape[1]), dim=1).indices
    scores = scores.gather(1, best)
    items = torch.where(scores > -torch.inf, items.gather(1, best), 0)
    missing = k - items.shape[1]
    if missing > 0:
        items = torch.nn.functional.pad(items, (0, missing))
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    return BeamResult(items, scores)


def _check_k(k: int | None, beam_size: int) -> int:
    k = beam_size if k is None else k
    if not 1 <= k <= beam_size:
        raise ValueError(f"a beam search returns 1 to beam_size items, but k is {k} and beam_size is {beam_size}")
    return k


def _temperatures(temperature: float | Sequence[float], depth: int) -> list[float]:
    values = [temperature] * depth if isinstance(temperature, (int, float)) else list(temperature)
    if len(values) != depth:
        raise ValueError(f"temperature names {len(values)} levels, but a semantic ID has {depth}")
    if not all(value > 0 for value in values):
        raise ValueError(f"temperature must be positive, but it is {temperature}")
    return [float(value) for value in values]


class _FixedChildren:
    """Children of all beams in windows of one width, `[B, K, W]`: shapes depend on the trie, never on the beams."""

    def __init__(self, trie: PrefixTrie, level: int, beams: _Beams) -> None:
        n_above, width = trie.n_nodes[level - 1], trie.max_degree[level]
        vocabulary = trie.level_sizes[level]
        self.token: Tensor | None = None
        if n_above * vocabulary <= _DENSE_CELLS and 2 * width >= vocabulary:
            # A window of the whole codebook in the logits' own order needs no codewords and no gather.
            child = trie.dense_children(level - 1)[beams.node].long()
            self.exists = child >= 0
            self.child = child.clamp(min=0)
        else:
            first, count = trie.children(level - 1, beams.node)
            window = torch.arange(width, device=trie.device)
            self.exists = window < count[:, :, None]
            self.child = torch.where(self.exists, first[:, :, None] + window, 0)
            self.token = trie.tokens[level][self.child].long()

    @property
    def user(self) -> Tensor:
        """User of each candidate, in a shape that broadcasts with the candidates."""
        return torch.arange(len(self.child), device=self.child.device)[:, None, None]

    def take(self, logits: Tensor) -> Tensor:
        """The candidates' logits out of `[B, K, V]`."""
        taken = logits if self.token is None else logits.gather(2, self.token)
        return torch.where(self.exists, taken, -torch.inf)

    def spread(self, beams: Tensor) -> Tensor:
        """Values of beams `[B, K]` at their candidates."""
        return beams[:, :, None]

    def highest(self, values: Tensor) -> Tensor:
        """Largest value of each beam's candidates, `[B, K]`."""
        return values.amax(-1)

    def log_sum(self, values: Tensor) -> Tensor:
        """`logsumexp` over each beam's candidates, `[B, K]`."""
        return torch.logsumexp(values, -1)

    def best(self, rank: Tensor, tie: Tensor, n: int) -> Tensor:
        """Handles `[B, n]` of each user's `n` best candidates by (rank, tie)."""
        keys = _sort_keys(rank, tie).flatten(1)
        return keys.topk(min(n, keys.shape[1]), dim=1).indices

    def pick(self, values: Tensor, best: Tensor) -> Tensor:
        return values.flatten(1).gather(1, best)

    def picked_score(self, values: Tensor, best: Tensor) -> Tensor:
        return self.pick(values, best)

    def picked_parent(self, best: Tensor) -> Tensor:
        return best // self.child.shape[2]


class _RootChildren(_FixedChildren):
    """The nodes of level 0, for every user the same."""

    def __init__(self, trie: PrefixTrie, n_users: int) -> None:
        self.child = torch.arange(trie.n_nodes[0], device=trie.device).expand(n_users, 1, -1)
        self.exists = torch.ones((), dtype=torch.bool, device=trie.device)
        self.token = None
        if trie.n_nodes[0] < trie.level_sizes[0]:
            self.token = trie.tokens[0].long().expand(n_users, 1, -1)


class _RaggedChildren:
    """Children of all beams one after the other, `[M]`: nothing but what exists is touched."""

    def __init__(self, trie: PrefixTrie, level: int, beams: _Beams) -> None:
        first, count = trie.children(level - 1, beams.node)
        self.n_users, self.n_beams = beams.node.shape
        self.count = count = count.flatten()
        ends = count.cumsum(0)
        self.beam = torch.repeat_interleave(count)  # flat beam of each candidate
        index = torch.arange(len(self.beam), device=self.beam.device)
        self.child = index + (first.flatten() - ends + count).index_select(0, self.beam)
        self.token = trie.tokens[level].index_select(0, self.child)
        user_ends = ends[self.n_beams - 1 :: self.n_beams]
        self.user_count = user_ends.diff(prepend=user_ends.new_zeros(1))
        self.user_first = user_ends - self.user_count
        self.user = torch.repeat_interleave(self.user_count)

    def take(self, logits: Tensor) -> Tensor:
        if logits.dim() == 1:  # the candidates' own already
            return logits
        return logits.flatten().index_select(0, self.beam * logits.shape[2] + self.token)

    def spread(self, beams: Tensor) -> Tensor:
        return beams.flatten().index_select(0, self.beam)

    def highest(self, values: Tensor) -> Tensor:
        out = values.new_full((self.n_users * self.n_beams,), -torch.inf)
        return out.scatter_reduce_(0, self.beam, values, "amax").view(self.n_users, self.n_beams)

    def log_sum(self, values: Tensor) -> Tensor:
        highest = self.highest(values)
        total = values.new_zeros(self.n_users * self.n_beams)
        total.index_add_(0, self.beam, (values - self.spread(highest)).exp())
        return total.log().view_as(highest) + highest

    def best(self, rank: Tensor, tie: Tensor, n: int) -> Tensor:
        # By rank alone first: where nodes are wide, few candidates are left whose ties have to be broken.
        padded = self._rows(rank, self.user, self.user_first, self.user_count, n, -torch.inf)
        least = padded.topk(n, dim=1, sorted=False).values.amin(1)
        near = (rank >= least.index_select(0, self.user)).nonzero()[:, 0]
        user = self.user.index_select(0, near)
        count = torch.bincount(user, minlength=self.n_users)
        first = count.cumsum(0) - count
        keys = _sort_keys(rank.index_select(0, near), tie.index_select(0, near))
        keys = self._rows(keys, user, first, count, n, torch.iinfo(torch.int64).min)
        best = keys.topk(n, dim=1).indices
        there = best < count[:, None]
        found = near[torch.where(there, first[:, None] + best, 0)] - self.user_first[:, None]
        return torch.where(there, found, self.user_count[:, None])

    def _rows(self, values: Tensor, user: Tensor, first: Tensor, count: Tensor, n: int, filling: float) -> Tensor:
        """Values that stand user by user, `count` `[B]` from `first` `[B]` on, in a row for each: `[B, at least n]`."""
        width = max(int(count.max()), n)
        rows = values.new_full((self.n_users * width,), filling)
        shift = torch.arange(self.n_users, device=values.device) * width - first
        place = torch.arange(len(values), device=values.device) + shift.index_select(0, user)
        return rows.index_copy_(0, place, values).view(self.n_users, width)

    def _flat(self, best: Tensor) -> Tensor:
        return (self.user_first[:, None] + best).clamp(max=len(self.child) - 1)

    def pick(self, values: Tensor, best: Tensor) -> Tensor:
        return values[self._flat(best)]

    def picked_score(self, values: Tensor, best: Tensor) -> Tensor:
        """As `pick`, but `-inf` where a user has fewer candidates."""
        return torch.where(best < self.user_count[:, None], self.pick(values, best), -torch.inf)

    def picked_parent(self, best: Tensor) -> Tensor:
        return self.beam[self._flat(best)] % self.n_beams


def _root(n_users: int, device: torch.device, sample: bool) -> _Beams:
    zero = torch.zeros((n_users, 1), device=device)
    index = zero.long()
    return _Beams(index, index, zero, zero if sample else None, zero if sample else None)


def _expand(
    trie: PrefixTrie,
    level: int,
    beams: _Beams,
    children: _FixedChildren | _RaggedChildren,
    logits: Tensor,
    options: _Options,
    gone: ExhaustedNodes | None,
) -> _Beams:
    """The best children of all beams of a user as the beams of `level`."""
    chosen = children.take(logits)
    legal_whole = children.log_sum(chosen) if options.legal or options.sample else None
    whole = legal_whole if options.legal else _log_sum_exp(logits)  # [B, K]
    score = children.spread(beams.score - whole) + chosen
    legal = gumbel = None
    if options.sample:
        legal = children.spread(beams.legal - legal_whole) + chosen
        gumbel = legal - _exponential(legal.shape, legal.device, options.generator).log()
        gumbel = _condition(gumbel, children.spread(beams.gumbel), children.spread(children.highest(gumbel)))
    if gone is not None:
        score = torch.where(gone.has(level, children.user, children.child), -torch.inf, score)
    if options.sample:
        # A dead beam's Gumbel is undefined; its children stay dead.
        gumbel = torch.where(score > -torch.inf, gumbel, -torch.inf)
    rank = score if gumbel is None else gumbel
    last = level + 1 == trie.depth
    tie = _first_item(trie, children.child) if last else children.child
    best = children.best(rank, tie, min(options.beam_size, trie.n_nodes[level]))
    return _Beams(
        children.pick(children.child, best),
        children.picked_parent(best),
        children.picked_score(score, best),
        None if legal is None else children.pick(legal, best),
        None if gumbel is None else children.picked_score(gumbel, best),
    )


def _items_below(trie: PrefixTrie, beams: _Beams, k: int, gone: ExhaustedNodes | None, options: _Options) -> BeamResult:
    """The items on the leaves of the last beams; equal scores by item number."""
    n_users = len(beams.node)
    first, count = trie.children(trie.depth - 1, beams.node)
    # Excluded items may stand before the wanted ones of the same ID.
    n_excluded = 0 if gone is None else len(gone.keys[trie.depth]) // n_users
    width = min(trie.max_degree[trie.depth], k + n_excluded)
    window = torch.arange(width, device=trie.device)
    exists = window < count[:, :, None]
    position = torch.where(exists, first[:, :, None] + window, 0)  # [B, K, W]
    if gone is not None:
        users = torch.arange(n_users, device=trie.device)[:, None, None]
        exists &= ~gone.has(trie.depth, users, position)
    items = trie.items[position].long().flatten(1)
    score = torch.where(exists, beams.score[:, :, None], -torch.inf).flatten(1)
    if options.sample and beams.node.shape[1] > k:
        # The first k drawn, not the k most probable of a larger draw.
        gumbel = torch.where(exists, beams.gumbel[:, :, None], -torch.inf).flatten(1)
        drawn = _sort_keys(gumbel, items).topk(min(k, items.shape[1]), dim=1).indices
        items, score = items.gather(1, drawn), score.gather(1, drawn)
    result = rank_items(items, score, k)
    if not trie.has_duplicates:
        return result
    if gone is not None:
        count = count - gone.count(trie.depth, torch.arange(n_users, device=trie.device)[:, None], first, count)
    alive = beams.score > -torch.inf
    return BeamResult(result.items, result.scores, torch.where(alive, beams.node, -1), torch.where(alive, count, 0))


def _first_item(trie: PrefixTrie, leaf: Tensor) -> Tensor:
    return trie.items[trie.children(trie.depth - 1, leaf)[0]].long()


def _sort_keys(rank: Tensor, tie: Tensor) -> Tensor:
    """int64 keys whose descending order is that of float32 `rank`, equal ranks by ascending `tie` (below
    2**32).

    With distinct keys a top-k has one answer, on every device and in every batch.
    """
    bits = (rank + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (0xFFFFFFFF - tie)


def _log_sum_exp(logits: Tensor) -> Tensor:
    """As `torch.logsumexp` over the last dimension, without its passes over the input in search of infinities."""
    highest = logits.amax(-1, keepdim=True)
    return (logits - highest).exp_().sum(-1).log_() + highest[..., 0]


def _exponential(shape: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    return torch.empty(shape, device=device).exponential_(generator=generator)


def _condition(gumbel: Tensor, parent: Tensor, highest: Tensor) -> Tensor:
    """Gumbels of siblings, given that their maximum equals the parent's (Kool et al. 2019, appendix B.3)."""
    v = parent - gumbel + torch.log1p(-torch.exp(gumbel - highest))
    return parent - v.clamp(min=0) - torch.log1p(torch.exp(-v.abs()))
