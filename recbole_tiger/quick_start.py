"""RecBole's entry points with its signatures, under this package's protocol.

Input: a model, a dataset and settings, or a checkpoint. Output: as of RecBole's functions, with more in it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.loading import load_data_and_model
from recbole_tiger.experiment.run import start_run
from recbole_tiger.settings.parse import parse_value, read_yaml
from recbole_tiger.settings.validate import known_keys

__all__ = ["load_data_and_model", "objective_function", "run_recbole_tiger"]


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
        RecBole's keys (``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, ``test_result``), metrics
        unrounded, and: ``id_level_test_result`` (where items share Semantic IDs: what counting IDs instead of items gives,
        else None), ``popularity`` (the same for the popularity row), ``semantic_ids`` (a report, TIGER only),
        ``split`` (:func:`split_report`), ``seconds`` by stage, ``files``, ``parameters``, ``examples_per_second``, ``recipe``, ``loss``, ``seed``,
        ``commit`` and ``dirty`` (of this package's checkout), ``run_dir`` and ``config``. Every user's rank is in
        ``ranks.npz`` beside ``result.json``.

    Raises:
        ConfigError: for settings that cannot work, before any training.
    """
    if command_line is None:
        command_line = _settings_in_argv(model, config_dict)
    return start_run(build_config(model, dataset, config_file_list, config_dict, command_line, spread=True), saved)


def _settings_in_argv(model: str, config_dict: Mapping | None) -> dict:
    """The ``--key=value`` arguments of the running script that name settings of this model."""
    known = known_keys((config_dict or {}).get("model", model))
    found = {}
    for argument in sys.argv[1:]:
        key, equals, value = argument[2:].partition("=")
        if argument.startswith("--") and equals and key in known:
            found[key] = parse_value(value, key)
    return found


def objective_function(config_dict: Mapping | None = None, config_file_list=None, saved: bool = True) -> dict:
    """RecBole's hyper-parameter objective, for one trial: selection is on validation, and test metrics come along.

    Nothing is reported to a scheduler here; ``hpo/`` does that, per epoch and on validation.
    """
    settings = dict(config_dict or {})
    for file in config_file_list or []:
        settings = {**read_yaml(file), **settings}
    result = run_recbole_tiger(
        settings.pop("model", "TIGER"), settings.pop("dataset", "ml-100k"), None, settings, saved, command_line={}
    )
    keys = ("model", "best_valid_score", "valid_score_bigger", "best_valid_result", "test_result")
    return {key: result[key] for key in keys}
