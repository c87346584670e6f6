"""What a sweep leaves in its folder: the best configuration, the winner's test metrics, and the report.

Input: a sweep that is over. Output: `best.yaml`, `winner.json`, `report.csv`, `report.md`, `report.html`. The test set
is read here, once, for the winner.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.loading import PreparedData, load_data_and_model, trainer_class
from recbole_tiger.experiment.popularity import popularity_row
from recbole_tiger.hpo import figures, report
from recbole_tiger.hpo.sweep import Sweep
from recbole_tiger.io import atomic_write_text
from recbole_tiger.models import model_spec
from recbole_tiger.settings.chain import default_recipe


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


def write_report(findings: report.Findings, folder: Path) -> dict[str, str]:
    """Write `report.csv` (unrounded), `report.md` and `report.html`; returns their paths."""
    contents = {
        "report.html": figures.html(findings),
        "report.md": report.markdown(findings),
        "report.csv": report.csv_text(findings),
    }
    for name, content in contents.items():
        atomic_write_text(folder / name, content)
    return {name: str(folder / name) for name in contents}
