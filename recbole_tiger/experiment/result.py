"""What a run leaves behind: `RunResult`, one type for every kind of row of a leaderboard.

Input: what a run has measured, or a stored ``result.json``. Output: that file, and the dictionary that callers get.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from recbole_tiger.io import atomic_write_text, to_plain

#: In place of a value that a kind of row does not have: its key is left out.
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "ABSENT"})()


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of one run, its fields in the order of ``result.json``.

    The popularity row has no checkpoint and no Semantic IDs, and lacks what has `ABSENT` as its default here.

    Attributes:
        table2: a dataset of the paper beside its counts there; None for other datasets.
        best_valid_result, test_result: metrics unrounded; the latter None where the test set was left alone.
        id_level_test_result: what counting IDs instead of items gives, where items share Semantic IDs; else None.
        popularity: the metrics of the popularity row, by phase.
        semantic_ids: the report of their table; None for models without.
        seconds: by stage.
        files: paths by name.
        cached: stages that came from the cache.
        history: a record of each epoch, and of each validation within one.
        split: see :func:`recbole_tiger.experiment.provenance.split_report`.
        commit, dirty: of this library's checkout, and whether tracked files differed; None for an installed package.
        evaluated_again: of a run that was evaluated again: its settings, and of which run.
        other: further keys of a stored result, as another version wrote them.
    """

    model: str
    dataset: str
    table2: dict | None = ABSENT
    best_valid_score: float | None
    valid_score_bigger: bool
    best_valid_result: dict | None
    test_result: dict | None
    id_level_test_result: dict | None = ABSENT
    popularity: dict[str, dict] = ABSENT
    semantic_ids: dict | None = ABSENT
    seconds: dict[str, float]
    files: dict[str, str | None] = ABSENT
    cached: list[str] = ABSENT
    parameters: int
    examples_seen: int = ABSENT
    examples_per_second: dict[str, float | None]
    history: list[dict]
    peak_memory_mb: int = ABSENT
    data_checksum: str
    split: dict
    environment: dict
    recipe: str | None
    loss: str | None
    seed: int | None
    commit: str | None
    dirty: bool | None
    run_dir: str
    config: dict
    evaluated_again: dict = ABSENT
    other: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RunResult:
        """A result as it is stored; what an older version did not write is `ABSENT`."""
        names = [each.name for each in fields(cls) if each.name != "other"]
        rest = {key: value for key, value in stored.items() if key not in names}
        return cls(**{name: stored.get(name, ABSENT) for name in names}, other=rest)

    def to_dict(self) -> dict[str, Any]:
        """All keys that this kind of row has, in their order."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "other"}
        return {key: value for key, value in own.items() if value is not ABSENT} | dict(self.other)

    def write(self, folder: str | Path) -> None:
        """Write ``result.json`` into a folder, whole or not at all."""
        text = json.dumps(to_plain(self.to_dict()), indent=1)
        atomic_write_text(Path(folder) / "result.json", text)
