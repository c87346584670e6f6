"""The command `evaluate`: finished runs from their best checkpoints, under other settings of evaluation.

Input: a folder of finished runs and settings such as ``--mask_seen_items=True``. Output: a folder with a result for
each, and their tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recbole_tiger.errors import ConfigError
from recbole_tiger.leaderboard.outputs import report
from recbole_tiger.leaderboard.reevaluate import OF_THE_MACHINE, of_evaluation, reevaluate_runs
from recbole_tiger.leaderboard.table import read_runs
from recbole_tiger.settings.validate import read_settings


def run(settings: Mapping) -> tuple[str, int]:
    """The command.

    Returns:
        the text to print, and the exit status: 1 if a run could not be evaluated.

    Raises:
        ConfigError: for settings that training depends on, a folder of results under other settings, or if no run could
            be evaluated.
        ValueError: if no finished run is there, or one is damaged.
    """
    settings = dict(settings)
    if not settings.get("runs"):
        raise ConfigError("evaluate needs --runs=DIR, a folder of finished runs")
    root = Path(str(settings.pop("runs")))
    output = settings.pop("output", None)
    changes = read_settings({key: value for key, value in settings.items() if key in of_evaluation()})
    machine = {key: value for key, value in settings.items() if key in OF_THE_MACHINE}
    for key, value in settings.items():
        if key not in changes and key not in machine:
            raise ConfigError(
                f"{key}={value!r} is not a setting of evaluation; evaluate takes {', '.join(of_evaluation())}, and "
                f"{', '.join(OF_THE_MACHINE)}"
            )
    if not changes:
        raise ConfigError("evaluate needs a setting to change, for example --mask_seen_items=True")
    folder = Path(str(output)) if output else _folder_beside(root, changes)
    if folder.resolve().is_relative_to(root.resolve()):
        raise ConfigError(f"output='{folder}' is inside the folder of the runs; name a folder outside of it")
    stored = [run for run in read_runs(root) if "evaluated_again" not in run.result]
    if not stored:
        raise ConfigError(f"runs='{root}' holds only results of evaluate; name the folder of the runs themselves")
    found, failures = reevaluate_runs(stored, changes, root, folder, machine)
    return str(report(found, failures, folder)), 1 if failures else 0


def _folder_beside(root: Path, changes: Mapping) -> Path:
    name = ",".join(f"{key}={value}".replace(" ", "").replace("/", "_") for key, value in changes.items())
    return root.resolve().with_name(f"{root.resolve().name}-{name}")
