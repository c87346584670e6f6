"""The settings of a run as plain Python values, which checkpoints and result files hold.

Input: RecBole's ``Config``. Output: a dictionary that JSON and ``torch.load(weights_only=True)`` read.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from recbole_tiger.settings.schema import keys_with

if TYPE_CHECKING:
    from recbole.config import Config


def plain_settings(config: Config) -> dict:
    """All settings of a run as plain Python values, for checkpoints and result files."""

    def plain(value):
        if isinstance(value, enum.Enum):
            return value.name
        if isinstance(value, torch.device):
            return str(value)
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set)):
            return [plain(item) for item in value]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return str(value)

    settings = {key: plain(value) for key, value in config.final_config_dict.items() if key not in keys_with("derived")}
    # Config joins the dataset's name to data_path; undo it, so that a new Config can do it again.
    settings["data_path"] = str(Path(config["data_path"]).parent)
    if settings["train_neg_sample_args"].get("distribution") == "none":
        settings["train_neg_sample_args"] = None
    return settings
