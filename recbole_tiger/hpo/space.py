"""Search spaces: the domains of the varied settings, and how trials are drawn from them.

Input: parameters. Output: samples, one value for each parameter, and from a sample the settings of a run. No Ray here.

A sample holds a value for every parameter, also for those whose condition does not hold; :meth:`Space.settings_of`
leaves these out. So every sampler works with one flat space, and two samples that differ in nothing that a run would
read count as one.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from recbole_tiger.errors import ConfigError
from recbole_tiger.hpo.options import MAX_TRIALS

#: Kinds of domains; `grid` and `choice` hold a list of values, the others [low, high] or [low, high, step].
KINDS = ("choice", "grid", "uniform", "loguniform", "quniform", "randint")
#: Maximum number of values of one parameter, and of points of a grid of which some are drawn.
MAX_VALUES = 1_000_000
#: The most values of a range that are all checked before the first trial; of longer ones, both ends are.
_CHECKED_VALUES = 100
#: Draws without a new sample before a space counts as exhausted.
_PATIENCE = 200


@dataclass(frozen=True)
class Domain:
    """The values of one parameter: all of them (`choice`, `grid`), else (low, high) or (low, high, step) of another of
    the :data:`KINDS`; `randint` includes both ends."""

    kind: str
    values: tuple

    @cached_property
    def choices(self) -> Sequence:
        """All values in order; empty where they have no end."""
        if self.kind == "randint":
            return range(self.values[0], self.values[1] + 1)
        if self.kind != "quniform":
            return self.values if self.kind in ("choice", "grid") else ()
        low, high, step = self.values
        values = [low + step * index for index in range(math.floor((high - low) / step + 1e-9) + 1)]
        is_whole = all(isinstance(value, int) for value in self.values)
        return values if is_whole else [float(f"{value:.12g}") for value in values]

    def draw(self, rng: np.random.Generator) -> Any:
        """One value at random; `loguniform` is uniform in the logarithm."""
        if self.choices:
            return self.choices[int(rng.integers(len(self.choices)))]
        low, high = self.values
        if self.kind == "uniform":
            return float(rng.uniform(low, high))
        return float(np.exp(rng.uniform(math.log(low), math.log(high))))

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the domain's."""
        if not self.choices:
            return is_number(value) and self.values[0] <= value <= self.values[1]
        return any(type(value) is type(entry) and value == entry for entry in self.choices)

    def edges(self) -> list:
        """The values that a check of the space looks at: all of a list or a short range, else both ends."""
        if not self.choices:
            return list(self.values)
        is_long = self.kind in ("randint", "quniform") and len(self.choices) > _CHECKED_VALUES
        return [self.choices[0], self.choices[-1]] if is_long else list(self.choices)

    def encode(self, value: Any) -> Any:
        """A value as a searcher sees it: numbers of a range as they are, otherwise the position in the list."""
        return value if not self.choices or self.kind == "randint" else self.choices.index(value)

    def decode(self, code: Any) -> Any:
        """The inverse of :meth:`encode`."""
        if not self.choices:
            return float(code)
        return int(code) if self.kind == "randint" else self.choices[int(code)]


def is_number(value: Any) -> bool:
    """Whether a value is a number that ranges can be made of: neither True, NaN nor infinite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


@dataclass(frozen=True)
class Parameter:
    """One alternative of a key.

    Attributes:
        name: the key, with `#2`, `#3` … behind it for further alternatives.
        key: of the settings.
        domain: its values.
        when: key -> values under which this alternative is read; {} for always.
    """

    name: str
    key: str
    domain: Domain
    when: Mapping[str, tuple] = field(default_factory=dict)


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        parameters: in an order in which every condition looks at parameters before it.
        path: the file it was read from.
        model: the model it is for, None for any.
        search, trials: how many are drawn, and how, unless the user says otherwise.
        settings: fixed settings of all trials.
        first: values to try first, key -> value.
    """

    parameters: tuple[Parameter, ...]
    path: str
    model: str | None = None
    search: str = "random"
    trials: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    first: tuple[Mapping[str, Any], ...] = ()

    @property
    def keys(self) -> list[str]:
        """The keys that vary, each once."""
        return list(dict.fromkeys(parameter.key for parameter in self.parameters))

    def settings_of(self, sample: Mapping[str, Any], base: Mapping[str, Any]) -> dict:
        """What a sample sets: for every key the first alternative whose condition holds in the sample and in `base`,
        all other settings."""
        chosen: dict = {}
        for parameter in self.parameters:
            if parameter.key in chosen:
                continue
            if all(chosen.get(key, base.get(key)) in values for key, values in parameter.when.items()):
                chosen[parameter.key] = sample[parameter.name]
        return chosen

    def samples(self, search: str, n_trials: int | None, seed: int, base: Mapping[str, Any]) -> list[dict]:
        """The trials of a random or grid search: distinct, the same for the same seed.

        `grid` values are all tried, whatever else is drawn; search `grid` does so with every parameter that has a list
        of values. A `ConfigError` for one over a parameter without such a list, or with too many points.

        Args:
            search: `random` or `grid`.
            n_trials: None for the whole grid, or 10 where there is none. A smaller space gives fewer.
            base: all other settings, for conditions.
        """
        rng = np.random.default_rng(seed)
        found: dict[str, dict] = {}

        def keep(sample: dict) -> None:
            found.setdefault(json.dumps(self.settings_of(sample, base), sort_keys=True), sample)

        for point in self.first_samples(rng):
            keep(point)
        points = self._grid(search, MAX_VALUES if n_trials else MAX_TRIALS)
        if n_trials is not None and len(points) > n_trials:
            points = [points[index] for index in rng.permutation(len(points))]
        is_whole = n_trials is None and len(points) > 1
        wanted = len(found) + len(points) if is_whole else n_trials or 10
        exhausted = 0
        for turn in itertools.count():
            if len(found) >= wanted or exhausted >= max(_PATIENCE, len(points)):
                break
            if turn >= len(points) and (search == "grid" or is_whole):
                break
            before = len(found)
            keep({**self._draw(rng), **points[turn % len(points)]})
            exhausted = 0 if len(found) > before else exhausted + 1
        return list(found.values())[:wanted]

    def first_samples(self, rng: np.random.Generator) -> list[dict]:
        """The values to try first as whole samples, the rest of each drawn at random."""
        samples = []
        for point in self.first:
            sample = self._draw(rng)
            for parameter in self.parameters:
                if parameter.key in point and parameter.domain.holds(point[parameter.key]):
                    sample[parameter.name] = point[parameter.key]
            samples.append(sample)
        return samples

    def _draw(self, rng: np.random.Generator) -> dict:
        return {parameter.name: parameter.domain.draw(rng) for parameter in self.parameters}

    def _grid(self, search: str, most: int) -> list[dict]:
        """Every combination of the listed values, at most `most` of them."""
        listed = [p for p in self.parameters if search == "grid" or p.domain.kind == "grid"]
        for parameter in listed:
            if not parameter.domain.choices:
                raise ConfigError(
                    f"search=grid cannot list the values of '{parameter.key}' ({parameter.domain.kind}); give it "
                    "choice, grid, randint or quniform, or use search=random"
                )
        n_points = math.prod(len(parameter.domain.choices) for parameter in listed)
        if n_points > most:
            raise ConfigError(
                f"{self.path}: the grid has {n_points:,} points, more than the maximum of {most:,}; give fewer values, "
                "set --trials, or use choice and search=random"
            )
        values = [parameter.domain.choices for parameter in listed]
        return [dict(zip([p.name for p in listed], point, strict=True)) for point in itertools.product(*values)]

    def probes(self) -> Iterator[dict]:
        """Samples with all edges of every domain, to be checked where a searcher decides later what to try."""
        usual = {parameter.name: parameter.domain.edges()[0] for parameter in self.parameters}
        yield usual
        for parameter in self.parameters:
            for value in parameter.domain.edges()[1:]:
                yield {**usual, parameter.name: value}

    def encode(self, sample: Mapping) -> dict:
        """A sample as a searcher sees it."""
        return {p.name: p.domain.encode(sample[p.name]) for p in self.parameters}

    def decode(self, suggestion: Mapping) -> dict:
        """The inverse of :meth:`encode`."""
        return {p.name: p.domain.decode(suggestion[p.name]) for p in self.parameters}
