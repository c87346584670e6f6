"""Search spaces: what a YAML file (or RecBole's ``hyper.test``) offers, and how trials are drawn from it.

Comes in: a file. Goes out: samples, one value for each parameter, and from a sample the settings of a run. No Ray here.

A sample holds a value for every parameter, also for those whose condition does not hold; :meth:`Space.settings_of`
leaves these out. So every sampler works with one flat space, and two samples that differ in nothing that a run would
read count as one.
"""

from __future__ import annotations

import ast
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recbole_tiger.errors import ConfigError
from recbole_tiger.settings.parse import parse_value, read_yaml

_HERE = Path(__file__).resolve().parent
#: In a wheel the shipped spaces lie inside the package, in a checkout under the top-level `hpo`.
SPACES = _HERE / "spaces" if (_HERE / "spaces").is_dir() else _HERE.parents[1] / "hpo" / "spaces"

#: Kinds of domains; `grid` and `choice` hold a list of values, the others [low, high] or [low, high, step].
KINDS = ("choice", "grid", "uniform", "loguniform", "quniform", "randint")
#: Keys that a sweep sets itself, or that would make trials incomparable.
RESERVED = (
    "model dataset data_path run_dir resume checkpoint_dir cache_dir gpu_id use_gpu device show_progress config_files "
    "valid_metric metrics topk eval_args split temporal_cutoffs temporal_target mask_seen_items tie_order"
).split()
#: Draws without a new sample before a space counts as exhausted.
_PATIENCE = 200


@dataclass(frozen=True)
class Domain:
    """The values of one parameter.

    Attributes:
        kind: one of :data:`KINDS`.
        values: all values (`choice`, `grid`), else (low, high) or (low, high, step). `randint` includes both ends.
    """

    kind: str
    values: tuple

    def draw(self, rng: np.random.Generator) -> Any:
        """One value at random; `loguniform` is uniform in the logarithm."""
        if self.kind in ("choice", "grid"):
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self.values[:2]
        if self.kind == "randint":
            return int(rng.integers(low, high + 1))
        if self.kind == "uniform":
            return float(rng.uniform(low, high))
        if self.kind == "loguniform":
            return float(np.exp(rng.uniform(math.log(low), math.log(high))))
        listed = self.listed()
        return listed[int(rng.integers(len(listed)))]

    def listed(self) -> list | None:
        """All values in order, None where there is no end of them."""
        if self.kind in ("choice", "grid"):
            return list(self.values)
        if self.kind == "randint":
            return list(range(self.values[0], self.values[1] + 1))
        if self.kind == "quniform":
            low, high, step = self.values
            values = [low + step * index for index in range(math.floor((high - low) / step + 1e-9) + 1)]
            whole = all(isinstance(value, int) for value in self.values)
            return values if whole else [float(f"{value:.12g}") for value in values]
        return None

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the domain's."""
        listed = self.listed()
        if listed is not None:
            return any(type(value) is type(entry) and value == entry for entry in listed)
        return _is_number(value) and self.values[0] <= value <= self.values[1]

    def edges(self) -> list:
        """The values that a check of the space looks at: all listed ones, or both ends."""
        return self.listed() or list(self.values[:2])


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
        search: how trials are drawn unless the user says otherwise.
        trials: how many, None for the sampler's own number.
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
        """What a sample sets: for every key the first alternative whose condition holds.

        Args:
            sample: parameter name -> value.
            base: all other settings, for conditions on keys that do not vary.
        """
        chosen: dict = {}
        for parameter in self.parameters:
            if parameter.key in chosen:
                continue
            if all(chosen.get(key, base.get(key)) in values for key, values in parameter.when.items()):
                chosen[parameter.key] = sample[parameter.name]
        return chosen

    # ------------------------------------------------------------------------------------------------------ drawing

    def samples(self, search: str, n_trials: int | None, seed: int, base: Mapping[str, Any]) -> list[dict]:
        """The trials of a random or grid search: distinct, the same for the same seed.

        `grid` values are all tried, whatever else is drawn; search `grid` does so with every parameter that has a list
        of values.

        Args:
            search: `random` or `grid`.
            n_trials: how many; None for the whole grid, or 10 where there is none. Fewer come out of a smaller space.
            seed: of the draws.
            base: all other settings, for conditions.

        Raises:
            ConfigError: for a grid over a parameter without a list of values.
        """
        rng = np.random.default_rng(seed)
        found: dict[str, dict] = {}

        def keep(sample: dict) -> None:
            found.setdefault(json.dumps(self.settings_of(sample, base), sort_keys=True), sample)

        for point in self.first_samples(rng):
            keep(point)
        points = self._grid(search)
        if n_trials is not None and len(points) > n_trials:
            points = [points[index] for index in rng.permutation(len(points))]
        if n_trials is None and len(points) > 1:
            n_trials = math.inf
        elif n_trials is None:
            n_trials = 10
        exhausted = 0
        for turn in itertools.count():
            if len(found) >= n_trials or exhausted >= max(_PATIENCE, len(points)):
                break
            if turn >= len(points) and (search == "grid" or n_trials == math.inf):
                break
            before = len(found)
            keep({**self._draw(rng), **points[turn % len(points)]})
            exhausted = 0 if len(found) > before else exhausted + 1
        return list(found.values())[: n_trials if n_trials != math.inf else None]

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

    def _grid(self, search: str) -> list[dict]:
        listed = [p for p in self.parameters if search == "grid" or p.domain.kind == "grid"]
        for parameter in listed:
            if parameter.domain.listed() is None:
                raise ConfigError(
                    f"search=grid cannot list the values of '{parameter.key}' ({parameter.domain.kind}); give it choice, "
                    "grid, randint or quniform, or use search=random"
                )
        values = [parameter.domain.listed() for parameter in listed]
        return [dict(zip([p.name for p in listed], point, strict=True)) for point in itertools.product(*values)]

    def probes(self) -> Iterator[dict]:
        """Samples that touch every value listed and both ends of every range: what is checked before a sampler that
        learns from results decides what to try."""
        usual = {parameter.name: parameter.domain.edges()[0] for parameter in self.parameters}
        yield usual
        for parameter in self.parameters:
            for value in parameter.domain.edges()[1:]:
                yield {**usual, parameter.name: value}


# ------------------------------------------------------------------------------------------------------------ reading


def read_space(name: str) -> Space:
    """A space from a file, or a shipped one by name.

    Args:
        name: the path of a YAML file or of a ``hyper.test`` text file, or a shipped space such as `tiger`.

    Raises:
        ConfigError: for a missing file, or anything in it that cannot work.
    """
    shipped = sorted(path.stem for path in SPACES.glob("*.yaml"))
    if not name or not isinstance(name, str):
        raise ConfigError(f"--space is missing: give a YAML file or one of {', '.join(shipped)}")
    path = Path(name)
    if not path.is_file() and (SPACES / f"{name}.yaml").is_file():
        path = SPACES / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"space='{name}' is not a file, nor one of {', '.join(shipped)}")
    if path.suffix in (".yaml", ".yml"):
        return space_from_dict(read_yaml(path), str(path))
    return space_from_text(path.read_text(encoding="utf-8"), str(path))


def space_from_dict(content: Mapping, path: str = "space") -> Space:
    """A space from the content of a YAML file.

    Raises:
        ConfigError: naming the key, the value and the way out.
    """
    known = ("model", "search", "trials", "settings", "first", "space")
    for key in content:
        if key not in known:
            raise ConfigError(
                f"{path}: '{key}' is not read here; the keys are {', '.join(known)} (fixed values go under settings)"
            )
    entries = content.get("space")
    if not isinstance(entries, Mapping) or not entries:
        raise ConfigError(f"{path}: 'space' must hold at least one line 'key: {{choice: [...]}}'")
    settings = content.get("settings") or {}
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{path}: 'settings' must hold 'key: value' lines")
    parameters = []
    for key, entry in entries.items():
        if key in RESERVED:
            raise ConfigError(f"{path}: '{key}' cannot vary in a sweep; all trials of one sweep share it")
        if key in settings:
            raise ConfigError(f"{path}: '{key}' is both varied and fixed under settings; keep one")
        alternatives = entry if isinstance(entry, list) else [entry]
        for number, alternative in enumerate(alternatives, 1):
            name = key if number == 1 else f"{key}#{number}"
            parameters.append(_parameter(name, key, alternative, path))
    trials = content.get("trials")
    if trials is not None and (isinstance(trials, bool) or not isinstance(trials, int) or trials < 1):
        raise ConfigError(f"{path}: trials={trials!r} must be a whole number of at least 1")
    first = content.get("first") or []
    if not isinstance(first, list) or not all(isinstance(point, Mapping) for point in first):
        raise ConfigError(f"{path}: 'first' must be a list of 'key: value' groups, such as - {{id_length: 3}}")
    for point in first:
        for key, value in point.items():
            domains = [parameter.domain for parameter in parameters if parameter.key == key]
            if not any(domain.holds(value) for domain in domains):
                raise ConfigError(f"{path}: first: {key}={value!r} is not a value of the space")
    return Space(
        parameters=_ordered(parameters, path),
        path=path,
        model=content.get("model"),
        search=content.get("search", "random"),
        trials=trials,
        settings=dict(settings),
        first=tuple(dict(point) for point in first),
    )


def _parameter(name: str, key: str, entry: Any, path: str) -> Parameter:
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"{path}: {key}: {entry!r} says no kind; write {key}: {{choice: [...]}}, or {' or '.join(KINDS[1:])}"
        )
    kinds = [kind for kind in entry if kind != "when"]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        raise ConfigError(
            f"{path}: {key}: {', '.join(map(str, kinds)) or 'nothing'} given; give exactly one of {', '.join(KINDS)}"
        )
    when = entry.get("when") or {}
    if not isinstance(when, Mapping):
        raise ConfigError(f"{path}: {key}: when must hold 'key: value' pairs, not {when!r}")
    conditions = {other: tuple(value) if isinstance(value, list) else (value,) for other, value in when.items()}
    return Parameter(name, key, domain(kinds[0], entry[kinds[0]], f"{path}: {key}"), conditions)


def domain(kind: str, values: Any, where: str) -> Domain:
    """A checked domain.

    Raises:
        ConfigError: for an empty list, a range without values, or numbers where there are none.
    """
    if not isinstance(values, list):
        raise ConfigError(f"{where}: {kind} needs a list in brackets, not {values!r}")
    if kind in ("choice", "grid"):
        if not values:
            raise ConfigError(f"{where}: {kind}: [] has no value to choose; give at least one")
        seen = [json.dumps(value, sort_keys=True) for value in values]
        if len(set(seen)) < len(seen):
            raise ConfigError(f"{where}: {kind}: {values!r} names a value twice; keep one of them")
        return Domain(kind, tuple(values))
    wanted = 3 if kind == "quniform" else 2
    if len(values) != wanted or not all(_is_number(value) for value in values):
        form = "[low, high, step]" if wanted == 3 else "[low, high]"
        raise ConfigError(f"{where}: {kind} needs {form} in numbers, not {values!r}")
    low, high = values[:2]
    if low >= high:
        raise ConfigError(f"{where}: {kind}: {values!r} is empty: {low} is not below {high}")
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"{where}: loguniform: {values!r}: a logarithm needs a lower end above 0")
    if kind == "quniform" and not 0 < values[2] <= high - low:
        raise ConfigError(f"{where}: quniform: {values!r}: the step must lie above 0 and within the range")
    if kind == "randint" and not all(isinstance(value, int) for value in values):
        raise ConfigError(f"{where}: randint: {values!r} needs whole numbers; both ends are included")
    return Domain(kind, tuple(values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _ordered(parameters: Sequence[Parameter], path: str) -> tuple[Parameter, ...]:
    """Parameters with every condition behind what it looks at; the alternatives of a key stay in their order."""
    waiting = {}
    for parameter in parameters:
        waiting.setdefault(parameter.key, []).append(parameter)
    done: dict[str, list[Parameter]] = {}
    while waiting:
        ready = [key for key, group in waiting.items() if not any(other in waiting for p in group for other in p.when)]
        if not ready:
            raise ConfigError(f"{path}: the conditions (when) of {', '.join(waiting)} wait for each other; drop one")
        for key in ready:
            done[key] = waiting.pop(key)
    return tuple(parameter for group in done.values() for parameter in group)


def space_from_text(text: str, path: str = "hyper.test") -> Space:
    """A space in RecBole's text form, one ``key kind values`` a line.

    As in RecBole, ``loguniform -8,0`` gives the *logarithms* of both ends, and a choice of lists may be quoted
    (``choice ['[64,64]','[128,128]']``). Nothing is evaluated.

    Raises:
        ConfigError: naming the line.
    """
    entries: dict = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].strip().split(None, 2)
        if not words:
            continue
        where = f"{path}: line {number} '{line.strip()}'"
        if len(words) != 3 or words[1] not in KINDS:
            raise ConfigError(f"{where} must read 'key kind values', the kind one of {', '.join(KINDS)}")
        key, kind, values = words
        if key in entries:
            raise ConfigError(f"{where}: '{key}' is there twice; keep one line")
        try:
            listed = ast.literal_eval(values if values.startswith("[") else f"[{values}]")
        except (ValueError, SyntaxError) as error:
            raise ConfigError(
                f"{where}: cannot read the values; write them as in choice [1,2] or uniform 0,1"
            ) from error
        if kind in ("choice", "grid"):
            listed = [parse_value(value, key) if isinstance(value, str) else value for value in listed]
        elif kind == "loguniform" and len(listed) == 2 and all(_is_number(value) for value in listed):
            listed = [math.exp(value) for value in listed]
        entries[key] = {kind: listed}
    return space_from_dict({"space": entries}, path)
