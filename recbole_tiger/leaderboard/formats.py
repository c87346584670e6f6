"""The forms of a leaderboard: text, CSV, JSON, Markdown, LaTeX; the page is in ``page.py``.

Input: tables. Output: the same numbers as text, and files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from tabulate import tabulate

from recbole_tiger.evaluation.significance import Comparison, has_user_values
from recbole_tiger.leaderboard.table import Leaderboard
from recbole_tiger.settings.split import LEAVE_ONE_OUT, describe_split

SHARED_FUTURE = "Leave-one-out holds back each user's last items, whenever they happened: models see what other users did after them."


def marks(board: Leaderboard, metric: str) -> list[str]:
    """``*`` for the rows with the best mean, ``+`` for those with the second best, as printed; "" for the others."""
    digits = _digits(board)
    values = [round(row.mean[metric], digits) for row in board.rows]
    ranked = sorted({value for value in values if not np.isnan(value)}, reverse=True)
    if len(board.rows) < 2 or not has_user_values(metric):  # larger is better for these
        return [""] * len(values)
    return ["*" if value == ranked[0] else "+" if value in ranked[1:2] else "" for value in values]


def _digits(board: Leaderboard) -> int:
    return int(board.rows[0].first["config"].get("metric_decimal_place") or 4)


def describe(board: Leaderboard) -> str:
    """The protocol of a table in a sentence."""
    protocol = board.protocol
    parts = [
        describe_split(protocol["eval_args"]["split"]),
        "full ranking",
        f"histories of at most {protocol['MAX_ITEM_LIST_LENGTH']} items",
        f"seen items {'' if protocol['mask_seen_items'] else 'not '}masked",
        "equal times in file order" if protocol["tie_order"] == "file" else "equal times shuffled",
        f"selected on validation {protocol['valid_metric']}",
        *([f"{board.n_users:,} test users"] if board.n_users else []),
        f"data {board.checksum}",
    ]
    return ", ".join(parts)


def quality_cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of metrics; best and second best carry their marks."""
    digits, marked = _digits(board), {metric: marks(board, metric) for metric in board.metrics}
    cells = []
    for place, row in enumerate(board.rows):
        numbers = []
        for metric in board.metrics:
            text = f"{row.mean[metric]:.{digits}f}"
            if row.std is not None:
                text += f" ± {row.std[metric]:.{digits}f}"
            numbers.append(f"{text} {marked[metric][place]}".rstrip())
        gain = "" if row.gain is None else f"{100 * row.gain:+.1f}%"
        cells.append([row.label, row.first.get("loss") or "-", str(len(row.runs)), *numbers, gain])
    return ["model", "loss", "runs", *board.metrics, "gain"], cells


def statistics_cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and cells of intervals and tests."""
    cells = []
    for row in board.rows:
        found = row.comparison
        own = [row.label, f"{row.mean[board.main]:.4f}", f"{found.low:.4f} to {found.high:.4f}"]
        if found.difference is None:
            cells.append([*own, "", "", "", ""])
            continue
        between = f"{found.difference_low:+.4f} to {found.difference_high:+.4f}"
        cells.append([*own, f"{found.difference:+.4f}", between, f"{found.p:.2g}", f"{found.p_holm:.2g}"])
    against = f"less {board.reference}"
    return ["model", board.main, "95% interval", against, "95% interval of it", "p", "p (Holm)"], cells


def cost_cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Header and cells of what the rows cost and where they come from."""

    def count(value: float | None) -> str:
        return "-" if value is None else f"{value:,.0f}"

    header = [
        "model",
        "parameters",
        "training s",
        "validation s",
        "test s",
        "train examples/s",
        "test users/s",
        "recipe",
        "seeds",
        "commit",
    ]
    cells = [
        [
            row.label,
            f"{row.first['parameters']:,}",
            f"{row.seconds('training'):,.1f}",
            f"{row.seconds('validation'):,.1f}",
            f"{row.seconds('test'):,.2f}",
            count(row.speed("training") if row.is_trained() else None),
            count(row.speed("test")),
            row.first.get("recipe") or row.first["config"].get("recipe") or "-",
            row.seeds(),
            row.commit(),
        ]
        for row in board.rows
    ]
    return header, cells


def notes(board: Leaderboard, best: str = "* best, + second best") -> list[str]:
    """What a reader of the table has to know; ``best`` says how its best values are marked."""
    several = any(row.std is not None for row in board.rows)
    lines = [f"{best}; gain: {board.main} against the best other row."]
    if several:
        lines.append("Mean ± standard deviation over seeds.")
    if board.n_resamples:
        lines.append(
            f"Intervals: paired bootstrap of {board.n_resamples:,} resamples of the test users, seeds averaged for each user; "
            f"p: paired t-test against {board.reference}, then Holm's correction for {len(board.rows) - 1} comparisons."
        )
    if board.protocol["eval_args"]["split"] == LEAVE_ONE_OUT:
        lines.append(SHARED_FUTURE)
    elif "temporal" in board.protocol["eval_args"]["split"]:
        lines.append(_periods(board.rows[0].first["split"], board.protocol["eval_args"]["split"]["temporal"]["target"]))
    leaking = [row.label for row in board.rows if row.is_leaking()]
    if leaking:
        lines.append(
            f"{', '.join(leaking)}: items are numbered in the order of the data, test items among them, so that word pieces tell "
            "the answer (paper, Appendix A)."
        )
    lines += _evaluated_again(board)
    if any(run.result.get("dirty") for row in board.rows for run in row.runs):
        lines.append("A commit with + had changes that are not in it.")
    for row in board.rows:
        inflated = row.first.get("id_level_test_result")
        if inflated:
            told = ", ".join(f"{name} {value:.4f}" for name, value in inflated.items())
            lines.append(
                f"{row.label} counted by Semantic IDs instead of items, for comparison with such papers: {told}."
            )
    return lines


def _evaluated_again(board: Leaderboard) -> list[str]:
    """Which rows are checkpoints that the `evaluate` command evaluated once more, and what was different in training."""
    told: dict[str, list[str]] = {}
    for row in board.rows:
        again = row.first.get("evaluated_again")
        if not again:
            continue
        text = "evaluated again with the run's own settings"
        if again["changes"]:
            new, old = (_pairs(again[side]) for side in ("changes", "from"))
            text = f"evaluated again, with {new} where training and the choice of the epoch had {old}"
        told.setdefault(text, []).append(row.label)
    everyone = len(board.rows)
    return [f"{'All rows' if len(rows) == everyone else ', '.join(rows)}: {text}." for text, rows in told.items()]


def _pairs(settings: Mapping) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _periods(split: Mapping, target: str) -> str:
    """What a global temporal split gave, in a sentence."""
    ends, test = split["dates"], split["test"]
    history = "everything before it, within the period as well" if target == "last" else "what came before the period"
    return (
        f"Models learn from the {split['training_interactions']:,} interactions before {ends[0]}, are selected on those before "
        f"{ends[1]} and tested on the rest: each user's {target} item of a period, from {history}. Of the test targets "
        f"{test['new_items']:,} are items without a training interaction."
    )


def format_text(board: Leaderboard) -> str:
    """The table for a terminal."""
    options = dict(disable_numparse=True, tablefmt="simple")
    header, cells = quality_cells(board)
    align = ("left", "left", *["right"] * (len(header) - 2))
    parts = [f"{board.dataset}: {describe(board)}\n" + tabulate(cells, headers=header, colalign=align, **options)]
    parts += [f"{label} has no result: {reason}" for label, reason in board.failures]
    if board.n_resamples:
        header, cells = statistics_cells(board)
        parts.append(tabulate(cells, headers=header, colalign=("left", *["right"] * 6), **options))
    header, cells = cost_cells(board)
    align = ("left", *["right"] * 6, "left", "left", "left")
    parts.append(tabulate(cells, headers=header, colalign=align, **options))
    parts.append("\n".join(notes(board)))
    if board.published:
        table = tabulate(board.published.cells, headers=board.published.header, **options)
        parts.append(f"{board.published.title}\n{table}\n{board.published.note}")
    return "\n\n".join(parts)


def format_markdown(board: Leaderboard) -> str:
    """The table for a README: best bold, second best underlined."""

    def dressed(cell: str) -> str:
        if cell.endswith(" *"):
            return f"**{cell[:-2]}**"
        return f"<u>{cell[:-2]}</u>" if cell.endswith(" +") else cell

    def table(header, cells) -> str:
        lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        return "\n".join([*lines, *("| " + " | ".join(map(dressed, row)) + " |" for row in cells)])

    parts = [
        f"## {board.dataset}",
        describe(board)[0].upper() + describe(board)[1:] + ".",
        table(*quality_cells(board)),
    ]
    parts += [f"{label} has no result: {reason}" for label, reason in board.failures]
    parts += [table(*statistics_cells(board))] if board.n_resamples else []
    parts += [table(*cost_cells(board)), *notes(board, "**Best**, <u>second best</u>")]
    if board.published:
        parts += [f"### {board.published.title}", board.published.note]
        parts.append(table(board.published.header, board.published.cells))
    return "\n\n".join(parts) + "\n"


def format_latex(board: Leaderboard) -> str:
    """The table for a paper, with booktabs: best bold, second best underlined."""

    def escaped(text: str) -> str:
        return re.sub(r"([&%$#_{}])", r"\\\1", text).replace("±", r"$\pm$")

    def dressed(cell: str) -> str:
        for mark, command in ((" *", "textbf"), (" +", "underline")):
            if cell.endswith(mark):
                return f"\\{command}{{{escaped(cell[:-2])}}}"
        return escaped(cell)

    def table(about: str, columns: str, header, cells, heading: Sequence[str] = ()) -> list[str]:
        return [
            f"% {about}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *heading,
            " & ".join(map(escaped, header)) + r" \\",
            r"\midrule",
            *(" & ".join(map(dressed, row)) + r" \\" for row in cells),
            r"\bottomrule",
            r"\end{tabular}",
        ]

    header, cells = quality_cells(board)
    lines = table(f"{board.dataset}: {describe(board)}", "ll" + "r" * (len(header) - 2), header, cells)
    if board.published:  # its title travels with it, wherever it is pasted
        shown, width = board.published, len(board.published.header)
        heading = rf"\multicolumn{{{width}}}{{l}}{{{escaped(shown.title)}}} \\"
        columns = "l" + "r" * (width - 2) + "l"
        lines += ["", *table(shown.note, columns, shown.header, shown.cells, [heading, r"\midrule"])]
    return "\n".join(lines) + "\n"


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
