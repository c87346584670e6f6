"""The searcher that Ray asks for trials: first those that have not ended, then what Optuna suggests.

Input: a sweep. Output: configurations for Ray, each a trial's number, settings and sample. This module imports Ray:
call :func:`ray_shim.import_ray` before importing it.
"""

from __future__ import annotations

import json

import numpy as np
from ray.tune.search import Searcher

from recbole_tiger.hpo import ray_shim
from recbole_tiger.hpo.sweep import Sweep


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

    def save(self, checkpoint_path):
        """Nothing: the files of the trials are the sweep's memory."""

    def restore(self, checkpoint_path):
        """Nothing, as in :meth:`save`."""

    def save_to_dir(self, checkpoint_dir, session_str="default"):
        """Nothing, as in :meth:`save`."""
