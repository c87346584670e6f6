"""What Ray calls during a sweep: the searcher that it asks for trials, and the recorder of all that becomes of them.

Input: a sweep, and Ray's events. Output: configurations for Ray, each a trial's number, settings and sample; the files
of the trials, and lines of progress on the standard error. This module imports Ray: call :func:`ray_shim.import_ray`
before importing it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from ray.tune import Callback
from ray.tune.search import Searcher

from recbole_tiger.hpo import ray_shim
from recbole_tiger.hpo.report import print_progress, progress_line
from recbole_tiger.hpo.sweep import Sweep, Trial
from recbole_tiger.hpo.trainable import FAILED, reason_of_death

#: Seconds between two lines of progress while nothing begins or ends, on a terminal and in a file.
_HEARTBEAT = {True: 60, False: 300}


class TrialSearcher(Searcher):
    """Gives out the trials that were begun, then the others in order, then what Optuna suggests in a search by Optuna.

    Args:
        sweep: its samples, or where Optuna decides its space; what has ended is not given out again.
    """

    def __init__(self, sweep: Sweep):
        super().__init__(metric="score", mode="max")
        self.sweep = sweep
        self.numbers: list[int] = []
        self.samples: dict[str, dict] = {}  # Ray's trial id -> sample
        self.best: dict[str, float] = {}  # Ray's trial id -> its best score so far
        self.suggested: set[str] = set()  # Ray's ids of the trials that Optuna has suggested itself
        self.optuna = None
        over = {trial.number for trial in sweep.ended()}
        if sweep.samples is not None:
            self.queue = [(number, sample) for number, sample in enumerate(sweep.samples) if number not in over]
            return
        self.queue = [(number, trial.sample) for number, trial in sorted(sweep.trials.items()) if number not in over]
        firsts = enumerate(sweep.space.first_samples(np.random.default_rng(sweep.options.search_seed)))
        self.queue += [(number, sample) for number, sample in firsts if number not in sweep.trials]
        self.optuna = ray_shim.make_optuna(sweep.space.parameters, sweep.options.search_seed + len(sweep.trials))
        for trial in sweep.ended():
            if (score := sweep.score(trial)) is not None:
                self.optuna.add_evaluated_point(sweep.space.encode(trial.sample), score)

    def set_search_properties(self, metric, mode, config, **spec) -> bool:
        return True

    def suggest(self, trial_id):
        if self.queue:
            number, sample = self.queue.pop(0)
        elif self.optuna is None:
            return Searcher.FINISHED
        else:
            suggestion = self.optuna.suggest(trial_id)
            if suggestion is None or suggestion == Searcher.FINISHED:
                return suggestion
            sample = self.sweep.space.decode(suggestion)
            number = max([*self.sweep.trials, *self.numbers], default=-1) + 1
            self.suggested.add(trial_id)
        self.numbers.append(number)
        self.samples[trial_id] = sample
        chosen = self.sweep.space.settings_of(sample, self.sweep.base)
        return {"number": number, "settings": json.dumps(chosen), "sample": json.dumps(sample)}

    def on_trial_result(self, trial_id, result):
        self.best[trial_id] = max(self.best.get(trial_id, result["score"]), result["score"])
        if trial_id in self.suggested:
            self.optuna.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id, result=None, error=False):
        best = self.best.get(trial_id)
        if trial_id in self.suggested:
            self.optuna.on_trial_complete(trial_id, None if best is None else {**(result or {}), "score": best}, error)
        elif self.optuna is not None and best is not None and not error:
            self.optuna.add_evaluated_point(self.sweep.space.encode(self.samples[trial_id]), best)

    def save_to_dir(self, checkpoint_dir, session_str="default"):
        """Nothing: the files of the trials are the sweep's memory."""


class TrialRecorder(Callback):
    """Keeps the trials of a sweep, in memory and in their files, at every event."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        self.printed_at = time.monotonic()

    def _trial(self, trial) -> Trial:
        """The sweep's trial that a trial of Ray runs."""
        number, sample, settings = (trial.config[key] for key in ("number", "sample", "settings"))
        return self.sweep.trials.setdefault(number, Trial(number, json.loads(sample), json.loads(settings)))

    def on_trial_start(self, iteration, trials, trial, **info):
        own = self._trial(trial)
        own.status, own.starts = "running", own.starts + 1
        self.sweep.write(own)
        self._print(f"{own} started; its log is in {self.sweep.folder_of(own) / 'log' / self.sweep.model}")

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
        self._print(progress_line(self.sweep, _n_running(trials), own))

    def on_trial_error(self, iteration, trials, trial, **info):
        own = self._trial(trial)
        try:
            file = self.sweep.folder_of(own) / FAILED
            own.reason = json.loads(file.read_text(encoding="utf-8"))["reason"]
        except (OSError, ValueError):
            own.reason = reason_of_death(_error_text(trial))
        own.status = "failed"
        self.sweep.write(own)
        self._print(progress_line(self.sweep, _n_running(trials), own))

    def on_step_end(self, iteration, trials, **info):
        if time.monotonic() - self.printed_at > _HEARTBEAT[sys.stderr.isatty()]:
            self._print(progress_line(self.sweep, _n_running(trials)))

    def _drop_checkpoints(self) -> None:
        """Only the best trial so far keeps its weights: those of a hundred trials would fill the disk."""
        winner = self.sweep.winner()
        for trial in self.sweep.ended() if winner else ():
            if trial is not winner:
                for name in ("best.pth", "last.pth", "pretrained.pth"):
                    (self.sweep.folder_of(trial) / name).unlink(missing_ok=True)

    def _print(self, text: str) -> None:
        self.printed_at = time.monotonic()
        print_progress(text)


def _n_running(trials) -> int:
    return sum(trial.status == "RUNNING" for trial in trials)


def _error_text(trial) -> str:
    try:
        return Path(trial.error_file).read_text(encoding="utf-8", errors="replace")[-4000:]
    except (OSError, TypeError):
        return ""
