"""The command ``cold-start``: how often cold-start (unseen) items are found.

Input: the settings of the command, among them those of a run. Output: tables on the screen, ``cold-start.json`` and
``cold-start.html``, and the data and runs without the unseen items.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from recbole_tiger.analysis.cold_start import ColdStartSettings, cold_start
from recbole_tiger.commands.shared import new_folder, pop_number, pop_numbers, pop_run, publish
from recbole_tiger.errors import TrainingStopped
from recbole_tiger.report.analyses import cold_start_facts, cold_start_sections, cold_start_table
from recbole_tiger.report.tables import text_table


def run(settings: dict) -> str:
    """Train the runs, evaluate, write, and return the tables. Raises `ValueError` for settings that cannot work, and
    for an output that exists."""
    wanted = ColdStartSettings(
        shares=pop_numbers(settings, "cold_share", ColdStartSettings.shares, low=1e-6, high=0.9),
        k=pop_numbers(settings, "k", ColdStartSettings.k, low=1, kind=int),
        epsilon=pop_number(settings, "epsilon", ColdStartSettings.epsilon, low=0.0, high=1.0),
        epsilons=pop_numbers(settings, "epsilons", ColdStartSettings.epsilons, low=0.0, high=1.0),
        epsilon_k=pop_number(settings, "epsilon_k", ColdStartSettings.epsilon_k, low=1, kind=int),
        prefix_lengths=pop_numbers(settings, "prefix_length", (), low=1, kind=int, ordered=False),
        seeds=pop_numbers(settings, "seeds", (), low=0, kind=int, ordered=False),
    )
    output = settings.pop("output_dir", None)
    config, _ = pop_run(settings)
    wanted = wanted.checked(config)
    folder = _folder(output, config)
    resumes = f"the same command with --output_dir={folder} resumes"
    print(f"after an interruption, {resumes}", file=sys.stderr)
    try:
        found = cold_start(config, wanted, folder)
    except TrainingStopped as stopped:
        raise TrainingStopped(f"stopped by SIGTERM; {resumes}") from stopped
    about = {key: config[key] for key in ("model", "recipe", "dataset")}
    recipe = f" ({about['recipe']})" if about["recipe"] else ""
    n_runs = f"{len(found.runs)} run{'s' if len(found.runs) > 1 else ''}"
    result = {
        "about": f"{about['model']}{recipe} on {about['dataset']}: {n_runs}, trained without the unseen items",
        **about,
        "prefix_length": wanted.prefix_lengths,
        **asdict(found),
    }
    text = (text_table(*cold_start_table(found)), text_table(*cold_start_facts(found)), "\n".join(found.choices))
    return publish(folder, "cold-start", "Cold start", result, cold_start_sections(found), text)


def _folder(output, config) -> Path:
    """A new folder, or one that an interrupted command has left."""
    folder = Path(str(output))
    if output and any(folder.glob("share-*")) and not (folder / "cold-start.json").exists():
        return folder
    return new_folder(output, "cold-start", config)
