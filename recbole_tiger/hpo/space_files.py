"""Search spaces as users write them: a YAML file, RecBole's ``hyper.test`` text, or a shipped name.

Input: a file. Output: a checked :class:`Space`, or one error that names the file, the key, the value and the way out.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_tiger.errors import ConfigError
from recbole_tiger.hpo.options import Options
from recbole_tiger.hpo.space import KINDS, MAX_VALUES, Domain, Parameter, Space, is_number
from recbole_tiger.settings.parse import parse_value, read_yaml
from recbole_tiger.settings.schema import keys_with

_HERE = Path(__file__).resolve().parent
#: In a wheel the shipped spaces lie inside the package, in a checkout under the top-level `hpo`.
SPACES = _HERE / "spaces" if (_HERE / "spaces").is_dir() else _HERE.parents[1] / "hpo" / "spaces"

_SPACE_KEYS = ("model", "search", "trials", "settings", "first", "space")


def shipped_spaces() -> list[str]:
    """The names of the shipped spaces."""
    return sorted(path.stem for path in SPACES.glob("*.yaml"))


def read_space(name: str | None) -> Space:
    """A space from a YAML file, a ``hyper.test`` text file, or a shipped one by name, such as `tiger`; a `ConfigError`
    for a missing file, or anything in it that cannot work."""
    shipped = ", ".join(shipped_spaces())
    if not name or not isinstance(name, str):
        raise ConfigError(f"--space is missing: give a YAML file or one of {shipped}")
    path = Path(name)
    if not path.is_file() and (SPACES / f"{name}.yaml").is_file():
        path = SPACES / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"space='{name}' is not a file, nor one of {shipped}")
    if path.suffix in (".yaml", ".yml"):
        try:
            content = read_yaml(path)
        except ConfigError as error:  # which names the option of a run
            raise ConfigError(str(error).replace("config_files: ", "space: ", 1)) from error
        return space_from_dict(content, str(path))
    try:
        return space_from_text(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"space='{name}' is not a text in UTF-8; name a YAML file or a hyper.test") from error


def space_from_dict(content: Mapping, path: str = "space") -> Space:
    """A space from the content of a YAML file; a `ConfigError` names the key, the value and the way out."""
    for key in content:
        if key not in _SPACE_KEYS:
            known = ", ".join(_SPACE_KEYS)
            raise ConfigError(f"{path}: '{key}' is not read here; the keys are {known} (settings holds fixed values)")
    entries = content.get("space")
    if not isinstance(entries, Mapping) or not entries:
        raise ConfigError(f"{path}: 'space' must hold at least one line 'key: {{choice: [...]}}'")
    settings = content.get("settings") or {}
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{path}: 'settings' must hold 'key: value' lines")
    parameters = []
    for key, entry in entries.items():
        if key in keys_with("sweep"):
            raise ConfigError(f"{path}: '{key}' cannot vary in a sweep; all trials of one sweep share it")
        if key in settings:
            raise ConfigError(f"{path}: '{key}' is both varied and fixed under settings; keep one")
        alternatives = entry if isinstance(entry, list) else [entry]
        if not alternatives:
            raise ConfigError(f"{path}: {key}: [] has no value to choose; write {{choice: [...]}}")
        for number, alternative in enumerate(alternatives, 1):
            name = key if number == 1 else f"{key}#{number}"
            parameters.append(_parameter(name, key, alternative, path))
    search = content.get("search") or "random"
    try:
        how = Options(trials=content.get("trials"), search=search)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    first = _first_points(content.get("first") or [], parameters, path)
    return Space(_ordered(parameters, path), path, content.get("model"), search, how.trials, dict(settings), first)


def _first_points(points: Any, parameters: Sequence[Parameter], path: str) -> tuple[dict, ...]:
    """The checked values to try first."""
    if not isinstance(points, list) or not all(isinstance(point, Mapping) for point in points):
        raise ConfigError(f"{path}: 'first' must be a list of 'key: value' groups, such as - {{id_length: 3}}")
    points = [{key: _typed(value, key) for key, value in point.items()} for point in points]
    for key, value in (pair for point in points for pair in point.items()):
        if not any(parameter.domain.holds(value) for parameter in parameters if parameter.key == key):
            raise ConfigError(f"{path}: first: {key}={value!r} is not a value of the space")
    return tuple(points)


def _parameter(name: str, key: str, entry: Any, path: str) -> Parameter:
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"{path}: {key}: {entry!r} says no kind; write {{choice: [...]}}, or {' or '.join(KINDS[1:])}"
        )
    kinds = [kind for kind in entry if kind != "when"]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        given = ", ".join(map(str, kinds)) or "nothing"
        raise ConfigError(f"{path}: {key}: {given} given; give exactly one of {', '.join(KINDS)}")
    when = entry.get("when") or {}
    if not isinstance(when, Mapping) or [] in when.values():
        raise ConfigError(f"{path}: {key}: when must hold 'key: value' or 'key: [values]', not {when!r}")
    listed = {str(other): value if isinstance(value, list) else [value] for other, value in when.items()}
    conditions = {other: tuple(_typed(value, other) for value in values) for other, values in listed.items()}
    values = entry[kinds[0]]
    if kinds[0] in ("choice", "grid") and isinstance(values, list):
        values = [_typed(value, key) for value in values]
    return Parameter(name, key, domain(kinds[0], values, f"{path}: {key}"), conditions)


def _typed(value: Any, key: str) -> Any:
    """A value that is written as text in the type of its key, as runs read it."""
    return parse_value(value, key) if isinstance(value, str) else value


def domain(kind: str, values: Any, where: str) -> Domain:
    """A checked domain; a `ConfigError` for an empty list, a range without values or with too many, or no numbers."""
    problem = _list_problem(values) if kind in ("choice", "grid") else _range_problem(kind, values)
    if problem:
        raise ConfigError(f"{where}: {kind}: {values!r} {problem}")
    return Domain(kind, tuple(values))


def _list_problem(values: Any) -> str:
    """What is wrong with the values of `choice` or `grid`; empty if nothing is."""
    if not isinstance(values, list):
        return "is not a list; write it in brackets"
    if not values:
        return "has no value to choose; give at least one"
    try:
        texts = [json.dumps(value, sort_keys=True, allow_nan=False) for value in values]
    except (TypeError, ValueError):
        return "holds something other than text, finite numbers, true, false and lists of them; put dates in quotes"
    return "names a value twice; keep one of them" if len(set(texts)) < len(texts) else ""


def _range_problem(kind: str, values: Any) -> str:
    """What is wrong with the ends of a range; empty if nothing is."""
    form = "[low, high, step]" if kind == "quniform" else "[low, high]"
    is_list = isinstance(values, list) and len(values) == form.count(",") + 1
    if not is_list or not all(is_number(value) for value in values):
        return f"is not {form} in finite numbers"
    low, high = values[:2]
    if low >= high:
        return f"is empty: {low} is not below {high}"
    if kind == "loguniform" and low <= 0:
        return "has no logarithm: the lower end must lie above 0"
    if kind == "quniform" and not 0 < values[2] <= high - low:
        return "has a step that does not lie above 0 and within the range"
    if kind == "randint" and not all(isinstance(value, int) and abs(value) < 2**62 for value in values):
        return "must be whole numbers below 2^62; both ends are included"
    size = (high - low) / {"randint": 1, "quniform": values[-1]}.get(kind, math.inf) + 1
    return f"has {size:,.0f} values, more than the maximum of {MAX_VALUES:,}; narrow it" if size > MAX_VALUES else ""


def _ordered(parameters: Sequence[Parameter], path: str) -> tuple[Parameter, ...]:
    """Parameters with every condition behind what it looks at; the alternatives of a key stay in their order."""
    waiting: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        waiting.setdefault(parameter.key, []).append(parameter)
    done: list[Parameter] = []
    while waiting:
        ready = [key for key, group in waiting.items() if not any(other in waiting for p in group for other in p.when)]
        if not ready:
            raise ConfigError(f"{path}: the conditions (when) of {', '.join(waiting)} wait for each other; drop one")
        done += [parameter for key in ready for parameter in waiting.pop(key)]
    return tuple(done)


def space_from_text(text: str, path: str = "hyper.test") -> Space:
    """A space in RecBole's text form, one ``key kind values`` a line.

    As in RecBole, ``loguniform -8,0`` gives the *logarithms* of both ends, and a choice of lists may be quoted
    (``choice ['[64,64]','[128,128]']``). Nothing is evaluated. A `ConfigError` names the line.
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
            raise ConfigError(f"{where}: '{key}' appears twice; keep one line")
        try:
            listed = ast.literal_eval(values if values.startswith("[") else f"[{values}]")
        except (ValueError, SyntaxError) as error:
            raise ConfigError(f"{where}: cannot read the values; write choice [1,2] or uniform 0,1") from error
        if kind == "loguniform" and len(listed) == 2 and all(is_number(value) for value in listed):
            listed = [math.exp(min(value, 700)) for value in listed]  # above 700 there is no finite number
        entries[key] = {kind: listed}
    return space_from_dict({"space": entries}, path)
