"""Rows of a table as data: `leaderboard --rows=FILE` makes what is missing of them.

Input: a YAML file. Output: its rows, with a name, settings and seeds each, and what they share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recbole_tiger.errors import ConfigError
from recbole_tiger.leaderboard.plan import RowName, parse_rows
from recbole_tiger.settings.parse import read_yaml

_OF_THE_FILE = {"dataset": str, "seeds": (int, list), "settings": Mapping, "rows": Mapping}
_OF_A_ROW = {"model": str, "seeds": (int, list), "settings": Mapping}


@dataclass(frozen=True)
class RowsFile:
    """A table that a file describes; `seeds` are those of rows without seeds of their own."""

    dataset: str
    seeds: list[int]
    settings: dict
    rows: list[RowName]


def read_rows(path: str | Path) -> RowsFile:
    """The table of a file with `dataset`, and optional `seeds` and `settings` of all rows; under `rows` each row's name
    with its `model` (by default the name; `SASRec+text` and brackets are understood), `settings` and `seeds`.

    Raises:
        ConfigError: for anything else, naming the file and the key.
    """
    content = _checked(read_yaml(path), _OF_THE_FILE, f"rows: '{path}'")
    if not content.get("dataset") or not content.get("rows"):
        raise ConfigError(f"rows: '{path}' needs a dataset, and rows: at least one name with its settings")
    rows = []
    for name, own in content["rows"].items():
        own = _checked(own or {}, _OF_A_ROW, f"rows: '{path}', the row '{name}'")
        parsed = parse_rows([own.get("model", name)])[0]
        tag = {**parsed.tag, **own.get("settings", {})}
        rows.append(RowName(str(name), parsed.model, tag, _seeds(own["seeds"]) if "seeds" in own else None))
    return RowsFile(content["dataset"], _seeds(content.get("seeds", 2024)), dict(content.get("settings", {})), rows)


def _seeds(seeds: int | list[int]) -> list[int]:
    return list(seeds) if isinstance(seeds, list) else [seeds]


def _checked(given: object, kinds: Mapping, where: str) -> dict:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} must be lines 'key: value' with the keys {', '.join(kinds)}, not {given!r}")
    for key, value in given.items():
        if key not in kinds:
            raise ConfigError(f"{where} has the key '{key}'; it may have {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise ConfigError(f"{where}: {key}={value!r} has the wrong type; docs/leaderboards.md shows an example")
    return dict(given)
