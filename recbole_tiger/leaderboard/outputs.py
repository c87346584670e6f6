"""The outputs of leaderboards as text, Markdown, LaTeX, JSON and CSV, and their files; the page is in ``page.py``.

Input: runs and tables. Output: the same numbers in every form, ``leaderboard.csv``, ``.json``, ``.md``, ``.tex`` and
``.html`` in a folder, and what a command prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from recbole_tiger.evaluation.significance import Comparison
from recbole_tiger.io import atomic_write_text, make_folder
from recbole_tiger.leaderboard.cells import MARKS, describe, failure_lines, names, notes, protocol_sentence, tables
from recbole_tiger.leaderboard.page import format_page
from recbole_tiger.leaderboard.table import BoardRow, Leaderboard, StoredRun, make_leaderboards
from recbole_tiger.report.tables import (
    Table,
    csv_table,
    latex_table,
    latex_text,
    markdown_table,
    markdown_text,
    text_table,
)

#: What the JSON says of each run, with the key in the run's result.
_OF_A_RUN = {
    "seed": "seed",
    "test": "test_result",
    "valid": "best_valid_result",
    "id_level_test": "id_level_test_result",
    **{key: key for key in ("seconds", "environment", "commit", "dirty")},
}


@dataclass(frozen=True)
class LeaderboardResult:
    """A finished leaderboard; `print` shows the same as the command.

    Attributes:
        folder: folder of the runs.
        tables: one table, or more if the folder holds runs on other data.
        failures: (row, reason) of rows without a result.
        files: paths of the tables by format: `csv`, `json`, `md`, `tex`, `html`.
    """

    folder: Path
    tables: tuple[Leaderboard, ...]
    failures: tuple[tuple[str, str], ...]
    files: Mapping[str, str]

    @property
    def table(self) -> Leaderboard:
        """The first table."""
        return self.tables[0]

    def to_frame(self) -> pd.DataFrame:
        """A row for each model, best first, unrounded; the columns of ``leaderboard.csv``."""
        return pd.DataFrame(as_records(self.tables))

    def __str__(self) -> str:
        where = text_table(["form", "where"], list(self.files.items()))
        return "\n" + "\n\n\n".join(map(format_text, self.tables)) + "\n\n" + where


def report(
    runs: Sequence[StoredRun], failures: Sequence[tuple[str, str]], folder: str | Path, published: bool = False
) -> LeaderboardResult:
    """The tables of some runs, written into a folder; arguments and errors as of :func:`make_leaderboards`."""
    boards = make_leaderboards(runs, failures, published)
    return LeaderboardResult(Path(folder), tuple(boards), tuple(failures), write_outputs(boards, folder))


def write_outputs(boards: Sequence[Leaderboard], folder: str | Path) -> dict[str, str]:
    """Write ``leaderboard.csv``, ``.json``, ``.md``, ``.tex`` and ``.html``; returns their paths by kind."""
    folder = Path(folder)
    make_folder(folder)
    texts = {
        "csv": csv_table(as_records(boards)),
        "json": as_json(boards),
        "md": "\n".join(map(format_markdown, boards)),
        "tex": "\n".join(map(format_latex, boards)),
        "html": format_page(boards),
    }
    paths = {kind: folder / f"leaderboard.{kind}" for kind in texts}
    for kind, text in texts.items():
        atomic_write_text(paths[kind], text)
    return {kind: str(path) for kind, path in paths.items()}


def format_text(board: Leaderboard) -> str:
    """The table for a terminal."""
    shown = board.published
    quality, *others = [text_table(table.header, table.rows, table.columns) for table in tables(board)]
    parts = [f"{board.dataset}: {describe(board)}\n{quality}", *failure_lines(board), *others, "\n".join(notes(board))]
    if shown:
        parts.append(f"{shown.title}\n{text_table(shown.header, shown.rows, shown.columns)}\n{shown.note}")
    return "\n\n".join(parts)


def format_markdown(board: Leaderboard) -> str:
    """The table for a README: best bold, second best underlined."""

    def markdown(table: Table) -> str:
        return markdown_table(*_dressed(table, markdown_text, "**{}**", "<u>{}</u>"), table.columns)

    quality, *others = map(markdown, tables(board))
    about_marks, *lines = map(markdown_text, notes(board))
    parts = [f"## {markdown_text(board.dataset)}", markdown_text(protocol_sentence(board)), quality]
    parts += [*map(markdown_text, failure_lines(board)), *others]
    parts += [about_marks.replace(MARKS, "**Best**, <u>second best</u>"), *lines]
    if board.published:
        parts += [f"### {board.published.title}", board.published.note, markdown(board.published)]
    return "\n\n".join(parts) + "\n"


def format_latex(board: Leaderboard) -> str:
    """The table for a paper, with booktabs: best bold, second best underlined."""

    def latex(table: Table, heading: str = "") -> str:
        dressed = _dressed(table, latex_text, r"\textbf{{{}}}", r"\underline{{{}}}")
        return latex_table(*dressed, table.columns, latex_text(heading))

    parts = [f"% {board.dataset}: {describe(board)}", latex(tables(board)[0])]
    if board.published:  # its title travels with it, wherever it is pasted
        parts += ["", f"% {board.published.note}", latex(board.published, board.published.title)]
    return "\n".join(parts) + "\n"


def _dressed(table: Table, escaped: Callable[[str], str], best: str, second: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows with their text escaped, and marks as formats (``{}`` stands for the text)."""

    def cell(text: str) -> str:
        for mark, form in ((" *", best), (" +", second)):
            if text.endswith(mark):
                return form.format(escaped(text.removesuffix(mark)))
        return escaped(text)

    return list(map(escaped, table.header)), [list(map(cell, row)) for row in table.rows]


def as_records(boards: Sequence[Leaderboard]) -> list[dict]:
    """One flat record per row of each table, unrounded; None where a row lacks a value."""
    protocols = zip(boards, names(boards), strict=True)
    return [_record(board, row, protocol) for board, protocol in protocols for row in board.rows]


def _record(board: Leaderboard, row: BoardRow, protocol: str) -> dict:
    record = {
        "dataset": board.dataset,
        "model": row.label,
        "loss": row.first.get("loss"),
        "recipe": row.first.get("recipe"),
        "seeds": row.seeds(),
        "runs": len(row.runs),
    }
    for metric in board.metrics:
        record[metric] = row.mean[metric]
        record[f"{metric}_std"] = None if row.std is None else row.std[metric]
    record["gain"] = row.gain
    compared = asdict(row.comparison) if row.comparison else dict.fromkeys(Comparison.__dataclass_fields__)
    record.update({f"{board.main}_{name}": value for name, value in compared.items()})
    record.update(
        parameters=row.first["parameters"],
        training_seconds=row.seconds("training"),
        validation_seconds=row.seconds("validation"),
        test_seconds=row.seconds("test"),
        training_examples_per_second=row.speed("training"),
        test_users_per_second=row.speed("test"),
        commit=row.commit(),
        data_checksum=board.checksum,
        protocol=protocol,
    )
    return {key: None if value != value else value for key, value in record.items()}  # NaN is not valid JSON


def as_json(boards: Sequence[Leaderboard]) -> str:
    """Tables with every run behind them: metrics, seed, versions and hardware."""

    def of_a_run(run: StoredRun) -> dict:
        return {**{name: run.result.get(key) for name, key in _OF_A_RUN.items()}, "folder": str(run.folder)}

    stored = [
        {
            "dataset": board.dataset,
            "data_checksum": board.checksum,
            "protocol": board.protocol,
            "main_metric": board.main,
            "reference": board.reference,
            "test_users": board.n_users,
            "resamples": board.n_resamples,
            "notes": notes(board),
            "rows": [{**_record(board, row, protocol), "results": list(map(of_a_run, row.runs))} for row in board.rows],
            "failures": [{"model": label, "reason": reason} for label, reason in board.failures],
        }
        for board, protocol in zip(boards, names(boards), strict=True)
    ]
    return json.dumps({"tables": stored}, indent=1)
