"""A leaderboard as one call, and its runs: made one after another, side by side or on Ray, resumed, and their failures.

Input: rows, a dataset, seeds and settings. Output: one folder per run with ``result.json`` and ``ranks.npz``, and a
:class:`~recbole_tiger.leaderboard.outputs.LeaderboardResult`.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

from recbole_tiger.distributed import launcher
from recbole_tiger.errors import DamagedCheckpointError, RecboleTigerError, TrainingStopped, message_of
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.popularity import run_popularity
from recbole_tiger.experiment.run import start_run
from recbole_tiger.io import atomic_write_text, folder_lock, make_folder
from recbole_tiger.leaderboard.outputs import LeaderboardResult, report
from recbole_tiger.leaderboard.plan import CARRIER, Plan, RowName, Task, make_plan
from recbole_tiger.leaderboard.published import check_published
from recbole_tiger.leaderboard.table import read_run
from recbole_tiger.models import POP
from recbole_tiger.signals import on_sigterm
from recbole_tiger.training.checkpoint import load_checkpoint
from recbole_tiger.training.progress import duration_text

FAILURE = "failure.json"
#: A run's bars and log lines, which would run into those of the others on the screen.
OUTPUT = "output.txt"
#: A run that ended: how its process died, if so, and its seconds; why it failed otherwise stands in its folder.
Ended = tuple[Task, str | None, float]


def run_leaderboard(
    models: str | Sequence[str | type] | Sequence[RowName],
    dataset: str = "ml-100k",
    seeds: Sequence[int] = (2024,),
    config_file_list: Sequence[str] = (),
    config_dict: Mapping | None = None,
    *,
    folder: str | Path | None = None,
    published: bool = False,
    jobs: int = 1,
    ray: bool | str = False,
    cpus_per_run: float = 1,
    gpus_per_run: float = 0,
) -> LeaderboardResult:
    """Train every row with every seed under one protocol; finished runs are read, not trained again.

    Args:
        models: rows as on the command line (``"TIGER,SASRec[loss_type=BPR],Pop"``), or a list of names and classes.
        dataset: name of the dataset.
        seeds: each row is trained once per seed.
        config_file_list: YAML files, which may have blocks for rows; the last one wins.
        config_dict: settings of all rows, which override the files.
        folder: folder of the runs; by default one in `checkpoint_dir`, named by data and protocol.
        published: add tables of the paper's figures for its datasets.
        jobs: number of runs at once, each in its own process with a share of the cores.
        ray: run each as a Ray task, here or at an address, with `cpus_per_run` and `gpus_per_run`.

    Raises:
        ConfigError: for impossible settings, before any training, or if no row has a result.
    """
    published = check_published(published, [dataset])
    plan = make_plan(models, dataset, seeds, config_file_list, config_dict, folder)
    run_plan(plan, jobs=jobs, ray=ray, cpus_per_run=cpus_per_run, gpus_per_run=gpus_per_run)
    found = [run for task in plan.tasks if task.is_done() and (run := read_run(task.folder)) is not None]
    return report(found, failures_of(plan), plan.folder, published)


def run_plan(
    plan: Plan, *, jobs: int = 1, ray: bool | str = False, cpus_per_run: float = 1, gpus_per_run: float = 0
) -> None:
    """Make the runs that are missing, `jobs` at once or as tasks of Ray, with a line on the screen for each.

    A run that fails leaves its reason in its folder, and is tried again next time.

    Raises:
        FolderInUseError: another process makes runs in the folder.
        TrainingStopped: SIGTERM came; the runs under way have saved their state.
        WriteError: the folder cannot be written.
    """
    with folder_lock(plan.folder, "wait for it, or set --leaderboard_dir to another folder"):
        missing = [task for task in plan.tasks if not task.is_done()]
        n_done = len(plan.tasks) - len(missing)
        say(f"{n_done} of {len(plan.tasks)} runs are done, {len(missing)} to go, in {plan.folder}")
        for task in missing:
            _set_damaged_aside(task)
        if ray:
            _report(_on_ray(missing, ray, cpus_per_run, gpus_per_run), missing, None)
        elif jobs > 1:
            _report(side_by_side(missing, run_task, jobs), missing, jobs)
        else:
            _report(_one_by_one(missing), missing, 1)


def _one_by_one(tasks: Sequence[Task]) -> Iterator[Ended]:
    for number, task in enumerate(tasks, 1):
        if sys.stderr.isatty():  # until bars or the line of the result are written over it
            print(f"[{number}/{len(tasks)}] {task.name}", end="\r", file=sys.stderr, flush=True)
        yield task, None, _timed(task)


def _report(ended: Iterator[Ended], missing: Sequence[Task], at_once: int | None) -> None:
    """A line for each run that ended; `at_once` is None where nobody knows how many go on together."""
    resumed = {task.folder for task in missing if (task.folder / "last.pth").is_file()}
    left = list(missing)
    taken: list[tuple[str, float]] = []
    for number, (task, death, seconds) in enumerate(ended, 1):
        left.remove(task)
        if death is not None:
            make_folder(task.folder)
            write_json(task.folder / FAILURE, {"reason": death, "traceback": ""})
        if task.is_done():
            taken.append((task.row, seconds))
        how = f"done in {duration_text(seconds)}" if task.is_done() else _failure_of(task)
        how += _time_left(taken, left, at_once) if at_once else ""
        from_last = ", from its last checkpoint" if task.folder in resumed else ""
        say(f"[{number}/{len(missing)}] {task.name}{from_last}: {how}")


def _time_left(taken: Sequence[tuple[str, float]], missing: Sequence[Task], at_once: int = 1) -> str:
    """What is left, as the end of a line: each run as long as those of its row, or of all rows, so far."""
    if not taken or not missing:
        return ""
    of_all = fmean(seconds for _, seconds in taken)
    left = sum(fmean([s for row, s in taken if row == task.row] or [of_all]) for task in missing) / at_once
    return f"; {len(missing)} to go, about {duration_text(left)} at the same speed"


def say(text: str) -> None:
    """A line on the screen, beside the table that the command prints."""
    print(text, file=sys.stderr, flush=True)


def _set_damaged_aside(task: Task) -> None:
    """Make a run with a damaged checkpoint start anew; its checkpoints stay in its folder under other names."""
    files = [path for name in ("last.pth", "best.pth") if (path := task.folder / name).is_file()]
    try:
        for path in files:
            load_checkpoint(path)
    except DamagedCheckpointError as error:
        number = 1 + len(list(task.folder.glob("last.damaged*.pth")))
        for path in files:
            path.rename(path.with_name(f"{path.stem}.damaged{number}.pth"))
        say(f"{task.name} starts again, its checkpoints are kept as *.damaged{number}.pth: {sentence_of(error)}")
    except ValueError:
        pass  # of another version: the run itself says so


def run_task(task: Task) -> None:
    """Make one run; why it failed is left in its folder."""
    make_folder(task.folder)
    about = {"label": task.label, "row": task.row, "model": task.model, "seed": task.seed}
    write_json(task.folder / "run.json", about)
    failure = task.folder / FAILURE
    try:
        if task.model == POP:
            config = build_config(CARRIER, task.dataset, None, task.settings, distributable=True)
            run_popularity(config, task.folder).write(task.folder)
        else:
            last = task.folder / "last.pth"
            own = {**task.settings, "run_dir": str(task.folder), "resume": str(last) if last.is_file() else None}
            own |= {} if task.seed is None else {"seed": task.seed}
            config = build_config(task.model, task.dataset, None, own, distributable=True)
            start_run(config, screen=False)
    except TrainingStopped as stopped:  # the whole leaderboard was asked to stop, not this row
        raise TrainingStopped(
            f"stopped by SIGTERM during {task.name}; the same command resumes from there"
        ) from stopped
    except Exception as error:  # whatever it is, the other rows finish
        write_json(failure, {"reason": sentence_of(error), "traceback": traceback.format_exc()})
        return
    failure.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    atomic_write_text(path, json.dumps(content, indent=1))


def sentence_of(error: Exception) -> str:
    """Why a run failed, in a sentence for the table; those of other libraries are cut, ours have the way out last."""
    text = message_of(error)
    return text if isinstance(error, RecboleTigerError) or len(text) <= 300 else text[:297] + "..."


# ---------------------------------------------------------------------------------- several at once


def side_by_side(tasks: Sequence[Task], work: Callable[[Task], object], jobs: int) -> Iterator[Ended]:
    """Call `work` for each task, `jobs` at once; yields each as it ends.

    Raises:
        TrainingStopped: SIGTERM came; it was passed on, and every run has ended.
    """
    context: Any = multiprocessing.get_context(launcher.START_METHOD)
    waiting = deque(tasks)
    running: dict[Any, tuple[BaseProcess, Task, float]] = {}
    stopping = threading.Event()

    def stop() -> None:
        stopping.set()
        launcher.signal_all(process for process, *_ in running.values())

    try:
        with on_sigterm(stop):
            while running or (waiting and not stopping.is_set()):
                while waiting and len(running) < jobs and not stopping.is_set():
                    task = waiting.popleft()
                    process = context.Process(target=_job, args=(work, task, jobs))
                    process.start()
                    running[process.sentinel] = process, task, perf_counter()
                for sentinel in wait(list(running)):
                    process, task, started = running.pop(sentinel)
                    process.join()
                    if not stopping.is_set():
                        yield task, _death(process.exitcode or 0), perf_counter() - started
    finally:
        launcher.end([process for process, *_ in running.values()])
    if stopping.is_set():
        raise TrainingStopped("stopped by SIGTERM; the same command resumes from there")


def _death(code: int) -> str | None:
    if code == 0:
        return None
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    hint = "; often the machine is out of memory" if code == -9 else ""
    return f"its process {how}{hint} (see {OUTPUT} in the run's folder)"


def _job(work: Callable[[Task], object], task: Task, jobs: int) -> None:
    """The life of a process: its words go to a file, its threads are its part of the cores."""
    launcher.die_with_parent()
    launcher.share_cores(jobs)
    make_folder(task.folder)
    output = open(task.folder / OUTPUT, "a", buffering=1, encoding="utf-8")
    with output, redirect_stdout(output), redirect_stderr(output):
        try:
            work(task)
        except TrainingStopped as stopped:
            print(stopped)
            sys.exit(143)


def _on_ray(tasks: Sequence[Task], address: bool | str, cpus: float, gpus: float) -> Iterator[Ended]:
    """Each run as a task of Ray; all machines must see the folder under the same path."""
    import ray

    ray.init(address=None if address is True else address, ignore_reinit_error=True, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_timed)
        pending = {remote.remote(task): task for task in tasks}
        while pending:
            [finished], _ = ray.wait(list(pending), num_returns=1)
            task, death, seconds = pending.pop(finished), None, 0.0
            try:
                seconds = ray.get(finished)
            except ray.exceptions.RayError as error:  # the worker itself died
                death = sentence_of(error)
            yield task, death, seconds
    finally:
        ray.shutdown()


def _timed(task: Task) -> float:
    """Make one run; returns its seconds."""
    started = perf_counter()
    run_task(task)
    return perf_counter() - started


def failures_of(plan: Plan) -> list[tuple[str, str]]:
    """(row, reason) of every run of a plan that has no result."""
    return [*plan.impossible.items(), *((task.name, _failure_of(task)) for task in plan.tasks if not task.is_done())]


def _failure_of(task: Task) -> str:
    path = task.folder / FAILURE
    return json.loads(path.read_text(encoding="utf-8"))["reason"] if path.is_file() else "it has not run"
