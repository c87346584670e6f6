"""A sweep and its trials: what is tried, what each trial has reported, and which one is the best on validation.

Input: a plan, and the reports of trials. Output: a JSON file for each trial, from which a new process continues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

from recbole_tiger.hpo.options import Options
from recbole_tiger.hpo.space import Space
from recbole_tiger.io import atomic_write_text

#: Status of trials that are over.
ENDED = ("finished", "stopped", "failed")


@dataclass
class Trial:
    """What is known of a trial; the fields are those of its file.

    Attributes:
        number: from 0, in the order in which trials are given out.
        sample, settings: parameter name -> value, and what this sets.
        status, reason: `waiting`, `running`, or one of :data:`ENDED`, and why it failed or was stopped.
        history: of every epoch `epoch` (from 1), `train_loss`, `seconds`, and `valid` metrics where it was validated.
        costs: see :func:`recbole_tiger.hpo.trainable.costs_of`.
        starts, nodes: how often it was started, and where it ran.
        finished: whether the run has come to its own end.
    """

    number: int
    sample: dict
    settings: dict
    status: str = "running"
    reason: str | None = None
    history: list[dict] = field(default_factory=list)
    costs: dict = field(default_factory=dict)
    starts: int = 0
    nodes: list[str] = field(default_factory=list)
    finished: bool = False

    def __str__(self) -> str:
        return f"trial {self.number} ({describe_settings(self.settings)})"


@dataclass
class Sweep:
    """A sweep of `model` on `dataset` and where it stands.

    Attributes:
        folder: everything that it writes.
        settings: what the user has fixed, paths absolute.
        base: all settings that do not vary, the shipped ones among them.
        metric, bigger: of selection, such as `ndcg@10`, and whether more of it is better.
        max_epochs: maximum number of epochs of a trial.
        samples: the trials of a random or grid search, in order; None where a searcher decides.
        n_trials: how many trials there are in all.
        trials: number -> each trial so far.
    """

    folder: Path
    model: str
    dataset: str
    space: Space
    settings: dict
    base: dict
    metric: str
    bigger: bool
    max_epochs: int
    options: Options
    samples: list[dict] | None
    n_trials: int
    trials: dict[int, Trial] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)

    @property
    def trials_folder(self) -> Path:
        return self.folder / "trials"

    @property
    def sign(self) -> int:
        """What makes a metric a score of which more is better."""
        return 1 if self.bigger else -1

    def folder_of(self, trial: Trial) -> Path:
        """The folder that a trial runs in."""
        return self.trials_folder / f"{trial.number:04d}"

    def write(self, trial: Trial) -> None:
        """Store the file of a trial."""
        atomic_write_text(self.folder_of(trial).with_suffix(".json"), json.dumps(asdict(trial), indent=1))

    def read(self) -> None:
        """Read the files of all trials; OSError, ValueError or TypeError for a file that is none."""
        for file in sorted(self.trials_folder.glob("[0-9]*.json")):
            self.trials[int(file.stem)] = Trial(**json.loads(file.read_text(encoding="utf-8")))

    def ended(self) -> list[Trial]:
        """The trials that are over, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.status in ENDED]

    def curve(self, trial: Trial) -> list[tuple[int, float]]:
        """The epochs and scores of a trial's validations."""
        return [(entry["epoch"], entry["valid"][self.metric]) for entry in trial.history if "valid" in entry]

    def best(self, trial: Trial) -> tuple[int, dict] | None:
        """Epoch and metrics of a trial's best validation, the first of equal ones; None before the first.

        A metric that is not a number is never the best.
        """
        validated = [entry for entry in trial.history if "valid" in entry and not isnan(entry["valid"][self.metric])]
        if not validated:
            return None
        entry = max(validated, key=lambda entry: self.sign * entry["valid"][self.metric])
        return entry["epoch"], entry["valid"]

    def score(self, trial: Trial) -> float | None:
        """The selection metric of a trial's best validation, such that more is better; None before the first."""
        best = self.best(trial)
        return self.sign * best[1][self.metric] if best else None

    def winner(self) -> Trial | None:
        """The trial with the best validation score, the first of equal ones; None if none was ever validated."""
        alive = [trial for trial in self.ended() if trial.status != "failed"]
        scored = [(score, trial) for trial in alive if (score := self.score(trial)) is not None]
        return max(scored, key=lambda pair: pair[0])[1] if scored else None


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Settings in a line."""
    return ", ".join(f"{key}={number_text(value)}" for key, value in settings.items())


def number_text(value: Any) -> str:
    """A value as text, a fraction with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
