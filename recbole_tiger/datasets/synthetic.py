"""A synthetic catalogue and its users, of any size, of which the right answers are known.

**Hierarchy.** Items are the members of the leaves of a category tree: item position p (0, 1, …, n-1) is in leaf
`p % L` of L and has rank `p // L` in it; leaf numbers in mixed radix are the path from the coarse to the fine category.
Title, category path, brand and price are built from that path, so items that are near in the tree have similar text.
The tokens (`i17`) are numbered at random: they say nothing.

**Next-item rule.** After the item at position p the user follows the rule with probability `rule_strength`, else jumps:
- rule, with probability `item_share`: position p + 1 (mod n), the *successor*: same rank in the next leaf;
- rule, otherwise: an item of the successor's leaf, by popularity;
- jump (and first item): any leaf with equal probability, an item of it by popularity.
Popularity falls with the rank as (rank + 1) ** -popularity_skew (the continuous law, rounded down).

So a model that knows the last item finds the next one at rank 1 in at least `rule_strength * item_share` of the cases,
and its leaf in at least `rule_strength`. A user may meet an item twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from recbole_tiger.datasets.arrays import IntArray
from recbole_tiger.datasets.atomic_fields import ITEM, TIME, USER, Field, header
from recbole_tiger.datasets.atomic_writer import dataset_folder
from recbole_tiger.errors import PreparationError

ITEM_FIELDS = (
    Field("title", "token"),
    Field("categories", "token_seq"),
    Field("brand", "token"),
    Field("price", "float"),
)
USERS_AT_ONCE = 1 << 16
ITEMS_AT_ONCE = 1 << 16
BRANDS_PER_TOP_CATEGORY = 5
FIRST_TIME = 1_300_000_000  # seconds since 1970
START_SPREAD = 100_000_000  # seconds: users begin within some three years
LEAST_GAP, MEAN_EXTRA_GAP = 3_600, 3 * 86_400  # seconds between a user's interactions: no ties
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


@dataclass(frozen=True)
class SyntheticCatalogue:
    """The items, by position p = 0 … n_items - 1; `branching` has the children of a node on each level of the category
    tree, coarse to fine, and `seed` numbers the tokens."""

    n_items: int
    branching: tuple[int, ...]
    seed: int = 2024

    def __post_init__(self) -> None:
        _refuse(self, ("n_items", self.n_items >= 2, "at least 2"))
        children = bool(self.branching) and min(self.branching) >= 1
        _refuse(self, ("branching", children, "at least one child on each level"))

    @property
    def n_leaves(self) -> int:
        """Number of finest categories."""
        return int(np.prod(self.branching))

    @cached_property
    def token_numbers(self) -> IntArray:
        """int64 [n_items]: position p is written `i<number>`, the numbers 1 … n_items at random."""
        return np.random.default_rng([self.seed, 0]).permutation(self.n_items) + 1

    def leaf(self, positions: IntArray) -> IntArray:
        """Number of the leaf of each position."""
        return positions % self.n_leaves

    def successor(self, positions: IntArray) -> IntArray:
        """The position that the rule names after each position."""
        return (positions + 1) % self.n_items

    def path(self, leaf: int) -> tuple[str, ...]:
        """The category names of a leaf, coarse to fine; every node of the tree has a name of its own."""
        names, offset, size = [], 0, 1
        for level, children in enumerate(self.branching):
            size *= children
            node = leaf // int(np.prod(self.branching[level + 1 :], initial=1))
            names.append(word(offset + node))
            offset += size
        return tuple(names)

    def item_rows(self) -> Iterator[list[str]]:
        """Blocks of lines of the `.item` file, in the order of the positions."""
        tails, leaf_texts, brands = [], [], []
        n_top = self.branching[0]
        for leaf in range(min(self.n_leaves, self.n_items)):
            path = self.path(leaf)
            leaf_texts.append(" ".join(reversed(path[-2:])))
            tails.append(" ".join(path))
            top = leaf * n_top // self.n_leaves
            brands.append([f"{word(top * BRANDS_PER_TOP_CATEGORY + b)}co" for b in range(BRANDS_PER_TOP_CATEGORY)])
        for start in range(0, self.n_items, ITEMS_AT_ONCE):
            positions = np.arange(start, min(start + ITEMS_AT_ONCE, self.n_items))
            leaves, ranks = self.leaf(positions), positions // self.n_leaves
            cents = 499 + 100 * (leaves % 97) + 50 * (ranks % 11)
            columns = (self.token_numbers[positions], leaves, ranks, cents)
            rows = zip(*(column.tolist() for column in columns), strict=True)
            yield [
                f"i{token}\t{brand} {leaf_texts[leaf]} {rank + 1}"
                f"\t{tails[leaf]}\t{brand}\t{price // 100}.{price % 100:02d}\n"
                for token, leaf, rank, price in rows
                for brand in (brands[leaf][rank % BRANDS_PER_TOP_CATEGORY],)
            ]


@dataclass(frozen=True)
class SyntheticUsers:
    """The users and their sequences, of at least `min_length`; the numbers are kept exactly, and for the rule see the
    module. Same seed, same data."""

    catalogue: SyntheticCatalogue
    n_users: int
    n_interactions: int
    min_length: int = 5
    rule_strength: float = 0.8
    item_share: float = 0.5
    popularity_skew: float = 1.0
    seed: int = 2024

    def __post_init__(self) -> None:
        _refuse(
            self,
            ("n_users", self.n_users >= 1, "at least 1"),
            ("min_length", self.min_length >= 1, "at least 1"),
            ("rule_strength", 0 <= self.rule_strength <= 1, "between 0 and 1"),
            ("item_share", 0 <= self.item_share <= 1, "between 0 and 1"),
            ("popularity_skew", self.popularity_skew >= 0, "0 or more"),
        )
        least = self.min_length * self.n_users
        rule = f"at least {least}, min_length={self.min_length} for each of {self.n_users} users"
        _refuse(self, ("n_interactions", self.n_interactions >= least, rule))

    def lengths(self) -> IntArray:
        """Sequence lengths int64 [n_users]: `min_length` plus a share that is log-normal over the users."""
        random = np.random.default_rng([self.seed, 1])
        weights = random.lognormal(sigma=0.8, size=self.n_users)
        extra = self.n_interactions - self.min_length * self.n_users
        return self.min_length + random.multinomial(extra, weights / weights.sum())

    def blocks(self) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """`(user numbers from 1, item positions, times)` of some users at a time; each int64, in order."""
        lengths = self.lengths()
        for block, start in enumerate(range(0, self.n_users, USERS_AT_ONCE)):
            part = lengths[start : start + USERS_AT_ONCE]
            random = np.random.default_rng([self.seed, 2, block])
            users = np.repeat(np.arange(start, start + len(part)) + 1, part)
            yield users, self._walk(part, random), _times(part, random)

    def _walk(self, lengths: IntArray, random: np.random.Generator) -> IntArray:
        """Item positions of the users' sequences, one after another; all users take a step at once."""
        longest_first = np.argsort(-lengths, kind="stable")
        starts = (np.cumsum(lengths) - lengths)[longest_first]
        sorted_lengths = lengths[longest_first]
        result = np.empty(int(lengths.sum()), dtype=np.int64)
        current = self._jump(len(lengths), random)
        for step in range(int(sorted_lengths[0])):
            active = int(np.searchsorted(-sorted_lengths, -step, side="left"))  # lengths greater than step
            if step:
                current = self._next(current[:active], random)
            result[starts[:active] + step] = current
        return result

    def _next(self, current: IntArray, random: np.random.Generator) -> IntArray:
        choice = random.random(len(current))
        following = self.catalogue.successor(current)
        same_leaf = self._draw_in_leaf(self.catalogue.leaf(following), random)
        jump = self._jump(len(current), random)
        exact = self.rule_strength * self.item_share
        return np.where(choice < exact, following, np.where(choice < self.rule_strength, same_leaf, jump))

    def _jump(self, count: int, random: np.random.Generator) -> IntArray:
        n_leaves = min(self.catalogue.n_leaves, self.catalogue.n_items)
        return self._draw_in_leaf(random.integers(n_leaves, size=count), random)

    def _draw_in_leaf(self, leaves: IntArray, random: np.random.Generator) -> IntArray:
        """One position of each leaf, by popularity: a power law on [1, size + 1), rounded down."""
        n_leaves = self.catalogue.n_leaves
        sizes = (self.catalogue.n_items - 1 - leaves) // n_leaves + 1
        uniform, skew = random.random(len(leaves)), self.popularity_skew
        if abs(skew - 1) < 1e-9:
            draws = np.exp(uniform * np.log(sizes + 1))
        else:
            draws = (uniform * ((sizes + 1.0) ** (1 - skew) - 1) + 1) ** (1 / (1 - skew))
        ranks: IntArray = np.clip(draws.astype(np.int64) - 1, 0, sizes - 1)
        return ranks * n_leaves + leaves


def _refuse(numbers: SyntheticCatalogue | SyntheticUsers, *rules: tuple[str, bool, str]) -> None:
    """Raise a `PreparationError` for the first rule `(attribute, whether it holds, what it asks for)` that fails."""
    for key, holds, rule in rules:
        if not holds:
            raise PreparationError(f"{key}={getattr(numbers, key)} must be {rule}.")


def _times(lengths: IntArray, random: np.random.Generator) -> IntArray:
    """Strictly rising times of the users' sequences, whole seconds."""
    starts = np.cumsum(lengths) - lengths
    steps = LEAST_GAP + random.exponential(MEAN_EXTRA_GAP, int(lengths.sum())).astype(np.int64)
    total = np.cumsum(steps)
    first = FIRST_TIME + random.integers(START_SPREAD, size=len(lengths))
    times: IntArray = total - np.repeat(total[starts] - first, lengths)
    return times


def word(index: int) -> str:
    """A pronounceable name for a number, a different one for each: 0 -> `Baba`."""
    base = len(SYLLABLES)
    high, low = divmod(index, base)
    syllables = [SYLLABLES[low]]
    while high >= base:
        high, low = divmod(high, base)
        syllables.append(SYLLABLES[low])
    return "".join([SYLLABLES[high], *reversed(syllables)]).capitalize()


def default_branching(n_items: int) -> tuple[int, int, int]:
    """A tree of three levels with some ten items a leaf, 2 to 32 children a node."""
    children = int(min(32, max(2, round((n_items / 10) ** (1 / 3)))))
    return (children, children, children)


def write_dataset(
    folder: str | Path,
    name: str,
    n_users: int,
    n_items: int,
    n_interactions: int,
    *,
    branching: tuple[int, ...] | None = None,
    min_length: int = 5,
    rule_strength: float = 0.8,
    item_share: float = 0.5,
    popularity_skew: float = 1.0,
    seed: int = 2024,
    overwrite: bool = False,
    progress: bool = True,
) -> SyntheticCatalogue:
    """Write `<folder>/<name>/<name>.inter` and `.item` of a synthetic dataset, in bounded memory at any size.

    Args:
        folder, name: as RecBole's `data_path` and `dataset`.
        n_users, n_items, n_interactions: some items may have no interaction.
        branching: see `SyntheticCatalogue`; None for `default_branching`.
        min_length, rule_strength, item_share, popularity_skew, seed: see `SyntheticUsers`.

    Returns:
        The catalogue; a `PreparationError` for numbers that cannot be met and an existing dataset.
    """
    catalogue = SyntheticCatalogue(n_items, default_branching(n_items) if branching is None else branching, seed)
    users = SyntheticUsers(
        catalogue, n_users, n_interactions, min_length, rule_strength, item_share, popularity_skew, seed
    )
    total, hidden = n_interactions + n_items, None if progress else True
    with (
        dataset_folder(folder, name, overwrite) as target,
        tqdm(total=total, unit=" rows", desc=name, leave=False, disable=hidden) as bar,
    ):
        with (target / f"{name}.item").open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(header([ITEM, *ITEM_FIELDS]))
            for lines in catalogue.item_rows():
                stream.writelines(lines)
                bar.update(len(lines))
        with (target / f"{name}.inter").open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(header([USER, ITEM, TIME]))
            for user_numbers, positions, times in users.blocks():
                tokens = catalogue.token_numbers[positions]
                rows = zip(user_numbers.tolist(), tokens.tolist(), times.tolist(), strict=True)
                stream.writelines(map("u%d\ti%d\t%d\n".__mod__, rows))
                bar.update(len(times))
    return catalogue
