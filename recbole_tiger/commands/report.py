"""The command ``report``: all runs and analyses of a folder on one page.

Input: a folder with ``result.json`` files of runs and the JSON files of the analysis commands, at any depth. Output:
one page, with the tables of the leaderboard and the tables and pictures of every analysis.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from recbole_tiger.analysis.cold_start import ColdStart
from recbole_tiger.analysis.diversity import Diversity
from recbole_tiger.analysis.invalid_ids import InvalidIDs
from recbole_tiger.analysis.latency import Latency
from recbole_tiger.errors import ConfigError
from recbole_tiger.io import atomic_write_text
from recbole_tiger.leaderboard.cells import describe, notes, tables
from recbole_tiger.leaderboard.table import make_leaderboards, read_run
from recbole_tiger.report import pages
from recbole_tiger.report.analyses import (
    cold_start_sections,
    diversity_sections,
    invalid_ids_sections,
    latency_sections,
)

#: File of each analysis: its title, the class of its result, and what draws it.
ANALYSES: dict[str, tuple[str, type[Any], Callable[[Any], list[pages.Section]]]] = {
    "cold-start.json": ("Cold start", ColdStart, cold_start_sections),
    "diversity.json": ("Diversity", Diversity, diversity_sections),
    "invalid-ids.json": ("Invalid IDs", InvalidIDs, invalid_ids_sections),
    "latency.json": ("Latency", Latency, latency_sections),
}


def run(settings: dict) -> str:
    """Gather, write, and say where.

    Raises:
        ConfigError: for a folder without results, and for an output that exists.
        ValueError: for a damaged file, naming it.
    """
    folder = Path(str(settings.pop("runs", None) or "saved"))
    output = Path(str(settings.pop("output", None) or folder / "report.html"))
    if settings:
        raise ConfigError(f"unknown key '{next(iter(settings))}' of the report command; it has --runs and --output")
    if output.exists():
        raise ConfigError(f"output='{output}' exists already; name a file that does not")
    stored = [run for path in sorted(folder.rglob("result.json")) if (run := read_run(path.parent)) is not None]
    boards = make_leaderboards(stored) if stored else []
    analyses = [path for name in ANALYSES for path in sorted(folder.rglob(name))]
    sections = [
        pages.Section(f"Leaderboard: {board.dataset}", [describe(board), *notes(board)], tables(board))
        for board in boards
    ]
    sections += [section for path in analyses for section in analysis_sections(path)]
    if not sections:
        raise ConfigError(f"runs='{folder}' holds neither finished runs nor analyses; name a folder that does")
    about = f"{len(stored)} runs and {len(analyses)} analyses below {folder}"
    atomic_write_text(output, pages.page("Report", sections, subtitle=about))
    return f"{about}\npage: {os.path.relpath(output)}"


def analysis_sections(path: Path) -> list[pages.Section]:
    """The sections of an analysis, from its JSON file alone. Raises `ValueError` for a damaged file, naming it."""
    title, measured, draw = ANALYSES[path.name]
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        drawn, about = draw(measured(**{field.name: data[field.name] for field in fields(measured)})), data["about"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{path}' is damaged or of another version ({error!r}); delete it or make it again"
        ) from error
    named = [replace(section, title=f"{title}: {section.title}") for section in drawn]
    return [replace(named[0], text=[about, *named[0].paragraphs]), *named[1:]]
