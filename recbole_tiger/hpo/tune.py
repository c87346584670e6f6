"""A sweep as one call: planned, run, and reported.

Input: a space, a model, a dataset, settings and options. Output: a :class:`SweepResult`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_tiger import extension
from recbole_tiger.hpo import outputs, report, running
from recbole_tiger.hpo.options import Options
from recbole_tiger.hpo.plan import plan
from recbole_tiger.hpo.space_files import read_space, space_from_dict


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep; `print` shows the same as the command.

    Attributes:
        folder: folder of the sweep.
        finished: whether all trials have ended; False after an interruption, and then there is no winner.
        trials: one row per ended trial, best first: settings, validation metrics, costs, status.
        best_settings: the winner's settings; None without a winner.
        valid_result, test_result: the winner's metrics; the test set was read only for it.
        checkpoint: the winner's checkpoint.
        files: paths by name, including `best configuration`.
        text: what the command prints.
    """

    folder: Path
    finished: bool
    trials: pd.DataFrame
    best_settings: dict[str, Any] | None
    valid_result: dict[str, float] | None
    test_result: dict[str, float] | None
    checkpoint: str | None
    files: Mapping[str, str]
    text: str

    def __str__(self) -> str:
        return self.text


def tune(
    space: str | Mapping | None,
    model: str | type | None = None,
    dataset: str = "ml-100k",
    config_dict: Mapping | None = None,
    **options: Any,
) -> SweepResult:
    """Search hyper-parameters on Ray Tune; selection is on validation.

    Args:
        space: a YAML file, RecBole's ``hyper.test``, the name of a shipped space, or the content of such a file.
        model: by default the space's, or TIGER; a class must come from a plugin, since trials are separate processes
            (``config_dict={"plugin": "own_model.py"}``).
        dataset: name of the dataset.
        config_dict: settings of all trials.
        options: those of :class:`recbole_tiger.hpo.options.Options`: `trials`, `search`, `scheduler`, `resume`, …

    Raises:
        ConfigError: for impossible settings or options, before the first trial.
    """
    settings = dict(config_dict or {})
    if settings.get("plugin"):
        settings["plugin"] = extension.load(settings["plugin"])
    read = space_from_dict(space) if isinstance(space, Mapping) else read_space(space)
    sweep = plan(read, extension.name_of(model), dataset, settings, Options(**options))
    if not running.run(sweep):
        text = f"Interrupted: {report.progress_line(sweep, 0)}.\nRepeat the command with --resume to continue."
        trials = pd.DataFrame(report.findings_of(sweep, None).rows)
        return SweepResult(sweep.folder, False, trials, None, None, None, None, {}, text)
    best, tested, winner = outputs.write_best(sweep), outputs.evaluate_winner(sweep), sweep.winner()
    findings = report.findings_of(sweep, tested)
    files = outputs.write_report(findings, sweep.folder)
    validated = sweep.best(winner) if winner is not None else None
    if tested is not None:
        files = {"best configuration": str(best), **files, "checkpoint": tested["checkpoint"]}
    return SweepResult(
        folder=sweep.folder,
        finished=True,
        trials=pd.DataFrame(findings.rows),
        best_settings=dict(winner.settings) if winner is not None else None,
        valid_result=dict(validated[1]) if validated is not None else None,
        test_result=None if tested is None else tested["test_result"],
        checkpoint=None if tested is None else tested["checkpoint"],
        files=files,
        text=report.text(findings, files),
    )
