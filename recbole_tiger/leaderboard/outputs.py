"""The files and the text of leaderboards.

Input: tables. Output: ``leaderboard.csv``, ``.json``, ``.md``, ``.tex`` and ``.html`` in a folder, and what a command prints.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from recbole_tiger.io import atomic_write_text
from recbole_tiger.leaderboard.formats import as_json, as_records, format_latex, format_markdown, format_text
from recbole_tiger.leaderboard.page import format_page
from recbole_tiger.leaderboard.table import Leaderboard


def write_outputs(boards: Sequence[Leaderboard], folder: str | Path) -> dict[str, str]:
    """Write ``leaderboard.csv``, ``.json``, ``.md``, ``.tex`` and ``.html``; returns their paths by kind."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    records = [record for board in boards for record in as_records(board)]
    sheet = io.StringIO()
    writer = csv.DictWriter(
        sheet, list(dict.fromkeys(name for record in records for name in record)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(records)
    texts = {
        "csv": sheet.getvalue(),
        "json": as_json(boards),
        "md": "\n".join(map(format_markdown, boards)),
        "tex": "\n".join(map(format_latex, boards)),
        "html": format_page(boards),
    }
    paths = {kind: folder / f"leaderboard.{kind}" for kind in texts}
    for kind, text in texts.items():
        atomic_write_text(paths[kind], text)
    return {kind: str(path) for kind, path in paths.items()}


def report(boards: Sequence[Leaderboard], paths: Mapping[str, str]) -> str:
    """All tables and where they lie, as text."""
    where = tabulate(list(paths.items()), headers=["form", "where"])
    return "\n" + "\n\n\n".join(map(format_text, boards)) + "\n\n" + where
