"""The settings of a run as plain Python values, which checkpoints and result files hold.

Input: RecBole's ``Config``. Output: a dictionary that JSON and ``torch.load(weights_only=True)`` read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_tiger.io import to_plain
from recbole_tiger.models import model_spec
from recbole_tiger.settings.schema import FIELDS, keys_with

if TYPE_CHECKING:
    from recbole.config import Config


def plain_settings(config: Config) -> dict:
    """All settings of a run as plain Python values, for checkpoints and result files."""
    derived = keys_with("derived")
    settings = {key: value for key, value in config.final_config_dict.items() if key not in derived}
    settings = to_plain(settings, other=str)
    # Config joins the dataset's name to data_path; undo it, so that a new Config can do it again.
    settings["data_path"] = str(Path(config["data_path"]).parent)
    if settings["train_neg_sample_args"].get("distribution") == "none":
        settings["train_neg_sample_args"] = None
    return settings


#: What a TIGER did by default before it had these keys, which its checkpoints then lack.
_BEFORE = {"encoder_mask": "bidirectional", "cross_position_bias": False}


def renamed_settings(stored: Mapping) -> dict:
    """Settings of a checkpoint or a result file, values that have another name today under that name."""
    if "model" in stored and model_spec(stored["model"]).family == "TIGER":
        stored = {**_BEFORE, **stored}
    fields = {key: FIELDS[key] for key in stored if key in FIELDS and FIELDS[key].renamed}
    return {**stored, **{key: field.renamed.get(stored[key], stored[key]) for key, field in fields.items()}}
