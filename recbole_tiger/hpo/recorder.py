"""The callback that records every result of a trial and prints the progress of the sweep.

Input: Ray's events. Output: the files of the trials, and lines on the standard error. This module imports Ray: call
:func:`ray_shim.import_ray` before importing it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ray.tune import Callback

from recbole_tiger.hpo.report import progress_line
from recbole_tiger.hpo.sweep import Sweep, Trial
from recbole_tiger.hpo.trainable import FAILED, reason_of_death

#: Seconds between two lines of progress while nothing ends.
_HEARTBEAT = 60


class TrialRecorder(Callback):
    """Keeps the trials of a sweep, in memory and in their files, at every event."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        self.printed_at = time.monotonic()

    def _trial(self, trial) -> Trial:
        """The sweep's trial that a trial of Ray runs."""
        number, config = trial.config["number"], trial.config
        if number not in self.sweep.trials:
            new = Trial(number, json.loads(config["sample"]), json.loads(config["settings"]))
            self.sweep.trials[number] = new
        return self.sweep.trials[number]

    def on_trial_start(self, iteration, trials, trial, **info):
        own = self._trial(trial)
        own.status, own.starts = "running", own.starts + 1
        self.sweep.write(own)

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if "record" not in result:
            return
        own, record = self._trial(trial), json.loads(result["record"])
        own.history, own.finished, own.costs = record["history"], record["finished"], record["costs"]
        if result["node"] not in own.nodes:
            own.nodes.append(result["node"])
        self.sweep.write(own)

    def on_trial_complete(self, iteration, trials, trial, **info):
        own = self._trial(trial)
        own.status = "finished" if own.finished else "stopped"
        self.sweep.write(own)
        self._drop_checkpoints()
        self._print(trials, own)

    def on_trial_error(self, iteration, trials, trial, **info):
        own = self._trial(trial)
        try:
            file = self.sweep.folder_of(own) / FAILED
            own.reason = json.loads(file.read_text(encoding="utf-8"))["reason"]
        except (OSError, ValueError):
            own.reason = reason_of_death(_error_text(trial))
        own.status = "failed"
        self.sweep.write(own)
        self._print(trials, own)

    def on_step_end(self, iteration, trials, **info):
        if time.monotonic() - self.printed_at > _HEARTBEAT and sys.stderr.isatty():
            self._print(trials)

    def _drop_checkpoints(self) -> None:
        """Only the best trial so far keeps its weights: those of a hundred trials would fill the disk."""
        winner = self.sweep.winner()
        for trial in self.sweep.ended() if winner else ():
            if trial is not winner:
                for name in ("best.pth", "last.pth", "pretrained.pth"):
                    (self.sweep.folder_of(trial) / name).unlink(missing_ok=True)

    def _print(self, trials, trial: Trial | None = None) -> None:
        self.printed_at = time.monotonic()
        running = sum(entry.status == "RUNNING" for entry in trials)
        print(progress_line(self.sweep, running, trial), file=sys.stderr, flush=True)


def _error_text(trial) -> str:
    try:
        return Path(trial.error_file).read_text(encoding="utf-8", errors="replace")[-4000:]
    except (OSError, TypeError):
        return ""
