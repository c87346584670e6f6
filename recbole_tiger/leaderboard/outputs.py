"""The files and the text of leaderboards.

Input: runs and tables. Output: ``leaderboard.csv``, ``.json``, ``.md``, ``.tex`` and ``.html`` in a folder, and what a
command prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from recbole_tiger.errors import ConfigError
from recbole_tiger.io import atomic_write_text, make_folder
from recbole_tiger.leaderboard.formats import as_json, as_records, format_latex, format_markdown, format_text
from recbole_tiger.leaderboard.page import format_page
from recbole_tiger.leaderboard.table import Leaderboard, StoredRun, make_leaderboards
from recbole_tiger.report.tables import csv_table


def report(
    runs: Sequence[StoredRun], failures: Sequence[tuple[str, str]], folder: str | Path, published: bool = False
) -> str:
    """Write the tables of some runs; returns all of them as text, and where the files are.

    Arguments and errors as of :func:`tables_of`.
    """
    boards = tables_of(runs, failures, published)
    return tables_text(boards, write_outputs(boards, folder))


def tables_of(
    runs: Sequence[StoredRun], failures: Sequence[tuple[str, str]], published: bool = False
) -> list[Leaderboard]:
    """The tables of some runs.

    `failures` are (row, reason) of runs without a result; `published` puts the paper's numbers beside the tables of its
    datasets. A `ConfigError` if there is no run.
    """
    if not runs:
        raise ConfigError("no row has a result: " + "; ".join(f"{label}: {reason}" for label, reason in failures))
    return make_leaderboards(runs, failures, published)


def tables_text(boards: Sequence[Leaderboard], files: Mapping[str, str]) -> str:
    """Tables as text, and where their files are."""
    where = tabulate(list(files.items()), headers=["form", "where"])
    return "\n" + "\n\n\n".join(map(format_text, boards)) + "\n\n" + where


def write_outputs(boards: Sequence[Leaderboard], folder: str | Path) -> dict[str, str]:
    """Write ``leaderboard.csv``, ``.json``, ``.md``, ``.tex`` and ``.html``; returns their paths by kind."""
    folder = Path(folder)
    make_folder(folder)
    texts = {
        "csv": csv_table([record for board in boards for record in as_records(board)]),
        "json": as_json(boards),
        "md": "\n".join(map(format_markdown, boards)),
        "tex": "\n".join(map(format_latex, boards)),
        "html": format_page(boards),
    }
    paths = {kind: folder / f"leaderboard.{kind}" for kind in texts}
    for kind, text in texts.items():
        atomic_write_text(paths[kind], text)
    return {kind: str(path) for kind, path in paths.items()}
