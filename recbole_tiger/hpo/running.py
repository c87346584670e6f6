"""Running a sweep: what is left of it goes through Ray, with a scheduler and a searcher that know its past.

Input: a planned sweep. Output: the sweep with all its trials, in memory and in their files.
"""

from __future__ import annotations

import time

from recbole_tiger.errors import ConfigError
from recbole_tiger.hpo import ray_shim
from recbole_tiger.hpo.options import Options
from recbole_tiger.hpo.report import print_progress
from recbole_tiger.hpo.resume import alone, forget_failures, replay
from recbole_tiger.hpo.sweep import ENDED, Sweep
from recbole_tiger.hpo.trainable import make_trainable


def run(sweep: Sweep) -> bool:
    """Run what is left of a sweep; True if all of its trials have ended or its time was over, False if interrupted.

    A `ConfigError` if Ray is missing, does not answer, or has no node with room for a trial.
    """
    with alone(sweep.folder):
        forget_failures(sweep)
        n_left = sweep.n_trials - len(sweep.ended())
        if n_left <= 0:
            return True
        options, started = sweep.options, time.monotonic()
        seconds = None if options.time_budget_minutes is None else 60 * options.time_budget_minutes
        ray = ray_shim.start(options.address, options.cpus, options.dashboard)
        try:
            _check_room(ray.nodes(), options)
            print_progress(f"{n_left} of {sweep.n_trials} trials to run, in {sweep.folder}")
            _run_trials(sweep, n_left, seconds)
        finally:
            ray.shutdown()
        if seconds is None or time.monotonic() - started < seconds:
            return len(sweep.ended()) >= sweep.n_trials
        for trial in sweep.trials.values():
            if trial.status not in ENDED:
                trial.status, trial.reason = "stopped", "the time budget of the sweep was used up"
                sweep.write(trial)
        return True


def _run_trials(sweep: Sweep, n_trials: int, seconds: float | None) -> None:
    """Give this many trials to Ray."""
    from recbole_tiger.hpo.callbacks import TrialRecorder, TrialSearcher  # here, since it imports Ray

    options = sweep.options
    scheduler = ray_shim.make_scheduler(
        options.scheduler or "none",
        max_epochs=sweep.max_epochs,
        grace_period=min(options.grace_period or max(1, sweep.max_epochs // 4), sweep.max_epochs),
        reduction_factor=options.reduction_factor,
    )
    if scheduler is not None:
        replay(sweep, scheduler)
    resources = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
    ray_shim.run(
        make_trainable(sweep, resources),
        resources,
        TrialRecorder(sweep),
        options.max_failures,
        str(sweep.folder),
        search_alg=TrialSearcher(sweep),
        scheduler=scheduler,
        num_samples=n_trials,
        max_concurrent_trials=options.max_concurrent,
        time_budget_s=seconds,
    )


def _check_room(nodes: list[dict], options: Options) -> None:
    """Raise if no node has room for one trial."""
    for key, resource in (("cpus_per_trial", "CPU"), ("gpus_per_trial", "GPU")):
        wanted = getattr(options, key)
        most = max((node["Resources"].get(resource, 0) for node in nodes if node["Alive"]), default=0)
        if wanted > most:
            raise ConfigError(f"{key}={wanted}: no node has more than {most:g} of them; lower it")
