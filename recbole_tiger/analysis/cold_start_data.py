"""A dataset without some of its test items, which become unseen.

Input: the settings of a run on the whole dataset. Output: files without the unseen items, and the settings of a run
that reads them, so that nothing of the unseen items can reach it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from recbole.data.dataset import SequentialDataset

from recbole_tiger.data.dataset import order_interactions
from recbole_tiger.datasets.atomic_reader import read_atomic
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import config_from_plain
from recbole_tiger.io import atomic_write_text
from recbole_tiger.settings.plain import plain_settings
from recbole_tiger.tokenization import item_file


@dataclass(frozen=True)
class ColdData:
    """A dataset without the unseen items, on disk.

    Attributes:
        source: the settings of the whole dataset.
        config: of a run on it.
        unseen: ids of the unseen items.
        targets: by user id, the unseen item that is this user's test target; in the data another item stands there.
        n_removed: interactions that were removed.
        n_dropped_users: users who were left with fewer than 3 interactions.
    """

    source: Any
    config: Any
    unseen: list[str]
    targets: dict[str, str]
    n_removed: int
    n_dropped_users: int


def write_cold_data(config, share: float, seed: int, folder: Path) -> ColdData:
    """Draw the unseen items and write ``<folder>/data/<dataset>-cold`` without them.

    Their rows leave the ``.item`` file and their interactions the ``.inter`` file. Where one is a user's test target,
    the item before it stands there instead, so that the user keeps the same split: leave-one-out never trains on it.

    Args:
        config: settings of a run on the whole dataset.
        share: of the distinct test targets; a `ConfigError` if that is none.
        seed: of the draw, and of the run.
    """
    if config["content_encoder"] == "precomputed" and str(config["content_file"]).endswith(".npy"):
        raise ConfigError(
            f"content_file='{config['content_file']}' holds rows in the order of the .item file, without ids; "
            "cold-start needs an .npz or .parquet file with ids"
        )
    dataset = SequentialDataset(config)
    sequences = order_interactions(dataset)
    users, items = (dataset.field2id_token[field].astype(str) for field in (dataset.uid_field, dataset.iid_field))
    length = np.diff(sequences.start)
    owner = np.repeat(np.arange(len(length)), length)
    is_target = np.zeros(len(owner), dtype=bool)
    is_target[sequences.start[1:][length >= 3] - 1] = True
    drawn = _draw(sequences.items[is_target], share, seed)
    is_unseen = np.isin(sequences.items, drawn)

    kept = ~is_unseen | is_target
    dropped = (length >= 3) & (np.bincount(owner[kept], minlength=len(length)) < 3)
    kept &= ~dropped[owner]
    kept_users, kept_items = users[owner[kept]], items[sequences.items[kept]]
    hidden = np.flatnonzero((is_target & is_unseen)[kept])
    targets = dict(zip(kept_users[hidden].tolist(), kept_items[hidden].tolist(), strict=True))
    kept_items[hidden] = kept_items[hidden - 1]

    name, unseen = f"{config['dataset']}-cold", items[drawn].tolist()
    path = folder / "data" / name
    path.mkdir(parents=True, exist_ok=True)
    _write_interactions(config, path / f"{name}.inter", kept_users.tolist(), kept_items.tolist())
    if item_file(config).is_file():
        _write_items(config, path / f"{name}.item", set(unseen))
    cold = _cold_config(config, name, seed, folder)
    return ColdData(config, cold, unseen, targets, int((~kept).sum()), int(dropped.sum()))


def _draw(targets: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Internal numbers of the unseen items, in ascending order."""
    candidates = np.unique(targets)
    n_unseen = round(share * len(candidates))
    if n_unseen < 1:
        raise ConfigError(
            f"cold_share={share:g} of {len(candidates)} test items is less than one item; raise cold_share"
        )
    return np.sort(np.random.default_rng([seed, n_unseen]).choice(candidates, n_unseen, replace=False))


def _write_interactions(config, path: Path, users: list, items: list) -> None:
    """Users and items in the order of user and time; the time is the number of the row."""
    separator = config["field_separator"]
    user, item, time = (config[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME"))
    rows = [separator.join((f"{user}:token", f"{item}:token", f"{time}:float"))]
    rows += [separator.join(map(str, row)) for row in zip(users, items, range(len(users)), strict=True)]
    atomic_write_text(path, "\n".join(rows) + "\n", config["encoding"] or "utf-8")


def _write_items(config, path: Path, unseen: set[str]) -> None:
    """The lines of the item file whose item is not unseen, unchanged."""
    source, encoding, field = item_file(config), config["encoding"] or "utf-8", config["ITEM_ID_FIELD"]
    table = read_atomic(source, (field,), None, config["field_separator"], encoding, progress=False, keep=(field,))
    with open(source, encoding=encoding, newline="\n") as file:
        head, *lines = file.read().split("\n")
    kept = [line for line, item in zip(lines, table.columns[field], strict=False) if item not in unseen]
    atomic_write_text(path, "\n".join([head, *kept]) + "\n", encoding)


def _cold_config(config, name: str, seed: int, folder: Path):
    """The settings of a run on the data without the unseen items."""
    last = folder / "run" / "last.pth"
    cold = {
        **plain_settings(config),
        "dataset": name,
        "data_path": str((folder / "data").resolve()),
        "run_dir": str(folder / "run"),
        "seed": seed,
        "resume": str(last) if last.is_file() else None,
        # The data went through these filters before; a second pass would drop users and items for what was removed.
        "user_inter_num_interval": "[0,inf)",
        "item_inter_num_interval": "[0,inf)",
        "val_interval": None,
        "filter_inter_by_user_or_item": True,
        "tie_order": "file",
        "load_col": {"inter": [config[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME")]},
    }
    return config_from_plain(cold)
