"""The page of a sweep: the winner, maps of quality and cost, parallel coordinates, learning curves, the Pareto front.

Input: :class:`Findings`. Output: plotly figures, and one HTML page that needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go

from recbole_tiger.hpo.report import COSTS, STATUS, Findings, cell
from recbole_tiger.hpo.sweep import number_text
from recbole_tiger.report.figures import COLORS, GREY, label, style
from recbole_tiger.report.pages import Figure, Section, Table, page

_STATUS_COLORS = dict(zip(STATUS.values(), (COLORS[0], COLORS[1], COLORS[3]), strict=True))
_FRONT_COLOR = COLORS[2]
#: More different values than this do not fit a heat map.
_MAP_SIDE = 12
#: What stands for a setting that a trial does not read.
_ABSENT = "–"


def html(findings: Findings) -> str:
    """The page."""
    scored, pair = findings.scored, map_axes(findings)
    sections = []
    if findings.winner:
        about = (
            f"{findings.winner[0].upper()}{findings.winner[1:]}. Chosen on validation; the test set was read once, for "
            "this trial, after all trials had ended."
        )
        sections.append(Section("The winner", about, [Table(findings.test[0], findings.test[1:])]))
    if pair:
        sections.append(_maps(findings, *pair))
    if scored:
        about = "Each line is a trial; every axis runs from the lowest value (bottom) to the highest (top)."
        sections.append(Section("All settings at once", about, [Figure(parallel_coordinates(findings), wide=True)]))
    if findings.curves:
        about = "Validation after each epoch; a curve that ends early is a trial that the scheduler stopped."
        sections.append(Section("Learning curves", about, [Figure(learning_curves(findings), wide=True)]))
    fronts = [
        Figure(pareto_figure(findings, cost), title=f"{findings.metric} against {cost}")
        for cost in (COSTS[key][0] for key in COSTS if key not in ("usage", "items_in_collisions"))
        if len({row[cost] for row in scored if row[cost] is not None}) > 1
    ]
    if fronts:
        about = "The line is the Pareto front: for its trials no other trial is both better and cheaper."
        sections.append(Section("Quality and cost", about, fronts))
    table = Table(findings.columns, findings.cells(findings.columns))
    sections.append(Section("All trials", "Best first; validation metrics are those of a trial's best epoch.", [table]))
    return page(findings.title, sections, subtitle=findings.heading + ".")


def _text(value: Any) -> str:
    return _ABSENT if value is None else number_text(value)


def _values(rows: Sequence[Mapping], key: str) -> list[str]:
    """The different values of a column as text, numbers in their order."""
    found = {_text(row[key]): row[key] for row in rows}
    numbers = all(isinstance(value, (int, float)) for value in found.values() if value is not None)
    return sorted(found, key=lambda name: (found[name] is None, found[name] or 0) if numbers else (False, name))


def map_axes(findings: Findings) -> tuple[str, str] | None:
    """The two settings of the heat map: codebook size and ID length where they vary, else the first two that have few
    values; None where there are no two."""
    keys = [key for key in findings.keys if 2 <= len(_values(findings.scored, key)) <= _MAP_SIDE]
    if {"id_length", "codebook_size"} <= set(keys):
        return "codebook_size", "id_length"
    return (keys[0], keys[1]) if len(keys) > 1 else None


def _maps(findings: Findings, x: str, y: str) -> Section:
    rows, metric, usage = findings.scored, findings.metric, COSTS["usage"][0]
    costs = [name for name, _ in COSTS.values() if any(row[name] is not None for row in rows)]
    figures = [Figure(heat_map(findings, x, y, metric, good=findings.bigger), title=metric, wide=True)]
    figures += [Figure(heat_map(findings, x, y, name, good=name == usage), title=name) for name in costs]
    about = f"Validation {metric} and costs of every pair that was tried; empty cells were not tried."
    if stopped := sum(row["status"] == STATUS["stopped"] for row in rows):
        about += f" {stopped} of the trials were stopped early: their cells show the scores until then."
    return Section(f"{y} and {x}", about, figures)


def heat_map(findings: Findings, x: str, y: str, value: str, *, good: bool) -> go.Figure:
    """A map of column `value` over the settings `x` and `y`; of trials that share a cell, the best one is shown.

    The colours say whether more of `value` is `good`.
    """
    rows = findings.scored
    columns, lines = _values(rows, x), _values(rows, y)
    chosen = {(_text(row[y]), _text(row[x])): row for row in reversed(rows)}  # the best comes last
    grid = [[chosen.get((line, column), {}).get(value) for column in columns] for line in lines]
    plot = go.Figure(
        go.Heatmap(
            x=[label(name) for name in columns], y=[label(name) for name in lines], z=grid, xgap=2, ygap=2,
            text=[[cell(value, entry) for entry in line] for line in grid], texttemplate="%{text}",
            colorscale=[[0, "#f3f6fa"], [1, COLORS[0] if good else COLORS[3]]], showscale=False,
            hovertemplate=f"{label(y)} %{{y}}, {label(x)} %{{x}}<br>{label(value)}: %{{text}}<extra></extra>",
        )
    )  # fmt: skip
    style(plot, x_title=x, y_title=y, height=90 + 44 * len(lines))
    plot.update_xaxes(type="category", showgrid=False)
    plot.update_yaxes(type="category", showgrid=False)
    return plot


def parallel_coordinates(findings: Findings) -> go.Figure:
    """One line for each trial over the varied settings and the score, the best three in colour."""
    rows = findings.scored
    keys = [*[key for key in findings.keys if len(_values(rows, key)) > 1], findings.metric]
    heights = {key: _heights(rows, key) for key in keys}
    plot = go.Figure()
    for rank, row in reversed(list(enumerate(rows))):  # the best is drawn last, on top
        is_top = rank < 3
        plot.add_scatter(
            x=[label(key) for key in keys],
            y=[heights[key][_text(row[key])] for key in keys],
            mode="lines+markers",
            name=f"trial {row['trial']}" + (", the best" if rank == 0 else ""),
            showlegend=is_top,
            line={"color": COLORS[rank] if is_top else GREY, "width": 3 if is_top else 1.2},
            marker={"size": 7 if is_top else 4},
            text=[cell(key, row[key]) or "not read" for key in keys],
            hovertemplate=f"trial {row['trial']}<br>%{{x}}: %{{text}}<extra></extra>",
        )
    style(plot, height=380)
    plot.update_yaxes(showticklabels=False, showgrid=False)
    plot.update_xaxes(type="category", range=[-0.3, len(keys) - 0.7])
    for key in keys:
        present = {name: height for name, height in heights[key].items() if name != _ABSENT}
        for pick, shift in ((min, -13), (max, 13)):
            name = pick(present, key=present.__getitem__)
            plot.add_annotation(
                x=label(key), y=present[name], text=label(name), showarrow=False, yshift=shift,
                font={"size": 11, "color": "#5b6477"},
            )  # fmt: skip
    return plot


def _heights(rows: Sequence[Mapping], key: str) -> dict[str, float]:
    """Where the values of a column lie on its axis, from 0 to 1; a setting that is not read lies below."""
    present = [row for row in rows if row[key] is not None]
    names, values = _values(present, key), [row[key] for row in present]
    heights = {name: index / max(len(names) - 1, 1) for index, name in enumerate(names)}
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        heights = {_text(value): (value - low) / (high - low) if high > low else 0.5 for value in values}
    return {_ABSENT: -0.06, **heights}


def learning_curves(findings: Findings) -> go.Figure:
    """Validation score by epoch, a line for each trial in the colour of what became of it."""
    points = [(label(name), status, *point) for name, status, points in findings.curves for point in points]
    frame = pd.DataFrame(points, columns=["trial", "status", "epoch", "score"])
    plot = px.line(
        frame, "epoch", "score", "trial", "status", hover_name="trial", markers=True,
        color_discrete_map=_STATUS_COLORS, render_mode="svg",
    )  # fmt: skip
    hover = "%{hovertext}<br>epoch %{x}: %{y:.4f}<extra></extra>"
    plot.update_traces(line_width=1.8, marker_size=5, hovertemplate=hover)
    style(plot, x_title="epoch", y_title=f"validation {findings.metric}", height=380)
    return plot.update_xaxes(dtick=1) if frame["epoch"].max() <= 12 else plot


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, quality) that no other point beats: none is at most as costly and at least as good
    without being equal. In the order of cost; more quality is better."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    for index in order:
        if not front or points[index][1] > points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def pareto_figure(findings: Findings, cost: str) -> go.Figure:
    """Trials by cost and score, with the line of those that none beats."""
    rows, metric = [row for row in findings.scored if row[cost] is not None], findings.metric
    sign = 1 if findings.bigger else -1
    names = [f"trial {row['trial']} ({', '.join(f'{key}={_text(row[key])}' for key in findings.keys)})" for row in rows]
    front = [rows[index] for index in pareto_front([(row[cost], sign * row[metric]) for row in rows])]
    colors = [_FRONT_COLOR if row in front else GREY for row in rows]
    plot = px.line(x=[row[cost] for row in front], y=[row[metric] for row in front], line_shape="hv", render_mode="svg")
    plot.update_traces(line={"color": _FRONT_COLOR, "width": 2}, hoverinfo="skip", hovertemplate=None)
    plot.add_scatter(
        x=[row[cost] for row in rows], y=[row[metric] for row in rows], mode="markers", showlegend=False,
        marker={"size": 9, "color": colors}, text=[label(name) for name in names],
        hovertemplate="%{text}<br>%{y:.4f} at %{x:,.4g}<extra></extra>",
    )  # fmt: skip
    return style(plot, x_title=cost, y_title=f"validation {metric}", height=320)
