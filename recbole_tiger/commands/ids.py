"""The command ``ids``: Semantic IDs of a dataset, made and reported on without training a recommender.

Input: the settings of a run, with one or several tokenizers. Output: the IDs as JSON, and a report on the screen, as
``report.json`` and as ``report.html``.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

from recbole_tiger.analysis.ids import MadeIDs, make_ids
from recbole_tiger.commands.shared import new_folder, of_semantic_ids
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.io import atomic_write_text
from recbole_tiger.report.semantic_ids import format_report, semantic_ids_page


def run(settings: dict) -> str:
    """Make and report on the IDs that the settings ask for; returns the report as text. Raises `ValueError` for
    settings that cannot work, and for an output that exists."""
    settings = of_semantic_ids(settings)
    model, dataset, output = settings.pop("model"), settings.pop("dataset"), settings.pop("output_dir", None)
    wanted, target = _pop_tokenizers(settings)
    configs = [build_config(model, dataset, None, {**settings, **each}) for each in wanted]
    folder = new_folder(output, "ids", configs[0], parent="")
    made = make_ids(configs)
    paths: dict[str, Path] = {}
    for name in made.sets:
        path = target or folder / (re.sub(r"[^\w.-]+", "_", name) + ".json")
        while path in (folder / "report.json", *paths.values()):  # the report, or a set with a similar name
            path = path.with_name(f"{path.stem}_.json")
        paths[name] = path
    for name, path in paths.items():
        made.sets[name].table.to_file(path)
    data, page = folder / "report.json", folder / "report.html"
    result = {**asdict(made.report), "dataset": dataset}
    atomic_write_text(data, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    atomic_write_text(page, semantic_ids_page(made.report, f"Semantic IDs of {dataset}"))
    written = "\n".join(f"{name}: {path}" for name, path in paths.items())
    return f"{format_report(made.report)}\n\n{_seconds(made)}\n\n{written}\nreport: {data}\npage: {page}"


def _pop_tokenizers(settings: dict) -> tuple[list[dict], Path | None]:
    """The settings that differ between the ID sets, and the file for the IDs of a single one. Raises `ConfigError` for
    files and tokenizers that do not belong together."""
    methods, given = _listed(settings.pop("semantic_id", None)), settings.pop("semantic_id_file", None)
    sources = _listed(given) if "file" in methods else []
    if "file" in methods and not sources:
        raise ConfigError("semantic_id=file needs --semantic_id_file=FILE.json, one or several separated by commas")
    target = Path(given) if given and not sources else None
    if target is not None and len(methods) > 1:
        raise ConfigError(
            f"semantic_id_file='{given}' is one file, but semantic_id names {len(methods)} tokenizers; leave it out: "
            "every set is written to output_dir"
        )
    wanted = [{"semantic_id": method} for method in methods if method != "file"] or [{}] * (not sources)
    return wanted + [{"semantic_id": "file", "semantic_id_file": source} for source in sources], target


def _listed(value) -> list[str]:
    """Names separated by commas, each once."""
    parts = value if isinstance(value, (list, tuple)) else str(value or "").split(",")
    return list(dict.fromkeys(part.strip() for part in map(str, parts) if part.strip()))


def _seconds(made: MadeIDs) -> str:
    """The seconds of each stage, a line for each set."""
    lines = []
    for name, ids in made.sets.items():
        stages = [
            f"{stage} {value:.1f} s{' (from cache)' if stage in ids.cached else ''}"
            for stage, value in ids.seconds.items()
        ]
        lines.append(f"{name}: {', '.join(stages)}")
    return "\n".join(lines)
