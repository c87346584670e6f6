"""The leaderboard as one self-contained HTML page.

Input: tables of stored runs. Output: a page that sorts by any column, filters by dataset and protocol, and shows
intervals, quality against cost and training curves; it needs no network.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go

from recbole_tiger.leaderboard.formats import cost_cells, describe, notes, quality_cells, statistics_cells
from recbole_tiger.leaderboard.table import BoardRow, Leaderboard
from recbole_tiger.report import pages
from recbole_tiger.report.figures import bars, color, label, style, wrapped

#: Rows that figures show; the tables have all.
DRAWN_ROWS = 24

_STYLE = """
.filters { display: flex; flex-wrap: wrap; gap: 8px 18px; margin-top: 18px; font-size: .92rem; }
.filters label { display: flex; gap: 8px; align-items: center; color: var(--soft); max-width: 100%; }
.filters select { font: inherit; padding: 4px 8px; border: 1px solid var(--line); border-radius: 6px; background: #fff;
  min-width: 0; max-width: 100%; }
th[aria-sort] { cursor: pointer; user-select: none; white-space: normal; }
th[aria-sort]::after { content: "\\00a0\\2195"; opacity: .35; }
th[aria-sort="ascending"]::after { content: "\\00a0\\2191"; opacity: 1; }
th[aria-sort="descending"]::after { content: "\\00a0\\2193"; opacity: 1; }
td.number { font-variant-numeric: tabular-nums; }
td b { color: var(--accent); }
.table th:first-child, .table td:first-child { position: sticky; left: 0; background: #fff; z-index: 1; }
section[hidden] { display: none; }
"""
# Cells of the tables come as text: "0.0403 ± 0.0012 *". Without this script the page still reads; with it the marks
# become bold and underlined, columns sort, and the two menus choose sections.
_SCRIPT = """
(() => {
  const groups = GROUPS;
  const number = text => {
    const found = text.replace(/,/g, "").match(/^[+\\-\\u2212]?\\d*\\.?\\d+(e[+-]?\\d+)?/i);
    return found ? parseFloat(found[0].replace("\\u2212", "-")) : null;
  };
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], rows = [...body.rows];
    for (const row of rows) for (const cell of row.cells) {
      const mark = cell.textContent.slice(-2);
      if (mark === " *" || mark === " +") {
        const dressed = document.createElement(mark === " *" ? "b" : "u");
        dressed.textContent = cell.textContent.slice(0, -2);
        cell.replaceChildren(dressed);
      }
    }
    heads.forEach((head, column) => {
      const values = rows.map(row => row.cells[column].textContent.trim());
      const filled = values.filter(text => text && text !== "-");
      const numeric = column > 0 && filled.length > 0 && filled.every(text => number(text) !== null);
      if (numeric) for (const cell of [head, ...rows.map(row => row.cells[column])]) cell.classList.add("number");
      head.setAttribute("aria-sort", "none");
      head.tabIndex = 0;
      const sort = () => {
        const down = head.getAttribute("aria-sort") === "none" ? numeric : head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = row => row.cells[column].textContent.trim();
        const empty = text => text === "" || text === "-";
        const order = [...rows].sort((a, b) => {
          const x = key(a), y = key(b);
          if (empty(x) || empty(y)) return empty(x) - empty(y);
          const way = numeric ? number(x) - number(y) : x.localeCompare(y);
          return down ? -way : way;
        });
        body.append(...order);
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
    });
  }
  const chosen = {};
  const apply = () => groups.forEach((group, place) => {
    const section = document.getElementById("part-" + (place + 1));
    section.hidden = Object.entries(chosen).some(([name, value]) => value && group[name] !== value);
    if (!section.hidden && window.Plotly)
      section.querySelectorAll(".js-plotly-plot").forEach(plot => Plotly.Plots.resize(plot));
  });
  const bar = document.createElement("div");
  bar.className = "filters";
  for (const name of ["dataset", "protocol"]) {
    const label = document.createElement("label"), menu = document.createElement("select");
    menu.id = "filter-" + name;
    menu.add(new Option("all", ""));
    for (const value of [...new Set(groups.map(group => group[name]))]) menu.add(new Option(value, value));
    menu.addEventListener("change", () => { chosen[name] = menu.value; apply(); });
    label.append(name, menu);
    bar.append(label);
  }
  document.querySelector("header").after(bar);
})();
"""


def format_page(boards: Sequence[Leaderboard]) -> str:
    """The page, a section for each table."""
    sections = [_section(board, several=len(boards) > 1) for board in boards]
    runs = sum(len(row.runs) for board in boards for row in board.rows)
    rows = sum(len(board.rows) for board in boards)
    page = pages.page(
        "Leaderboard",
        sections,
        subtitle=f"{_count(rows, 'row')}, {_count(runs, 'run')}; a click on a column's head sorts by it.",
    )
    groups = [{"dataset": board.dataset, "protocol": _protocol(board)} for board in boards]
    data = json.dumps(groups, ensure_ascii=True).replace("</", "<\\/")
    page = page.replace("</style>", _STYLE + "</style>", 1)
    head, end, tail = page.rpartition("</body>")
    return f"{head}<script>{_SCRIPT.replace('GROUPS', data, 1)}</script>\n{end}{tail}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _protocol(board: Leaderboard) -> str:
    """What two tables of one dataset can differ in."""
    return describe(board).split(", data ")[0].rpartition(", selected")[0] + f", {board.protocol['valid_metric']}"


def _section(board: Leaderboard, several: bool) -> pages.Section:
    title = f"{board.dataset}, {_protocol(board)}" if several else board.dataset
    text = [describe(board)[0].upper() + describe(board)[1:] + ".", *notes(board)]
    text += [f"{name} has no result: {reason}" for name, reason in board.failures]
    drawn = board.rows[:DRAWN_ROWS]
    parts: list[pages.Figure | pages.Table] = [pages.Table(*quality_cells(board), title="Test metrics")]
    if board.published:
        shown = board.published
        parts.append(pages.Table(shown.header, shown.cells, title=shown.title, note=shown.note))
    parts.append(_bars(board, drawn))
    if any(row.is_trained() for row in drawn):
        parts.append(_cost(board, drawn))
        parts.append(_curves(board, drawn))
    if board.n_resamples:
        parts.append(pages.Table(*statistics_cells(board), title=f"Intervals and tests on {board.main}"))
    parts.append(pages.Table(*cost_cells(board), title="Cost and origin"))
    parts.append(_environments(board))
    return pages.Section(title, text, parts)


def _drawn_note(board: Leaderboard) -> str:
    return f"The best {DRAWN_ROWS} of {len(board.rows)} rows." if len(board.rows) > DRAWN_ROWS else ""


def _bars(board: Leaderboard, rows: Sequence[BoardRow]) -> pages.Figure:
    """Bars of the main metric with intervals."""
    values = [row.mean[board.main] for row in rows]
    names = [wrapped(row.label, 18) for row in rows]
    plot = bars(
        names,
        {board.main: values},
        x_title="",
        y_title=board.main,
        horizontal=True,
        height=max(320, 60 + 36 * len(rows)),
    )
    note = _drawn_note(board)
    if board.n_resamples:
        # Seeds are averaged for each user, so the interval is around the same mean as the bar.
        plot.data[0].update(
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [row.comparison.high - value for row, value in zip(rows, values, strict=True)],
                "arrayminus": [value - row.comparison.low for row, value in zip(rows, values, strict=True)],
                "color": "#1d2433",
                "thickness": 1.5,
                "width": 5,
            }
        )
        note = f"With 95% intervals over test users. {note}".strip()
    plot.data[0].update(marker={"color": [color(place) for place in range(len(rows))]})
    return pages.Figure(plot, title=f"Test {board.main}", note=note)


def _cost(board: Leaderboard, rows: Sequence[BoardRow]) -> pages.Figure:
    """The main metric against the time to train."""
    plot = go.Figure()
    for place, row in enumerate(rows):
        if row.is_trained():
            plot.add_scatter(
                x=[max(row.seconds("training", "validation"), 0.01)],
                y=[row.mean[board.main]],
                name=label(row.label),
                mode="markers",
                line={"color": color(place)},
                marker={"color": color(place), "size": 13, "line": {"color": "#ffffff", "width": 1}},
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
    for place, row in enumerate(rows):
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
                line={"color": color(place), "width": 2},
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
    for row in board.rows:
        for run in row.runs:
            where = run.result.get("environment") or {}
            versions = ", ".join(f"{name} {number}" for name, number in (where.get("versions") or {}).items() if number)
            found[
                (
                    where.get("device") or "unknown",
                    str(where.get("threads", "")),
                    f"Python {where.get('python')}, {versions}",
                )
            ] += 1
    rows = [[device, threads, versions, str(count)] for (device, threads, versions), count in found.most_common()]
    return pages.Table(["hardware", "threads", "versions", "runs"], rows, title="Where the runs were made")
