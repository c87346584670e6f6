"""The plan of a sweep: everything that can be checked is checked here, before the first trial.

Input: a space, settings and options. Output: a :class:`Sweep`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_tiger import extension
from recbole_tiger.cache import content_key
from recbole_tiger.errors import ConfigError
from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.hpo import ray_shim
from recbole_tiger.hpo.options import Options
from recbole_tiger.hpo.space import Space
from recbole_tiger.hpo.sweep import Sweep, describe_settings
from recbole_tiger.settings.chain import shipped_settings
from recbole_tiger.settings.schema import keys_with
from recbole_tiger.settings.validate import check_keys, check_model, read_settings

#: Settings that belong to one run or one machine.
_REFUSED = {
    "run_dir": "every trial has its own folder",
    "gpu_id": "Ray assigns GPUs to trials; set CUDA_VISIBLE_DEVICES for the whole sweep, and --gpus_per_trial",
    "nproc": "a trial is one process",
    "checkpoint_dir": "use --storage",
    "resume": "an unfinished trial continues from its own checkpoint",
    "config_files": "name them on the command line, where the sweep starts",
}


def plan(space: Space, model: str | None, dataset: str | None, settings: Mapping[str, Any], options: Options) -> Sweep:
    """A checked sweep; nothing is written or has run yet. A `ConfigError` for anything that cannot work.

    Args:
        space: what varies.
        model, dataset: None for those of the settings or the space, or TIGER on ml-100k.
        settings: fixed settings of the user, which override those of the space.
    """
    settings = read_settings({**space.settings, **settings})
    plugins = extension.load(settings.get("plugin"))
    if plugins:  # trials are processes of their own
        settings["plugin"] = plugins
    named = settings.pop("model", None), settings.pop("dataset", None)
    model, dataset = model or named[0] or space.model or "TIGER", dataset or named[1] or "ml-100k"
    check_model(model)
    _check_fixed(space, model, settings, options)
    settings = absolute_paths(settings)
    _check_varied(space, model)
    base = absolute_paths({**shipped_settings(model, dataset, settings), **settings})
    search = options.search or space.search
    n_trials = options.trials or space.trials
    if search == "optuna":
        ray_shim.import_ray()
        ray_shim.make_optuna(space.parameters, options.search_seed)
        samples, n_trials = None, n_trials or 20
    else:
        # The number of a shipped space is for draws; a grid is tried whole unless the user says otherwise.
        n_wanted = options.trials if search == "grid" else n_trials
        samples = space.samples(search, n_wanted, options.search_seed, base)
        n_trials = len(samples)
    config, epochs = _check_trials(space, model, dataset, settings, base, samples)
    folder = Path(os.path.abspath(options.storage)) / (options.name or f"{model}-{dataset}-{Path(space.path).stem}")
    metric, bigger = config["valid_metric"].lower(), bool(config["valid_metric_bigger"])
    sweep = Sweep(folder, model, dataset, space, settings, base, metric, bigger, epochs, options, samples, n_trials)
    sweep.contents = _contents(config, base)
    return sweep


def _contents(config: Mapping, settings: Mapping) -> dict[str, str]:
    """Keys of the content of the files that all trials read, by name: of data, embeddings and IDs, and plugins."""
    folder, dataset = Path(config["data_path"]), config["dataset"]
    files = {file.name: file for end in ("inter", "item") for file in folder.glob(f"{dataset}.{end}")}
    files |= {key: Path(settings[key]) for key in keys_with("content") if settings.get(key)}
    files |= {Path(name).name: Path(name) for name in settings.get("plugin") or () if name.endswith(".py")}
    return {name: content_key(file)[:8] for name, file in files.items() if file.is_file()}


def _check_fixed(space: Space, model: str, settings: Mapping, options: Options) -> None:
    """Raise for a fixed setting that a sweep sets itself, or that varies."""
    if space.model not in (None, model):
        raise ConfigError(
            f"space='{space.path}' is for model={space.model}, not model={model}; choose a space of {model}"
        )
    for key, value in settings.items():
        if key in _REFUSED:
            raise ConfigError(f"{key}={value!r} cannot be set in a sweep: {_REFUSED[key]}")
        if key in space.keys:
            raise ConfigError(f"{key}={value!r} is fixed on the command line, but varies in {space.path}; drop one")
    if settings.get("use_gpu") and not options.gpus_per_trial:
        raise ConfigError("use_gpu=True: trials get no GPU with gpus_per_trial=0; raise that, or leave use_gpu out")


def _check_varied(space: Space, model: str) -> None:
    """Raise for a key of the space, or of a condition in it, that nothing reads."""
    check_keys({parameter.key: parameter.domain.edges()[0] for parameter in space.parameters}, model)
    conditions = {key: values[0] for parameter in space.parameters for key, values in parameter.when.items()}
    try:
        check_keys(conditions, model)
    except ConfigError as error:
        raise ConfigError(f"{space.path}: when: {error}") from error


def _check_trials(space: Space, model: str, dataset: str, settings: Mapping, base: Mapping, samples) -> tuple[Any, int]:
    """Check the settings of every trial that is known by now; returns the last `Config`, and the maximum of epochs."""
    epochs = 1
    for sample in samples if samples is not None else space.probes():
        chosen = space.settings_of(sample, base)
        try:
            config = build_config(model, dataset, config_dict={**settings, **chosen})
        except ConfigError as error:
            raise ConfigError(f"{space.path} offers {describe_settings(chosen)}, which cannot work: {error}") from error
        epochs = max(epochs, config["epochs"])
    return config, epochs


def absolute_paths(settings: Mapping) -> dict:
    """Settings whose paths mean the same in every folder, since trials run in folders of their own."""
    settings = dict(settings)
    for key in keys_with("path"):
        if settings.get(key):
            settings[key] = os.path.abspath(str(settings[key]))
    model = settings.get("content_model")
    if model and os.path.isdir(str(model)):  # otherwise the name of a model
        settings["content_model"] = os.path.abspath(str(model))
    return settings
