"""The leaderboard as one self-contained HTML page.

Input: tables of stored runs. Output: a page that sorts by any column, filters by dataset and protocol, and shows
intervals, quality against cost and training curves; it needs no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go

from recbole_tiger.leaderboard.cells import failure_lines, names, notes, protocol_sentence, settings_table, tables
from recbole_tiger.leaderboard.table import BoardRow, Leaderboard
from recbole_tiger.report import pages
from recbole_tiger.report.figures import HEIGHT, bars, color, label, style, wrapped

#: Rows that figures show; the tables have all.
DRAWN_ROWS = 24


def format_page(boards: Sequence[Leaderboard]) -> str:
    """The page, a section for each table."""
    rows = [row for board in boards for row in board.rows]
    groups = [{"dataset": b.dataset, "protocol": name} for b, name in zip(boards, names(boards), strict=True)]
    titles = [", ".join(group.values()) if len(boards) > 1 else group["dataset"] for group in groups]
    counts = f"{_count(len(rows), 'row')}, {_count(sum(len(row.runs) for row in rows), 'run')}"
    return pages.page(
        "Leaderboard",
        [_section(board, title) for board, title in zip(boards, titles, strict=True)],
        subtitle=f"{counts}; click a column heading to sort.",
        template="leaderboard.html.j2",
        values={"groups": groups},
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _section(board: Leaderboard, title: str) -> pages.Section:
    drawn = board.rows[:DRAWN_ROWS]
    quality, *others = tables(board)
    parts: list[pages.Figure | pages.Table] = [quality, *([board.published] if board.published else [])]
    parts.append(_bars(board, drawn))
    if any(row.is_trained() for row in drawn):
        parts += [_cost(board, drawn), _curves(board, drawn)]
    parts += [*others, settings_table(board), _environments(board)]
    return pages.Section(title, [protocol_sentence(board), *notes(board), *failure_lines(board)], parts)


def _bars(board: Leaderboard, rows: Sequence[BoardRow]) -> pages.Figure:
    """Bars of the main metric with intervals."""
    values = [row.mean[board.main] for row in rows]
    labels = [wrapped(row.label, 18) for row in rows]
    height = max(HEIGHT, 60 + 36 * len(rows))
    plot = bars(labels, {board.main: values}, y_title=board.main, horizontal=True, height=height)
    plot.data[0].update(marker={"color": [color(index) for index in range(len(rows))]})
    note = f"The best {DRAWN_ROWS} of {len(board.rows)} rows." if len(board.rows) > DRAWN_ROWS else ""
    if board.n_resamples:
        # Seeds are averaged for each user, so the interval is around the same mean as the bar.
        found = [(row.comparison, value) for row, value in zip(rows, values, strict=True) if row.comparison]
        above, below = [each.high - value for each, value in found], [value - each.low for each, value in found]
        look = {"type": "data", "symmetric": False, "color": "#1d2433", "thickness": 1.5, "width": 5}
        plot.data[0].update(error_x={"array": above, "arrayminus": below, **look})
        note = f"With 95% intervals over test users. {note}".strip()
    return pages.Figure(plot, title=f"Test {board.main}", note=note)


def _cost(board: Leaderboard, rows: Sequence[BoardRow]) -> pages.Figure:
    """The main metric against the time to train."""
    plot = go.Figure()
    for index, row in enumerate(rows):
        if row.is_trained():
            plot.add_scatter(
                x=[max(row.seconds("training", "validation"), 0.01)],
                y=[row.mean[board.main]],
                name=label(row.label),
                mode="markers",
                line={"color": color(index)},
                marker={"color": color(index), "size": 13, "line": {"color": "#ffffff", "width": 1}},
                hovertemplate=f"{label(row.label)}<br>%{{x:,.3~s}} s<br>{board.main} %{{y:.4f}}"
                f"<br>{row.first['parameters']:,} parameters<extra></extra>",
            )
    style(plot, x_title="training, with validation, in seconds", y_title=f"test {board.main}")
    ticks = [digit * 10.0**power for power in range(-2, 7) for digit in (1, 2, 5)]
    plot.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,g}" for tick in ticks])
    plot.update_yaxes(rangemode="tozero")
    return pages.Figure(plot, title="Quality against cost", note="Mean over seeds; further left is cheaper.")


def _curves(board: Leaderboard, rows: Sequence[BoardRow]) -> pages.Figure:
    """The main metric at each validation, after an epoch or within one, for the first seed of each row."""
    plot = go.Figure()
    for index, row in enumerate(rows):
        points = [
            (record.get("epochs", record["epoch"] + 1), record["valid"][board.main])
            for record in row.first.get("history") or []
            if board.main in (record.get("valid") or {})
        ]
        if points and row.is_trained():
            epochs, values = zip(*points, strict=True)
            plot.add_scatter(
                x=epochs,
                y=values,
                name=label(row.label),
                mode="lines+markers",
                line={"color": color(index), "width": 2},
                marker={"size": 5},
                hovertemplate=f"{label(row.label)}<br>epoch %{{x:.4~g}}: %{{y:.4f}}<extra></extra>",
            )
    style(plot, x_title="epoch", y_title=f"validation {board.main}")
    last = max((trace.x[-1] for trace in plot.data), default=1)
    plot.update_xaxes(range=[0, 1.04 * last], dtick=max(1, round(last / 12)))
    plot.update_yaxes(rangemode="tozero")
    return pages.Figure(plot, title="Training curves", note="The first seed of each row.", wide=True)


def _environments(board: Leaderboard) -> pages.Table:
    """Versions and hardware, and how many runs each made."""
    found: Counter = Counter()
    for where in (run.result.get("environment") or {} for row in board.rows for run in row.runs):
        versions = ", ".join(f"{name} {number}" for name, number in (where.get("versions") or {}).items() if number)
        device, threads = where.get("device") or "unknown", str(where.get("threads", ""))
        found[device, threads, f"Python {where.get('python')}, {versions}"] += 1
    rows = [[*where, str(count)] for where, count in found.most_common()]
    return pages.Table(["hardware", "threads", "versions", "runs"], rows, title="Environment of the runs")
