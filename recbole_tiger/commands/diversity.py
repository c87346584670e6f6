"""The command ``diversity``: categories of recommendations that are drawn at several temperatures.

Input: the settings of the command. Output: tables on the screen, ``diversity.json`` and ``diversity.html``.
"""

from __future__ import annotations

from dataclasses import asdict

from recbole_tiger.analysis.diversity import DiversitySettings, diversity
from recbole_tiger.analysis.runs import open_run
from recbole_tiger.commands.shared import new_folder, pop_number, pop_numbers, pop_run, publish, refuse_existing
from recbole_tiger.report.analyses import diversity_sections, diversity_table, offered_table
from recbole_tiger.report.tables import text_table


def run(settings: dict) -> str:
    """Measure, write, and return the tables. Raises `ValueError` for settings that cannot work, and for an output that
    exists."""
    wanted = DiversitySettings(
        temperatures=pop_numbers(settings, "temperatures", DiversitySettings.temperatures, low=1e-6),
        levels=pop_numbers(settings, "levels", DiversitySettings.levels, low=0, kind=int),
        k=pop_numbers(settings, "k", DiversitySettings.k, low=1, kind=int),
        category=settings.pop("category", None),
        depth=pop_number(settings, "category_depth", DiversitySettings.depth, low=1, kind=int),
        seed=pop_number(settings, "sample_seed", None, low=0, kind=int),
    )
    n_users = pop_number(settings, "users", None, low=1, kind=int)
    output = settings.pop("output_dir", None)
    refuse_existing(output)
    trained = open_run(*pop_run(settings), n_users)
    found = diversity(trained, wanted)
    folder = new_folder(output, "diversity", trained.config)
    text = (
        text_table(*diversity_table(found)),
        text_table(*offered_table(found), maxcolwidths=36),
        "\n".join(found.notes),
    )
    result = {**trained.describe(), **asdict(found)}
    return publish(folder, "diversity", "Diversity", result, diversity_sections(found), text)
