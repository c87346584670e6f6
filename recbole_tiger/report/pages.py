"""Pages that hold everything they need in one file.

Input: sections of text, figures and tables. Output: one HTML page with plotly.js inside, which opens without a network, on a
desk and on a phone.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from recbole_tiger.report.figures import FONT


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
        f"<title>{html.escape(title)}</title>\n<style>{_CSS.replace('FONT', FONT)}</style>\n{head}</head>\n"
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
