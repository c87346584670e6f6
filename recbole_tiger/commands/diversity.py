"""The command ``diversity``: categories of recommendations that are drawn at several temperatures.

Input: the settings of the command. Output: tables on the screen, ``diversity.json`` and ``diversity.html``.
"""

from __future__ import annotations

from dataclasses import asdict

from recbole_tiger.analysis.diversity import DiversitySettings, diversity
from recbole_tiger.analysis.runs import open_run
from recbole_tiger.commands.shared import (
    new_folder,
    pop_number,
    pop_numbers,
    pop_run,
    publish,
    refuse_existing,
    text_table,
)
from recbole_tiger.report.analyses import diversity_sections, diversity_table, offered_table

USAGE = """Usage: python run_recbole_tiger.py diversity --checkpoint=FILE [--temperatures=1.0,1.5,2.0] [--key=value ...]

Draws recommendations at several temperatures and measures the entropy of their categories, and Recall beside it.

  --checkpoint=FILE          best.pth of a run; without it, --model, --dataset and any key of a run to train first
  --temperatures=A,B,...     (1.0,1.5,2.0)
  --levels=1,2,...           the temperature holds for one level of the ID only, each of these in turn (1 is the first
                             codeword); 0, the default, is for all levels together
  --k=10,20,50               lengths of the lists
  --category=COLUMN          the column of the .item file (by default item_feature)
  --category_depth=N         names of a category path that make up a category: see the note of the result (2)
  --users=N                  so many test users, drawn at random; by default all
  --sample_seed=N            seed of the draws; by default the run's
  --output_dir=FOLDER        a folder that does not exist yet, for diversity.json and .html
"""


def run(settings: dict) -> str:
    """Measure, write, and return the tables.

    Raises:
        ValueError: for settings that cannot work, and for an output that exists.
    """
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
