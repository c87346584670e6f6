"""The one plot helper: plotly figures in one style.

Input: numbers and names. Output: plotly figures, for the pages of ``pages.py``.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

#: Colours that stay apart for most colour-blind readers (Okabe and Ito, and further ones for many series).
COLORS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#b2a400",
    "#7a5195",
    "#8c564b",
    "#2f9e9e",
    "#a6d854",
    "#e377c2",
    "#4c5f7a",
    "#f2b6a0",
    "#9c9ede",
    "#637939",
)
#: For what is set aside: other codewords, chance.
GREY = "#b9bec7"
_INK = "#1d2433"
_GRID = "#e6e9ef"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def label(text: Any) -> str:
    """Text as a plotly label: plotly reads tags and entities in labels, which item text may hold by accident."""
    return html.escape(str(text), quote=False)


def wrapped(text: Any, width: int = 12) -> str:
    """A label over several lines, so that category names fit below their bars."""
    return "<br>".join(label(line) for line in textwrap.wrap(str(text), width, break_long_words=False)) or " "


def color(index: int) -> str:
    """The colour of the series of this number."""
    return COLORS[index % len(COLORS)]


def bars(
    x: Sequence[Any],
    series: Mapping[str, Sequence[float | None]],
    *,
    x_title: str = "",
    y_title: str = "",
    stacked: bool = False,
    percent: bool = False,
    log: bool = False,
    horizontal: bool = False,
    colors: Sequence[str] | None = None,
    chance: Mapping[str, Sequence[float | None]] | None = None,
    chance_name: str = "shuffled",
    height: int | None = None,
) -> go.Figure:
    """Bars of one or several series over the same categories.

    Args:
        x: m categories, as `label` or `wrapped` make them.
        series: for each name m values; None or a shorter list leaves bars out.
        x_title, y_title: of the axes (of the categories and of the values, also where the bars lie).
        stacked: on top of each other instead of side by side.
        percent: values are fractions and shown as percentages.
        log: logarithmic values.
        horizontal: bars that lie, for long category names.
        colors: one for each series.
        chance: for each series what chance gives, drawn in grey over its bars.
        chance_name: its name in the legend.
        height: in pixels; by default 320, or as many as lying bars need.
    """
    plot = go.Figure()
    names = [str(entry) for entry in x]
    form = ".1%" if percent else ",.4~g"

    def add(name: str, values: Sequence[float | None], **style: Any) -> None:
        values = [*values, *[None] * (len(names) - len(values))]
        across, along = (values, names) if horizontal else (names, values)
        value = "x" if horizontal else "y"
        plot.add_bar(
            x=across,
            y=along,
            name=label(name),
            orientation="h" if horizontal else "v",
            hovertemplate=f"%{{{'y' if horizontal else 'x'}}}<br>{label(name)}: %{{{value}:{form}}}<extra></extra>",
            **style,
        )

    for index, (name, values) in enumerate(series.items()):
        shade = colors[index] if colors else color(index)
        add(name, values, marker={"color": shade}, **({} if stacked else {"offsetgroup": str(index)}))
    for name, values in (chance or {}).items():
        add(
            f"{name}, {chance_name}" if len(chance) > 1 else chance_name,
            values,
            marker={"color": "rgba(255,255,255,0.62)", "line": {"color": "#4a5263", "width": 1}},
            offsetgroup=str(list(series).index(name)),
            showlegend=False,
        )
    if chance:  # one entry in the legend for all of them
        plot.add_bar(
            x=[None],
            y=[None],
            name=label(chance_name),
            marker={"color": "#ffffff", "line": {"color": "#4a5263", "width": 1}},
        )
    style(
        plot,
        x_title=y_title if horizontal else x_title,
        y_title=x_title if horizontal else y_title,
        height=height or (60 + 36 * len(names) if horizontal else 320),
    )
    plot.update_layout(barmode="stack" if stacked else "group", bargap=0.22, bargroupgap=0.06)
    values_axis, names_axis = ("xaxis", "yaxis") if horizontal else ("yaxis", "xaxis")
    plot.update_layout({names_axis: {"type": "category", "showgrid": False, "dtick": 1}})
    if any("<br>" in name for name in names) and not horizontal:
        plot.update_xaxes(tickfont={"size": 11})
    plot.update_layout({values_axis: {"rangemode": "tozero"}})
    if percent:
        plot.update_layout({values_axis: {"tickformat": ".1~%"}})
    if log:
        plot.update_layout({values_axis: {"type": "log", "dtick": 1}})
    if horizontal:
        plot.update_yaxes(autorange="reversed")
    return plot


def lines(
    x: Sequence[Any],
    series: Mapping[str, Sequence[float | None]],
    *,
    x_title: str = "",
    y_title: str = "",
    percent: bool = False,
    log: bool = False,
    height: int = 320,
) -> go.Figure:
    """Lines of one or several series over the same points."""
    plot = go.Figure()
    for index, (name, values) in enumerate(series.items()):
        plot.add_scatter(
            x=list(x)[: len(values)],
            y=list(values),
            name=label(name),
            mode="lines+markers",
            line={"color": color(index), "width": 2.5},
            marker={"size": 7},
            hovertemplate=f"%{{x}}<br>{label(name)}: %{{y:{'.1%' if percent else ',.4~g'}}}<extra></extra>",
        )
    style(plot, x_title=x_title, y_title=y_title, height=height)
    plot.update_yaxes(rangemode="tozero", tickformat=".1~%" if percent else None, type="log" if log else None)
    return plot


def style(plot: go.Figure, *, x_title: str = "", y_title: str = "", height: int = 320) -> go.Figure:
    """Give any figure the look of the others: white, thin grid, margins that fit a phone."""
    plot.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 12.5, "color": _INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 6, "r": 10, "t": 10, "b": 6},
        hoverlabel={"font": {"family": FONT}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    axis = {"automargin": True, "gridcolor": _GRID, "zeroline": False, "fixedrange": True, "ticks": ""}
    plot.update_xaxes(**axis, title=_axis_title(x_title, 8), linecolor="#9aa3b2", showline=True)
    plot.update_yaxes(**axis, title=_axis_title(y_title, 6))
    return plot


def _axis_title(text: str, standoff: int) -> dict[str, Any]:
    return {"text": text, "standoff": standoff, "font": {"size": 12.5, "color": "#5b6477"}}
