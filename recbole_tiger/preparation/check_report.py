"""The result of `check.check_dataset` as one self-contained page: numbers, warnings, histograms."""

from __future__ import annotations

import html
from datetime import datetime, timezone
from pathlib import Path

from recbole_tiger.cache import atomic_write_text
from recbole_tiger.preparation.check_words import report_text

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: sans-serif; max-width: 60em; margin: 2em auto; }} li {{ margin: 0.4em 0;
}}</style> </head><body><h1>{title}</h1><h2>Warnings</h2>{warnings}<h2>Numbers</h2><pre>{numbers}</pre>
<h2>Histograms</h2>{figures}</body></html>
"""
EARLIEST_CLOCK = 100_000_000  # smaller times are positions, not seconds since 1970
MILLISECONDS = 100_000_000_000  # larger ones are milliseconds


def write_html(report: dict, path: str | Path) -> Path:
    """Write a report to an HTML file that needs no network: the plotting library is inside (some 5 MB)."""
    import plotly.graph_objects as graph
    import plotly.io

    figures = []
    for name, histogram in report["histograms"].items():
        edges, counts = histogram["edges"], histogram["counts"]
        over_time = name == "interactions over time"
        labels = _time_labels(edges) if over_time else _count_labels(edges)
        figure = graph.Figure(graph.Bar(x=labels, y=counts))
        rows = "interactions" if over_time else name.rpartition(" ")[2] + "s"
        figure.update_layout(title=name, yaxis_title=f"number of {rows}", height=360, bargap=0.05)
        figure.update_xaxes(type="category")
        figures.append(plotly.io.to_html(figure, full_html=False, include_plotlyjs=not figures))
    warnings = "".join(f"<li>{html.escape(warning)}</li>" for warning in report["warnings"])
    page = PAGE.format(
        title=html.escape(f"Dataset check: {report['dataset']}"),
        warnings=f"<ul>{warnings}</ul>" if warnings else "<p>none</p>",
        numbers=html.escape(report_text({**report, "warnings": []})),
        figures="".join(figures),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, page)
    return path


def _count_labels(edges: list[int]) -> list[str]:
    return [str(a) if b - a == 1 else f"{a}–{b - 1}" for a, b in zip(edges[:-1], edges[1:], strict=True)]


def _time_labels(edges: list[float]) -> list[str]:
    if edges[0] < EARLIEST_CLOCK:
        return [f"{edge:g}" for edge in edges[:-1]]
    unit = 1000 if edges[-1] > MILLISECONDS else 1
    return [datetime.fromtimestamp(edge / unit, tz=timezone.utc).strftime("%Y-%m-%d %H:%M") for edge in edges[:-1]]
