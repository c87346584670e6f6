"""Pages that hold everything they need in one file.

Input: sections of text, figures and tables. Output: one HTML page with plotly.js inside, which opens without a network,
on a desk and on a phone. The pages' HTML, CSS and scripts are in ``templates/``.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from recbole_tiger.report.figures import FONT, HEIGHT
from recbole_tiger.report.tables import Table

_TEMPLATES = Environment(
    loader=PackageLoader("recbole_tiger.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True)
class Figure:
    """A plotly figure with what stands above it: a title, a smaller note, and a legend of its series.

    Attributes:
        legend: what the series are, before their names.
        wide: takes the whole width of the page, where others share a row.
    """

    plot: go.Figure
    title: str = ""
    note: str = ""
    legend: str = ""
    wide: bool = False

    @property
    def series(self) -> list[tuple[str, str]]:
        """Name and colour of each series, for a legend that wraps; plotly's own cannot around a narrow figure."""
        return [
            (html.unescape(trace.name), str(trace.line.color if trace.type == "scatter" else trace.marker.color))
            for trace in self.plot.data
            if trace.showlegend is not False and trace.name
        ]

    def drawn(self, name: str) -> Markup:
        """The figure as HTML; `name` is its id on the page."""
        plot = go.Figure(self.plot).update_layout(showlegend=False)
        height, config = f"{plot.layout.height or HEIGHT}px", {"responsive": True, "displayModeBar": False}
        size = {"default_width": "100%", "default_height": height}
        return Markup(plot.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config, **size))


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, paragraphs, then figures and tables in the order given."""

    title: str
    text: str | Sequence[str] = ()
    parts: Sequence[Figure | Table] = field(default_factory=tuple)

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs that are not empty."""
        return [text for text in ([self.text] if isinstance(self.text, str) else self.text) if text]


def page(
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str = "",
    template: str = "page.html.j2",
    values: Mapping[str, Any] | None = None,
) -> str:
    """One HTML file that needs nothing else, with links to its sections; plotly.js is inside, once, where there is a
    figure. The same input gives the same bytes.

    Args:
        template: a template of ``templates/`` that extends ``page.html.j2``.
        values: what that template needs beside.
    """
    has_figures = any(isinstance(part, Figure) for section in sections for part in section.parts)
    return _TEMPLATES.get_template(template).render(
        font=FONT,
        title=title,
        sections=sections,
        subtitle=subtitle,
        style="",
        plotlyjs=Markup(get_plotlyjs()) if has_figures else "",
        **(values or {}),
    )


def document(title: str, body: str, *, style: str = "") -> str:
    """An HTML file in the style of all pages: a title as text, a body as HTML, and CSS after that of all pages."""
    template = _TEMPLATES.get_template("document.html.j2")
    return template.render(font=FONT, title=title, body=Markup(body), style=Markup(style))
