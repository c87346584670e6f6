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
COLORS = tuple(
    "#0072b2 #e69f00 #009e73 #d55e00 #cc79a7 #56b4e9 #b2a400 #7a5195 "
    "#8c564b #2f9e9e #a6d854 #e377c2 #4c5f7a #f2b6a0 #9c9ede #637939".split()
)
#: For what is set aside: other codewords, chance.
GREY = "#b9bec7"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
#: Of a figure, in pixels.
HEIGHT = 320
_INK = "#1d2433"
_GRID = "#e6e9ef"
_CHANCE = "shuffled"
_CHANCE_LINE = {"color": "#4a5263", "width": 1}


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
    horizontal: bool = False,
    colors: Sequence[str] | None = None,
    chance: Mapping[str, Sequence[float | None]] | None = None,
    height: int | None = None,
) -> go.Figure:
    """Bars of one or several series over the same categories.

    Args:
        x: m categories, as `label` or `wrapped` make them; plotly alone would draw equal ones over each other.
        series: for each name m values; None or a shorter list leaves bars out.
        x_title, y_title: of the axes (of the categories and of the values, also where the bars are horizontal).
        stacked: on top of each other instead of side by side.
        percent: values are fractions and shown as percentages.
        horizontal: for long category names.
        colors: one for each series.
        chance: for each series what chance gives, drawn in grey over its bars.
        height: in pixels; by default `HEIGHT`, or as many as horizontal bars need.
    """
    names = [str(entry) for entry in x]
    names = [name + "\u200b" * names[:number].count(name) for number, name in enumerate(names)]
    form = ".1%" if percent else ",.4~g"
    plot = go.Figure()
    for index, (name, values) in enumerate(series.items()):
        look: dict[str, Any] = {} if stacked else {"offsetgroup": str(index)}
        look["marker"] = {"color": colors[index] if colors else color(index)}
        plot.add_trace(_bar(names, name, values, horizontal, form, **look))
    chance = chance or {}
    for name, values in chance.items():
        shown = f"{name}, {_CHANCE}" if len(chance) > 1 else _CHANCE
        look = {"offsetgroup": str(list(series).index(name)), "showlegend": False}
        look["marker"] = {"color": "rgba(255,255,255,0.62)", "line": _CHANCE_LINE}
        plot.add_trace(_bar(names, shown, values, horizontal, form, **look))
    if chance:  # one entry in the legend for all of them
        plot.add_bar(x=[None], y=[None], name=_CHANCE, marker={"color": "#ffffff", "line": _CHANCE_LINE})
    height = height or (60 + 36 * len(names) if horizontal else HEIGHT)
    x_title, y_title = (y_title, x_title) if horizontal else (x_title, y_title)
    style(plot, x_title=x_title, y_title=y_title, height=height)
    plot.update_layout(barmode="stack" if stacked else "group", bargap=0.22, bargroupgap=0.06)
    categories: dict[str, Any] = {"type": "category", "showgrid": False, "dtick": 1}
    values_axis = {"rangemode": "tozero", **({"tickformat": ".1~%"} if percent else {})}
    if horizontal:
        return plot.update_xaxes(values_axis).update_yaxes(categories, autorange="reversed")
    if any("<br>" in name for name in names):
        categories["tickfont"] = {"size": 11}
    return plot.update_xaxes(categories).update_yaxes(values_axis)


def _bar(names: Sequence[str], name: str, values: Sequence, horizontal: bool, form: str, **look: Any) -> go.Bar:
    """The bars of one series; missing values at the end are left out."""
    values = [*values, *[None] * (len(names) - len(values))]
    category, value = ("y", "x") if horizontal else ("x", "y")
    return go.Bar(
        {category: names, value: values},
        name=label(name),
        orientation="h" if horizontal else "v",
        hovertemplate=f"%{{{category}}}<br>{label(name)}: %{{{value}:{form}}}<extra></extra>",
        **look,
    )


def lines(
    x: Sequence[Any],
    series: Mapping[str, Sequence[float | None]],
    *,
    x_title: str = "",
    y_title: str = "",
    percent: bool = False,
    log: bool = False,
    height: int = HEIGHT,
) -> go.Figure:
    """Lines of one or several series over the same points; the arguments are those of `bars`."""
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


def style(plot: go.Figure, *, x_title: str = "", y_title: str = "", height: int = HEIGHT) -> go.Figure:
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
    axis["title_font"] = {"size": 12.5, "color": "#5b6477"}
    plot.update_xaxes(axis, title_text=x_title, title_standoff=8, linecolor="#9aa3b2", showline=True)
    return plot.update_yaxes(axis, title_text=y_title, title_standoff=6)
