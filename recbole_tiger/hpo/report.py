"""The report of a sweep: for the terminal, as CSV and Markdown, and as one HTML page.

Comes in: a sweep that is over, and the winner's test metrics. Goes out: text, and three files in the sweep's folder.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from tabulate import tabulate

from recbole_tiger.hpo.sweep import ENDED, Sweep, words
from recbole_tiger.hpo.trainable import best_of
from recbole_tiger.io import atomic_write_text
from recbole_tiger.report.figures import COLORS, GREY, label, style
from recbole_tiger.report.pages import Figure, Section, Table, page

#: Costs of a configuration: their names in a record, in a table, with digits.
COSTS = {
    "tokens_per_history": ("tokens per history", 1),
    "parameters": ("parameters", 0),
    "epoch_seconds": ("seconds per epoch", 2),
    "decode_ms_per_user": ("decode ms per user", 3),
    "items_in_collisions": ("items in collisions", 0),
    "usage": ("codebook usage", 3),
}
#: What a trial became, in words, with its colour.
STATUS = {"finished": ("finished", COLORS[0]), "stopped": ("stopped early", COLORS[1]), "failed": ("failed", COLORS[3])}
#: More different values than this do not fit a heat map.
_MAP_SIDE = 12


def rows_of(sweep: Sweep) -> list[dict]:
    """One row for each trial that is over, the best first.

    Returns:
        rows with `trial`, the varied settings, the metrics of the best validation, `best epoch`, `epochs`, `status`,
        the costs of :data:`COSTS`, `reason`. What a trial does not have is None.
    """
    rows = []
    metrics = _metrics(sweep)
    for record in sweep.ended():
        best = best_of(record, sweep.metric, sweep.bigger)
        row: dict[str, Any] = {"trial": record["number"]}
        row.update({key: record["settings"].get(key) for key in sweep.space.keys})
        row.update({name: best[1][name] if best else None for name in metrics})
        row["best epoch"] = best[0] if best else None
        row["epochs"] = record["history"][-1]["epoch"] if record["history"] else 0
        row["status"] = STATUS[record["status"]][0]
        row.update({name: record["costs"].get(key) for key, (name, _) in COSTS.items()})
        row["reason"] = record["reason"]
        rows.append(row)
    sign = -1 if sweep.bigger else 1
    failed = STATUS["failed"][0]
    return sorted(
        rows,
        key=lambda row: (
            row["status"] == failed,
            row[sweep.metric] is None,
            sign * (row[sweep.metric] or 0),
            row["trial"],
        ),
    )


def _metrics(sweep: Sweep) -> list[str]:
    """The validation metrics, that of selection first."""
    for record in sweep.ended():
        best = best_of(record, sweep.metric, sweep.bigger)
        if best:
            return [sweep.metric, *[name for name in best[1] if name != sweep.metric]]
    return [sweep.metric]


def heading(sweep: Sweep) -> str:
    """What was run and how it went, in a sentence."""
    ended = sweep.ended()
    counts = [f"{sum(record['status'] == status for record in ended)} {STATUS[status][0]}" for status in ENDED]
    return (
        f"{sweep.model} on {sweep.dataset}: {len(ended)} of {sweep.n_trials} trials over, {', '.join(counts)}; "
        f"chosen on validation {sweep.metric}"
    )


def text(sweep: Sweep, tested: Mapping | None, files: Mapping[str, str]) -> str:
    """The report as the terminal shows it."""
    rows = rows_of(sweep)
    shown = ["trial", *sweep.space.keys, sweep.metric, "epochs", "status"]
    shown += [name for name, _ in COSTS.values() if any(row[name] is not None for row in rows)]
    cells = [[_cell(name, row[name]) for name in shown] for row in rows]
    parts = ["", heading(sweep) + "\n" + tabulate(cells, headers=shown, disable_numparse=True)]
    failures = [f"trial {row['trial']} failed: {row['reason']}" for row in rows if row["reason"] and _failed(row)]
    if failures:
        parts.append("\n".join(failures))
    parts.append(_verdict(sweep, tested))
    parts.append(tabulate(list(files.items()), headers=["file", "where"]))
    return "\n\n".join(parts)


def _failed(row: Mapping) -> bool:
    return row["status"] == STATUS["failed"][0]


def _verdict(sweep: Sweep, tested: Mapping | None) -> str:
    winner = sweep.winner()
    if winner is None or tested is None:
        return "No trial was ever validated: there is no winner, and the test set was not read."
    names = list(tested["test_result"])
    lines = [["winner", *[f"{tested['test_result'][name]:.4f}" for name in names]]]
    if tested["popularity"]:
        lines.append(
            ["popularity", *[f"{tested['popularity'][n]:.4f}" if n in tested["popularity"] else "" for n in names]]
        )
    return (
        f"Winner: trial {winner['number']} ({words(winner['settings'])}). Its test metrics, read once and after all trials:\n"
        + tabulate(lines, headers=["test", *names], disable_numparse=True)
    )


def _cell(name: str, value: Any) -> str:
    digits = {cost: number for cost, number in COSTS.values()}
    if value is None:
        return ""
    if name in digits:
        return f"{value:,.{digits[name]}f}"
    if isinstance(value, float):
        return f"{value:.4f}" if "@" in name else f"{value:.4g}"
    return str(value)


def write(sweep: Sweep, tested: Mapping | None) -> dict[str, str]:
    """Write `report.csv` (unrounded), `report.md` and `report.html`; returns their paths."""
    rows = rows_of(sweep)
    names = list(rows[0]) if rows else ["trial"]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([[_plain(row[name]) for name in names] for row in rows])
    cells = [[_cell(name, row[name]).replace("|", "\\|") for name in names] for row in rows]
    used = [index for index, name in enumerate(names) if any(cell[index] for cell in cells) or name == "trial"]
    body = tabulate(
        [[cell[index] for index in used] for cell in cells],
        [names[index] for index in used],
        "github",
        disable_numparse=True,
    )
    # The verdict ends in a table of the terminal: a fenced block keeps its columns.
    markdown = f"# Sweep of {sweep.model} on {sweep.dataset}\n\n{heading(sweep)}.\n\n{body}\n\n```\n{_verdict(sweep, tested)}\n```\n"
    contents = {"report.csv": table.getvalue(), "report.md": markdown, "report.html": html(sweep, tested)}
    for name, content in contents.items():
        atomic_write_text(sweep.folder / name, content)
    return {name: str(sweep.folder / name) for name in reversed(contents)}


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, (list, dict)) else value


# --------------------------------------------------------------------------------------------------------- the page


def html(sweep: Sweep, tested: Mapping | None) -> str:
    """The page: the winner, maps of quality and cost, parallel coordinates, learning curves, the Pareto front."""
    rows = rows_of(sweep)
    scored = [row for row in rows if row[sweep.metric] is not None and not _failed(row)]
    names = [name for name in (rows[0] if rows else []) if any(row[name] is not None for row in rows)]
    trials = Table(names, [[_cell(name, row[name]) for name in names] for row in rows])
    sections = []
    if tested is not None:
        winner = sweep.winner()
        metrics = list(tested["test_result"])
        lines = [["winner", *[f"{tested['test_result'][name]:.4f}" for name in metrics]]]
        lines += [["popularity", *[f"{tested['popularity'].get(n, float('nan')):.4f}" for n in metrics]]]
        sections.append(
            Section(
                "The winner",
                f"Trial {winner['number']}: {words(winner['settings'])}. Chosen on validation; the test set was read once, for "
                "this trial, after all others had ended.",
                [Table(["test", *metrics], lines)],
            )
        )
    if scored:
        pair = map_axes(sweep, scored)
        if pair:
            sections.append(_maps(sweep, scored, *pair))
        sections.append(
            Section(
                "All settings at once",
                "A line is a trial; on each axis the lowest value found is at the bottom, the highest at the top.",
                [Figure(parallel_coordinates(sweep, scored), wide=True)],
            )
        )
    curves = [record for record in sweep.ended() if best_of(record, sweep.metric, sweep.bigger)]
    if curves:
        sections.append(
            Section(
                "Learning curves",
                "Validation after each epoch; a curve that ends early is a trial that the scheduler gave up.",
                [Figure(learning_curves(sweep, curves), wide=True)],
            )
        )
    if scored:
        fronts = [(key, name) for key, (name, _) in COSTS.items() if key not in ("usage", "items_in_collisions")]
        figures = [
            Figure(pareto_figure(sweep, scored, name), title=f"{sweep.metric} against {name}")
            for _, name in fronts
            if len({row[name] for row in scored if row[name] is not None}) > 1
        ]
        if figures:
            text = "Trials on the line are the front: no other trial is both better and cheaper."
            sections.append(Section("Quality and cost", text, figures))
    sections.append(
        Section("All trials", "The best first; validation metrics are those of a trial's best epoch.", [trials])
    )
    return page(f"Sweep of {sweep.model} on {sweep.dataset}", sections, subtitle=heading(sweep) + ".")


def map_axes(sweep: Sweep, rows: Sequence[Mapping]) -> tuple[str, str] | None:
    """The two settings of the heat map: ID length and codebook size where they vary, else the first two that have few
    values; None where there are no two."""

    def few(key: str) -> bool:
        return 2 <= len({_text(row[key]) for row in rows}) <= _MAP_SIDE

    keys = [key for key in sweep.space.keys if few(key)]
    if {"id_length", "codebook_size"} <= set(keys):
        return "codebook_size", "id_length"
    return (keys[0], keys[1]) if len(keys) > 1 else None


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _values(rows: Sequence[Mapping], key: str) -> list[str]:
    """The different values of a column as text, numbers in their order."""
    found = {_text(row[key]): row[key] for row in rows}
    numbers = all(isinstance(value, (int, float)) for value in found.values() if value is not None)
    return sorted(found, key=lambda name: (found[name] is None, found[name] or 0) if numbers else (False, name))


def heat_map(rows: Sequence[Mapping], x: str, y: str, value: str, best: str, bigger: bool, good: bool) -> go.Figure:
    """A map of one column over two settings; of trials that share a cell, the one that is best on `best` is shown.

    Args:
        rows: of :func:`rows_of`.
        x, y: columns of the axes.
        value: column of the colours.
        best, bigger: column that decides within a cell, and whether more of it is better.
        good: whether more of `value` is good: the colours say so.
    """
    columns, lines = _values(rows, x), _values(rows, y)
    chosen: dict[tuple[str, str], Mapping] = {}
    for row in sorted(rows, key=lambda row: row[best] if bigger else -row[best]):
        chosen[_text(row[y]), _text(row[x])] = row
    grid = [[chosen.get((line, column), {}).get(value) for column in columns] for line in lines]
    written = [[_cell(value, cell) for cell in line] for line in grid]
    plot = go.Figure(
        go.Heatmap(
            x=[label(name) for name in columns],
            y=[label(name) for name in lines],
            z=grid,
            text=written,
            texttemplate="%{text}",
            colorscale=[[0, "#f3f6fa"], [1, "#0072b2" if good else "#d55e00"]],
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate=f"{label(y)} %{{y}}, {label(x)} %{{x}}<br>{label(value)}: %{{text}}<extra></extra>",
        )
    )
    style(plot, x_title=x, y_title=y, height=90 + 44 * len(lines))
    plot.update_xaxes(type="category", showgrid=False)
    plot.update_yaxes(type="category", showgrid=False)
    return plot


def _maps(sweep: Sweep, rows: Sequence[Mapping], x: str, y: str) -> Section:
    def figure(value: str, good: bool, wide: bool = False) -> Figure:
        return Figure(heat_map(rows, x, y, value, sweep.metric, sweep.bigger, good), title=value, wide=wide)

    figures = [figure(sweep.metric, True, wide=True)]
    for key, (name, _) in COSTS.items():
        if any(row[name] is not None for row in rows):
            figures.append(figure(name, key == "usage"))
    stopped = sum(row["status"] == STATUS["stopped"][0] for row in rows)
    note = f" {stopped} of the trials were stopped early: their cells show what they had reached." if stopped else ""
    return Section(
        f"{y} and {x}",
        f"Validation {sweep.metric} of every pair that was tried, and what the pair costs. An empty cell was not tried."
        + note,
        figures,
    )


def parallel_coordinates(sweep: Sweep, rows: Sequence[Mapping]) -> go.Figure:
    """One line for each trial over the varied settings and the score, the best ones in colour."""
    keys = [*[key for key in sweep.space.keys if len({_text(row[key]) for row in rows}) > 1], sweep.metric]
    places: dict[str, dict[str, float]] = {}
    for key in keys:
        present = [row[key] for row in rows if row[key] is not None]
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present):
            low, high = min(present), max(present)
            places[key] = {_text(value): (value - low) / (high - low) if high > low else 0.5 for value in present}
        else:
            names = _values(rows, key)
            places[key] = {name: index / max(len(names) - 1, 1) for index, name in enumerate(names)}
        places[key].setdefault("–", -0.06)  # not read in this trial
    plot = go.Figure()
    order = list(rows)[::-1]  # the best is drawn last, on top
    for index, row in enumerate(order):
        rank = len(order) - 1 - index
        shade = COLORS[rank] if rank < 3 else GREY
        plot.add_scatter(
            x=[label(key) for key in keys],
            y=[places[key][_text(row[key])] for key in keys],
            mode="lines+markers",
            name=f"trial {row['trial']}" + (", the best" if rank == 0 else ""),
            showlegend=rank < 3,
            line={"color": shade, "width": 3 if rank < 3 else 1.2},
            marker={"size": 7 if rank < 3 else 4},
            text=[_cell(key, row[key]) or "not read" for key in keys],
            hovertemplate=f"trial {row['trial']}<br>%{{x}}: %{{text}}<extra></extra>",
        )
    style(plot, height=380)
    plot.update_yaxes(showticklabels=False, showgrid=False)
    plot.update_xaxes(type="category", range=[-0.3, len(keys) - 0.7])
    for key in keys:
        for side, pick in (("bottom", min), ("top", max)):
            ends = {name: place for name, place in places[key].items() if place >= 0}
            name = pick(ends, key=ends.get)
            plot.add_annotation(
                x=label(key), y=ends[name], text=label(name), showarrow=False, yshift=-13 if side == "bottom" else 13,
                font={"size": 11, "color": "#5b6477"},
            )  # fmt: skip
    return plot


def learning_curves(sweep: Sweep, records: Sequence[Mapping]) -> go.Figure:
    """Validation score by epoch, a line for each trial in the colour of what became of it."""
    plot = go.Figure()
    told = set()
    for record in records:
        points = [(entry["epoch"], entry["valid"][sweep.metric]) for entry in record["history"] if "valid" in entry]
        name, shade = STATUS[record["status"]]
        plot.add_scatter(
            x=[epoch for epoch, _ in points],
            y=[value for _, value in points],
            mode="lines+markers",
            name=name,
            legendgroup=name,
            showlegend=name not in told,
            line={"color": shade, "width": 1.8},
            marker={"size": 5},
            hovertemplate=f"trial {record['number']} ({label(words(record['settings']))})<br>epoch %{{x}}: %{{y:.4f}}<extra></extra>",
        )
        told.add(name)
    style(plot, x_title="epoch", y_title=f"validation {sweep.metric}", height=380)
    if sweep.max_epochs <= 12:
        plot.update_xaxes(dtick=1)
    return plot


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points (cost, quality) that no other point beats: none is at most as costly and at least as good
    without being equal. In the order of cost; more quality is better."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front, best = [], None
    for index in order:
        cost, quality = points[index]
        if best is None or quality > best:
            front.append(index)
            best = quality
        elif front and (cost, quality) == points[front[-1]]:
            front.append(index)
    return front


def pareto_figure(sweep: Sweep, rows: Sequence[Mapping], cost: str) -> go.Figure:
    """Trials by cost and score, with the line of those that none beats."""
    rows = [row for row in rows if row[cost] is not None]
    sign = 1 if sweep.bigger else -1
    front = [rows[i] for i in pareto_front([(row[cost], sign * row[sweep.metric]) for row in rows])]
    told = [f"trial {row['trial']} ({label(words({key: row[key] for key in sweep.space.keys}))})" for row in rows]
    plot = go.Figure()
    plot.add_scatter(
        x=[row[cost] for row in front],
        y=[row[sweep.metric] for row in front],
        mode="lines",
        name="front",
        line={"color": COLORS[2], "width": 2, "shape": "hv"},
        hoverinfo="skip",
        showlegend=False,
    )
    plot.add_scatter(
        x=[row[cost] for row in rows],
        y=[row[sweep.metric] for row in rows],
        mode="markers",
        name="trials",
        marker={"size": 9, "color": [COLORS[2] if row in front else GREY for row in rows]},
        text=told,
        hovertemplate="%{text}<br>%{y:.4f} at %{x:,.4g}<extra></extra>",
        showlegend=False,
    )
    return style(plot, x_title=cost, y_title=f"validation {sweep.metric}", height=320)
