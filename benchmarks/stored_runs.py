"""Stores finished runs beside a results page, and makes its tables and figures from them.

    python benchmarks/stored_runs.py add saved/TIGER-… --name="TIGER quick" --to=results/amazon-beauty
    python benchmarks/stored_runs.py tables results/amazon-beauty
    python benchmarks/stored_runs.py figures results/amazon-beauty

`add` copies `result.json` and `ranks.npz`, without the paths of the machine that the run was made on, into `runs/`, or
into `masked/` for a run reevaluated with seen items masked (`evaluate --mask_seen_items=True`). The name is that of the
row in the tables and, with the seed, of the folder. `tables` writes the leaderboards of both kinds between
the marks of `results/amazon-beauty.md`: metrics, intervals and paired tests follow from the stored ranks.
`figures` writes `curves.svg` (validation and training loss by epoch) and `quality_and_time.svg`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRIC = "ndcg@10"
KINDS = {"runs": "not masked", "masked": "masked"}
#: Settings that name a place of the machine, and what stands for it.
PLACES = {"data_path": "dataset", "checkpoint_dir": "saved", "cache_dir": "saved/cache", "resume": None}


def without_places(result: dict[str, Any], name: str) -> dict[str, Any]:
    """A run's result with file names in place of the paths of its machine."""
    folder = f"saved/{name}"
    files = {
        kind: f"{'saved/cache' if kind in ('embeddings', 'semantic IDs') else folder}/{Path(path).name}"
        for kind, path in result["files"].items()
    }
    config = result["config"] | {key: value for key, value in PLACES.items() if key in result["config"]}
    config |= {"run_dir": folder} if "run_dir" in config else {}
    for key in ("content_file", "semantic_id_file", "content_model"):
        if config.get(key) and Path(config[key]).is_absolute():
            config[key] = Path(config[key]).name
    again = result.get("evaluated_again")
    kept = {} if again is None else {"evaluated_again": again | {"of": folder}}
    return result | {"files": files, "config": config, "run_dir": folder} | kept


def add(run: Path, label: str, to: Path) -> Path:
    """Copy a finished run's result and ranks; returns the folder they are in now."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    kind = "masked" if result["config"]["mask_seen_items"] else "runs"
    name = "-".join([*re.findall(r"[\w.+]+", label), str(result.get("seed", ""))]).rstrip("-")
    target = to / kind / name
    target.mkdir(parents=True, exist_ok=True)
    text = json.dumps(without_places(result, name), indent=2)
    if left := re.search(r'"\w+": "/[^"]*"', text):
        raise SystemExit(f"{run / 'result.json'}: {left[0]} is a path of this machine; leave it out")
    (target / "result.json").write_text(text + "\n", encoding="utf-8")
    (target / "run.json").write_text(json.dumps({"label": label}) + "\n", encoding="utf-8")
    shutil.copyfile(run / "ranks.npz", target / "ranks.npz")
    return target


def label_of(run: Path) -> str:
    """What the tables call a stored run: the name of its row."""
    return str(json.loads((run / "run.json").read_text(encoding="utf-8"))["label"])


def stored(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and result of every stored run, by name."""
    for path in sorted((folder / "runs").glob("*/result.json")):
        yield path.parent.name, json.loads(path.read_text(encoding="utf-8"))


def tables(folder: Path) -> dict[str, str]:
    """What a page says of all stored runs, as Markdown: a `summary`, and the tables of all `stored runs`."""
    from recbole_tiger.leaderboard.cells import settings_table
    from recbole_tiger.leaderboard.outputs import format_markdown
    from recbole_tiger.leaderboard.table import make_leaderboards, read_runs
    from recbole_tiger.report.tables import markdown_table, markdown_text

    parts, found = [], {}
    for kind, mask in KINDS.items():
        if (folder / kind).is_dir():
            [found[kind]] = make_leaderboards(read_runs(folder / kind))
            _, _, text = format_markdown(found[kind]).partition("\n")
            parts.append(f"### Seen items {mask}\n{text}")
    if "runs" in found:
        settings = settings_table(found["runs"])
        cells = [[markdown_text(name), f"`{text}`"] for name, text in settings.rows]
        parts.append(f"### {settings.title}\n\n{settings.note}\n\n{markdown_table(settings.header, cells, 'll')}\n")
    return {"summary": _summary(found), "stored runs": "\n".join(parts)}


def _summary(boards: dict[str, Any]) -> str:
    """A line for each row, with both masks; the best masked first, then those that were not reevaluated."""
    from recbole_tiger.report.tables import markdown_table, markdown_text

    rows = {kind: {row.label: row for row in board.rows} for kind, board in boards.items()}
    cells = []
    for label in dict.fromkeys([*rows.get("masked", {}), *rows.get("runs", {})]):
        each = [rows.get(kind, {}).get(label) for kind in KINDS]
        values = [f"{row.mean[m]:.4f}"[1:] if row else "" for m in ("recall@10", METRIC) for row in each]
        row = next(row for row in each if row)
        minutes = [minutes_of_a_pass(run.result) * len(run.result["history"]) for run in row.runs if row.is_trained()]
        hours = f"{statistics.mean(minutes) / 60:.1f} h" if minutes else ""
        cells.append([markdown_text(label), *values, str(len(row.runs)), f"{row.first['parameters']:,}", hours])
    header = ["row", "R@10", "masked", "N@10", "masked", "seeds", "parameters", "training"]
    return markdown_table(header, cells, "lrrrrrrr") + "\n"


def page_with_tables(folder: Path) -> tuple[Path, str]:
    """The results page of a folder, and its text with today's tables between their marks."""
    page = folder.with_suffix(".md")
    text = page.read_text(encoding="utf-8")
    for name, table in tables(folder).items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not end:
            raise SystemExit(f"{page} has no marks <!-- {name} --> and <!-- /{name} -->, each on a line")
        text = f"{before}{start}{table}{end}{after}"
    return page, text


def curve(result: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Passes after which a run validated, and its scores there."""
    points = [(entry["epoch"] + 1, entry["valid"][METRIC]) for entry in result["history"] if entry.get("valid")]
    return [passes for passes, _ in points], [score for _, score in points]


def minutes_of_a_pass(result: dict[str, Any]) -> float:
    """The median over the epochs: one that shared its core for a while says little about the model."""
    return statistics.median(entry["seconds"] for entry in result["history"]) / 60


def figures(folder: Path) -> list[Path]:
    """Draw all stored runs that were trained, seeds of a row in one colour; returns the files written."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "", "font.size": 9, "axes.grid": True})
    matplotlib.rcParams.update({"grid.color": "#e6e9ef", "axes.spines.top": False, "axes.spines.right": False})
    import matplotlib.pyplot as plt

    from recbole_tiger.report.figures import color

    runs = [(label_of(folder / "runs" / name), result) for name, result in stored(folder) if result["history"]]
    labels = list(dict.fromkeys(label for label, _ in runs))
    sheet, (quality, loss) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    timed, against = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for label, result in runs:
        number = labels.index(label)
        look: dict[str, Any] = {"color": color(number), "label": label, "marker": "os^Dv"[number % 5], "markersize": 4}
        passes, scores = curve(result)
        quality.plot(passes, scores, **look)
        losses = [(entry["epoch"] + 1, entry["train_loss"]) for entry in result["history"]]
        loss.plot(*zip(*losses, strict=True), **look)
        against.plot([n * minutes_of_a_pass(result) for n in passes], scores, **look)
    for axes, x, y in (
        (quality, "epochs", "validation NDCG@10"),
        (loss, "epochs", "training loss (nats a token, or an item)"),
        (against, "minutes of training on one thread (log scale)", "validation NDCG@10"),
    ):
        axes.set_xlabel(x)
        axes.set_ylabel(y)
    against.set_xscale("log")
    handles, names = quality.get_legend_handles_labels()
    handles = [handles[names.index(label)] for label in labels]
    sheet.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    timed.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    written = [folder / "curves.svg", folder / "quality_and_time.svg"]
    for drawing, path in zip((sheet, timed), written, strict=True):
        drawing.savefig(path, metadata={"Date": None})
        plt.close(drawing)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="copy a finished run's result and ranks")
    adding.add_argument("run", type=Path)
    adding.add_argument("--name", required=True, help="of its row, without the seed")
    adding.add_argument("--to", type=Path, required=True)
    commands.add_parser("tables", help="write the tables of the stored runs").add_argument("folder", type=Path)
    drawing = commands.add_parser("figures", help="draw the stored runs")
    drawing.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "add":
        print(add(arguments.run, arguments.name, arguments.to))
    elif arguments.command == "tables":
        page, text = page_with_tables(arguments.folder)
        page.write_text(text, encoding="utf-8")
        print(page)
    else:
        print(*figures(arguments.folder), sep="\n")


if __name__ == "__main__":
    main()
