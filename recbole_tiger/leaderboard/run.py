"""The runs of a plan: made one after another or on Ray, resumed, and their failures recorded.

Input: a :class:`~recbole_tiger.leaderboard.plan.Plan`. Output: one folder per run with ``result.json`` and ``ranks.npz``.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from time import perf_counter

from recbole_tiger.errors import TrainingStopped
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.popularity import run_popularity
from recbole_tiger.experiment.run import start_run
from recbole_tiger.io import atomic_write_text
from recbole_tiger.leaderboard.plan import CARRIER, Plan, Task
from recbole_tiger.models import POP


def is_done(task: Task) -> bool:
    """Whether a run's result is there; it is written whole, and last."""
    return (task.folder / "result.json").is_file()


def run_plan(plan: Plan, *, ray: bool | str = False, cpus_per_run: float = 1, gpus_per_run: float = 0) -> None:
    """Make the runs that are missing. A run that fails leaves its reason in its folder, and is tried again next time."""
    missing = [task for task in plan.tasks if not is_done(task)]
    _say(f"{len(plan.tasks) - len(missing)} of {len(plan.tasks)} runs are done, {len(missing)} to go, in {plan.folder}")
    if ray:
        _run_on_ray(missing, ray, cpus_per_run, gpus_per_run)
        return
    for number, task in enumerate(missing, 1):
        going = ", from its last checkpoint" if (task.folder / "last.pth").is_file() else ""
        _say(f"[{number}/{len(missing)}] {_name(task)}{going}")
        started = perf_counter()
        failure = run_task(task)
        _say(f"[{number}/{len(missing)}] {_name(task)}: {failure or f'done in {perf_counter() - started:.0f} s'}")


def _name(task: Task) -> str:
    return task.label if task.seed is None else f"{task.label}, seed {task.seed}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_task(task: Task) -> str | None:
    """Make one run; returns why it failed, in a sentence, or None."""
    task.folder.mkdir(parents=True, exist_ok=True)
    about = {"label": task.label, "row": task.row, "model": task.model, "seed": task.seed}
    atomic_write_text(task.folder / "run.json", json.dumps(about, indent=1))
    failure = task.folder / "failure.json"
    try:
        if task.model == POP:
            config = build_config(CARRIER, task.dataset, None, task.settings, spread=True)
            run_popularity(config, task.folder).write(task.folder)
        else:
            last = task.folder / "last.pth"
            own = {"run_dir": str(task.folder), "resume": str(last) if last.is_file() else None}
            if task.seed is not None:
                own["seed"] = task.seed
            start_run(build_config(task.model, task.dataset, None, {**task.settings, **own}, spread=True))
    except TrainingStopped as stopped:  # the whole leaderboard was asked to stop, not this row
        raise TrainingStopped(
            f"stopped by SIGTERM during {_name(task)}; the same command goes on from there"
        ) from stopped
    except Exception as error:  # whatever it is, the other rows finish
        reason = sentence_of(error)
        atomic_write_text(failure, json.dumps({"reason": reason, "traceback": traceback.format_exc()}, indent=1))
        return reason
    failure.unlink(missing_ok=True)
    return None


def sentence_of(error: Exception) -> str:
    """Why a run failed, in a sentence for the table."""
    text = " ".join(str(error).split())
    short = text if len(text) <= 300 else text[:297] + "..."
    return short if isinstance(error, (ValueError, OSError)) and short else f"{type(error).__name__}: {short}"


def _run_on_ray(tasks: Sequence[Task], address: bool | str, cpus: float, gpus: float) -> None:
    """Each run as a task of Ray; its folders must be the same place on all machines."""
    import ray

    ray.init(address=None if address is True else address, ignore_reinit_error=True, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(run_task)
        pending = {remote.remote(task): task for task in tasks}
        total = len(pending)
        while pending:
            [finished], _ = ray.wait(list(pending), num_returns=1)
            task = pending.pop(finished)
            try:
                failure = ray.get(finished)
            except ray.exceptions.RayError as error:  # the worker itself died
                failure = sentence_of(error)
                reason = {"reason": failure, "traceback": str(error)}
                task.folder.mkdir(parents=True, exist_ok=True)
                atomic_write_text(task.folder / "failure.json", json.dumps(reason, indent=1))
            _say(f"[{total - len(pending)}/{total}] {_name(task)}: {failure or 'done'}")
    finally:
        ray.shutdown()


def failures_of(plan: Plan) -> list[tuple[str, str]]:
    """(row, reason) of every run of a plan that has no result."""
    found = list(plan.impossible.items())
    for task in plan.tasks:
        if not is_done(task):
            path = task.folder / "failure.json"
            reason = json.loads(path.read_text(encoding="utf-8"))["reason"] if path.is_file() else "it has not run"
            found.append((_name(task), reason))
    return found
