"""The command ``latency``: time and memory of a recommendation, beside an exact and an approximate inner product.

Input: the settings of the command. Output: a table on the screen, ``latency.json`` and ``latency.html``.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from recbole_tiger.analysis.latency import LatencySettings, latency
from recbole_tiger.commands.shared import new_folder, pop_number, pop_numbers, publish
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.report.analyses import latency_sections, latency_table
from recbole_tiger.report.tables import text_table


def run(settings: dict) -> str:
    """Measure, write, and return the table. Raises `ValueError` for settings that cannot work, and for an output that
    exists."""
    lists: dict[str, Any] = {
        key: pop_numbers(settings, key, getattr(LatencySettings, key), low=low, kind=int, ordered=False)
        for key, low in (("beams", 1), ("id_lengths", 1), ("codebook_sizes", 2))
    }
    numbers = {
        key: pop_number(settings, key, getattr(LatencySettings, key), low=1, kind=int)
        for key in ("k", "batch", "repeats", "threads")
    }
    sizes = pop_numbers(settings, "n_items", LatencySettings.n_items, low=2, kind=int)
    wanted = LatencySettings(n_items=sizes, ann=settings.pop("ann", None), **lists, **numbers)
    output = settings.pop("output_dir", None)
    config = build_config("TIGER", "ml-100k", None, {"recipe": "tuned"}, settings)
    sasrec = build_config("SASRec", "ml-100k", None, {"MAX_ITEM_LIST_LENGTH": config["MAX_ITEM_LIST_LENGTH"]})
    folder = new_folder(output, "latency", config)
    found = latency(wanted, config, sasrec)
    result = {"about": found.about, **asdict(found)}
    text = [text_table(*latency_table(found))]
    return publish(folder, "latency", "Latency and memory", result, latency_sections(found), text)
