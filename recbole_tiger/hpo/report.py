"""What a sweep has found: measured in plain values, and set as text, CSV and Markdown.

Input: a sweep, and the winner's test metrics. Output: :class:`Findings`, which tables and figures are made of; a line
of progress, the report of the terminal, and the content of `report.csv` and `report.md`.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recbole_tiger.hpo.sweep import Sweep, Trial, number_text
from recbole_tiger.report.tables import csv_table, markdown_table, markdown_text, text_table

#: Costs of a configuration: their names in a record, in a table, with digits.
COSTS = {
    "tokens_per_history": ("tokens per history", 1),
    "parameters": ("parameters", 0),
    "epoch_seconds": ("seconds per epoch", 2),
    "decode_ms_per_user": ("decode ms per user", 3),
    "items_in_collisions": ("items in collisions", 0),
    "usage": ("codebook usage", 3),
}
_DIGITS = dict(COSTS.values())
_STOPPED = ". Trials that were stopped early had fewer epochs; to compare at equal epochs, use --scheduler=none"
#: What became of a trial that is over, in words.
STATUS = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}


@dataclass(frozen=True)
class Findings:
    """What a sweep has found.

    Attributes:
        title, heading: what was run, and in a sentence how it went.
        keys, metric, bigger: the varied settings, the metric of selection, and whether more of it is better.
        rows: column -> value of each trial that is over, the best first: `trial`, the varied settings, the metrics of
            the best validation, `best epoch`, `epochs`, `status`, the costs of :data:`COSTS`, `reason`. What a trial
            does not have is None.
        curves: of each trial that was validated its settings, its status and (epoch, score) pairs, by number.
        winner: the number and the settings of the best trial; None if none was ever validated.
        test: header and lines of the test metrics, read for the winner alone; [] without a winner.
    """

    title: str
    heading: str
    keys: list[str]
    metric: str
    bigger: bool
    rows: list[dict[str, Any]]
    curves: list[tuple[str, str, list[tuple[int, float]]]]
    winner: str | None
    test: list[list[str]]

    @property
    def scored(self) -> list[dict[str, Any]]:
        """The rows of trials that were validated and did not fail."""
        return [row for row in self.rows if row[self.metric] is not None and row["status"] != STATUS["failed"]]

    @property
    def columns(self) -> list[str]:
        """The columns in which any row has a value."""
        return [name for name in (self.rows or [{}])[0] if any(row[name] is not None for row in self.rows)]

    def cells(self, columns: list[str]) -> list[list[str]]:
        """These columns of all rows as text."""
        return [[cell(name, row[name]) for name in columns] for row in self.rows]


def findings_of(sweep: Sweep, tested: Mapping | None) -> Findings:
    """What a sweep has found; `tested` as :func:`recbole_tiger.hpo.tune.evaluate_winner` returns it."""
    ended, winner = sweep.ended(), sweep.winner() if tested else None

    def order(trial: Trial) -> tuple:
        score = sweep.score(trial)
        return trial.status == "failed", score is None, -(score or 0), trial.number

    measured = next((best[1] for trial in ended if (best := sweep.best(trial))), {})
    metrics = list(dict.fromkeys([sweep.metric, *measured]))
    return Findings(
        title=f"Sweep of {sweep.model} on {sweep.dataset}",
        heading=f"{sweep.model} on {sweep.dataset}: {len(ended)} of {sweep.n_trials} trials over, {_counts(sweep)}; "
        f"chosen on validation {sweep.metric}" + (_STOPPED if any(t.status == "stopped" for t in ended) else ""),
        keys=sweep.space.keys,
        metric=sweep.metric,
        bigger=sweep.bigger,
        rows=[_row(sweep, trial, metrics) for trial in sorted(ended, key=order)],
        curves=[(str(trial), STATUS[trial.status], sweep.curve(trial)) for trial in ended if sweep.best(trial)],
        winner=str(winner) if winner else None,
        test=_test_table(tested) if winner and tested else [],
    )


def _row(sweep: Sweep, trial: Trial, metrics: list[str]) -> dict[str, Any]:
    epoch, values = sweep.best(trial) or (None, {})
    return {
        "trial": trial.number,
        **{key: trial.settings.get(key) for key in sweep.space.keys},
        **{name: values.get(name) for name in metrics},
        "best epoch": epoch,
        "epochs": trial.history[-1]["epoch"] if trial.history else 0,
        "status": STATUS[trial.status],
        **{name: trial.costs.get(key) for key, (name, _) in COSTS.items()},
        "reason": trial.reason,
    }


def _test_table(tested: Mapping) -> list[list[str]]:
    """The test metrics of the winner, below a header, and of popularity where it was measured."""
    names, popularity = list(tested["test_result"]), tested["popularity"]
    lines = [["test", *names], ["winner", *[f"{value:.4f}" for value in tested["test_result"].values()]]]
    if popularity:
        lines.append(["popularity", *[f"{popularity[name]:.4f}" if name in popularity else "" for name in names]])
    return lines


def _counts(sweep: Sweep, *statuses: str) -> str:
    counts = Counter(trial.status for trial in sweep.trials.values())
    return ", ".join(f"{counts[status]} {STATUS[status]}" for status in statuses or STATUS)


def cell(column: str, value: Any) -> str:
    """A value of a row as text."""
    if value is None:
        return ""
    if column in _DIGITS:
        return f"{value:,.{_DIGITS[column]}f}"
    return f"{value:.4f}" if isinstance(value, float) and "@" in column else number_text(value)


def progress_line(sweep: Sweep, running: int, trial: Trial | None = None) -> str:
    """Where a sweep stands, in a line: the trial that has just ended, then counts and the best so far."""
    n_ended = len(sweep.ended())
    line = f"{n_ended} of {sweep.n_trials} trials done, {min(running, sweep.n_trials - n_ended)} running, "
    line += _counts(sweep, "stopped", "failed")
    winner = sweep.winner()
    if winner is not None and (found := sweep.best(winner)):
        line += f"; best {sweep.metric} {found[1][sweep.metric]:.4f}, {winner}"
    if trial is None:
        return line
    best = sweep.best(trial)
    epochs = f"epoch {best[0]} of {trial.history[-1]['epoch']}" if best else ""
    score = f", best {sweep.metric} {best[1][sweep.metric]:.4f} in {epochs}" if best else ""
    reason = f": {trial.reason}" if trial.reason else ""
    return f"{trial} {STATUS[trial.status]}{score}{reason}\n{line}"


def print_progress(text: str) -> None:
    """Write a line with the time of day to the standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def text(findings: Findings, files: Mapping[str, str]) -> str:
    """The report as the terminal shows it."""
    costs = [name for name, _ in COSTS.values() if name in findings.columns]
    shown = ["trial", *findings.keys, findings.metric, "epochs", "status", *costs]
    failed = [row for row in findings.rows if row["status"] == STATUS["failed"]]
    parts = ["", findings.heading + "\n" + text_table(shown, findings.cells(shown))]
    if failed:
        parts.append("\n".join(f"trial {row['trial']} failed: {row['reason']}" for row in failed))
    parts += [_verdict(findings), text_table(["file", "where"], list(files.items()))]
    return "\n\n".join(parts)


def _verdict(findings: Findings) -> str:
    if findings.winner is None:
        return "No trial was ever validated: there is no winner, and the test set was not read."
    table = text_table(findings.test[0], findings.test[1:])
    return f"Winner: {findings.winner}. Its test metrics, read once and after all trials:\n{table}"


def csv_text(findings: Findings) -> str:
    """All rows, unrounded, as CSV."""

    def plain(value: Any) -> Any:
        return json.dumps(value) if isinstance(value, (list, dict)) else value

    return csv_table([{name: plain(value) for name, value in row.items()} for row in findings.rows])


def markdown(findings: Findings) -> str:
    """The report as Markdown."""
    columns = findings.columns or ["trial"]
    header, *cells = [list(map(markdown_text, line)) for line in (columns, *findings.cells(columns))]
    table = markdown_table(header, cells)
    # The verdict ends in a table of the terminal: a fenced block keeps its columns.
    return f"# {findings.title}\n\n{findings.heading}.\n\n{table}\n\n```\n{_verdict(findings)}\n```\n"
