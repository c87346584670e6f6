"""Runs side by side, each in a process of its own.

Input: tasks and the function that makes one. Output: each task as it ends, with why it failed and its seconds.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from time import perf_counter
from typing import Any

from recbole_tiger.distributed import launcher
from recbole_tiger.errors import TrainingStopped
from recbole_tiger.io import make_folder
from recbole_tiger.leaderboard.plan import Task
from recbole_tiger.signals import on_sigterm

#: A run's bars and log lines, which would run into those of the others on the screen.
OUTPUT = "output.txt"
#: A run that ended: how its process died, if so, and its seconds; why it failed otherwise stands in its folder.
Ended = tuple[Task, str | None, float]


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
    with open(task.folder / OUTPUT, "a", buffering=1, encoding="utf-8") as output:
        with redirect_stdout(output), redirect_stderr(output):
            try:
                work(task)
            except TrainingStopped as stopped:
                print(stopped)
                sys.exit(143)
