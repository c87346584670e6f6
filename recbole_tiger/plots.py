"""The one plot helper: figures in one style, and pages that hold everything they need in one file.

In come numbers and names; out go plotly figures, and from sections of text, figures and tables one HTML page
with plotly.js inside, which opens without a network, on a desk and on a phone.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

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
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True)
class Figure:
    """A plotly figure with what stands above it.

    Attributes:
        plot: the figure.
        title: one line above it, as text, so that it wraps on a narrow screen.
        note: smaller, below the title.
        legend: what the series are, before their names.
        wide: takes the whole width of the page, where others share a row.
    """

    plot: go.Figure
    title: str = ""
    note: str = ""
    legend: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table; numbers are set right.

    Attributes:
        header: column names.
        rows: cells, already formatted where it matters.
        title: one line above it.
        note: smaller, below the title.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, paragraphs, then figures and tables in the order given."""

    title: str
    text: str | Sequence[str] = ()
    parts: Sequence[Figure | Table] = field(default_factory=tuple)


# ---------------------------------------------------------------------------------------------------- figures


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
        font={"family": _FONT, "size": 12.5, "color": _INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 6, "r": 10, "t": 10, "b": 6},
        hoverlabel={"font": {"family": _FONT}},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    axis = {"automargin": True, "gridcolor": _GRID, "zeroline": False, "fixedrange": True, "ticks": ""}
    plot.update_xaxes(**axis, title=_axis_title(x_title, 8), linecolor="#9aa3b2", showline=True)
    plot.update_yaxes(**axis, title=_axis_title(y_title, 6))
    return plot


def _axis_title(text: str, standoff: int) -> dict[str, Any]:
    return {"text": text, "standoff": standoff, "font": {"size": 12.5, "color": "#5b6477"}}


# ------------------------------------------------------------------------------------------------------ pages

_CSS = """
:root { color-scheme: light; --ink: #1d2433; --soft: #5b6477; --line: #e3e7ee; --back: #f5f6f9; --accent: #0072b2; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.55 FONT; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 64px; }
header h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
header p { color: var(--soft); margin: 0; }
nav { margin: 18px 0 4px; display: flex; flex-wrap: wrap; gap: 6px 18px; font-size: .92rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
section { margin-top: 30px; scroll-margin-top: 12px; }
h2 { font-size: 1.28rem; margin: 0 0 4px; letter-spacing: -0.005em; }
section > p { margin: 4px 0; max-width: 74ch; color: var(--soft); }
.parts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; margin-top: 12px; }
figure, .table { margin: 0; background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 14px 10px; min-width: 0; }
.wide { grid-column: 1 / -1; }
h3 { font-size: 1rem; margin: 0 0 2px; font-weight: 600; }
figure p, .table p { margin: 0 0 6px; color: var(--soft); font-size: .87rem; line-height: 1.4; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 4px 0 2px; font-size: .82rem; line-height: 1.5; }
.legend b { font-weight: 600; color: var(--soft); }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 5px;
  outline: 1px solid rgba(74,82,99,.35); outline-offset: -1px; vertical-align: -1px; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; white-space: nowrap; }
td:first-child { font-weight: 600; white-space: nowrap; }
td:not(.number) { min-width: 7ch; overflow-wrap: break-word; }
@media (max-width: 760px) {
  main { padding: 18px 12px 40px; }
  .parts { grid-template-columns: minmax(0, 1fr); gap: 12px; }
  figure, .table { padding: 12px 8px 8px; border-radius: 8px; }
  th, td { padding: 5px 7px; }
  td:first-child { white-space: normal; }
}
@media print { body { background: #fff; } figure, .table { break-inside: avoid; } }
"""
_NUMBER = re.compile(r"[-+−]?[\d,]*\.?\d+(?:[eE][-+]?\d+)?\s?%?|[-–—]|")


def page(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """One HTML file that needs nothing else: plotly.js is inside, once.

    Args:
        title: of the page.
        sections: its parts, in order; a row of links at the top leads to them.
        subtitle: a sentence below the title.

    Returns:
        the HTML. The same input gives the same bytes.
    """
    body, plots = [], 0
    for number, section in enumerate(sections, start=1):
        paragraphs = [section.text] if isinstance(section.text, str) else section.text
        body.append(f'<section id="part-{number}">\n<h2>{html.escape(section.title)}</h2>')
        body.extend(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs if paragraph)
        body.append('<div class="parts">')
        for part in section.parts:
            if isinstance(part, Table):
                body.append(_table(part))
            else:
                plots += 1
                body.append(_figure(part, f"plot-{plots}"))
        body.append("</div>\n</section>")
    links = "".join(
        f'<a href="#part-{number}">{html.escape(section.title)}</a>' for number, section in enumerate(sections, start=1)
    )
    head = f'<script type="text/javascript">{get_plotlyjs()}</script>\n' if plots else ""
    above = f"<header><h1>{html.escape(title)}</h1>"
    above += (f"<p>{html.escape(subtitle)}</p>" if subtitle else "") + "</header>\n"
    above += f"<nav>{links}</nav>\n" if len(sections) > 1 else ""
    return document(title, above + "\n".join(body), head=head)


def document(title: str, body: str, *, head: str = "") -> str:
    """An HTML file in the style of all pages around a body that is HTML already, with ``head`` (scripts, styles) after the style."""
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS.replace('FONT', _FONT)}</style>\n{head}</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _figure(figure: Figure, name: str) -> str:
    # Plotly's own legend cannot wrap around a narrow figure: the page has one of its own.
    plot = go.Figure(figure.plot).update_layout(showlegend=False)
    drawn = plot.to_html(
        full_html=False,
        include_plotlyjs=False,
        default_width="100%",
        default_height=f"{plot.layout.height or 320}px",
        div_id=name,
        config={"responsive": True, "displayModeBar": False},
    )
    above = f"<h3>{html.escape(figure.title)}</h3>" if figure.title else ""
    above += f"<p>{html.escape(figure.note)}</p>" if figure.note else ""
    entries = [trace for trace in figure.plot.data if trace.showlegend is not False and trace.name]
    if len(entries) > 1:
        above += '<div class="legend">'
        above += f"<b>{html.escape(figure.legend)}</b>" if figure.legend else ""
        for trace in entries:
            shade = trace.line.color if trace.type == "scatter" else trace.marker.color
            above += f'<span><i style="background:{html.escape(str(shade))}"></i>{trace.name}</span>'
        above += "</div>"
    return f"<figure{' class=wide' if figure.wide else ''}>{above}{drawn}</figure>"


def _table(table: Table) -> str:
    cells = [[str(cell) for cell in row] for row in table.rows]
    right = [
        column > 0 and all(_NUMBER.fullmatch(row[column].strip()) for row in cells)
        for column in range(len(table.header))
    ]
    right_class = [' class="number"' if is_number else "" for is_number in right]
    head = "".join(
        f"<th{mark}>{html.escape(str(name))}</th>" for mark, name in zip(right_class, table.header, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{mark}>{html.escape(cell)}</td>" for mark, cell in zip(right_class, row, strict=True))
        + "</tr>\n"
        for row in cells
    )
    title = f"<h3>{html.escape(table.title)}</h3>" if table.title else ""
    title += f"<p>{html.escape(table.note)}</p>" if table.note else ""
    return (
        f'<div class="table wide">{title}<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div></div>"
    )
