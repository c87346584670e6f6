"""Stored runs, and the tables that may hold them.

Input: folders with a ``result.json`` and a ``ranks.npz``. Output: one :class:`Leaderboard` for each dataset and
protocol, its rows with means over seeds, intervals and tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from recbole_tiger.errors import ConfigError
from recbole_tiger.evaluation.significance import Comparison, compare, has_user_values, load_ranks, user_values
from recbole_tiger.leaderboard.published import published_table
from recbole_tiger.models import POP, model_spec, row_name
from recbole_tiger.report.tables import Table
from recbole_tiger.settings.plain import renamed_settings
from recbole_tiger.settings.schema import keys_with

#: What all rows of a table share; the split stands in eval_args.
PROTOCOL_KEYS = keys_with("protocol")
#: Settings that no metric depends on.
PLACE_KEYS = frozenset(keys_with("place"))
#: Where S3Rec's first stage left its weights: of runs of one row each has its own.
PRETRAINED = "pre_model_path"
#: Keys of a result, without which it is none of a run.
_NEEDED = {"model", "dataset", "test_result", "data_checksum", "config"}
#: More rows than this, and 1,000 resamples make the intervals instead of 10,000.
_MANY_ROWS = 50


# ---------------------------------------------------------------------------------------------------- stored runs, read


@dataclass(frozen=True)
class StoredRun:
    """A finished run: ``row`` tells runs apart that differ in more than the seed."""

    label: str
    row: str
    folder: Path
    result: dict

    @property
    def seed(self) -> int | None:
        """None for a run without randomness."""
        return self.result.get("seed", self.result["config"].get("seed"))

    def finished_at(self) -> int:
        """When the result was written, in nanoseconds; 0 if it is gone."""
        file = self.folder / "result.json"
        return file.stat().st_mtime_ns if file.is_file() else 0


def read_run(folder: Path) -> StoredRun | None:
    """A run from its folder; None if it is not finished or has no test metrics. A `ValueError` names a damaged file."""
    path, about = folder / "result.json", {}
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if (folder / "run.json").is_file():
            about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(
            f"'{path}' or the run.json beside it is damaged ({error}); delete the folder and run again"
        ) from error
    if not isinstance(result, dict) or not _NEEDED <= result.keys() or not result["test_result"]:
        return None
    result["config"] = renamed_settings(result["config"])
    row = about.get("row") or json.dumps([result["data_checksum"], _own_settings(result)], sort_keys=True)
    label = about.get("label") or row_name(result["model"], result["config"].get("item_text"))
    return StoredRun(label, row, folder, result)


def _own_settings(result: Mapping) -> dict:
    """The settings of a run that tell its row from others."""
    return {k: v for k, v in result["config"].items() if k not in PLACE_KEYS and k != PRETRAINED}


def read_runs(root: str | Path) -> list[StoredRun]:
    """All finished runs below a folder; a `ValueError` if there is none."""
    found = [read_run(path.parent) for path in sorted(Path(root).rglob("result.json"))]
    runs = [run for run in found if run is not None]
    if not runs:
        raise ValueError(f"no finished run below '{root}'; name a folder that holds result.json files of tested runs")
    return runs


# ----------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class BoardRow:
    """One row: its runs differ in the seed only.

    Attributes:
        mean, std: of each test metric over seeds; ``std`` is None with one seed.
        gain: of the main metric over the best other row, as a fraction; None with one row.
        comparison: intervals and test on the main metric, None where per-user ranks are missing.
    """

    label: str
    runs: tuple[StoredRun, ...]
    mean: dict[str, float]
    std: dict[str, float] | None
    gain: float | None = None
    comparison: Comparison | None = None

    @property
    def first(self) -> dict:
        """The result of the first seed, for what all seeds share."""
        return self.runs[0].result

    @property
    def model(self) -> str:
        """Its name."""
        return self.first["model"]

    def seeds(self) -> str:
        """The seeds of the runs as text, "none" for a model without training."""
        seeds = [run.seed for run in self.runs]
        return ",".join(str(seed) for seed in seeds if seed is not None) if self.is_trained() else "none"

    def is_trained(self) -> bool:
        """Whether the seed and the number of epochs change anything."""
        return self.model != POP and not model_spec(self.model).untrained

    def seconds(self, *stages: str) -> float:
        """Mean over seeds of the time in some stages."""
        return float(np.mean([sum(run.result["seconds"].get(s, 0.0) for s in stages) for run in self.runs]))

    def speed(self, stage: str) -> float | None:
        """Examples per second, mean over seeds; None where that is not known, or means nothing."""
        if stage == "training" and not self.is_trained():
            return None
        speeds = [(run.result.get("examples_per_second") or {}).get(stage) for run in self.runs]
        known = [speed for speed in speeds if speed is not None]
        return float(np.mean(known)) if len(known) == len(speeds) else None

    def commit(self) -> str:
        """Short commits, ``+`` where the tree differed from them."""
        states = {(run.result.get("commit"), run.result.get("dirty")) for run in self.runs}
        short = sorted(f"{commit[:8]}{'+' if dirty else ''}" for commit, dirty in states if commit)
        return ",".join(short) or "unknown"


@dataclass(frozen=True)
class Leaderboard:
    """Rows that may share a table: same dataset, same data, same protocol.

    Attributes:
        main: the metric that models were selected on; rows are sorted by it, and intervals and tests are about it.
        rows: best first.
        reference: label of the row that the others are tested against.
        failures: (row, reason) of runs that did not finish.
        n_resamples: of the bootstrap, 0 where there are no intervals.
        published: the paper's numbers for this dataset, to be shown apart; None where nobody asks for them or there are
            none.
    """

    dataset: str
    checksum: str
    protocol: dict
    metrics: tuple[str, ...]
    main: str
    rows: tuple[BoardRow, ...]
    reference: str
    failures: tuple[tuple[str, str], ...] = ()
    n_resamples: int = 0
    n_users: int | None = None
    published: Table | None = None


def protocol_of(result: Mapping) -> dict:
    """The settings of a run that all rows of its table share."""
    return {key: result["config"].get(key) for key in PROTOCOL_KEYS}


def make_leaderboards(
    runs: Sequence[StoredRun], failures: Sequence[tuple[str, str]] = (), published: bool = False
) -> list[Leaderboard]:
    """Tables of stored runs; runs on other data, or under another protocol, never share one.

    Args:
        failures: (row, reason) of runs of the first table that did not finish.
        published: put the paper's numbers beside the tables of its datasets.

    Raises:
        ConfigError: if there is no run.
    """
    if not runs:
        raise ConfigError("no row has a result: " + "; ".join(f"{label}: {reason}" for label, reason in failures))
    groups: dict[tuple, list[StoredRun]] = {}
    for run in runs:
        protocol = json.dumps(protocol_of(run.result), sort_keys=True)
        groups.setdefault((run.result["dataset"], run.result["data_checksum"], protocol), []).append(run)
    boards = [_leaderboard(group, () if n else failures, published) for n, group in enumerate(groups.values())]
    return sorted(boards, key=lambda board: board.dataset)


def _leaderboard(runs: Sequence[StoredRun], failures: Sequence[tuple[str, str]], published: bool) -> Leaderboard:
    first = runs[0].result
    metrics = max((tuple(run.result["test_result"]) for run in runs), key=len)  # popularity lacks those of whole lists
    main = str(first["config"]["valid_metric"]).lower()
    by_row: dict[str, dict] = {}
    for run in runs:  # of two runs with one seed the later one counts
        seeded = by_row.setdefault(run.row, {})
        if run.seed not in seeded or run.finished_at() >= seeded[run.seed].finished_at():
            seeded[run.seed] = run
    rows = []
    for label, seeded in zip(_labels(by_row), by_row.values(), strict=True):
        values = {m: [run.result["test_result"].get(m, np.nan) for run in seeded.values()] for m in metrics}
        mean = {metric: float(np.mean(value)) for metric, value in values.items()}
        std = {m: float(np.std(value, ddof=1)) for m, value in values.items()} if len(seeded) > 1 else None
        rows.append(BoardRow(label, tuple(seeded.values()), mean, std))
    reference = next((index for index, row in enumerate(rows) if row.model == "TIGER"), 0)
    rows, n_resamples, n_users = _with_statistics(rows, reference, main)
    sign = -1 if first.get("valid_score_bigger", True) else 1
    ordered = sorted(rows, key=lambda row: (np.isnan(row.mean[main]), sign * row.mean[main]))
    return Leaderboard(
        dataset=first["dataset"],
        checksum=first["data_checksum"],
        protocol=protocol_of(first),
        metrics=metrics,
        main=main,
        rows=tuple(_with_gain(ordered, main)),
        reference=rows[reference].label,
        failures=tuple(failures),
        n_resamples=n_resamples,
        n_users=n_users,
        published=published_table(first["dataset"]) if published else None,
    )


def is_leaking(result: Mapping) -> bool:
    """Whether the input of a run's model says something of the test items (P5 with consecutive numbers)."""
    return str(result.get("recipe")).endswith("_leaking")


def _labels(by_row: Mapping[str, Mapping]) -> list[str]:
    """A label for each row; rows with equal labels get the settings in which they differ, those alike their folders."""
    runs = [next(iter(seeded.values())) for seeded in by_row.values()]
    labels = [run.label + (" (leaking)" if is_leaking(run.result) else "") for run in runs]
    for label in {label for label in labels if labels.count(label) > 1}:
        same = [index for index, other in enumerate(labels) if other == label]
        for index, pairs in zip(same, differences([_own_settings(runs[i].result) for i in same]), strict=True):
            labels[index] += f"[{pairs}]" if pairs else ""
    return [
        label if labels.count(label) == 1 else f"{label} ({run.folder.name})"
        for label, run in zip(labels, runs, strict=True)
    ]


def differences(settings: Sequence[Mapping]) -> list[str]:
    """Of each of `settings` as ``key=value,…`` what tells it from the others, "" where all are alike.

    The keys are few, found greedily: each splits most of what is still alike.
    """
    keys = sorted(set().union(*settings))

    def n_different(chosen: Sequence[str]) -> int:
        return len({tuple(repr(own.get(key)) for key in chosen) for own in settings})

    chosen: list[str] = []
    while n_different(chosen) < len(settings):
        best = max(keys, key=lambda key: n_different([*chosen, key]))
        if n_different([*chosen, best]) == n_different(chosen):
            break
        chosen.append(best)
    return [",".join(f"{key}={own.get(key)}" for key in chosen) for own in settings]


def _with_statistics(rows: list[BoardRow], reference: int, main: str) -> tuple[list[BoardRow], int, int | None]:
    """The rows with their comparisons, the number of resamples and the number of users."""
    if not has_user_values(main) or not all((run.folder / "ranks.npz").is_file() for row in rows for run in row.runs):
        return rows, 0, None
    users = load_ranks(rows[0].runs[0].folder / "ranks.npz").users
    values = np.zeros((len(rows), len(users)), dtype=np.float32)
    for index, row in enumerate(rows):
        for run in row.runs:
            ranks = load_ranks(run.folder / "ranks.npz")
            if not np.array_equal(users, ranks.users):
                raise ValueError(
                    f"'{run.folder}' was tested on other users than the other runs of its table; run it again"
                )
            values[index] += user_values(ranks, main)
        values[index] /= len(row.runs)
    n_resamples = 10_000 if len(rows) <= _MANY_ROWS else 1_000
    found = compare(values, reference, n_resamples=n_resamples)
    return [replace(row, comparison=own) for row, own in zip(rows, found, strict=True)], n_resamples, len(users)


def _with_gain(rows: list[BoardRow], main: str) -> list[BoardRow]:
    """Rows, best first, with their gain over the best other one."""
    if len(rows) < 2:
        return rows
    best, *rest = (row.mean[main] for row in rows)
    others = [rest[0], *[best] * len(rest)]
    gains = [row.mean[main] / other - 1 if other else np.nan for row, other in zip(rows, others, strict=True)]
    return [replace(row, gain=None if np.isnan(gain) else gain) for row, gain in zip(rows, gains, strict=True)]
