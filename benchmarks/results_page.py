"""Converts a results page from Markdown to one HTML file that needs no network and no script.

    python benchmarks/results_page.py results/amazon-beauty.md

writes ``results/amazon-beauty.html``. Tables with intervals also get a plot of them.
"""

from __future__ import annotations

import argparse
import html
import re
from collections.abc import Sequence
from pathlib import Path

import markdown

from recbole_tiger.report.figures import COLORS
from recbole_tiger.report.pages import document

_STYLE = """
p, li { max-width: 92ch; } pre { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 14px; overflow-x: auto; font-size: .82rem; line-height: 1.45; }
h2 { margin-top: 34px; } h3 { margin-top: 20px; }
.scroll { background: #fff; border: 1px solid var(--line); border-radius: 10px; margin: 12px 0; padding: 4px 10px; }
td:first-child { white-space: normal; min-width: 12ch; } svg { width: 100%; height: auto; max-width: 900px; }
svg text { font-size: 13px; fill: var(--ink); } figure { margin: 12px 0; } u { text-decoration-color: var(--soft); }
"""
#: The column that is drawn, and that of its interval beside it.
_INTERVAL = "95% interval"


def results_page(text: str) -> str:
    """The page of a results file.

    Args:
        text: Markdown; its first heading is the page's title. Under each table whose third column is "95% interval" the
            second column is drawn with that interval.
    """
    body = markdown.markdown(text, extensions=["tables", "fenced_code", "sane_lists"])
    body = re.sub(r"<table>.*?</table>", lambda found: _framed(found[0]), body, flags=re.DOTALL)
    title = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    return document(html.unescape(title[1]) if title else "Results", body, style=_STYLE)


def _framed(table: str) -> str:
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL)
        for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
    ]
    picture = ""
    if rows and rows[0][2:3] == [_INTERVAL]:
        drawn = [(row[0], float(row[1]), *map(float, row[2].split(" to "))) for row in rows[1:]]
        picture = f"<figure><h3>{rows[0][1]}, {_INTERVAL}</h3>{intervals(drawn)}</figure>\n"
    return f'<div class="scroll">{table}</div>\n{picture}'


def intervals(rows: Sequence[tuple[str, float, float, float]], width: int = 900) -> str:
    """An SVG of points with their intervals, one line each.

    Args:
        rows: name (HTML text), value, lower and upper end, in the order of drawing.
        width: of the picture's coordinates; it grows and shrinks with the page.
    """
    left, right, line = 12 + 7.8 * max(len(html.unescape(name)) for name, *_ in rows), width - 70.0, 24
    top = max(high for *_, high in rows)
    step = next(step for step in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if top <= 8 * step)

    def x(value: float) -> float:
        return round(left + (right - left) * value / top, 1)

    height = line * len(rows) + 34
    ticks = [round(step * n, 6) for n in range(int(top / step) + 1)]
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="values with their intervals">']
    for tick in ticks:
        parts.append(f'<line x1="{x(tick)}" x2="{x(tick)}" y1="4" y2="{height - 28}" stroke="#e3e7ee"/>')
        parts.append(f'<text x="{x(tick)}" y="{height - 10}" text-anchor="middle">{tick:g}</text>')
    for number, (name, value, low, high) in enumerate(rows):
        y = 16 + line * number
        parts.append(f'<text x="{left - 8:.1f}" y="{y + 4}" text-anchor="end">{name}</text>')
        parts.append(f'<line x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}" stroke="{COLORS[0]}" stroke-width="3"/>')
        parts.append(f'<circle cx="{x(value)}" cy="{y}" r="5" fill="{COLORS[0]}"/>')
        parts.append(f'<text x="{x(high) + 8:.1f}" y="{y + 4}">{value:.4f}</text>')
    return "".join([*parts, "</svg>"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="a Markdown file of results/")
    source = parser.parse_args().file
    target = source.with_suffix(".html")
    target.write_text(results_page(source.read_text(encoding="utf-8")), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
