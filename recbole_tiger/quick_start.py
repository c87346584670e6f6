"""RecBole's entry points with its signatures, under this package's protocol.

Input: a model, a dataset and settings, or a checkpoint. Output: as of RecBole's functions, with more in it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from recbole_tiger.experiment import loading
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.run import start_run
from recbole_tiger.settings.chain import reads_item_text
from recbole_tiger.settings.parse import parse_value, read_config_files
from recbole_tiger.settings.validate import known_keys, text_keys


def run_recbole_tiger(
    model: str = "TIGER",
    dataset: str = "ml-100k",
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping | None = None,
    saved: bool = True,
    *,
    command_line: Mapping | None = None,
) -> dict:
    """Train and test one model; RecBole's ``run_recbole`` with this package's protocol.

    Args:
        model: a sequential model of RecBole, or TIGER.
        dataset: the name of a folder under `data_path`, or ml-100k.
        config_file_list: the user's YAML files.
        config_dict: settings that override the files.
        saved: keep the best and the last checkpoint in the run folder.
        command_line: settings that override all others; None reads ``sys.argv`` as RecBole does, ignoring what is not
            a setting.

    Returns:
        :class:`recbole_tiger.experiment.result.RunResult` as a dictionary: RecBole's keys (``best_valid_score``,
        ``valid_score_bigger``, ``best_valid_result``, ``test_result``), metrics unrounded, and what else
        ``result.json`` holds. Every user's rank is in ``ranks.npz`` beside it.

    Raises:
        ConfigError: for settings that cannot work, before any training.
    """
    if command_line is None:
        command_line = _settings_in_argv(model, {**read_config_files(config_file_list), **(config_dict or {})})
    return start_run(
        build_config(model, dataset, config_file_list, config_dict, command_line, distributable=True), saved
    )


def _settings_in_argv(model: str, settings: Mapping) -> dict:
    """The ``--key=value`` arguments of the running script that name settings of this model, under its other ones."""
    model = settings.get("model", model)
    known, found = known_keys(model), {}
    for argument in sys.argv[1:]:
        key, equals, value = argument[2:].partition("=")
        if argument.startswith("--") and equals and key in known:
            found[key] = parse_value(value, key)
    if reads_item_text(model, {**settings, **found}):
        return found
    return {key: value for key, value in found.items() if key not in text_keys(model)}


def load_data_and_model(model_file: str):
    """Config, model, dataset and the three loaders of a checkpoint; RecBole's ``load_data_and_model``.

    Raises:
        CheckpointError: for a damaged or foreign file.
        ConfigError: if the dataset is not there, or is not that which the model was trained on.
    """
    return loading.load_data_and_model(model_file)


def objective_function(config_dict: Mapping | None = None, config_file_list=None, saved: bool = True) -> dict:
    """RecBole's hyper-parameter objective, for one trial: selection is on validation, and test metrics come along.

    Of several files the last one wins. Nothing is reported to a scheduler here; ``hpo/`` does that, per epoch and on
    validation.
    """
    settings = {**read_config_files(config_file_list), **(config_dict or {})}
    result = run_recbole_tiger(
        settings.pop("model", "TIGER"), settings.pop("dataset", "ml-100k"), None, settings, saved, command_line={}
    )
    keys = ("model", "best_valid_score", "valid_score_bigger", "best_valid_result", "test_result")
    return {key: result[key] for key in keys}
