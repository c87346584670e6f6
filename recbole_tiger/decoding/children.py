"""Children of beams in a prefix trie, laid out for a search: in windows of a fixed width, or one after the other.

Input: the beams of a level. Output: their children as candidates, and sums, maxima and the best of values that stand at
the candidates. Both layouts give the same results.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_tiger.decoding.ranking import sort_keys
from recbole_tiger.decoding.trie import PrefixTrie

# A level whose table of children by codeword has at most so many cells is looked up densely on an accelerator.
_DENSE_CELLS = 2**22


@dataclass(frozen=True)
class Draw:
    """What a search that samples knows of beams or candidates beside their scores."""

    log_probability: Tensor  # over the children of each prefix
    gumbel: Tensor  # the perturbed log-probability that ranks them


@dataclass(frozen=True)
class Beams:
    """The K beams of each user after a level; all `[B, K]`. A dead beam has the score `-inf`."""

    node: Tensor  # node of the trie
    parent: Tensor  # beam of the level before
    score: Tensor  # log-probability so far
    draw: Draw | None = None  # when sampling

    @classmethod
    def root(cls, n_users: int, device: torch.device, *, sample: bool) -> Beams:
        """One beam per user, above level 0."""
        zero = torch.zeros((n_users, 1), device=device)
        index = zero.long()
        return cls(index, index, zero, Draw(zero, zero) if sample else None)


class FixedChildren:
    """Children of all beams in windows of one width, `[B, K, W]`: shapes depend on the trie, never on the beams."""

    def __init__(self, trie: PrefixTrie, level: int, beams: Beams) -> None:
        width, vocabulary = trie.max_degree[level], trie.level_sizes[level]
        self.token: Tensor | None = None
        if level == 0:  # for every user the same
            self.child = torch.arange(width, device=trie.device).expand(len(beams.node), 1, -1)
            self.exists = torch.ones((), dtype=torch.bool, device=trie.device)
            if width < vocabulary:
                self.token = trie.tokens[0].long().expand_as(self.child)
        elif trie.n_nodes[level - 1] * vocabulary <= _DENSE_CELLS and 2 * width >= vocabulary:
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
        taken = logits[..., : self.child.shape[2]] if self.token is None else logits.gather(2, self.token)
        return torch.where(self.exists, taken, -torch.inf)

    def of_beams(self, values: Tensor) -> Tensor:
        """Values of beams `[B, K]` at their candidates."""
        return values[:, :, None]

    def highest(self, values: Tensor) -> Tensor:
        """Largest value of each beam's candidates, `[B, K]`."""
        return values.amax(-1)

    def log_sum(self, values: Tensor) -> Tensor:
        """`logsumexp` over each beam's candidates, `[B, K]`; finite, as in `log_sum_exp`."""
        return torch.logsumexp(values, -1).clamp_(min=torch.finfo(values.dtype).min)

    def best(self, rank: Tensor, tie: Tensor, n: int) -> Tensor:
        """Handles `[B, n]` of each user's `n` best candidates by (rank, tie)."""
        return sort_keys(rank, tie).flatten(1).topk(n, dim=1).indices

    def pick(self, values: Tensor, best: Tensor) -> Tensor:
        """Values at the candidates with the handles `best`."""
        return values.flatten(1).gather(1, best)

    def picked_score(self, values: Tensor, best: Tensor) -> Tensor:
        """As `pick`, but `-inf` where a user has fewer candidates."""
        return self.pick(values, best)

    def picked_parent(self, best: Tensor) -> Tensor:
        """Beam of the level before of the candidates with the handles `best`."""
        return best // self.child.shape[2]


class RaggedChildren:
    """Children of all beams one after the other, `[M]`; the methods are those of `FixedChildren`.

    Nothing is computed but what exists, and shapes depend on the data.
    """

    def __init__(self, trie: PrefixTrie, level: int, beams: Beams) -> None:
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

    def of_beams(self, values: Tensor) -> Tensor:
        return values.flatten().index_select(0, self.beam)

    def highest(self, values: Tensor) -> Tensor:
        out = values.new_full((self.n_users * self.n_beams,), -torch.inf)
        return out.scatter_reduce_(0, self.beam, values, "amax").view(self.n_users, self.n_beams)

    def log_sum(self, values: Tensor) -> Tensor:
        lowest = torch.finfo(values.dtype).min
        highest = self.highest(values).clamp_(min=lowest)
        total = values.new_zeros(self.n_users * self.n_beams)
        total.index_add_(0, self.beam, (values - self.of_beams(highest)).exp())
        return (total.log().view_as(highest) + highest).clamp_(min=lowest)

    def best(self, rank: Tensor, tie: Tensor, n: int) -> Tensor:
        # By rank alone first: where nodes are wide, few candidates are left whose ties have to be broken.
        padded = self._rows(rank, self.user, self.user_first, self.user_count, n, -torch.inf)
        least = padded.topk(n, dim=1, sorted=False).values.amin(1)
        near = (rank >= least.index_select(0, self.user)).nonzero()[:, 0]
        user = self.user.index_select(0, near)
        count = torch.bincount(user, minlength=self.n_users)
        first = count.cumsum(0) - count
        keys = sort_keys(rank.index_select(0, near), tie.index_select(0, near))
        keys = self._rows(keys, user, first, count, n, torch.iinfo(torch.int64).min)
        best = keys.topk(n, dim=1).indices
        there = best < count[:, None]
        found = near[torch.where(there, first[:, None] + best, 0)] - self.user_first[:, None]
        return torch.where(there, found, self.user_count[:, None])

    def _rows(self, values: Tensor, user: Tensor, first: Tensor, count: Tensor, n: int, filling: float) -> Tensor:
        """Values that stand user by user, `count` `[B]` of them from `first` `[B]` on, as rows `[B, at least n]`."""
        width = max(int(count.max()), n)
        rows = values.new_full((self.n_users * width,), filling)
        shift = torch.arange(self.n_users, device=values.device) * width - first
        position = torch.arange(len(values), device=values.device) + shift.index_select(0, user)
        return rows.index_copy_(0, position, values).view(self.n_users, width)

    def _flat(self, best: Tensor) -> Tensor:
        return (self.user_first[:, None] + best).clamp(max=len(self.child) - 1)

    def pick(self, values: Tensor, best: Tensor) -> Tensor:
        return values[self._flat(best)]

    def picked_score(self, values: Tensor, best: Tensor) -> Tensor:
        return torch.where(best < self.user_count[:, None], self.pick(values, best), -torch.inf)

    def picked_parent(self, best: Tensor) -> Tensor:
        return self.beam[self._flat(best)] % self.n_beams
