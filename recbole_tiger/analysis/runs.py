"""What the analysis commands share: a trained run to look at, lists of numbers among the settings, and the output folder.

Comes in: the settings of a command. Goes out: a model with its test users, and a table, a JSON file and a page.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import get_local_time
from tqdm import tqdm

from recbole_tiger.decoding import BeamResult
from recbole_tiger.errors import CheckpointError, ConfigError
from recbole_tiger.experiment.configuration import build_config, config_from_plain
from recbole_tiger.experiment.loading import load_data_and_model
from recbole_tiger.experiment.run import run_config
from recbole_tiger.io import atomic_write_text
from recbole_tiger.models import model_spec, models_with
from recbole_tiger.report import pages
from recbole_tiger.settings.parse import pop_config_files, read_config_files
from recbole_tiger.training.checkpoint import load_checkpoint


@dataclass(frozen=True)
class TestUsers:
    """The rows of the test set; all tensors on the model's device.

    Attributes:
        users: [n] internal user numbers.
        history: [n, H] item numbers in time order, padded with 0 at the end.
        lengths: [n] items of each history.
        targets: [n] held-out items.
        excluded: [n, S] items that must not be recommended (`mask_seen_items`), padded with 0; None for no such rule.
    """

    __test__ = False  # not a test, whatever pytest makes of the name

    users: torch.Tensor
    history: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor
    excluded: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, index: torch.Tensor | slice) -> TestUsers:
        """Some of the rows."""
        return TestUsers(
            *(
                None if value is None else value[index]
                for value in (getattr(self, f.name) for f in dataclasses.fields(self))
            )
        )

    def chunks(self, size: int, progress: str) -> Iterator[TestUsers]:
        """All rows, `size` at a time, with a bar at a terminal."""
        starts = range(0, len(self), size)
        hidden = not sys.stderr.isatty() or len(starts) < 2
        for start in tqdm(starts, desc=progress, ncols=100, disable=hidden):
            yield self.rows(slice(start, start + size))


@dataclass(frozen=True)
class TrainedRun:
    """A trained model and the data it was trained on."""

    config: Any
    model: Any
    dataset: Any
    test: TestUsers
    checkpoint: str


def config_of(settings: dict):
    """The checked `Config` that the rest of the settings ask for: those of `checkpoint`'s run, or of a run to train.

    Raises:
        ConfigError: for settings beside a checkpoint, and for those that cannot work.
        CheckpointError: for a checkpoint that cannot be read, or of a model without Semantic IDs.
    """
    checkpoint = settings.pop("checkpoint", None)
    if checkpoint is not None:
        if settings:
            raise ConfigError(
                f"--{next(iter(settings))} cannot be set beside --checkpoint, whose run has its settings already; leave one "
                "of them out"
            )
        return config_from_plain(checkpoint_settings(checkpoint))
    settings = {**read_config_files(pop_config_files(settings)), **settings}
    model, dataset = settings.pop("model", "TIGER"), settings.pop("dataset", "ml-100k")
    if not model_spec(model).uses_semantic_ids:
        raise ConfigError(
            f"model='{model}' has no Semantic IDs; choose one of {', '.join(models_with('uses_semantic_ids'))}"
        )
    return build_config(model, dataset, None, settings)


def checkpoint_settings(checkpoint) -> dict:
    """The settings in a checkpoint of a model with Semantic IDs.

    Raises:
        CheckpointError: for any other file.
    """
    plain = load_checkpoint(str(checkpoint))["config"]
    if not model_spec(plain.get("model")).uses_semantic_ids:
        raise CheckpointError(
            f"'{checkpoint}' is a checkpoint of {plain.get('model')}, whose items have no Semantic IDs; give one of "
            f"{', '.join(models_with('uses_semantic_ids'))}"
        )
    return plain


def open_run(settings: dict, n_users: int | None) -> TrainedRun:
    """The run of `checkpoint`, or of the settings, which is trained first.

    Args:
        settings: what is left of the command line.
        n_users: so many test users, drawn with the run's seed; None for all.
    """
    checkpoint = settings.get("checkpoint")
    config = config_of(settings)
    if checkpoint is None:
        checkpoint = run_config(config)["files"]["checkpoint"]
    config, model, dataset, _, _, test = load_data_and_model(str(checkpoint))
    model.eval()
    users = test_users(config, dataset, test)
    if n_users is not None and n_users < len(users):
        chosen = np.random.default_rng(config["seed"]).choice(len(users), n_users, replace=False)
        users = users.rows(torch.from_numpy(np.sort(chosen)).to(users.users.device))
    return TrainedRun(config, model, dataset, users, str(checkpoint))


def test_users(config, dataset, loader) -> TestUsers:
    """The rows of a test loader."""
    feat, device = loader._dataset.inter_feat, config["device"]
    users, items = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
    excluded = None
    if config["mask_seen_items"]:
        seen = dataset.sequences.seen_before(feat[users].numpy(), loader._dataset.phase)
        excluded = torch.from_numpy(seen).to(device)
    return TestUsers(
        users=feat[users].to(device),
        history=feat[items + config["LIST_SUFFIX"]].to(device),
        lengths=feat[config["ITEM_LIST_LENGTH_FIELD"]].to(device),
        targets=feat[items].to(device),
        excluded=excluded,
    )


test_users.__test__ = False


def joined(parts: Sequence[BeamResult]) -> BeamResult:
    """The results of consecutive rows as one, on the CPU."""
    return BeamResult(torch.cat([p.items for p in parts]).cpu(), torch.cat([p.scores for p in parts]).cpu())


def recommend_users(run: TrainedRun, k: int, progress: str, users: TestUsers | None = None, **options) -> BeamResult:
    """The model's k items for every test user, as its evaluation finds them; `options` go to `model.recommend`."""
    users = run.test if users is None else users
    return joined(
        [
            run.model.recommend(part.users, part.history, part.lengths, k, excluded=part.excluded, **options)
            for part in users.chunks(run.config["eval_batch_size"], progress)
        ]
    )


def recall(items: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of rows [n, K] that hold their target [n]."""
    return float((items == targets.cpu()[:, None]).any(1).double().mean())


# ---------------------------------------------------------------------------------------------------- the settings


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
    """A list of numbers between `low` and `high` (both allowed) out of the settings, each once.

    Raises:
        ConfigError: naming the key and the value.
    """
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
    if settings.get(key) is None:
        settings.pop(key, None)
        return default
    value = settings[key]
    numbers = pop_numbers(settings, key, (), low=low, high=high, kind=kind)
    if len(numbers) > 1:
        raise ConfigError(f"{key}={value!r}: give one number")
    return numbers[0]


# ----------------------------------------------------------------------------------------------------- the outputs


def new_folder(output, command: str, config) -> Path:
    """The folder for a command's outputs, made now, so that nothing is computed in vain.

    Raises:
        ConfigError: if it exists.
    """
    name = f"{command}-{config['dataset']}-{get_local_time()}-{secrets.token_hex(3)}"
    folder = Path(str(output)) if output else Path(config["checkpoint_dir"]) / "analysis" / name
    try:
        folder.mkdir(parents=True, exist_ok=False)
    except FileExistsError as error:
        raise ConfigError(f"output_dir='{folder}' exists already; name a folder that does not") from error
    return folder


def write_outputs(folder: Path, command: str, result: Mapping, sections: Sequence[pages.Section], *, title: str) -> str:
    """`<command>.json` and `<command>.html` in the folder; returns the lines that say so. `result["about"]` is the subtitle."""
    data, page = folder / f"{command}.json", folder / f"{command}.html"
    atomic_write_text(data, json.dumps(result, indent=1, ensure_ascii=False))
    atomic_write_text(page, pages.page(title, sections, subtitle=result["about"]))
    return f"result: {os.path.relpath(data)}\npage: {os.path.relpath(page)}"


def describe(run: TrainedRun) -> dict:
    """What a result says about the run it was made of."""
    config = run.config
    return {
        "model": config["model"],
        "recipe": config["recipe"],
        "dataset": config["dataset"],
        "seed": config["seed"],
        "checkpoint": run.checkpoint,
        "users": len(run.test),
        "beam_size": config["beam_size"],
        "mask_seen_items": bool(config["mask_seen_items"]),
        "level_sizes": list(run.model.prepared_ids.table.level_sizes),
        "n_items": run.model.prepared_ids.table.n_items,
    }


def heading(about: Mapping) -> str:
    """One line about the run for the screen and the page."""
    recipe = f" ({about['recipe']})" if about["recipe"] else ""
    return (
        f"{about['model']}{recipe} on {about['dataset']}: {about['users']:,} test users, {about['n_items']:,} items, IDs of "
        f"{' x '.join(map(str, about['level_sizes']))} codewords, seed {about['seed']}"
    )
