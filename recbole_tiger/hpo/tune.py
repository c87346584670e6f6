"""A sweep as one call: planned, run, and reported.

Input: a space, a model, a dataset, settings and options. Output: a :class:`SweepResult`, and in the sweep's folder
`best.yaml`, `winner.json`, `report.csv`, `report.md` and `report.html`. The test set is read once, for the winner.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recbole_tiger import extension
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.loading import PreparedData, load_data_and_model, trainer_class
from recbole_tiger.experiment.popularity import popularity_row
from recbole_tiger.hpo import figures, ray_shim, report
from recbole_tiger.hpo.options import Options
from recbole_tiger.hpo.plan import plan
from recbole_tiger.hpo.report import Findings
from recbole_tiger.hpo.resume import forget_failures, opened, replay
from recbole_tiger.hpo.space_files import read_space, space_from_dict
from recbole_tiger.hpo.sweep import ENDED, Sweep
from recbole_tiger.hpo.trainable import make_trainable
from recbole_tiger.io import atomic_write_text
from recbole_tiger.models import model_spec
from recbole_tiger.settings.chain import default_recipe
from recbole_tiger.settings.parse import pop_config_files, read_config_files


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep; `print` shows the same as the command.

    Attributes:
        folder: folder of the sweep.
        finished: whether all trials have ended; False after an interruption, and then there is no winner.
        trials: one row per ended trial, best first: settings, validation metrics, costs, status.
        best_settings: the winner's settings; None without a winner.
        valid_result, test_result: the winner's metrics; the test set was read only for it.
        checkpoint: the winner's checkpoint.
        files: paths by name, including `best configuration`.
        text: what the command prints.
    """

    folder: Path
    finished: bool
    trials: pd.DataFrame
    best_settings: dict[str, Any] | None
    valid_result: dict[str, float] | None
    test_result: dict[str, float] | None
    checkpoint: str | None
    files: Mapping[str, str]
    text: str

    def __str__(self) -> str:
        return self.text


def tune(
    space: str | Mapping | None,
    model: str | type | None = None,
    dataset: str | None = None,
    config_dict: Mapping | None = None,
    **options: Any,
) -> SweepResult:
    """Search hyper-parameters on Ray Tune; selection is on validation.

    Args:
        space: a YAML file, RecBole's ``hyper.test``, the name of a shipped space, or the content of such a file.
        model: by default that of the settings or the space, or TIGER; a class must come from a plugin, since trials are
            separate processes (``config_dict={"plugin": "own_model.py"}``).
        dataset: by default that of the settings, or ml-100k.
        config_dict: settings of all trials, among them files of settings (`config_files`).
        options: those of :class:`recbole_tiger.hpo.options.Options`: `trials`, `search`, `scheduler`, `resume`, …

    Raises:
        ConfigError: for impossible settings or options, before the first trial.
    """
    settings = dict(config_dict or {})
    settings = {**read_config_files(pop_config_files(settings)), **settings}
    read = space_from_dict(space) if isinstance(space, Mapping) else read_space(space)
    sweep = plan(read, extension.name_of(model), dataset, settings, Options(**options))
    with opened(sweep):
        return _run(sweep)


def _run(sweep: Sweep) -> SweepResult:
    if not run_trials(sweep):
        text = f"Interrupted: {report.progress_line(sweep, 0)}.\nRepeat the command with --resume to continue."
        trials = pd.DataFrame(report.findings_of(sweep, None).rows)
        return SweepResult(sweep.folder, False, trials, None, None, None, None, {}, text)
    best, tested, winner = write_best(sweep), evaluate_winner(sweep), sweep.winner()
    findings = report.findings_of(sweep, tested)
    files = write_report(findings, sweep.folder)
    validated = sweep.best(winner) if winner is not None else None
    if tested is not None:
        files = {"best configuration": str(best), **files, "checkpoint": tested["checkpoint"]}
    return SweepResult(
        folder=sweep.folder,
        finished=True,
        trials=pd.DataFrame(findings.rows),
        best_settings=dict(winner.settings) if winner is not None else None,
        valid_result=dict(validated[1]) if validated is not None else None,
        test_result=None if tested is None else tested["test_result"],
        checkpoint=None if tested is None else tested["checkpoint"],
        files=files,
        text=report.text(findings, files),
    )


def run_trials(sweep: Sweep) -> bool:
    """Run what is left of a sweep; True if all of its trials have ended or its time was over, False if interrupted.

    A `ConfigError` if Ray is missing, does not answer, or has no node with room for a trial.
    """
    forget_failures(sweep)
    n_left = sweep.n_trials - len(sweep.ended())
    if n_left <= 0:
        return True
    options, started = sweep.options, time.monotonic()
    seconds = None if options.time_budget_minutes is None else 60 * options.time_budget_minutes
    ray = ray_shim.start(options.address, options.cpus, options.dashboard)
    try:
        _check_room(ray.nodes(), options)
        report.print_progress(f"{n_left} of {sweep.n_trials} trials to run, in {sweep.folder}")
        _through_ray(sweep, n_left, seconds)
    finally:
        ray.shutdown()
    if seconds is None or time.monotonic() - started < seconds:
        return len(sweep.ended()) >= sweep.n_trials
    for trial in sweep.trials.values():
        if trial.status not in ENDED:
            trial.status, trial.reason = "stopped", "the time budget of the sweep was used up"
            sweep.write(trial)
    return True


def _through_ray(sweep: Sweep, n_trials: int, seconds: float | None) -> None:
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


# ----------------------------------------------------------------------------------------------- what it leaves behind


def write_best(sweep: Sweep) -> Path | None:
    """The winner's settings as a YAML file for ``--config_files``; None without a winner."""
    winner = sweep.winner()
    if winner is None:
        return None
    settings = {"model": sweep.model, "dataset": sweep.dataset}
    recipe = sweep.settings.get("recipe") or default_recipe(sweep.model, sweep.dataset, sweep.settings)
    if recipe in model_spec(sweep.model).recipes:  # named, so that the file means the same on another dataset
        settings["recipe"] = recipe
    settings |= {**sweep.settings, **winner.settings}
    best = sweep.best(winner)
    assert best is not None  # a winner has been validated
    epoch, metrics = best
    path = sweep.folder / "best.yaml"
    head = (
        f"# Trial {winner.number} of {len(sweep.trials)}, the best on validation: {sweep.metric} "
        f"{metrics[sweep.metric]:.6f} at epoch {epoch}.\n# python run_recbole_tiger.py --config_files={path}\n"
    )
    atomic_write_text(path, head + yaml.safe_dump(settings, sort_keys=False))
    return path


def evaluate_winner(sweep: Sweep) -> dict | None:
    """The winner's `number`, `test_result`, `popularity` (of the test set) and `checkpoint`; None without a winner.

    This is the one time that a sweep reads the test set; one that is continued after its end does not read it again,
    unless another trial has won since. A `ConfigError` if the winner's checkpoint is not there.
    """
    winner = sweep.winner()
    if winner is None:
        return None
    path = sweep.folder / "winner.json"
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["number"] == winner.number:
            return known
    checkpoint = sweep.folder_of(winner) / "best.pth"
    if not checkpoint.is_file():
        raise ConfigError(
            f"the winner's checkpoint '{checkpoint}' is missing: with several nodes, --storage must be a folder that "
            "all of them can reach; train and test it again with run_recbole_tiger.py "
            f"--config_files={sweep.folder / 'best.yaml'}"
        )
    config, model, dataset, train, valid, test = load_data_and_model(str(checkpoint))
    result = trainer_class(sweep.model)(config, model).evaluate(test, load_best_model=False)
    popularity = popularity_row(config, PreparedData(dataset, train, valid, test), ("test",))
    found = {
        "number": winner.number,
        "test_result": {name: float(value) for name, value in result.items()},
        "popularity": {name: float(value) for name, value in popularity.get("test", {}).items()},
        "checkpoint": str(checkpoint),
    }
    atomic_write_text(path, json.dumps(found, indent=1))
    return found


def write_report(findings: Findings, folder: Path) -> dict[str, str]:
    """Write `report.csv` (unrounded), `report.md` and `report.html`; returns their paths."""
    contents = {
        "report.html": figures.html(findings),
        "report.md": report.markdown(findings),
        "report.csv": report.csv_text(findings),
    }
    for name, content in contents.items():
        atomic_write_text(folder / name, content)
    return {name: str(folder / name) for name in contents}
