"""The forms of a leaderboard: text, Markdown, LaTeX, JSON and flat records; the page is in ``page.py``.

Input: tables. Output: the same numbers as text, and records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from recbole_tiger.evaluation.significance import Comparison
from recbole_tiger.leaderboard.cells import (
    MARKS,
    cost_cells,
    describe,
    failure_lines,
    notes,
    protocol_sentence,
    quality_cells,
    statistics_cells,
)
from recbole_tiger.leaderboard.table import Leaderboard
from recbole_tiger.report.tables import latex_table, latex_text, markdown_table, markdown_text, text_table

#: How the columns of the other tables are aligned.
_STATISTICS, _COST, _PUBLISHED = "lrrrrrr", "lrrrrrrlll", "lrrrrl"


def _quality_columns(board: Leaderboard) -> str:
    return "llr" + "r" * len(board.metrics) + "r"


def format_text(board: Leaderboard) -> str:
    """The table for a terminal."""
    parts = [f"{board.dataset}: {describe(board)}\n" + text_table(*quality_cells(board), _quality_columns(board))]
    parts += failure_lines(board)
    if board.n_resamples:
        parts.append(text_table(*statistics_cells(board), _STATISTICS))
    parts += [text_table(*cost_cells(board), _COST), "\n".join(notes(board))]
    if board.published:
        shown = board.published
        parts.append(f"{shown.title}\n{text_table(shown.header, shown.cells, _PUBLISHED)}\n{shown.note}")
    return "\n\n".join(parts)


def format_markdown(board: Leaderboard) -> str:
    """The table for a README: best bold, second best underlined."""

    def table(header: Sequence[str], cells: Sequence[Sequence[str]], columns: str) -> str:
        rows = [[_dressed(cell, markdown_text, "**{}**", "<u>{}</u>") for cell in row] for row in cells]
        return markdown_table([markdown_text(name) for name in header], rows, columns)

    first, *others = (markdown_text(note) for note in notes(board))
    parts = [
        f"## {markdown_text(board.dataset)}",
        markdown_text(protocol_sentence(board)),
        table(*quality_cells(board), _quality_columns(board)),
        *map(markdown_text, failure_lines(board)),
    ]
    parts += [table(*statistics_cells(board), _STATISTICS)] if board.n_resamples else []
    parts += [table(*cost_cells(board), _COST), first.replace(MARKS, "**Best**, <u>second best</u>"), *others]
    if board.published:
        shown = board.published
        parts += [f"### {shown.title}", shown.note, table(shown.header, shown.cells, _PUBLISHED)]
    return "\n\n".join(parts) + "\n"


def format_latex(board: Leaderboard) -> str:
    """The table for a paper, with booktabs: best bold, second best underlined."""

    def table(header: Sequence[str], cells: Sequence[Sequence[str]], columns: str, heading: str = "") -> str:
        rows = [[_dressed(cell, latex_text, r"\textbf{{{}}}", r"\underline{{{}}}") for cell in row] for row in cells]
        return latex_table([latex_text(name) for name in header], rows, columns, latex_text(heading))

    parts = [f"% {board.dataset}: {describe(board)}", table(*quality_cells(board), _quality_columns(board))]
    if board.published:  # its title travels with it, wherever it is pasted
        shown = board.published
        parts += ["", f"% {shown.note}", table(shown.header, shown.cells, _PUBLISHED, shown.title)]
    return "\n".join(parts) + "\n"


def _dressed(cell: str, escaped: Callable[[str], str], best: str, second: str) -> str:
    """A cell with its text escaped, and its mark as a format (``{}`` stands for the text)."""
    for mark, form in ((" *", best), (" +", second)):
        if cell.endswith(mark):
            return form.format(escaped(cell.removesuffix(mark)))
    return escaped(cell)


def as_records(board: Leaderboard) -> list[dict]:
    """One flat record per row, unrounded."""
    records = []
    for row in board.rows:
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
            training_examples_per_second=row.speed("training") if row.is_trained() else None,
            test_users_per_second=row.speed("test"),
            commit=row.commit(),
            data_checksum=board.checksum,
        )
        records.append(record)
    return records


def as_json(boards: Sequence[Leaderboard]) -> str:
    """Tables with every run behind them: metrics, seed, versions and hardware."""
    tables = []
    for board in boards:
        rows = as_records(board)
        for record, row in zip(rows, board.rows, strict=True):
            record["results"] = [
                {
                    "seed": run.result.get("seed"),
                    "test": run.result["test_result"],
                    "valid": run.result.get("best_valid_result"),
                    "id_level_test": run.result.get("id_level_test_result"),
                    "seconds": run.result["seconds"],
                    "environment": run.result.get("environment"),
                    "commit": run.result.get("commit"),
                    "dirty": run.result.get("dirty"),
                    "folder": str(run.folder),
                }
                for run in row.runs
            ]
        tables.append(
            {
                "dataset": board.dataset,
                "data_checksum": board.checksum,
                "protocol": board.protocol,
                "main_metric": board.main,
                "reference": board.reference,
                "test_users": board.n_users,
                "resamples": board.n_resamples,
                "notes": notes(board),
                "rows": rows,
                "failures": [{"model": label, "reason": reason} for label, reason in board.failures],
            }
        )
    return json.dumps({"tables": tables}, indent=1)
