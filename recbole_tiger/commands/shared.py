"""What the analysis commands share: numbers out of the settings, the run that is looked at, and the outputs.

Input: the settings of a command line, and measured results. Output: values, files, and what to print.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole.utils import get_local_time

from recbole_tiger import extension
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config, config_from_plain
from recbole_tiger.io import atomic_write_text, make_folder
from recbole_tiger.models import model_spec, models_with
from recbole_tiger.recommend import load_semantic_id_checkpoint
from recbole_tiger.report import pages
from recbole_tiger.settings.parse import pop_config_files, read_config_files


def pop_numbers(
    settings: dict,
    key: str,
    default: Sequence[float],
    *,
    low: float,
    high: float = float("inf"),
    kind: Callable = float,
    ordered: bool = True,
) -> list:
    """Numbers from `low` to `high` out of the settings, each once. Raises `ConfigError` for any other value, naming the
    key."""
    value = settings.pop(key, None)
    values = default if value is None else value if isinstance(value, (list, tuple)) else [value]
    whole = kind is int
    for number in values:
        good = isinstance(number, (int,) if whole else (int, float)) and not isinstance(number, bool)
        if not good or not low <= number <= high:
            span = f"of at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
            raise ConfigError(
                f"{key}={value!r}: give one or several {'whole ' if whole else ''}numbers {span}, separated by commas"
            )
    if value is not None and not values:
        raise ConfigError(f"{key}={value!r} is empty; give at least one number")
    unique = dict.fromkeys(map(kind, values))
    return sorted(unique) if ordered else list(unique)


def pop_number(settings: dict, key: str, default, *, low: float, high: float = float("inf"), kind: Callable = float):
    """One number out of the settings, or the default (which may be None)."""
    value = settings.get(key)
    numbers = pop_numbers(settings, key, (), low=low, high=high, kind=kind)
    if len(numbers) > 1:
        raise ConfigError(f"{key}={value!r}: give one number")
    return numbers[0] if numbers else default


def of_semantic_ids(settings: dict) -> dict:
    """Settings above those of their `config_files`, with a dataset and a model that has Semantic IDs, their plugins
    loaded; a `ConfigError` for another model."""
    settings = {"dataset": "ml-100k", "model": "TIGER", **read_config_files(pop_config_files(settings)), **settings}
    extension.load(settings.get("plugin"))
    if not model_spec(settings["model"]).uses_semantic_ids:
        raise ConfigError(
            f"model='{settings['model']}' has no Semantic IDs; choose one of "
            f"{', '.join(models_with('uses_semantic_ids'))}"
        )
    return settings


def pop_run(settings: dict) -> tuple[Any, str | None]:
    """The checked `Config` that the rest of the settings ask for, and the checkpoint that it comes from.

    Returns:
        the settings of the run of `checkpoint`, and its path; or those of a run to train, and None.

    Raises:
        ConfigError: for settings beside a checkpoint, and for those that cannot work.
        CheckpointError: for a checkpoint that cannot be read, or of a model without Semantic IDs.
    """
    checkpoint = settings.pop("checkpoint", None)
    if checkpoint is None:
        return build_config(None, None, None, of_semantic_ids(settings)), None
    if settings:
        raise ConfigError(
            f"--{next(iter(settings))} cannot be combined with --checkpoint, which has the settings of its run; leave "
            "one of them out"
        )
    return config_from_plain(load_semantic_id_checkpoint(str(checkpoint))["config"]), str(checkpoint)


def refuse_existing(output) -> None:
    """Raise a `ConfigError`, before any work, for an `output_dir` that exists."""
    if output and Path(str(output)).exists():
        raise ConfigError(f"output_dir='{output}' exists already; name a folder that does not")


def new_folder(output, command: str, config, parent: str = "analysis") -> Path:
    """Make the folder of a command's outputs: `output`, or one of its own in `checkpoint_dir`/`parent`. Raises
    `ConfigError` if it exists."""
    refuse_existing(output)
    name = f"{command}-{config['dataset']}-{get_local_time()}-{secrets.token_hex(3)}"
    folder = Path(str(output)) if output else Path(config["checkpoint_dir"]) / parent / name
    make_folder(folder)
    return folder


def publish(
    folder: Path, command: str, title: str, result: Mapping, sections: Sequence[pages.Section], text: Sequence[str]
) -> str:
    """Write `<command>.json` and `<command>.html` into the folder; returns the paragraphs of text, and where they are.

    `result["about"]`, one line about what was measured, stands above the text and the page.
    """
    data, page = folder / f"{command}.json", folder / f"{command}.html"
    atomic_write_text(data, json.dumps(result, indent=1, ensure_ascii=False))
    atomic_write_text(page, pages.page(title, sections, subtitle=result["about"]))
    files = f"result: {os.path.relpath(data)}\npage: {os.path.relpath(page)}"
    return f"{result['about']}\n" + "\n\n".join(text) + f"\n{files}"
