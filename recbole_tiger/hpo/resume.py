"""What lets a sweep continue after any death: its folder, opened by one process at a time, and the replay of its past.

Input: the folder of a sweep. Output: the trials so far in the :class:`Sweep`, or one error if this is another sweep.

The files of the trials are the sweep's memory, not Ray's own: a new process replays them into the scheduler and the
searcher, gives out what has not ended, and lets unfinished trials resume from their last checkpoint. This works across
versions of Ray, and on any node that reaches the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from recbole_tiger.errors import ConfigError, WriteError
from recbole_tiger.hpo.sweep import Sweep
from recbole_tiger.hpo.trainable import FAILED
from recbole_tiger.io import atomic_write_text, folder_lock, make_folder

#: Entries of `sweep.json` that may change when a sweep is continued; `samples` only by further ones at its end.
_MAY_CHANGE = ("samples", "n_trials", "scheduler")


@contextmanager
def opened(sweep: Sweep) -> Iterator[None]:
    """Hold the folder of a new sweep, or of one to continue, whose trials are read; ConfigError where that cannot be.

    Nothing is written to a folder that another process holds.
    """
    path, options = sweep.folder / "sweep.json", sweep.options
    if options.resume and not path.is_file():
        raise ConfigError(
            f"resume: there is no sweep in '{sweep.folder}'; leave --resume out, or correct --name and --storage"
        )
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(sweep.folder))
            _open(sweep, path)
        except WriteError as error:
            raise ConfigError(
                f"storage='{options.storage}': '{sweep.folder}' cannot be written ({error.reason}); "
                "free space or fix permissions, or choose another --storage"
            ) from error
        yield


def _open(sweep: Sweep, path: Path) -> None:
    description = _description(sweep)
    if sweep.options.resume:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            sweep.read()
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError(
                f"the sweep '{sweep.folder}' cannot be read ({error}); start one with another --name"
            ) from error
        _check_same(sweep, before, description)
    elif path.is_file() and any(sweep.trials_folder.glob("[0-9]*.json")):
        raise ConfigError(
            f"the sweep '{sweep.folder}' exists: continue it with --resume, or give this one another --name"
        )
    make_folder(sweep.trials_folder)
    atomic_write_text(path, json.dumps(description, indent=1))


def _description(sweep: Sweep) -> dict:
    """The content of `sweep.json`: all that makes it this sweep and no other."""
    keys = ("model", "dataset", "metric", "settings", "n_trials", "samples", "contents")
    description = {key: getattr(sweep, key) for key in keys}
    description["space"] = [asdict(parameter) for parameter in sweep.space.parameters]
    description["search"] = sweep.options.search or sweep.space.search
    description["scheduler"] = sweep.options.scheduler or "none"
    description["search_seed"] = sweep.options.search_seed
    return json.loads(json.dumps(description))


def _check_same(sweep: Sweep, before: Mapping, now: Mapping) -> None:
    """Raise if a sweep is continued by the command of another one."""
    for key, value in now.items():
        if key not in _MAY_CHANGE and before.get(key, value) != value:  # older versions wrote fewer keys
            raise ConfigError(
                f"resume: the sweep '{sweep.folder}' was started with different {key} "
                f"({_difference(before.get(key), value)}); repeat the first command with --resume added, or give "
                "another --name"
            )
    kept: Any = before.get("samples")
    if sweep.samples is not None and now["samples"][: len(kept)] != kept:
        raise ConfigError(
            f"resume: the sweep '{sweep.folder}' was started with --trials={len(kept)}, whose trials are not among "
            f"those of --trials={sweep.n_trials}; repeat the first command, or give another --name"
        )


def _difference(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(f"{key}: {before.get(key)!r}, now {now.get(key)!r}" for key in keys)
    return "see sweep.json" if isinstance(before, list) else f"{before!r}, now {now!r}"


def alone(folder: Path) -> AbstractContextManager:
    """Keep a second process out of a sweep; the operating system frees the folder when this one dies."""
    return folder_lock(folder, "wait for that sweep, or give another --name")


def forget_failures(sweep: Sweep) -> None:
    """Let trials that failed be tried again: a new process may not meet what was in their way."""
    for trial in sweep.trials.values():
        if trial.status == "failed":
            (sweep.folder_of(trial) / FAILED).unlink(missing_ok=True)
            trial.status, trial.reason = "waiting", None


@dataclass(frozen=True)
class PastTrial:
    """A trial of an earlier process, as a scheduler of Ray sees one."""

    trial_id: str
    status: str = "TERMINATED"


#: What a scheduler asks about other trials while the past is replayed: there are none.
NO_CONTROLLER = SimpleNamespace(get_live_trials=list, get_trials=list)


def replay(sweep: Sweep, scheduler) -> None:
    """Report the results of the trials that have ended to a new scheduler."""
    for trial in sweep.ended():
        past = PastTrial(f"past-{trial.number}")
        scheduler.on_trial_add(NO_CONTROLLER, past)
        for epoch, value in sweep.curve(trial):
            scheduler.on_trial_result(NO_CONTROLLER, past, {"epoch": epoch, "score": sweep.sign * value})
