"""RecBole's entry points with its signatures, under this package's protocol.

Input: a model, a dataset and settings, or a checkpoint. Output: that of RecBole's functions, and more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from typing import Any

from recbole_tiger.errors import names_like
from recbole_tiger.experiment import loading
from recbole_tiger.experiment.configuration import build_config, merged_settings
from recbole_tiger.experiment.run import Epoch, start_run
from recbole_tiger.extension import load, name_of
from recbole_tiger.settings.parse import parse_command_line, parse_value
from recbole_tiger.settings.validate import check_model, close_keys, keys_read, known_keys


def run_recbole_tiger(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping | None = None,
    saved: bool = True,
    *,
    command_line: Mapping | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> dict[str, Any]:
    """Train and test one model; RecBole's ``run_recbole`` with this package's protocol.

    Args:
        model: name of a sequential model of RecBole or of this package, or a class, which is registered; by default
            from the settings, or TIGER.
        dataset: name of a folder under `data_path`; by default from the settings, or ml-100k. As in RecBole, only the
            command line overrides these two.
        config_file_list: YAML files of settings.
        config_dict: settings that override the files.
        saved: keep the best and the last checkpoint in the run folder; without them the last weights are tested.
        command_line: settings that override all others; None reads ``sys.argv`` as RecBole does, ignoring what is not
            a setting.
        on_epoch: called after each validation; an exception in it ends the run, which can be resumed.

    Returns:
        :class:`recbole_tiger.experiment.result.RunResult` as a dictionary: RecBole's keys (``best_valid_score``,
        ``valid_score_bigger``, ``best_valid_result``, ``test_result``), metrics unrounded, and everything else in
        ``result.json``. Every user's rank is in ``ranks.npz`` beside it.

    Raises:
        ConfigError: for impossible settings, before any training.
    """
    name: str | None = name_of(model)
    if command_line is None:
        command_line = _settings_in_argv(name, config_file_list, config_dict)
    config = build_config(name, dataset, config_file_list, config_dict, command_line, distributable=True)
    return start_run(config, saved, on_epoch=on_epoch)


def _settings_in_argv(model: str | None, files: Sequence[str] | None, config_dict: Mapping | None) -> dict:
    """The ``--key=value`` arguments of the running script that name settings of the model, under its other ones.

    Others are the script's own; of one that looks like a misspelt setting the log warns.
    """
    words = [word for word in sys.argv[1:] if word.startswith("--") and "=" in word]
    plugins = [word.partition("=")[2] for word in words if word.startswith("--plugin=")]
    load(plugins and ",".join(plugins))
    given = {key: parse_value(value, key) for key, _, value in (word[2:].partition("=") for word in words)}
    settings = merged_settings(model, None, files, config_dict, given)
    load(settings.get("plugin"))
    model = name_of(settings["model"])
    check_model(model)
    known = known_keys(model)
    for key, value in given.items():
        if key not in known and names_like(key, known, cutoff=0.8):
            getLogger().warning(f"--{key}={value} is not a setting of {model} and is not read{close_keys(key, known)}")
    read = keys_read(model, settings)
    return parse_command_line([word for word in words if word[2:].partition("=")[0] in read])


def load_data_and_model(model_file: str):
    """Config, model, dataset and the three loaders of a checkpoint; RecBole's ``load_data_and_model``.

    Raises:
        CheckpointError: for a damaged or foreign file.
        ConfigError: if the dataset is missing, or is not the one that the model was trained on.
    """
    return loading.load_data_and_model(model_file)


def objective_function(config_dict: Mapping | None = None, config_file_list=None, saved: bool = True) -> dict:
    """RecBole's hyper-parameter objective for one trial: validation score for selection, and test metrics.

    Of several files the last one wins. It reports nothing to a scheduler; ``hpo/`` does, after each epoch.
    """
    result = run_recbole_tiger(None, None, config_file_list, config_dict, saved, command_line={})
    keys = ("model", "best_valid_score", "valid_score_bigger", "best_valid_result", "test_result")
    return {key: result[key] for key in keys}
