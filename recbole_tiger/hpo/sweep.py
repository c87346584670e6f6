"""A sweep: checked before its first trial, recorded after every epoch, continued after any death.

Comes in: a space and settings. Goes out: a folder with `sweep.json`, one record for each trial under `trials/`, the best
configuration as `best.yaml`, and the winner's test metrics, for which the test set is read once.

The records are the sweep's memory, not Ray's own files: a new process replays them into the scheduler and the searcher,
gives out what has not ended, and lets unfinished trials continue from their last checkpoint. This works across versions
of Ray, and on any node that reaches the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.hpo import ray_shim
from recbole_tiger.hpo.space import Space
from recbole_tiger.hpo.trainable import FAILED, best_of, make_trainable, reason_of_death
from recbole_tiger.io import atomic_write_text
from recbole_tiger.models import model_spec
from recbole_tiger.settings.chain import default_recipe, shipped_settings
from recbole_tiger.settings.schema import keys_with
from recbole_tiger.settings.validate import check_keys

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SEARCHES = ("random", "grid", "optuna")
SCHEDULERS = ("asha", "median", "none")
#: Trials that are over.
ENDED = ("finished", "stopped", "failed")
#: Settings that belong to one run or one machine.
_REFUSED = {
    "run_dir": "every trial has a folder of its own",
    "gpu_id": "Ray gives each trial its cards; set CUDA_VISIBLE_DEVICES for the whole sweep, and --gpus_per_trial",
    "nproc": "a trial is one process",
    "checkpoint_dir": "use --storage",
}
#: Seconds between two lines of progress while nothing ends.
_HEARTBEAT = 60


@dataclass(frozen=True)
class Options:
    """How a sweep runs; what is searched stands in the space, what is trained in the settings.

    Attributes:
        name: of the sweep's folder in `storage`; None for one made of model, dataset and space.
        storage: folder of sweeps; of several nodes, one that all of them reach.
        trials: how many; None for the space's number.
        search: `random`, `grid` or `optuna`; None for the space's.
        search_seed: of the draws.
        scheduler: `asha`, `median` or `none`.
        grace_period: epochs that every trial may run; None for a quarter of all.
        reduction_factor: ASHA goes on with one of this many.
        cpus_per_trial, gpus_per_trial: may be fractions.
        cpus: processors that a Ray started here uses; None for all.
        max_concurrent: trials at once; None for as many as there is room for.
        max_failures: restarts of a trial whose process or node died.
        time_budget_minutes: after which no trial goes on; None for no limit.
        address: a running Ray cluster, `auto` or host:port; None starts Ray here.
        dashboard: open Ray's web page (a Ray started here only).
        resume: continue the sweep of this name.
    """

    name: str | None = None
    storage: str = "saved/tune"
    trials: int | None = None
    search: str | None = None
    search_seed: int = 2024
    scheduler: str | None = "asha"
    grace_period: int | None = None
    reduction_factor: float = 3
    cpus_per_trial: float = 1
    gpus_per_trial: float = 0
    cpus: int | None = None
    max_concurrent: int | None = None
    max_failures: int = 2
    time_budget_minutes: float | None = None
    address: str | None = None
    dashboard: bool = False
    resume: bool = False


@dataclass
class Sweep:
    """A sweep and where it stands.

    Attributes:
        folder: everything that it writes.
        model, dataset: of all trials.
        space: what varies.
        settings: what the user has fixed, paths absolute.
        base: all settings that do not vary, the shipped ones among them.
        metric: of selection, such as `ndcg@10`.
        bigger: whether more of it is better.
        max_epochs: the most epochs of a trial.
        options: how it runs.
        samples: the trials of a random or grid search, in order; None where a searcher decides.
        n_trials: how many trials there are in all.
        records: number -> record of each trial so far.
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
    records: dict[int, dict] = field(default_factory=dict)

    @property
    def trials_folder(self) -> Path:
        return self.folder / "trials"

    def write(self, number: int) -> None:
        """Keep the record of a trial."""
        atomic_write_text(self.trials_folder / f"{number:04d}.json", json.dumps(self.records[number], indent=1))

    def ended(self) -> list[dict]:
        """The records of trials that are over, by number."""
        return [record for _, record in sorted(self.records.items()) if record["status"] in ENDED]

    def winner(self) -> dict | None:
        """The trial with the best validation score, the first of equal ones; None if none was ever validated."""
        sign = 1 if self.bigger else -1
        scored = [(record, best_of(record, self.metric, self.bigger)) for _, record in sorted(self.records.items())]
        scored = [(record, best) for record, best in scored if best and record["status"] in ("finished", "stopped")]
        return max(scored, key=lambda pair: sign * pair[1][1][self.metric])[0] if scored else None

    def run_settings(self, record: Mapping) -> dict:
        """Everything that the user or the space has set for a trial."""
        recipe = self.settings.get("recipe") or default_recipe(self.model, self.dataset, self.settings)
        chosen = {"model": self.model, "dataset": self.dataset}
        if recipe in model_spec(self.model).recipes:  # said aloud, so that the file means the same on another dataset
            chosen["recipe"] = recipe
        return {**chosen, **self.settings, **record["settings"]}


# ------------------------------------------------------------------------------------------------- before any trial


def plan(space: Space, model: str | None, dataset: str, settings: Mapping, options: Options) -> Sweep:
    """A checked sweep, new or continued; nothing has run yet.

    Args:
        space: what varies.
        model: None for the space's.
        dataset: a name.
        settings: fixed settings of the user; those of the space lie below them.
        options: how it runs.

    Raises:
        ConfigError: for anything that cannot work, with the key, the value and the way out.
    """
    model = model or space.model or "TIGER"
    if space.model not in (None, model):
        raise ConfigError(
            f"space='{space.path}' is for model={space.model}, not model={model}; choose a space of {model}"
        )
    for key, reason in _REFUSED.items():
        if key in settings:
            raise ConfigError(f"{key}={settings[key]!r} cannot be set in a sweep: {reason}")
    for key in settings:
        if key in space.keys:
            raise ConfigError(
                f"{key}={settings[key]!r} is fixed on the command line, but varies in {space.path}; drop one"
            )
    settings = absolute_paths({**space.settings, **settings})
    check_options(options)
    check_keys({p.key: p.domain.edges()[0] for p in space.parameters}, model)
    base = {**shipped_settings(model, dataset, settings), **settings}
    base = absolute_paths({"cache_dir": base["cache_dir"], "data_path": base["data_path"]} | base)
    search = options.search or space.search
    if search not in SEARCHES:
        raise ConfigError(f"search='{search}' is not possible; choose one of {', '.join(SEARCHES)}")
    n_trials = options.trials or space.trials
    samples = None
    if search == "optuna":
        ray_shim.import_ray()
        ray_shim.make_optuna(space.parameters, options.search_seed)
        n_trials = n_trials or 20
    else:
        # The number of a shipped space is for draws; a grid is tried whole unless the user says otherwise.
        n_wanted = options.trials if search == "grid" else n_trials
        samples = space.samples(search, n_wanted, options.search_seed, base)
        n_trials = len(samples)
    epochs = _check_samples(space, model, dataset, settings, base, samples)
    config = build_config(model, dataset, config_dict={**settings, **_some(space, base, samples)})
    metric, bigger = config["valid_metric"].lower(), bool(config["valid_metric_bigger"])
    name = options.name or f"{model}-{dataset}-{Path(space.path).stem}"
    folder = Path(os.path.abspath(options.storage)) / name
    sweep = Sweep(
        folder, model, dataset, space, settings, base, metric, bigger, epochs, options, samples, n_trials
    )  # fmt: skip
    _open_folder(sweep, search)
    return sweep


def _some(space: Space, base: Mapping, samples: list[dict] | None) -> dict:
    return space.settings_of(samples[0] if samples else next(space.probes()), base)


def _check_samples(space: Space, model: str, dataset: str, settings: Mapping, base: Mapping, samples) -> int:
    """Check the settings of every trial that is known by now; returns the most epochs of one."""
    epochs = 1
    for sample in samples if samples is not None else space.probes():
        chosen = space.settings_of(sample, base)
        try:
            config = build_config(model, dataset, config_dict={**settings, **chosen})
        except ConfigError as error:
            raise ConfigError(f"{space.path} offers {words(chosen)}, which cannot work: {error}") from error
        epochs = max(epochs, config["epochs"])
    return epochs


def check_options(options: Options) -> None:
    """Raise for a value of an option that cannot work."""
    if str(options.scheduler) in ("pbt", "pb2", "PopulationBasedTraining"):
        raise ConfigError(
            f"scheduler={options.scheduler} cannot work here: it copies the weights of one trial into another and goes on with "
            "changed settings, but a model's weights fit only the Semantic IDs, sizes and schedule they were trained with; "
            "choose asha, median or none"
        )
    if (options.scheduler or "none") not in SCHEDULERS:
        raise ConfigError(f"scheduler='{options.scheduler}' is not possible; choose one of {', '.join(SCHEDULERS)}")
    for key in ("trials", "grace_period", "cpus", "max_concurrent"):
        value = getattr(options, key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{key}={value!r} must be a whole number of at least 1")
    limits = {
        "cpus_per_trial": 0.01,
        "gpus_per_trial": 0,
        "max_failures": 0,
        "search_seed": 0,
        "reduction_factor": 1.01,
    }
    if options.time_budget_minutes is not None:
        limits["time_budget_minutes"] = 0.01
    for key, least in limits.items():
        value = getattr(options, key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < least:
            raise ConfigError(f"{key}={value!r} must be a number of at least {least}")
    if options.gpus_per_trial > 1 and options.gpus_per_trial % 1:
        raise ConfigError(f"gpus_per_trial={options.gpus_per_trial}: above one card only whole cards can be given out")
    if options.address is not None and (not isinstance(options.address, str) or not options.address):
        raise ConfigError(f"address={options.address!r} must be 'auto' or host:port")
    for key in ("resume", "dashboard"):
        if not isinstance(getattr(options, key), bool):
            raise ConfigError(f"{key}={getattr(options, key)!r} must be True or False")


def absolute_paths(settings: Mapping) -> dict:
    """Settings whose paths mean the same in every folder."""
    settings = dict(settings)
    for key in keys_with("path"):
        if settings.get(key):
            settings[key] = os.path.abspath(str(settings[key]))
    model = settings.get("content_model")
    if model and os.path.isdir(str(model)):  # else the name of a model
        settings["content_model"] = os.path.abspath(str(model))
    return settings


def words(settings: Mapping) -> str:
    """Settings in a line."""
    return ", ".join(f"{key}={_short(value)}" for key, value in settings.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _open_folder(sweep: Sweep, search: str) -> None:
    """Make the folder of a new sweep, or read that of one to continue."""
    options, path = sweep.options, sweep.folder / "sweep.json"
    description = {
        "model": sweep.model,
        "dataset": sweep.dataset,
        "metric": sweep.metric,
        "settings": sweep.settings,
        "space": [asdict(parameter) for parameter in sweep.space.parameters],
        "search": search,
        "scheduler": options.scheduler or "none",
        "search_seed": options.search_seed,
        "n_trials": sweep.n_trials,
        "samples": sweep.samples,
    }
    description = json.loads(json.dumps(description))
    begun = any(sweep.trials_folder.glob("[0-9]*.json"))
    if path.is_file() and (options.resume or begun):
        if not options.resume:
            raise ConfigError(
                f"the sweep '{sweep.folder}' exists: continue it with --resume, or give this one another --name"
            )
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            for file in sorted(sweep.trials_folder.glob("[0-9]*.json")):
                sweep.records[int(file.stem)] = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"the sweep '{sweep.folder}' cannot be read ({error}); start one with another --name"
            ) from error
        for key, value in description.items():
            if key not in ("samples", "n_trials", "scheduler") and before.get(key) != value:
                raise ConfigError(
                    f"resume: the sweep '{sweep.folder}' was started with another {key} ({_difference(before.get(key), value)}); "
                    "repeat the first command with --resume behind it, or give another --name"
                )
        if sweep.samples is not None and before["samples"] != description["samples"]:
            kept = before["samples"]
            if description["samples"][: len(kept)] != kept:
                raise ConfigError(
                    f"resume: the sweep '{sweep.folder}' was started with --trials={len(kept)}, whose trials are not among "
                    f"those of --trials={sweep.n_trials}; repeat the first command, or give another --name"
                )
    elif options.resume:
        raise ConfigError(
            f"resume: there is no sweep in '{sweep.folder}'; leave --resume out, or correct --name and --storage"
        )
    try:
        sweep.trials_folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(description, indent=1))
    except OSError as error:
        raise ConfigError(
            f"storage='{options.storage}': '{sweep.folder}' cannot be written ({error.strerror or error}); "
            "make room and rights there, or choose another --storage"
        ) from error


def _difference(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        return ", ".join(f"{key}: {before.get(key)!r}, now {now.get(key)!r}" for key in keys)
    return "see sweep.json" if isinstance(before, list) else f"{before!r}, now {now!r}"


# ---------------------------------------------------------------------------------------------------------- running


def run(sweep: Sweep) -> bool:
    """Run what is left of a sweep.

    Returns:
        True if all of its trials have ended, or its time was over; False if it was interrupted.

    Raises:
        ConfigError: if Ray is missing, does not answer, or has no node with room for a trial.
    """
    with _alone(sweep.folder):
        _forget_failures(sweep)
        left = sweep.n_trials - len(sweep.ended())
        if left <= 0:
            return True
        options = sweep.options
        ray_shim.import_ray()
        ray = ray_shim.start(options.address, options.cpus, options.dashboard)
        started = time.monotonic()
        seconds = None if options.time_budget_minutes is None else 60 * options.time_budget_minutes
        try:
            _check_room(ray, options)
            scheduler = ray_shim.make_scheduler(
                options.scheduler or "none",
                max_epochs=sweep.max_epochs,
                grace_period=min(options.grace_period or max(1, sweep.max_epochs // 4), sweep.max_epochs),
                reduction_factor=options.reduction_factor,
            )
            if scheduler is not None:
                replay(sweep, scheduler)
            ray_shim.run(
                make_trainable(
                    str(sweep.trials_folder), trial_settings(sweep), sweep.metric, sweep.bigger,
                    options.cpus_per_trial, options.gpus_per_trial,
                ),
                _searcher(sweep),
                scheduler,
                _ledger(sweep),
                n_trials=left,
                resources={"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial},
                max_concurrent=options.max_concurrent,
                max_failures=options.max_failures,
                seconds=seconds,
                folder=str(sweep.folder),
            )  # fmt: skip
        finally:
            ray.shutdown()
        if seconds is not None and time.monotonic() - started >= seconds:
            for number, record in sweep.records.items():
                if record["status"] not in ENDED:
                    record.update(status="stopped", reason="the time of the sweep was over")
                    sweep.write(number)
            return True
        return len(sweep.ended()) >= sweep.n_trials


def trial_settings(sweep: Sweep) -> dict:
    """Settings of every trial of a sweep, beside its own."""
    return {
        "model": sweep.model,
        "dataset": sweep.dataset,
        **sweep.settings,
        "data_path": sweep.base["data_path"],
        "cache_dir": sweep.base["cache_dir"],
        "checkpoint_dir": str(sweep.trials_folder),
        "show_progress": False,
    }


def _forget_failures(sweep: Sweep) -> None:
    """Trials that failed are tried again in a new process: what was in their way may be gone."""
    for number in [number for number, record in sweep.records.items() if record["status"] == "failed"]:
        (sweep.trials_folder / f"{number:04d}" / FAILED).unlink(missing_ok=True)
        sweep.records[number].update(status="waiting", reason=None)


def _check_room(ray, options: Options) -> None:
    nodes = ray_shim.node_room(ray)
    for key, resource in (("cpus_per_trial", "CPU"), ("gpus_per_trial", "GPU")):
        wanted, most = getattr(options, key), max((node.get(resource, 0) for node in nodes), default=0)
        if wanted > most:
            raise ConfigError(f"{key}={wanted}: no node has more than {most:g} of them; lower it")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process out of a sweep; the operating system frees the folder when this one dies."""
    with open(folder / ".lock", "a+b") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"another process is running the sweep '{folder}'; wait for it, or give another --name"
                ) from error
            except OSError:  # a network folder without locks
                pass
        yield


class _PastTrial:
    """A trial of an earlier process, as a scheduler sees one."""

    status = "TERMINATED"

    def __init__(self, number: int):
        self.trial_id = f"past-{number}"


class _NoController:
    """What a scheduler asks about other trials while the past is replayed: there are none."""

    def get_live_trials(self) -> list:
        return []

    def get_trials(self) -> list:
        return []


def replay(sweep: Sweep, scheduler) -> None:
    """Let a scheduler know the results of the trials that have ended."""
    controller, sign = _NoController(), 1 if sweep.bigger else -1
    for record in sweep.ended():
        trial = _PastTrial(record["number"])
        scheduler.on_trial_add(controller, trial)
        for entry in record["history"]:
            if "valid" in entry:
                result = {"epoch": entry["epoch"], "score": sign * entry["valid"][sweep.metric]}
                scheduler.on_trial_result(controller, trial, result)


def _searcher(sweep: Sweep):
    """What gives out the trials that have not ended: those begun first, then the rest in order, or as Optuna suggests."""
    from ray.tune.search import Searcher

    options = sweep.options
    learned = sweep.samples is None
    ended = {record["number"] for record in sweep.ended()}
    sign = 1 if sweep.bigger else -1
    if learned:
        import numpy as np

        begun = [(number, record["sample"]) for number, record in sorted(sweep.records.items()) if number not in ended]
        firsts = sweep.space.first_samples(np.random.default_rng(options.search_seed))
        queue = begun + [(number, sample) for number, sample in enumerate(firsts) if number not in sweep.records]
        optuna = ray_shim.make_optuna(sweep.space.parameters, options.search_seed + len(sweep.records))
        for record in sweep.ended():
            best = best_of(record, sweep.metric, sweep.bigger)
            if best:
                optuna.add_evaluated_point(encode(sweep.space, record["sample"]), sign * best[1][sweep.metric])
    else:
        queue = [(number, sample) for number, sample in enumerate(sweep.samples) if number not in ended]
        optuna = None

    class Queue(Searcher):
        """Gives out the queue, then what Optuna suggests."""

        def __init__(self):
            super().__init__(metric="score", mode="max")
            self.queue = list(queue)
            self.optuna = optuna
            self.samples = {}  # trial id -> sample
            self.numbers = []
            self.best = {}  # trial id -> its best score so far
            self.suggested = set()  # trial ids of what Optuna has suggested itself

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
                sample = decode(sweep.space, suggestion)
                number = max([*sweep.records, *self.numbers], default=-1) + 1
                self.suggested.add(trial_id)
            self.numbers.append(number)
            self.samples[trial_id] = sample
            chosen = sweep.space.settings_of(sample, sweep.base)
            return {"number": number, "settings": json.dumps(chosen), "sample": json.dumps(sample)}

        def on_trial_result(self, trial_id, result):
            self.best[trial_id] = max(self.best.get(trial_id, result["score"]), result["score"])
            if trial_id in self.suggested:
                self.optuna.on_trial_result(trial_id, result)

        def on_trial_complete(self, trial_id, result=None, error=False):
            best = self.best.get(trial_id)
            if trial_id in self.suggested:
                self.optuna.on_trial_complete(
                    trial_id, None if best is None else {**(result or {}), "score": best}, error
                )
            elif self.optuna is not None and best is not None and not error:
                self.optuna.add_evaluated_point(encode(sweep.space, self.samples[trial_id]), best)

        def save(self, checkpoint_path):
            """Nothing: the records are the sweep's memory."""

        def restore(self, checkpoint_path):
            """Nothing: the records are the sweep's memory."""

        def save_to_dir(self, checkpoint_dir, session_str="default"):
            """Nothing: the records are the sweep's memory."""

    return Queue()


def encode(space: Space, sample: Mapping) -> dict:
    """A sample as :func:`ray_shim.make_optuna` searches it: positions instead of listed values."""
    found = {}
    for parameter in space.parameters:
        value = sample[parameter.name]
        by_value = parameter.domain.kind in ("randint", "uniform", "loguniform")
        found[parameter.name] = value if by_value else parameter.domain.listed().index(value)
    return found


def decode(space: Space, suggestion: Mapping) -> dict:
    """The inverse of :func:`encode`."""
    found = {}
    for parameter in space.parameters:
        value, kind = suggestion[parameter.name], parameter.domain.kind
        if kind == "randint":
            found[parameter.name] = int(value)
        elif kind in ("uniform", "loguniform"):
            found[parameter.name] = float(value)
        else:
            found[parameter.name] = parameter.domain.listed()[int(value)]
    return found


def _ledger(sweep: Sweep):
    """What hears of every result: it keeps the records and prints the progress."""
    from ray.tune import Callback

    class Ledger(Callback):
        def __init__(self):
            self.spoken = time.monotonic()

        def _record(self, trial) -> dict:
            number = trial.config["number"]
            return sweep.records.setdefault(
                number,
                {
                    "number": number,
                    "sample": json.loads(trial.config["sample"]),
                    "settings": json.loads(trial.config["settings"]),
                    "status": "running",
                    "reason": None,
                    "history": [],
                    "costs": {},
                    "starts": 0,
                    "nodes": [],
                },
            )

        def on_trial_start(self, iteration, trials, trial, **info):
            record = self._record(trial)
            record.update(status="running", starts=record["starts"] + 1)
            sweep.write(record["number"])

        def on_trial_result(self, iteration, trials, trial, result, **info):
            if "record" not in result:
                return
            record = self._record(trial)
            record.update(json.loads(result["record"]))
            if result["node"] not in record["nodes"]:
                record["nodes"].append(result["node"])
            sweep.write(record["number"])

        def on_trial_complete(self, iteration, trials, trial, **info):
            record = self._record(trial)
            record["status"] = "finished" if record.get("finished") else "stopped"
            sweep.write(record["number"])
            self._drop_checkpoints(record)
            self._speak(trials, record)

        def on_trial_error(self, iteration, trials, trial, **info):
            record = self._record(trial)
            try:
                own = sweep.trials_folder / f"{record['number']:04d}" / FAILED
                reason = json.loads(own.read_text(encoding="utf-8"))["reason"]
            except (OSError, ValueError):
                reason = reason_of_death(_error_text(trial))
            record.update(status="failed", reason=reason)
            sweep.write(record["number"])
            self._speak(trials, record)

        def on_step_end(self, iteration, trials, **info):
            if time.monotonic() - self.spoken > _HEARTBEAT and sys.stderr.isatty():
                self._speak(trials)

        def _drop_checkpoints(self, record) -> None:
            """Only the best trial so far keeps its weights: a hundred trials would fill the disk."""
            winner = sweep.winner()
            for other in sweep.ended():
                if winner is not None and other["number"] != winner["number"]:
                    for name in ("best.pth", "last.pth", "pretrained.pth"):
                        (sweep.trials_folder / f"{other['number']:04d}" / name).unlink(missing_ok=True)

        def _speak(self, trials, record=None) -> None:
            self.spoken = time.monotonic()
            running = sum(trial.status == "RUNNING" for trial in trials)
            print(progress_line(sweep, running, record), file=sys.stderr, flush=True)

    return Ledger()


def _error_text(trial) -> str:
    try:
        return Path(trial.error_file).read_text(encoding="utf-8", errors="replace")[-4000:]
    except (OSError, TypeError):
        return ""


def progress_line(sweep: Sweep, running: int, record: Mapping | None = None) -> str:
    """Where a sweep stands, in a line: the trial that has just ended, then counts and the best so far."""
    ended = sweep.ended()
    count = {status: sum(entry["status"] == status for entry in ended) for status in ENDED}
    line = f"{len(ended)} of {sweep.n_trials} trials done, {min(running, sweep.n_trials - len(ended))} running"
    line += f", {count['stopped']} stopped early, {count['failed']} failed"
    winner = sweep.winner()
    if winner is not None:
        best = best_of(winner, sweep.metric, sweep.bigger)[1][sweep.metric]
        line += f"; best {sweep.metric} {best:.4f} (trial {winner['number']}: {words(winner['settings'])})"
    if record is None:
        return line
    verdict = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}[record["status"]]
    best = best_of(record, sweep.metric, sweep.bigger)
    score = f", {sweep.metric} {best[1][sweep.metric]:.4f} at epoch {best[0]}" if best else ""
    reason = f": {record['reason']}" if record["reason"] else ""
    return f"trial {record['number']} ({words(record['settings'])}) {verdict}{score}{reason}\n{line}"


# -------------------------------------------------------------------------------------------------- after the sweep


def write_best(sweep: Sweep) -> Path | None:
    """The winner's settings as a YAML file for ``--config_files``; None without a winner."""
    winner = sweep.winner()
    if winner is None:
        return None
    best = best_of(winner, sweep.metric, sweep.bigger)
    head = (
        f"# Trial {winner['number']} of {len(sweep.records)}, the best on validation: {sweep.metric} "
        f"{best[1][sweep.metric]:.6f} at epoch {best[0]}.\n"
        f"# python run_recbole_tiger.py --config_files={sweep.folder / 'best.yaml'}\n"
    )
    path = sweep.folder / "best.yaml"
    atomic_write_text(path, head + yaml.safe_dump(sweep.run_settings(winner), sort_keys=False))
    return path


def test_winner(sweep: Sweep) -> dict | None:
    """The winner's test metrics: the one time that a sweep reads the test set.

    A sweep that is continued after its end does not read it again, unless another trial has won since.

    Returns:
        `number`, `test_result`, `popularity` (of the test set), `checkpoint`; None without a winner.

    Raises:
        ConfigError: if the winner's checkpoint is not there.
    """
    winner = sweep.winner()
    if winner is None:
        return None
    path = sweep.folder / "winner.json"
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["number"] == winner["number"]:
            return known
    from recbole_tiger.experiment.loading import PreparedData, load_data_and_model, trainer_class
    from recbole_tiger.experiment.popularity import popularity_row

    checkpoint = sweep.trials_folder / f"{winner['number']:04d}" / "best.pth"
    if not checkpoint.is_file():
        raise ConfigError(
            f"the winner's checkpoint '{checkpoint}' is not there: with several nodes, --storage must be a folder that all of "
            f"them reach; train and test it again with run_recbole_tiger.py --config_files={sweep.folder / 'best.yaml'}"
        )
    config, model, dataset, train, valid, test = load_data_and_model(str(checkpoint))
    trainer = trainer_class(sweep.model)(config, model)
    result = trainer.evaluate(test, load_best_model=False)
    popularity = popularity_row(config, PreparedData(dataset, train, valid, test), ("test",))
    found = {
        "number": winner["number"],
        "test_result": {name: float(value) for name, value in result.items()},
        "popularity": {name: float(value) for name, value in popularity.get("test", {}).items()},
        "checkpoint": str(checkpoint),
    }
    atomic_write_text(path, json.dumps(found, indent=1))
    return found
