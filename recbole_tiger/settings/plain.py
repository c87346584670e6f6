"""The settings of a run as plain Python values, which checkpoints and result files hold.

Input: RecBole's ``Config``. Output: a dictionary that JSON and ``torch.load(weights_only=True)`` read.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from recbole.config import Config

#: Values that ``Config`` derives anew from the others, and how many processes there are: any number can go on from a checkpoint.
_DERIVED = (
    "MODEL_TYPE MODEL_INPUT_TYPE eval_type device single_spec local_rank valid_metric_bigger valid_neg_sample_args "
    "test_neg_sample_args MASK_INDEX MASK_ITEM_SEQ POS_ITEMS NEG_ITEMS nproc world_size ip port group_offset offset"
).split()


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

    settings = {key: plain(value) for key, value in config.final_config_dict.items() if key not in _DERIVED}
    # Config joins the dataset's name to data_path; undo it, so that a new Config can do it again.
    settings["data_path"] = str(Path(config["data_path"]).parent)
    if settings["train_neg_sample_args"].get("distribution") == "none":
        settings["train_neg_sample_args"] = None
    return settings
