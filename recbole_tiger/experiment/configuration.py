"""RecBole's ``Config`` of a run: settings in their order of precedence, checked, with the dataset at hand.

Input: model and dataset names, the user's files, dictionary and command line. Output: a RecBole ``Config`` whose
precedence is command line > dictionary > the user's files > our property files > RecBole's, or one clear error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

from recbole.config import Config
from recbole.evaluator.register import metric_information

from recbole_tiger import extension
from recbole_tiger.datasets.download import ensure_dataset, recbole_urls
from recbole_tiger.distributed.topology import check_processes
from recbole_tiger.errors import ConfigError
from recbole_tiger.models import model_spec
from recbole_tiger.settings.chain import shipped_settings
from recbole_tiger.settings.parse import pop_config_files, read_config_files
from recbole_tiger.settings.plain import renamed_settings
from recbole_tiger.settings.split import SPLIT_KEYS, checked_split
from recbole_tiger.settings.validate import (
    check_arithmetic,
    check_before_config,
    check_item_text,
    check_keys,
    check_model,
    check_settings,
    read_settings,
    recbole_models,
    say_what_is_not_read,
)

#: The sampler of losses that compare the next item with a sampled one: one uniform item for each example, as RecBole's
#: own default.
SAMPLER = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}


@contextmanager
def blank_argv():
    """Hide the command line from RecBole, which otherwise parses it in every ``Config``."""
    saved, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = saved


def merged_settings(
    model: str | type | None,
    dataset: str | None,
    config_file_list: str | Path | Iterable[str | Path] | None,
    config_dict: Mapping | None,
    command_line: Mapping | None,
) -> dict:
    """The user's settings, `model` and `dataset` among them: command line > these two arguments > dictionary > files.
    Raises `ConfigError` for a file that cannot be read, or a dictionary that is none."""
    if not isinstance(config_dict or {}, Mapping):
        raise ConfigError(f"config_dict={config_dict!r} is not a dictionary of settings")
    own, typed = dict(config_dict or {}), dict(command_line or {})
    listed = [config_file_list] if isinstance(config_file_list, (str, Path)) else list(config_file_list or ())
    from_files = read_config_files([*listed, *pop_config_files(own), *pop_config_files(typed)])
    named = {key: value for key, value in (("model", model), ("dataset", dataset)) if value is not None}
    return {"model": "TIGER", "dataset": "ml-100k", **from_files, **own, **named, **typed}


def build_config(
    model: str | type | None,
    dataset: str | None,
    config_file_list: Iterable[str] | None = None,
    config_dict: Mapping | None = None,
    command_line: Mapping | None = None,
    *,
    distributable: bool = False,
) -> Config:
    """A checked RecBole ``Config`` for any sequential model, under this package's protocol.

    Args:
        model, dataset: None for those that the settings name, or TIGER on ml-100k; a class is registered.
        config_file_list, config_dict, command_line: see :func:`merged_settings`; the last two may name further files
            in `config_files`.
        distributable: whether what is done with it can be done by several processes.

    Raises:
        ConfigError: for an unknown model, dataset, key or value.
        DownloadError: if the dataset is one of RecBole's downloads, is not under `data_path`, and cannot be fetched.
    """
    user = merged_settings(model, dataset, config_file_list, config_dict, command_line)
    plugins = extension.load(user.pop("plugin", None))
    name: str = extension.name_of(user.pop("model"))
    check_model(name)
    check_keys(user, name)
    user = read_settings(user)
    check_item_text(user, name)
    dataset = user.pop("dataset")
    shipped = shipped_settings(name, dataset, user)
    settings = {**shipped, **user, "eval_args": _eval_args(shipped["eval_args"], user)}
    if shipped.get("selected_features"):  # made of the user's own load_col, and the feature column
        settings["load_col"] = shipped["load_col"]
    if plugins:  # for the processes that this run may start
        settings["plugin"] = plugins
    for key in SPLIT_KEYS:
        settings.pop(key, None)
    if (settings.get("loss_type") == "BPR" or model_spec(name).sampled_loss) and "train_neg_sample_args" not in user:
        # These compare the next item with a sampled one; our protocol file names no sampler, since CE needs none.
        settings["train_neg_sample_args"] = dict(SAMPLER)
    check_dataset(dataset, settings)
    check_before_config(settings)
    say_what_is_not_read(user, settings, name)
    settings["data_path"] = os.path.abspath(str(settings.get("data_path") or "dataset"))
    with blank_argv():
        try:
            config = Config(model=name, dataset=dataset, config_dict=settings)
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            raise ConfigError(f"RecBole refuses the settings of {name} on '{dataset}': {error}") from error
    check_settings(config)
    check_processes(config, distributable)
    check_arithmetic(config)
    if dataset != "ml-100k":  # nothing is fetched for settings that cannot work
        ensure_dataset(dataset, settings["data_path"])
    return config


def _eval_args(shipped: Mapping, user: Mapping) -> dict:
    """The shipped `eval_args`, in which `split` stands already, below the entries of the user's."""
    own = user.get("eval_args", {})
    twice = [key for key in SPLIT_KEYS if user.get(key) is not None]
    if "split" in own and twice:
        raise ConfigError(
            f"{twice[0]}={user[twice[0]]!r} and eval_args split={own['split']!r} both name a split; leave one of them "
            "out"
        )
    merged = {**shipped, **own}
    return {**merged, "split": checked_split(merged["split"])}


def check_dataset(dataset: str, settings: Mapping) -> None:
    """Raise if the dataset neither lies under ``data_path`` nor can be fetched by RecBole."""
    if dataset == "ml-100k":  # inside RecBole's wheel
        return
    if not isinstance(dataset, str) or not dataset:
        raise ConfigError(f"dataset={dataset!r} is not a name; give --dataset=NAME")
    root = Path(str(settings.get("data_path") or "dataset"))
    folder = root / dataset
    file = folder / f"{dataset}.inter"
    if file.is_file():
        return
    known = dataset in recbole_urls()
    if folder.is_dir() and not (known and not any(folder.iterdir())):  # an empty one is filled by the download
        raise ConfigError(
            f"dataset='{dataset}': the folder '{folder}' has no file '{file.name}'; the folder and its files must "
            "carry the dataset's name"
        )
    if not known:
        present = sorted(p.name for p in root.iterdir() if (p / f"{p.name}.inter").is_file()) if root.is_dir() else []
        there = f" (there: {', '.join(present)})" if present else ""
        raise ConfigError(
            f"dataset='{dataset}' is not under data_path='{root}'{there} and RecBole knows no download of that name; "
            f"put it at '{folder / (dataset + '.inter')}' or set --data_path"
        )


def config_from_plain(settings: Mapping) -> Config:
    """The ``Config`` of :func:`plain_settings`; nothing in it is evaluated. Raises `ConfigError` for a model, tokenizer
    or decoder that is not registered in this process."""
    extension.load()
    extension.check_registered(settings, recbole_models(), metric_information)
    rest = {key: value for key, value in renamed_settings(settings).items() if key not in ("model", "dataset")}
    with blank_argv():
        return Config(model=settings["model"], dataset=settings["dataset"], config_dict=rest)
