"""The command `leaderboard`, and the command line that makes the runs of one: ``--model=A,B --seeds=1,2``.

Input: settings. Output: the tables as text, and their files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recbole_tiger.errors import ConfigError
from recbole_tiger.leaderboard.outputs import report
from recbole_tiger.leaderboard.plan import OF_THE_TABLE
from recbole_tiger.leaderboard.published import check_published
from recbole_tiger.leaderboard.rows import read_rows
from recbole_tiger.leaderboard.run import run_leaderboard
from recbole_tiger.leaderboard.table import read_runs
from recbole_tiger.settings.field import literal
from recbole_tiger.settings.parse import pop_config_files, read_yaml
from recbole_tiger.settings.schema import FIELDS


def run(settings: Mapping) -> str | tuple[str, int]:
    """The `leaderboard` command: of stored runs, or with `rows` of those of a file, of which it makes what is missing.

    Raises:
        ConfigError: for an unknown key, or for published numbers where the paper has none.
        ValueError: if no finished run is there, or one is damaged.
    """
    settings = dict(settings)
    if "rows" in settings:
        for key in ("model", "seed", "runs", "output"):
            if key in settings:
                raise ConfigError(
                    f"{key}={settings[key]!r} and rows='{settings['rows']}' are both given; leave one out"
                )
        return make(settings)
    folder = settings.pop("runs", "saved")
    output = settings.pop("output", None) or folder
    published = settings.pop("published", False)
    for key in settings:
        raise ConfigError(
            f"unknown key '{key}' of the leaderboard command; it has --runs, --output, --published and --rows"
        )
    runs = read_runs(str(folder))
    published = check_published(published, [stored.result["dataset"] for stored in runs])
    return str(report(runs, (), str(output), published))


def _pop_table(settings: dict, files: Iterable[str]) -> tuple[str, str, list]:
    """Rows, dataset and seeds out of the command line, or out of the files where they are not typed."""
    asked: dict[str, Any] = {"model": "TIGER", "dataset": "ml-100k", "seeds": 2024}
    for given in (*map(read_yaml, files), settings):
        if "seeds" in given and "seed" in given:
            raise ConfigError(f"seed={given['seed']!r} and seeds={given['seeds']!r} are both given; leave seed out")
        asked.update({"seeds" if key == "seed" else key: given[key] for key in OF_THE_TABLE if key in given})
    for key in OF_THE_TABLE:
        settings.pop(key, None)
    seeds = asked["seeds"]
    seeds = literal(seeds) if isinstance(seeds, str) else seeds  # a file may have them as the command line has
    return asked["model"], asked["dataset"], list(seeds) if isinstance(seeds, (list, tuple)) else [seeds]


def make(settings: Mapping) -> tuple[str, int]:
    """The command line with several models: make what is missing, write the outputs.

    Returns:
        the text to print, and the exit status: 1 if a row has no result.

    Raises:
        ConfigError: for settings that cannot work, or if no row has a result.
    """
    settings = dict(settings)
    files = pop_config_files(settings)
    named = read_rows(settings.pop("rows")) if "rows" in settings else None
    if named is not None:
        settings = {**named.settings, "dataset": named.dataset, "seeds": named.seeds, **settings}
    model, dataset, seeds = _pop_table(settings, files)
    options = {
        "jobs": FIELDS["jobs"].read(settings.pop("jobs", 1)),
        "ray": settings.pop("ray", False),
        "cpus_per_run": FIELDS["cpus_per_run"].read(settings.pop("cpus_per_run", 1)),
        "gpus_per_run": FIELDS["gpus_per_run"].read(settings.pop("gpus_per_run", 0)),
    }
    published = settings.pop("published", False)
    several = {"ray": options["ray"], "jobs": options["jobs"] > 1 and options["jobs"], "nproc": settings.get("nproc")}
    if len(chosen := [f"{key}={value}" for key, value in several.items() if value]) > 1:
        raise ConfigError(f"{' with '.join(chosen)}: each of them starts processes; keep one")
    folder = FIELDS["leaderboard_dir"].read(settings.pop("leaderboard_dir", None))
    rows = model if named is None else named.rows
    made = run_leaderboard(rows, dataset, seeds, files, settings, folder=folder, published=published, **options)
    return str(made), 1 if made.failures else 0
