"""The command ``invalid-ids``: how many Semantic IDs of unconstrained generation belong to no item.

Input: the settings of the command. Output: a table on the screen, ``invalid-ids.json`` and ``invalid-ids.html``.
"""

from __future__ import annotations

from dataclasses import asdict

from recbole_tiger.analysis.invalid_ids import UNCONSTRAINED_MODELS, invalid_ids
from recbole_tiger.analysis.runs import open_run
from recbole_tiger.commands.shared import new_folder, pop_number, pop_run, publish, refuse_existing
from recbole_tiger.errors import ConfigError
from recbole_tiger.report.analyses import INVALID_IDS_PAPER, invalid_ids_sections, invalid_ids_table
from recbole_tiger.report.tables import text_table


def run(settings: dict) -> str:
    """Count, write, and return the table. Raises `ValueError` for settings that cannot work, and for an output that
    exists."""
    k = pop_number(settings, "k", 50, low=1, kind=int)
    beams = pop_number(settings, "search_beams", None, low=1, kind=int)
    n_users = pop_number(settings, "users", None, low=1, kind=int)
    output = settings.pop("output_dir", None)
    refuse_existing(output)
    config, checkpoint = pop_run(settings)
    if config["model"] not in UNCONSTRAINED_MODELS:
        raise ConfigError(
            f"model={config['model']} generates only IDs of items, so there are no invalid IDs to count; choose one of "
            f"{', '.join(UNCONSTRAINED_MODELS)}"
        )
    beams = beams or max(k, config["beam_size"])
    if beams < k:
        raise ConfigError(f"search_beams={beams} is smaller than k={k}: a list of that length cannot be filled")
    trained = open_run(config, checkpoint, n_users)
    folder = new_folder(output, "invalid-ids", config)
    found = invalid_ids(trained, k, beams)
    notes, loss = INVALID_IDS_PAPER, trained.config["loss_over"]
    if loss not in (None, "level"):
        notes += (
            f"\nThis run has loss_over={loss}: it never learned to avoid codewords that lead to no item, so most IDs "
            "that it generates without constraint are invalid."
        )
    table = text_table(*invalid_ids_table(found))
    text = (f"{beams} beams in both searches; invalid IDs keep their ranks in the unconstrained list\n{table}", notes)
    result = {**trained.describe(), **asdict(found)}
    return publish(folder, "invalid-ids", "Invalid IDs", result, invalid_ids_sections(found), text)
